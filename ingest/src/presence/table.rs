//! The table of connections: a pure fold of advisories and lists into changes of presence.
//!
//! Invariant: a device missing on a list is offline only if the list is complete and the next one
//! agrees.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use muster_schemas::events::{DeviceConnected, DeviceDisconnected, DisconnectReason};
use muster_schemas::{Event, Timestamp};

use super::advisories::Advisory;
use super::connection::{Connection, ProjectDevice};
use super::connections::ListedConnection;
use super::sweep::Sweep;

/// Number of consecutive lists that must agree that a connection has closed.
const LISTS_TO_CONFIRM_CLOSE: u8 = 2;

/// A change of a device's presence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) device: ProjectDevice,
    pub(super) event: Event,
}

#[derive(Debug)]
struct TrackedConnection {
    connection: Connection,
    /// Whether it is silent.
    is_silent: bool,
    /// Number of consecutive complete lists without it.
    missed: u8,
    /// The round trip on the last list, and the time of its last change, by the server's clock.
    rtt: String,
    responded_at: Option<Timestamp>,
}

/// The connected devices, and the devices that are online in the log.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Time without a response after which a connection is silent.
    offline_after: Duration,
    connections: HashMap<String, TrackedConnection>,
    /// Connections by device; a device is online while any of them is not silent.
    by_device: BTreeMap<ProjectDevice, HashSet<String>>,
    /// The devices that are online in the log.
    online: HashSet<ProjectDevice>,
    /// Devices that are online in the log without a known connection: the number of complete lists so far.
    unexplained: HashMap<ProjectDevice, u8>,
    /// Connections of advisories during a sweep: its list may be older than they are.
    changed_in_sweep: Option<HashSet<String>>,
}

impl Table {
    /// Creates the initial state from the log: these devices are online.
    pub(super) fn new(
        offline_after: Duration,
        online: impl IntoIterator<Item = ProjectDevice>,
    ) -> Self {
        Self { offline_after, online: online.into_iter().collect(), ..Self::default() }
    }

    /// Returns the number of online devices.
    pub(super) fn online(&self) -> usize {
        self.online.len()
    }

    /// Whether the list must be queried again soon.
    pub(super) fn needs_requery(&self) -> bool {
        !self.unexplained.is_empty() || self.connections.values().any(|entry| entry.missed > 0)
    }

    /// Applies an advisory immediately.
    pub(super) fn apply_advisory(&mut self, advisory: Advisory) -> Option<Change> {
        match advisory {
            Advisory::Opened(connection) => {
                self.mark_changed(&connection.id);
                self.opened(&connection)
            }
            Advisory::Closed { id, reason, detail } => {
                self.mark_changed(&id);
                self.closed(&id, reason, detail)
            }
        }
    }

    fn mark_changed(&mut self, id: &str) {
        if let Some(touched) = &mut self.changed_in_sweep {
            touched.insert(id.to_owned());
        }
    }

    fn opened(&mut self, connection: &Connection) -> Option<Change> {
        self.insert(connection.clone(), false);
        self.set_online(connection)
    }

    fn insert(&mut self, connection: Connection, is_silent: bool) -> &mut TrackedConnection {
        let (id, who) = (connection.id.clone(), connection.device.clone());
        self.unexplained.remove(&who);
        self.by_device.entry(who).or_default().insert(id.clone());
        let rtt = String::new();
        self.connections.entry(id).or_insert(TrackedConnection {
            connection,
            is_silent,
            missed: 0,
            rtt,
            responded_at: None,
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
        self.set_offline(who, id, reason, detail)
    }

    fn set_online(&mut self, connection: &Connection) -> Option<Change> {
        let connected = DeviceConnected {
            connection: connection.id.clone(),
            address: connection.address.clone(),
        };
        let who = connection.device.clone();
        self.online.insert(who.clone()).then(|| Change { device: who, event: connected.into() })
    }

    /// Makes the device offline, unless another connection of it is active.
    fn set_offline(
        &mut self,
        device: ProjectDevice,
        id: &str,
        reason: DisconnectReason,
        detail: Option<String>,
    ) -> Option<Change> {
        let ids = self.by_device.get(&device);
        let speaks = |id: &String| self.connections.get(id).is_some_and(|entry| !entry.is_silent);
        if ids.is_some_and(|ids| ids.iter().any(speaks)) {
            return None;
        }
        let disconnected = DeviceDisconnected { connection: id.to_owned(), reason, detail };
        self.online.remove(&device).then(|| Change { device, event: disconnected.into() })
    }

    /// Records the start of a query of the broker's list.
    pub(super) fn start_sweep(&mut self) {
        self.changed_in_sweep = Some(HashSet::new());
    }

    /// Records that the broker did not respond: the table is unchanged.
    pub(super) fn fail_sweep(&mut self) {
        self.changed_in_sweep = None;
    }

    /// Applies the broker's list: new connections are added, active ones are online, silent ones are
    /// marked, and connections missing on two complete lists are removed.
    pub(super) fn finish_sweep(&mut self, sweep: Sweep) -> Vec<Change> {
        let touched = self.changed_in_sweep.take().unwrap_or_default();
        let Sweep { listed, complete: whole, lost_servers: lost, is_complete: is_whole } = sweep;
        let named: HashSet<String> =
            listed.iter().map(|(_, listed)| listed.connection.id.clone()).collect();
        // A device with a new connection does not go offline because of the old one.
        let (mut changes, mut silent) = (Vec::new(), Vec::new());
        for (now, listed) in listed {
            if !touched.contains(&listed.connection.id) {
                changes.extend(self.apply_listed(now, listed, &mut silent));
            }
        }
        for (id, quiet) in silent {
            let Some(who) = self.connections.get(&id).map(|entry| entry.connection.device.clone())
            else {
                continue;
            };
            let detail = Some(format!("no message for {} s", quiet.as_secs()));
            changes.extend(self.set_offline(who, &id, DisconnectReason::Silent, detail));
        }
        let mut ended = Vec::new();
        for (id, entry) in &mut self.connections {
            if named.contains(id) || touched.contains(id) {
                continue;
            }
            let server = entry.connection.server();
            if lost.contains(server) {
                ended.push((id.clone(), Some("its broker is unreachable".to_owned())));
            } else if is_whole || whole.contains(server) {
                // Of a server that responds, or of an unknown one: a broker that was killed before it was
                // ever listed.
                entry.missed += 1;
                if entry.missed >= LISTS_TO_CONFIRM_CLOSE {
                    ended.push((id.clone(), None));
                }
            }
        }
        for (id, detail) in ended {
            changes.extend(self.closed(&id, DisconnectReason::Gone, detail));
        }
        if is_whole {
            changes.extend(self.resolve_unexplained());
        }
        changes
    }

    /// Applies one entry of the list.
    fn apply_listed(
        &mut self,
        now: Timestamp,
        listed: ListedConnection,
        silent: &mut Vec<(String, Duration)>,
    ) -> Option<Change> {
        let ListedConnection { connection, active_at: active, rtt } = listed;
        let quiet = now.since(active);
        let limit = self.offline_after;
        let is_new = !self.connections.contains_key(&connection.id);
        // A connection that was silent before this process started has the state of the log.
        let is_silent = is_new && quiet > limit && !self.online.contains(&connection.device);
        let entry = self.insert(connection.clone(), is_silent);
        entry.missed = 0;
        // A device that is online in the log is observed from now on before it is called silent.
        let is_sign_of_life = if is_new { !is_silent } else { rtt != entry.rtt };
        entry.rtt = rtt;
        if is_sign_of_life {
            entry.responded_at = Some(now);
        }
        let answered =
            entry.responded_at.map_or(Duration::MAX, |responded_at| now.since(responded_at));
        let quiet = quiet.min(answered);
        let was_silent = std::mem::replace(&mut entry.is_silent, quiet > limit);
        if !entry.is_silent {
            return self.set_online(&connection);
        }
        if !was_silent {
            silent.push((connection.id, quiet));
        }
        None
    }

    /// Handles devices that are online in the log without a known connection.
    fn resolve_unexplained(&mut self) -> Vec<Change> {
        let unexplained: HashMap<ProjectDevice, u8> = self
            .online
            .iter()
            .filter(|who| !self.by_device.contains_key(who))
            .map(|who| (who.clone(), self.unexplained.get(who).map_or(1, |seen| seen + 1)))
            .collect();
        let (ended, doubted): (HashMap<_, _>, HashMap<_, _>) =
            unexplained.into_iter().partition(|(_, seen)| *seen >= LISTS_TO_CONFIRM_CLOSE);
        self.unexplained = doubted;
        ended
            .into_keys()
            .filter_map(|who| self.set_offline(who, "", DisconnectReason::Gone, None))
            .collect()
    }
}

#[cfg(test)]
mod tests;
