//! What a device is: its system, hardware and network, as it reports them when they change.
//!
//! Takes no metrics and sends nothing. Every fact is optional, because there is a device for each
//! of them that cannot tell it; nothing here fails.

mod docker;
mod interfaces;
mod system;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::metrics::Files;

/// What a device says of itself. Plain data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The version of the agent.
    pub agent_version: String,
    /// The host's name as the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The distribution.
    #[serde(default)]
    pub os: Os,
    /// The kernel's release, `6.1.0-13-arm64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The machine's architecture as `uname -m` says it: `x86_64`, `aarch64`, `armv7l`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// The CPU's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// CPUs online, hyperthreads counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<u64>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// SHA-256 in hex of `muster/machine-id/v1` and the machine id: tells a cloned card from
    /// another device without giving the id itself away (machine-id(5) asks for that).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id_hash: Option<String>,
    /// Who made it, what it is.
    #[serde(default)]
    pub hardware: Hardware,
    /// What it runs in, by systemd-detect-virt(1)'s names: `kvm`, `vmware`, `docker`, `wsl` …;
    /// absent on bare metal, or when it cannot be told cheaply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtualization: Option<String>,
    /// Network interfaces but loopback, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// When it was booted, by its own clock: microseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_time: Option<i64>,
    /// The kernel's id of this boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The version of the Docker Engine that answers on this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_version: Option<String>,
    /// The time zone's IANA name, `Europe/Berlin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
}

/// The distribution, from os-release(5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Os {
    /// `debian`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `Debian GNU/Linux 12 (bookworm)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretty_name: Option<String>,
}

/// The hardware, from DMI or the device tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The maker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// The product or model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// The serial number; on PCs only root may read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// The hardware address, `52:54:00:12:34:56`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Addresses with their prefix, `192.168.1.5/24`; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Is it switched on (administratively up)?
    pub up: bool,
}

/// Looks at the machine below `root`: `/`, or a folder of fixtures.
///
/// Blocks for up to 2 s where a Docker Engine does not answer: not for a runtime's own thread.
/// Network interfaces are those of this process, so they are reported for `/` only.
#[must_use]
pub fn collect(root: &Path) -> Inventory {
    let files = &mut Files::new(root);
    let is_this_machine = root == Path::new("/");
    Inventory {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: files.line("proc/sys/kernel/hostname").and_then(system::printable),
        os: system::os(files),
        kernel: files.line("proc/sys/kernel/osrelease").and_then(system::printable),
        arch: system::arch(),
        cpu_model: system::cpu_model(files)
            .or_else(|| if is_this_machine { system::cpu_model_by_part() } else { None }),
        cpu_count: crate::metrics::cpus_online(files),
        memory_bytes: system::memory_bytes(files),
        machine_id_hash: system::machine_id_hash(files),
        hardware: system::hardware(files),
        virtualization: system::virtualization(files),
        interfaces: if is_this_machine { interfaces::interfaces() } else { Vec::new() },
        boot_time: system::boot_time(files),
        boot_id: files.line("proc/sys/kernel/random/boot_id").and_then(system::printable),
        docker_version: docker::version(root),
        timezone: system::timezone(files),
    }
}
