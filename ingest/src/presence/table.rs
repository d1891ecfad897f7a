//! The table of connections: a pure fold of advisories and lists into changes of presence.
//!
//! Invariant: a device missing on a list is offline only if the list is complete and the next one
//! agrees.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use muster_schemas::events::{DeviceConnected, DeviceDisconnected, DisconnectReason};
use muster_schemas::{DeviceId, Event, ProjectId, Timestamp};

use super::advisories::Advisory;
use super::connections::Listed;
use super::sweep::Sweep;

/// A device in its project.
pub(super) type Who = (ProjectId, DeviceId);

/// Number of consecutive lists that must agree that a connection has closed.
const AGREED: u8 = 2;

/// A connection of a device, as named by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `<server id>/<client id>`.
    pub(super) id: String,
    pub(super) device: Who,
    pub(super) address: Option<String>,
}

impl Connection {
    /// Returns a connection whose JWT has a device's tags.
    pub(super) fn of(
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

/// A change of a device's presence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) who: Who,
    pub(super) event: Event,
}

#[derive(Debug)]
struct Known {
    connection: Connection,
    /// Whether it is silent.
    is_silent: bool,
    /// Number of consecutive complete lists without it.
    missed: u8,
    /// The round trip on the last list, and the time of its last change, by the server's clock.
    rtt: String,
    answered: Option<Timestamp>,
}

/// The connected devices, and the devices that are online in the log.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Silence after which a connection is silent, in microseconds.
    offline_after: i64,
    connections: HashMap<String, Known>,
    /// Connections by device; a device is online while any of them is not silent.
    by_device: BTreeMap<Who, HashSet<String>>,
    /// The devices that are online in the log.
    online: HashSet<Who>,
    /// Devices that are online in the log without a known connection: the number of complete lists so far.
    unexplained: HashMap<Who, u8>,
    /// Connections of advisories during a sweep: its list may be older than they are.
    touched: Option<HashSet<String>>,
}

impl Table {
    /// Creates the initial state from the log: these devices are online.
    pub(super) fn new(offline_after: Duration, online: impl IntoIterator<Item = Who>) -> Self {
        Self {
            offline_after: i64::try_from(offline_after.as_micros()).unwrap_or(i64::MAX),
            online: online.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Returns the number of online devices.
    pub(super) fn online(&self) -> usize {
        self.online.len()
    }

    /// Whether the list must be queried again soon.
    pub(super) fn is_in_doubt(&self) -> bool {
        !self.unexplained.is_empty() || self.connections.values().any(|known| known.missed > 0)
    }

    /// Applies an advisory immediately.
    pub(super) fn told(&mut self, advisory: Advisory) -> Option<Change> {
        match advisory {
            Advisory::Opened(connection) => {
                self.touch(&connection.id);
                self.opened(connection)
            }
            Advisory::Closed { id, reason, detail } => {
                self.touch(&id);
                self.closed(&id, reason, detail)
            }
        }
    }

    fn touch(&mut self, id: &str) {
        if let Some(touched) = &mut self.touched {
            touched.insert(id.to_owned());
        }
    }

    fn opened(&mut self, connection: Connection) -> Option<Change> {
        self.insert(connection.clone(), false);
        self.goes_online(&connection)
    }

    fn insert(&mut self, connection: Connection, is_silent: bool) -> &mut Known {
        let (id, who) = (connection.id.clone(), connection.device.clone());
        self.unexplained.remove(&who);
        self.by_device.entry(who).or_default().insert(id.clone());
        let rtt = String::new();
        self.connections.entry(id).or_insert(Known {
            connection,
            is_silent,
            missed: 0,
            rtt,
            answered: None,
        })
    }

    fn closed(
        &mut self,
        id: &str,
        reason: DisconnectReason,
        detail: Option<String>,
    ) -> Option<Change> {
        let who = self.connections.remove(id)?.connection.device;
        if let Some(ids) = self.by_device.get_mut(&who) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_device.remove(&who);
            }
        }
        self.goes_offline(who, id, reason, detail)
    }

    fn goes_online(&mut self, connection: &Connection) -> Option<Change> {
        let connected = DeviceConnected {
            connection: connection.id.clone(),
            address: connection.address.clone(),
        };
        let who = connection.device.clone();
        self.online.insert(who.clone()).then(|| Change { who, event: connected.into() })
    }

    /// Makes the device offline, unless another connection of it is active.
    fn goes_offline(
        &mut self,
        who: Who,
        id: &str,
        reason: DisconnectReason,
        detail: Option<String>,
    ) -> Option<Change> {
        let ids = self.by_device.get(&who);
        let speaks = |id: &String| self.connections.get(id).is_some_and(|known| !known.is_silent);
        if ids.is_some_and(|ids| ids.iter().any(speaks)) {
            return None;
        }
        let disconnected = DeviceDisconnected { connection: id.to_owned(), reason, detail };
        self.online.remove(&who).then(|| Change { who, event: disconnected.into() })
    }

    /// Records the start of a query of the broker's list.
    pub(super) fn sweep_begins(&mut self) {
        self.touched = Some(HashSet::new());
    }

    /// Records that the broker did not respond: the table is unchanged.
    pub(super) fn sweep_failed(&mut self) {
        self.touched = None;
    }

    /// Applies the broker's list: new connections are added, active ones are online, silent ones are
    /// marked, and connections missing on two complete lists are removed.
    pub(super) fn swept(&mut self, sweep: Sweep) -> Vec<Change> {
        let touched = self.touched.take().unwrap_or_default();
        let Sweep { listed, whole, lost, is_whole } = sweep;
        let named: HashSet<String> =
            listed.iter().map(|(_, listed)| listed.connection.id.clone()).collect();
        // A device with a new connection does not go offline because of the old one.
        let (mut changes, mut silent) = (Vec::new(), Vec::new());
        for (now, listed) in listed {
            if !touched.contains(&listed.connection.id) {
                changes.extend(self.listed(now, listed, &mut silent));
            }
        }
        for (id, quiet) in silent {
            let Some(who) = self.connections.get(&id).map(|known| known.connection.device.clone())
            else {
                continue;
            };
            let detail = Some(format!("no message for {} s", quiet / 1_000_000));
            changes.extend(self.goes_offline(who, &id, DisconnectReason::Silent, detail));
        }
        let mut gone = Vec::new();
        for (id, known) in &mut self.connections {
            if named.contains(id) || touched.contains(id) {
                continue;
            }
            let server = known.connection.server();
            if lost.contains(server) {
                gone.push((id.clone(), Some("its broker is unreachable".to_owned())));
            } else if is_whole || whole.contains(server) {
                // Of a server that responds, or of an unknown one: a broker that was killed before it was
                // ever listed.
                known.missed += 1;
                if known.missed >= AGREED {
                    gone.push((id.clone(), None));
                }
            }
        }
        for (id, detail) in gone {
            changes.extend(self.closed(&id, DisconnectReason::Gone, detail));
        }
        if is_whole {
            changes.extend(self.explain());
        }
        changes
    }

    /// Applies one entry of the list.
    fn listed(
        &mut self,
        now: Timestamp,
        listed: Listed,
        silent: &mut Vec<(String, i64)>,
    ) -> Option<Change> {
        let Listed { connection, active, rtt } = listed;
        let quiet = now.0.saturating_sub(active.0);
        let limit = self.offline_after;
        let is_new = !self.connections.contains_key(&connection.id);
        // A connection that was silent before this process started has the state of the log.
        let is_silent = is_new && quiet > limit && !self.online.contains(&connection.device);
        let known = self.insert(connection.clone(), is_silent);
        known.missed = 0;
        // A device that is online in the log is observed from now on before it is called silent.
        let is_sign_of_life = if is_new { !is_silent } else { rtt != known.rtt };
        known.rtt = rtt;
        if is_sign_of_life {
            known.answered = Some(now);
        }
        let answered = known.answered.map_or(i64::MAX, |answered| now.0.saturating_sub(answered.0));
        let quiet = quiet.min(answered);
        let was_silent = std::mem::replace(&mut known.is_silent, quiet > limit);
        if !known.is_silent {
            return self.goes_online(&connection);
        }
        if !was_silent {
            silent.push((connection.id, quiet));
        }
        None
    }

    /// Handles devices that are online in the log without a known connection.
    fn explain(&mut self) -> Vec<Change> {
        let unexplained: HashMap<Who, u8> = self
            .online
            .iter()
            .filter(|who| !self.by_device.contains_key(who))
            .map(|who| (who.clone(), self.unexplained.get(who).map_or(1, |seen| seen + 1)))
            .collect();
        let (gone, doubted): (HashMap<_, _>, HashMap<_, _>) =
            unexplained.into_iter().partition(|(_, seen)| *seen >= AGREED);
        self.unexplained = doubted;
        gone.into_keys()
            .filter_map(|who| self.goes_offline(who, "", DisconnectReason::Gone, None))
            .collect()
    }
}

#[cfg(test)]
mod tests;
