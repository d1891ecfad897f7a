//! A device's inventory.

use serde::{Deserialize, Serialize};

use crate::cose::Hash;
use crate::timestamp::Timestamp;

/// A device reported its inventory; at start and after a change. Unknown values are absent. Stream
/// `device-report/<id>/<epoch>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceInventoryReported {
    /// The agent's version.
    pub agent_version: String,
    /// The host name.
    pub hostname: Option<String>,
    /// `ID` of os-release, such as `debian`.
    pub os_id: Option<String>,
    /// `VERSION_ID` of os-release, such as `12`.
    pub os_version: Option<String>,
    /// `PRETTY_NAME` of os-release.
    pub os_name: Option<String>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The machine's architecture as the kernel names it, such as `x86_64`.
    pub arch: Option<String>,
    /// The processor's model.
    pub cpu_model: Option<String>,
    /// The number of logical processors.
    pub cpu_cores: Option<u32>,
    /// The size of the memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// SHA-256 of the machine id, with a prefix.
    pub machine: Option<Hash>,
    /// The hardware's vendor.
    pub hardware_vendor: Option<String>,
    /// The vendor's product name.
    pub hardware_model: Option<String>,
    /// The hardware's serial number, if the agent may read it.
    pub hardware_serial: Option<String>,
    /// The kind of virtual machine or container, if any.
    pub virtualization: Option<String>,
    /// Network interfaces, by name.
    pub interfaces: Vec<Interface>,
    /// The time of the kernel's start.
    pub boot_time: Option<Timestamp>,
    /// The kernel's id of this boot.
    pub boot_id: Option<String>,
    /// The version of the Docker Engine, if it is running.
    pub docker_version: Option<String>,
    /// The time zone, such as `Europe/Berlin`.
    pub timezone: Option<String>,
}

/// A network interface of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// Its addresses with their prefix length, such as `10.0.0.7/24`.
    pub addresses: Vec<String>,
    /// Whether it is up.
    pub up: bool,
}
