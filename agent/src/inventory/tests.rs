//! The inventory of fixture trees, of a fake Docker Engine, and of this machine.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muster_schemas::Timestamp;
use muster_schemas::events::Interface;

use super::*;

type Failure = Box<dyn std::error::Error>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[test]
fn the_inventory_is_read_from_the_device_s_files() {
    let expected = DeviceInventoryReported {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: text("robot-7"),
        os_id: text("debian"),
        os_version: text("12"),
        os_name: text("Debian GNU/Linux 12 (bookworm)"),
        kernel: text("6.1.0-13-arm64"),
        arch: system::arch(),
        cpu_model: text("Cortex-Test v1"),
        cpu_cores: Some(2),
        memory_bytes: Some(8_192_000_000),
        // printf 'muster/machine-id/v10123456789abcdef0123456789abcdef' | sha256sum
        machine: "b136c1a3c276c4fcb488348e57dd936da20643f8b8166f326ee4444d6b07d345".parse().ok(),
        hardware_vendor: None,
        hardware_model: text("Raspberry Pi 4 Model B Rev 1.4"),
        hardware_serial: text("10000000deadbeef"),
        virtualization: None,
        interfaces: Vec::new(),
        boot_time: Some(Timestamp(1_795_420_000_000_000)),
        boot_id: text("5d1f2e3c-0000-4abc-8def-0123456789ab"),
        docker_version: None,
        timezone: text("Europe/Berlin"),
    };
    assert_eq!(collect(&fixture("robot")), expected);
}

#[test]
fn firmware_placeholders_are_ignored() {
    let found = collect(&fixture("pc"));
    let hardware = (found.hardware_vendor, found.hardware_model, found.hardware_serial);
    assert_eq!(hardware, (text("LENOVO"), text("20XW"), text("PF123")));
    assert_eq!((found.os_id, found.os_version, found.os_name), (text("ubuntu"), None, None));
}

#[test]
fn malformed_and_missing_files_never_panic() -> Result<(), Failure> {
    for name in ["garbled", "empty", "no-such-folder"] {
        let found = collect(&fixture(name));
        assert_eq!((&found.machine, found.boot_time, found.memory_bytes), (&None, None, None));
        let json = serde_json::to_string(&found)?;
        assert!(!json.contains("\\u00"), "control characters in {json}");
        assert_eq!(serde_json::from_str::<DeviceInventoryReported>(&json)?, found);
    }
    Ok(())
}

#[test]
fn virtualization_is_detected() -> Result<(), Failure> {
    for (file, content, expected) in [
        (".dockerenv", "", text("docker")),
        ("run/.containerenv", "", text("podman")),
        ("run/systemd/container", "lxc\n", text("lxc")),
        ("proc/sys/kernel/osrelease", "5.15.1-microsoft-standard-WSL2", text("wsl")),
        ("sys/class/dmi/id/sys_vendor", "QEMU\n", text("qemu")),
        ("sys/class/dmi/id/product_name", "VMware Virtual Platform\n", text("vmware")),
        ("sys/class/dmi/id/product_name", "Virtual Machine\n", text("microsoft")),
        ("proc/cpuinfo", "flags\t: fpu hypervisor sse\n", text("vm-other")),
        ("proc/cpuinfo", "flags\t: fpu sse\n", None),
    ] {
        let root = tempfile::tempdir()?;
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().ok_or("no parent")?)?;
        std::fs::write(path, content)?;
        assert_eq!(collect(root.path()).virtualization, expected, "{file}: {content}");
    }
    Ok(())
}

/// Starts a fake Docker Engine that responds with these bytes, or does not respond if they are
/// empty.
fn fake_docker(response: &'static str) -> Result<tempfile::TempDir, Failure> {
    let root = tempfile::tempdir()?;
    std::fs::create_dir(root.path().join("run"))?;
    let listener = UnixListener::bind(root.path().join("run/docker.sock"))?;
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut request = [0; 1024];
        let _ = stream.read(&mut request)?;
        if response.is_empty() {
            std::thread::sleep(Duration::from_secs(10));
        }
        stream.write_all(response.as_bytes())
    });
    Ok(root)
}

#[test]
fn the_docker_version_is_read_within_a_time_limit() -> Result<(), Failure> {
    for (response, expected) in [
        (
            "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"Version\":\"28.2.2\",\"Os\":\"linux\"}\n",
            text("28.2.2"),
        ),
        ("HTTP/1.0 403 Forbidden\r\n\r\n{\"Version\":\"28.2.2\"}", None),
        ("HTTP/1.0 200 OK\r\n\r\n[]", None),
        ("", None),
    ] {
        let root = fake_docker(response)?;
        let start = Instant::now();
        assert_eq!(collect(root.path()).docker_version, expected, "{response}");
        assert!(start.elapsed() < Duration::from_secs(4));
    }
    Ok(())
}

#[test]
fn the_inventory_of_this_machine_is_collected() -> Result<(), Failure> {
    let found = collect(Path::new("/"));
    let total = std::fs::read_to_string("/proc/meminfo")?;
    assert!(total.contains(&format!("{} kB", found.memory_bytes.ok_or("no memory")? / 1024)));
    assert!(found.hostname.is_some() && found.kernel.is_some() && found.boot_id.is_some());
    assert!(found.boot_time.is_some_and(muster_schemas::Timestamp::is_plausible));
    let cores = std::thread::available_parallelism()?.get();
    assert!(found.cpu_cores >= u32::try_from(cores).ok());
    assert!(found.interfaces.iter().all(|interface| interface.name != "lo"));
    assert!(found.interfaces.iter().flat_map(|i| &i.addresses).all(|ip| ip.contains('/')));
    if let Ok(id) = std::fs::read_to_string("/etc/machine-id") {
        assert!(id.trim().is_empty() || !serde_json::to_string(&found)?.contains(id.trim()));
    }
    Ok(())
}

#[test]
fn the_fingerprint_depends_only_on_the_inventory_content() {
    let before = collect(&fixture("robot"));
    let mut after = before.clone();
    after.boot_time = Some(Timestamp(1));
    assert_eq!(fingerprint(&before), fingerprint(&after), "the clock was set");
    for change in [
        |i: &mut DeviceInventoryReported| i.docker_version = text("28.2.2"),
        |i: &mut DeviceInventoryReported| i.agent_version.push('1'),
        |i: &mut DeviceInventoryReported| i.interfaces.push(Interface::default()),
    ] {
        let mut after = before.clone();
        change(&mut after);
        assert_ne!(fingerprint(&before), fingerprint(&after), "{after:?}");
    }
}
