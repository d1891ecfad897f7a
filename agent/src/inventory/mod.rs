//! The inventory of a device: its system, hardware and network, reported when they change.
//!
//! It contains no metrics. Every fact is optional, because for each of them there are devices that
//! cannot provide it; no function fails.

mod docker;
mod interfaces;
mod report;
mod system;
#[cfg(test)]
mod tests;

pub use interfaces::{interfaces, network_cards};
pub(crate) use report::report_inventory;

use std::path::Path;

use muster_schemas::Hash;
use muster_schemas::codec;
use muster_schemas::events::DeviceInventoryReported;

use crate::metrics::Files;

/// Collects the inventory of the machine below `root`: `/`, or a folder of fixtures.
///
/// Blocks for up to 2 s if a Docker Engine does not respond: not for a runtime's own thread.
/// Network interfaces are those of this process, so they are reported for `/` only.
#[must_use]
pub fn collect(root: &Path) -> DeviceInventoryReported {
    let files = &mut Files::new(root);
    let is_this_machine = root == Path::new("/");
    let os = system::os(files);
    let hardware = system::hardware(files);
    DeviceInventoryReported {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: files.line("proc/sys/kernel/hostname").and_then(|text| system::printable(&text)),
        os_id: os.id,
        os_version: os.version,
        os_name: os.pretty_name,
        kernel: files.line("proc/sys/kernel/osrelease").and_then(|text| system::printable(&text)),
        arch: system::arch(),
        cpu_model: system::cpu_model(files)
            .or_else(|| if is_this_machine { system::cpu_model_by_part() } else { None }),
        cpu_cores: crate::metrics::cpus_online(files).and_then(|count| u32::try_from(count).ok()),
        memory_bytes: system::memory_bytes(files),
        machine: system::machine_id_hash(files),
        hardware_vendor: hardware.vendor,
        hardware_model: hardware.product,
        hardware_serial: hardware.serial,
        virtualization: system::virtualization(files),
        interfaces: if is_this_machine { interfaces() } else { Vec::new() },
        boot_time: system::boot_time(files),
        boot_id: files
            .line("proc/sys/kernel/random/boot_id")
            .and_then(|text| system::printable(&text)),
        docker_version: docker::version(root),
        timezone: system::timezone(files),
    }
}

/// Returns the hash of an inventory's content, by which changes are detected.
///
/// The boot time is excluded: the kernel computes it from the wall clock, so it changes with every
/// step of that clock; the boot id identifies a new boot.
#[must_use]
pub fn fingerprint(inventory: &DeviceInventoryReported) -> Hash {
    let reported = DeviceInventoryReported { boot_time: None, ..inventory.clone() };
    Hash::of(&codec::encode(&reported))
}

/// Returns the host name and the hash of the machine id, which enrollment sends.
#[must_use]
pub fn host_identity(root: &Path) -> (Option<String>, Option<Hash>) {
    let files = &mut Files::new(root);
    let hostname = files.line("proc/sys/kernel/hostname").and_then(|text| system::printable(&text));
    (hostname, system::machine_id_hash(files))
}
