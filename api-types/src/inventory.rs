//! Inventory of a device.

use muster_schemas::events::{self, DeviceInventoryReported};
use muster_schemas::{Hash, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema;

/// Inventory of a device, as its agent reports it. Unknown values are null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Inventory {
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
    #[schema(value_type = Option<schema::Hash>)]
    pub machine_hash: Option<Hash>,
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
    /// Time of the kernel's start.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub booted_at: Option<Timestamp>,
    /// The kernel's id of this boot.
    pub boot_id: Option<String>,
    /// The version of the Docker Engine, if it is running.
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
    /// Whether it is up.
    pub up: bool,
}

impl From<DeviceInventoryReported> for Inventory {
    fn from(reported: DeviceInventoryReported) -> Self {
        Self {
            agent_version: reported.agent_version,
            hostname: reported.hostname,
            os_id: reported.os_id,
            os_version: reported.os_version,
            os_name: reported.os_name,
            kernel: reported.kernel,
            arch: reported.arch,
            cpu_model: reported.cpu_model,
            cpu_cores: reported.cpu_cores,
            memory_bytes: reported.memory_bytes,
            machine_hash: reported.machine,
            hardware_vendor: reported.hardware_vendor,
            hardware_model: reported.hardware_model,
            hardware_serial: reported.hardware_serial,
            virtualization: reported.virtualization,
            interfaces: reported.interfaces.into_iter().map(Into::into).collect(),
            booted_at: reported.boot_time,
            boot_id: reported.boot_id,
            docker_version: reported.docker_version,
            timezone: reported.timezone,
        }
    }
}

impl From<events::Interface> for Interface {
    fn from(interface: events::Interface) -> Self {
        let events::Interface { name, mac, addresses, up } = interface;
        Self { name, mac, addresses, up }
    }
}
