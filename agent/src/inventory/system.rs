//! Facts about the system and hardware, each from the files of the kernel or the distribution.
//!
//! Network facts are in `interfaces`.

use muster_schemas::{Hash, Timestamp};
use nix::sys::utsname::uname;
use sha2::{Digest, Sha256};
use sysinfo::{CpuRefreshKind, RefreshKind, System};

use crate::metrics::Files;

/// Maximum length of a text from a file, in characters.
const MAX_TEXT_CHARS: usize = 256;

/// Placeholders of firmware without configured values, in lower case.
const PLACEHOLDERS: &[&str] = &[
    "",
    "0",
    "none",
    "n/a",
    "unknown",
    "default string",
    "not specified",
    "not applicable",
    "system manufacturer",
    "system product name",
    "system serial number",
    "o.e.m.",
    "to be filled by o.e.m.",
    "123456789",
    "0123456789",
];

/// The distribution, from os-release(5).
#[derive(Debug, Default)]
pub(super) struct Os {
    pub(super) id: Option<String>,
    pub(super) version: Option<String>,
    pub(super) pretty_name: Option<String>,
}

/// The hardware, from DMI or the device tree.
#[derive(Debug)]
pub(super) struct Hardware {
    pub(super) vendor: Option<String>,
    pub(super) product: Option<String>,
    pub(super) serial: Option<String>,
}

/// Removes control characters and truncates the text; `None` if nothing is left.
pub(super) fn printable(text: &str) -> Option<String> {
    let text: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_TEXT_CHARS)
        .collect::<String>()
        .trim()
        .to_owned();
    (!text.is_empty()).then_some(text)
}

pub(super) fn os(files: &mut Files) -> Os {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Ok(text) = files.text(path) {
            let get = |key: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                    .and_then(|value| printable(&unquote(value)))
            };
            return Os {
                id: get("ID"),
                version: get("VERSION_ID"),
                pretty_name: get("PRETTY_NAME"),
            };
        }
    }
    Os::default()
}

/// Parses a value of os-release(5): bare, or in quotes with backslashes before special characters.
fn unquote(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            let mut text = String::with_capacity(inner.len());
            let mut characters = inner.chars();
            while let Some(c) = characters.next() {
                text.extend(if c == '\\' { characters.next() } else { Some(c) });
            }
            return text;
        }
    }
    value.to_owned()
}

pub(super) fn arch() -> Option<String> {
    uname().ok().and_then(|names| names.machine().to_str().map(str::to_owned))
}

pub(super) fn cpu_model(files: &mut Files) -> Option<String> {
    let text = files.text("proc/cpuinfo").ok()?;
    ["model name", "cpu model", "Processor"]
        .iter()
        .find_map(|key| cpuinfo(&text, key).and_then(printable))
}

fn cpuinfo<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

/// ARM kernels report only the part's number; `sysinfo` has the table of names.
pub(super) fn cpu_model_by_part() -> Option<String> {
    let kind = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(kind).ok()?;
    system.cpus().first().and_then(|cpu| printable(cpu.brand()))
}

pub(super) fn memory_bytes(files: &mut Files) -> Option<u64> {
    let text = files.text("proc/meminfo").ok()?;
    let kilobytes: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()?;
    kilobytes.checked_mul(1024)
}

pub(super) fn machine_id_hash(files: &mut Files) -> Option<Hash> {
    ["etc/machine-id", "var/lib/dbus/machine-id"]
        .iter()
        .find_map(|path| files.line(path))
        // `uninitialized`, for example, is not an id.
        .filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(|id| {
            let digest =
                Sha256::new().chain_update("muster/machine-id/v1").chain_update(id).finalize();
            Hash(digest.into())
        })
}

pub(super) fn hardware(files: &mut Files) -> Hardware {
    let mut first = |paths: &[&str]| {
        paths
            .iter()
            .filter_map(|path| files.line(path).and_then(|text| printable(&text)))
            .find(|text| !PLACEHOLDERS.contains(&text.to_lowercase().as_str()))
    };
    Hardware {
        vendor: first(&["sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/board_vendor"]),
        product: first(&[
            "sys/class/dmi/id/product_name",
            "sys/class/dmi/id/board_name",
            "proc/device-tree/model",
        ]),
        serial: first(&["sys/class/dmi/id/product_serial", "proc/device-tree/serial-number"]),
    }
}

/// A container takes precedence over the machine that it runs on.
pub(super) fn virtualization(files: &mut Files) -> Option<String> {
    // systemd writes the name here that the container manager reports.
    if let Some(name) = files.line("run/systemd/container").and_then(|text| printable(&text)) {
        return Some(name);
    }
    for (marker, name) in [(".dockerenv", "docker"), ("run/.containerenv", "podman")] {
        if files.path(marker).exists() {
            return Some(name.to_owned());
        }
    }
    let release = files.line("proc/sys/kernel/osrelease").unwrap_or_default().to_lowercase();
    if release.contains("microsoft") {
        return Some("wsl".to_owned());
    }
    if files.path("proc/xen").exists()
        || files.line("sys/hypervisor/type").as_deref() == Some("xen")
    {
        return Some("xen".to_owned());
    }
    const BY_DMI: &[(&str, &str)] = &[
        ("kvm", "kvm"),
        ("openstack", "kvm"),
        ("qemu", "qemu"),
        ("vmware", "vmware"),
        ("virtualbox", "oracle"),
        ("innotek", "oracle"),
        ("xen", "xen"),
        ("bochs", "bochs"),
        ("parallels", "parallels"),
        ("bhyve", "bhyve"),
        ("amazon ec2", "amazon"),
        ("google compute engine", "google"),
    ];
    for field in ["product_name", "sys_vendor", "board_vendor", "bios_vendor"] {
        let text =
            files.line(&format!("sys/class/dmi/id/{field}")).unwrap_or_default().to_lowercase();
        if let Some((_, name)) = BY_DMI.iter().find(|(sign, _)| text.contains(sign)) {
            return Some((*name).to_owned());
        }
        if text == "virtual machine" {
            return Some("microsoft".to_owned());
        }
    }
    let text = files.text("proc/cpuinfo").ok()?;
    let is_guest = cpuinfo(&text, "flags")?.split(' ').any(|flag| flag == "hypervisor");
    is_guest.then(|| "vm-other".to_owned())
}

pub(super) fn boot_time(files: &mut Files) -> Option<Timestamp> {
    let text = files.text("proc/stat").ok()?;
    let seconds: i64 =
        text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    seconds.checked_mul(1_000_000).map(Timestamp)
}

pub(super) fn timezone(files: &mut Files) -> Option<String> {
    // Programs use the link; the text file is specific to Debian and may be stale.
    let link = std::fs::read_link(files.path("etc/localtime")).ok();
    link.and_then(|path| Some(path.to_str()?.split_once("zoneinfo/")?.1.to_owned()))
        .or_else(|| files.line("etc/timezone"))
        .and_then(|text| printable(&text))
}
