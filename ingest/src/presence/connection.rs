//! A connection of a device to the broker, identified by what the broker itself reports.

use muster_schemas::{DeviceId, ProjectId};

/// A device in its project.
pub(super) type ProjectDevice = (ProjectId, DeviceId);

/// A connection of a device, as named by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `<server id>/<client id>`.
    pub(super) id: String,
    pub(super) device: ProjectDevice,
    pub(super) address: Option<String>,
}

impl Connection {
    /// Returns a connection whose JWT has a device's tags.
    pub(super) fn from_tags(
        server: &str,
        client: u64,
        address: Option<String>,
        tags: &[String],
    ) -> Option<Self> {
        let tag =
            |name: &str| tags.iter().find_map(|tag| tag.strip_prefix(name)?.strip_prefix(':'));
        let who = (tag("project")?.parse().ok()?, tag("device")?.parse().ok()?);
        Some(Self { id: Self::id_of(server, client), device: who, address })
    }

    pub(super) fn id_of(server: &str, client: u64) -> String {
        format!("{server}/{client}")
    }

    /// Returns the id of its server.
    pub(super) fn server(&self) -> &str {
        self.id.split_once('/').map_or("", |(server, _)| server)
    }
}
