//! What the broker says of connections: advisories on the system account, and its own list.
//!
//! Source: the server's `system_events` (`$SYS.ACCOUNT.<account>.CONNECT` and `.DISCONNECT`) and
//! `CONNZ` over `$SYS.REQ.SERVER.PING`.

use serde::Deserialize;

use super::table::Connection;

#[derive(Debug, Deserialize)]
pub(super) struct Advisory {
    server: Server,
    client: Client,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Server {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Client {
    id: u64,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

impl Advisory {
    /// The connection, if it is a device's.
    pub(super) fn connection(&self) -> Option<Connection> {
        connection(&self.server.id, self.client.id, self.client.host.clone(), &self.client.tags)
    }

    /// The broker's name of the connection, whoever's it is.
    pub(super) fn id(&self) -> String {
        connection_id(&self.server.id, self.client.id)
    }
}

/// The answer of one server to `CONNZ`.
#[derive(Debug, Deserialize)]
pub(super) struct Connz {
    server: Server,
    #[serde(default)]
    data: Option<ConnzData>,
}

#[derive(Debug, Deserialize)]
struct ConnzData {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    connections: Vec<ConnzEntry>,
}

#[derive(Debug, Deserialize)]
struct ConnzEntry {
    cid: u64,
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

impl Connz {
    /// The devices' connections on this page.
    pub(super) fn connections(&self) -> Vec<Connection> {
        self.entries()
            .iter()
            .filter_map(|entry| {
                connection(&self.server.id, entry.cid, entry.ip.clone(), &entry.tags)
            })
            .collect()
    }

    fn entries(&self) -> &[ConnzEntry] {
        self.data.as_ref().map_or(&[], |data| &data.connections)
    }

    /// Is there more than this page holds, after `offset` entries before it?
    pub(super) fn has_more(&self, offset: usize) -> bool {
        let total = self.data.as_ref().map_or(0, |data| data.total);
        !self.entries().is_empty() && offset + self.entries().len() < total
    }

    /// The server that answered.
    pub(super) fn server_id(&self) -> &str {
        &self.server.id
    }

    /// Entries on this page, devices or not.
    pub(super) fn len(&self) -> usize {
        self.entries().len()
    }
}

fn connection_id(server: &str, client: u64) -> String {
    format!("{server}/{client}")
}

/// A connection whose JWT has a device's tags.
fn connection(
    server: &str,
    client: u64,
    address: Option<String>,
    tags: &[String],
) -> Option<Connection> {
    let tag = |name: &str| tags.iter().find_map(|tag| tag.strip_prefix(name)?.strip_prefix(':'));
    let project = tag("project")?.parse().ok()?;
    let device = tag("device")?.parse().ok()?;
    Some(Connection { id: connection_id(server, client), who: (project, device), address })
}
