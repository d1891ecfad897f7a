//! The table of connections: a pure fold of what the broker says into changes of presence.

use std::collections::{BTreeMap, HashMap, HashSet};

use muster_schemas::events::{DeviceConnected, DeviceDisconnected, DisconnectReason};
use muster_schemas::{DeviceId, Event, ProjectId};

/// A device in its project.
pub(super) type Who = (ProjectId, DeviceId);

/// A connection of a device, as the broker names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    /// `<server id>/<client id>`.
    pub(super) id: String,
    pub(super) who: Who,
    pub(super) address: Option<String>,
}

/// A change of a device's presence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) who: Who,
    pub(super) event: Event,
}

/// Who is connected, and who counts as online in the log.
#[derive(Debug, Default)]
pub(super) struct Table {
    connections: HashMap<String, Connection>,
    /// Connections by device; a device is online while it has any.
    by_device: BTreeMap<Who, HashSet<String>>,
    /// Who counts as online in the log.
    online: HashSet<Who>,
}

impl Table {
    /// What the log says: these devices are online.
    pub(super) fn with_online(online: impl IntoIterator<Item = Who>) -> Self {
        Self { online: online.into_iter().collect(), ..Self::default() }
    }

    /// A connection was opened.
    pub(super) fn opened(&mut self, connection: Connection) -> Option<Change> {
        let who = connection.who.clone();
        self.by_device.entry(who.clone()).or_default().insert(connection.id.clone());
        let connected = DeviceConnected {
            connection: connection.id.clone(),
            address: connection.address.clone(),
        };
        self.connections.insert(connection.id.clone(), connection);
        self.online.insert(who.clone()).then(|| Change { who, event: connected.into() })
    }

    /// A connection was closed.
    pub(super) fn closed(
        &mut self,
        id: &str,
        reason: DisconnectReason,
        detail: Option<String>,
    ) -> Option<Change> {
        let connection = self.connections.remove(id)?;
        let who = connection.who;
        if let Some(ids) = self.by_device.get_mut(&who) {
            ids.remove(id);
            if !ids.is_empty() {
                return None;
            }
        }
        self.by_device.remove(&who);
        let disconnected = DeviceDisconnected { connection: id.to_owned(), reason, detail };
        self.online.remove(&who).then(|| Change { who, event: disconnected.into() })
    }

    /// The broker's whole list: what is not on it is gone, what is new on it is there.
    pub(super) fn swept(&mut self, list: Vec<Connection>) -> Vec<Change> {
        let listed: HashSet<&str> = list.iter().map(|connection| connection.id.as_str()).collect();
        let gone: Vec<String> =
            self.connections.keys().filter(|id| !listed.contains(id.as_str())).cloned().collect();
        let mut opened: Vec<Change> =
            list.into_iter().filter_map(|connection| self.opened(connection)).collect();
        let mut changes: Vec<Change> =
            gone.iter().filter_map(|id| self.closed(id, DisconnectReason::Gone, None)).collect();
        // Online in the log, but of no connection that anybody knows.
        let lost: Vec<Who> =
            self.online.iter().filter(|who| !self.by_device.contains_key(who)).cloned().collect();
        for who in lost {
            self.online.remove(&who);
            let disconnected = DeviceDisconnected {
                connection: String::new(),
                reason: DisconnectReason::Gone,
                detail: None,
            };
            changes.push(Change { who, event: disconnected.into() });
        }
        changes.append(&mut opened);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn who(n: u128) -> Who {
        (ProjectId::default_project(), DeviceId(Uuid::from_u128(n)))
    }

    fn connection(id: &str, n: u128) -> Connection {
        Connection { id: id.into(), who: who(n), address: None }
    }

    fn kinds(changes: impl IntoIterator<Item = Change>) -> Vec<(u128, &'static str)> {
        changes.into_iter().map(|change| (change.who.1.0.as_u128(), change.event.kind())).collect()
    }

    #[test]
    fn a_device_is_online_while_it_has_any_connection() {
        let mut table = Table::default();
        assert_eq!(kinds(table.opened(connection("a", 1))), [(1, "DeviceConnected")]);
        assert_eq!(kinds(table.opened(connection("b", 1))), []);
        assert_eq!(kinds(table.closed("a", DisconnectReason::Closed, None)), []);
        assert_eq!(kinds(table.closed("a", DisconnectReason::Closed, None)), []);
        assert_eq!(
            kinds(table.closed("b", DisconnectReason::Closed, None)),
            [(1, "DeviceDisconnected")]
        );
    }

    #[test]
    fn a_sweep_mends_what_was_missed() {
        let mut table = Table::with_online([who(1), who(2)]);
        // 1 is still connected, 2 went and 3 came while nobody kept the table.
        let changes = table.swept(vec![connection("a", 1), connection("c", 3)]);
        assert_eq!(kinds(changes), [(2, "DeviceDisconnected"), (3, "DeviceConnected")]);
        // 3 reconnected unseen: it was online all the time, as far as anybody can tell.
        let changes = table.swept(vec![connection("a", 1), connection("d", 3)]);
        assert_eq!(kinds(changes), []);
        assert_eq!(kinds(table.swept(vec![])).len(), 2);
        assert_eq!(kinds(table.swept(vec![])), []);
    }
}
