//! What a device is made of.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cose::Hash;
use crate::timestamp::Timestamp;

/// A device says what it is made of; reported at start and when it changes.
/// Stream `device-report/<id>/<epoch>`. What a device cannot tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DeviceInventoryReported {
    /// The agent's version.
    pub agent_version: String,
    /// The host's own name.
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
    /// Logical processors.
    pub cpu_cores: Option<u32>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// SHA-256 of the machine id, under a prefix of muster's own.
    pub machine: Option<Hash>,
    /// Who made the hardware.
    pub hardware_vendor: Option<String>,
    /// What the maker calls it.
    pub hardware_model: Option<String>,
    /// The hardware's serial number, where the agent may read it.
    pub hardware_serial: Option<String>,
    /// The kind of virtual machine or container, where it is one.
    pub virtualization: Option<String>,
    /// Network interfaces, by name.
    pub interfaces: Vec<Interface>,
    /// When the kernel started.
    pub boot_time: Option<Timestamp>,
    /// The kernel's id of this boot.
    pub boot_id: Option<String>,
    /// The version of the Docker Engine, where one answers.
    pub docker_version: Option<String>,
    /// The time zone, such as `Europe/Berlin`.
    pub timezone: Option<String>,
}

/// A network interface of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// Its addresses with their prefix length, such as `10.0.0.7/24`.
    pub addresses: Vec<String>,
    /// Is it up?
    pub up: bool,
}
