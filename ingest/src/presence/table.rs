//! The table of connections: a pure fold of what the broker says into changes of presence.
//!
//! Invariant: nobody is declared gone by what is missing on a list, unless the list is whole and
//! the next one says the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use muster_schemas::events::{DeviceConnected, DeviceDisconnected, DisconnectReason};
use muster_schemas::{DeviceId, Event, ProjectId, Timestamp};

use super::advisories::Advisory;
use super::connections::Listed;
use super::sweep::Sweep;

/// A device in its project.
pub(super) type Who = (ProjectId, DeviceId);

/// So many lists in a row must say that a connection is gone.
const AGREED: u8 = 2;

/// A connection of a device, as the broker names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `<server id>/<client id>`.
    pub(super) id: String,
    pub(super) who: Who,
    pub(super) address: Option<String>,
}

impl Connection {
    /// A connection whose JWT has a device's tags.
    pub(super) fn of(
        server: &str,
        client: u64,
        address: Option<String>,
        tags: &[String],
    ) -> Option<Self> {
        let tag =
            |name: &str| tags.iter().find_map(|tag| tag.strip_prefix(name)?.strip_prefix(':'));
        let who = (tag("project")?.parse().ok()?, tag("device")?.parse().ok()?);
        Some(Self { id: Self::id_of(server, client), who, address })
    }

    pub(super) fn id_of(server: &str, client: u64) -> String {
        format!("{server}/{client}")
    }

    /// The server that it is on.
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
    /// Is nothing heard on it any more?
    is_silent: bool,
    /// Whole lists in a row that do not name it.
    missed: u8,
    /// The round trip that the list named last, and when it became that, by the server's clock.
    rtt: String,
    answered: Option<Timestamp>,
}

/// Who is connected, and who counts as online in the log.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// A connection on which nothing was heard for so long is silent; in microseconds.
    offline_after: i64,
    connections: HashMap<String, Known>,
    /// Connections by device; a device is online while any of them is not silent.
    by_device: BTreeMap<Who, HashSet<String>>,
    /// Who counts as online in the log.
    online: HashSet<Who>,
    /// Online in the log, and of no connection that anybody knows: so many whole lists in a row.
    unexplained: HashMap<Who, u8>,
    /// What advisories told while a sweep is under way: its list may be older than they are.
    touched: Option<HashSet<String>>,
}

impl Table {
    /// What the log says: these devices are online.
    pub(super) fn new(offline_after: Duration, online: impl IntoIterator<Item = Who>) -> Self {
        Self {
            offline_after: i64::try_from(offline_after.as_micros()).unwrap_or(i64::MAX),
            online: online.into_iter().collect(),
            ..Self::default()
        }
    }

    /// How many devices are online.
    pub(super) fn online(&self) -> usize {
        self.online.len()
    }

    /// Does something have to be looked at again soon?
    pub(super) fn is_in_doubt(&self) -> bool {
        !self.unexplained.is_empty() || self.connections.values().any(|known| known.missed > 0)
    }

    /// An advisory counts at once.
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
        let (id, who) = (connection.id.clone(), connection.who.clone());
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
        let who = self.connections.remove(id)?.connection.who;
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
        let who = connection.who.clone();
        self.online.insert(who.clone()).then(|| Change { who, event: connected.into() })
    }

    /// The device is offline, unless another connection of it speaks.
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

    /// The broker is about to be asked for its list.
    pub(super) fn sweep_begins(&mut self) {
        self.touched = Some(HashSet::new());
    }

    /// The broker did not answer: nothing is known.
    pub(super) fn sweep_failed(&mut self) {
        self.touched = None;
    }

    /// The broker's list: what is new on it is there, what speaks again is online, what was not
    /// heard for too long is silent, and what two whole lists do not name is gone.
    pub(super) fn swept(&mut self, sweep: Sweep) -> Vec<Change> {
        let touched = self.touched.take().unwrap_or_default();
        let Sweep { listed, whole, lost, is_whole } = sweep;
        let named: HashSet<String> =
            listed.iter().map(|(_, listed)| listed.connection.id.clone()).collect();
        // Who has a new connection does not go offline for the old one.
        let (mut changes, mut silent) = (Vec::new(), Vec::new());
        for (now, listed) in listed {
            if !touched.contains(&listed.connection.id) {
                changes.extend(self.listed(now, listed, &mut silent));
            }
        }
        for (id, quiet) in silent {
            let Some(who) = self.connections.get(&id).map(|known| known.connection.who.clone())
            else {
                continue;
            };
            let detail = Some(format!("nothing was heard for {} s", quiet / 1_000_000));
            changes.extend(self.goes_offline(who, &id, DisconnectReason::Silent, detail));
        }
        let mut gone = Vec::new();
        for (id, known) in &mut self.connections {
            if named.contains(id) || touched.contains(id) {
                continue;
            }
            let server = known.connection.server();
            if lost.contains(server) {
                gone.push((id.clone(), Some("its broker is gone".to_owned())));
            } else if is_whole || whole.contains(server) {
                // Of a server that answers, or of one that nobody has: a broker that was killed before
                // it was ever listed.
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

    /// One entry of the list.
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
        // A connection that was quiet before anybody watched it is what the log says of it.
        let is_silent = is_new && quiet > limit && !self.online.contains(&connection.who);
        let known = self.insert(connection.clone(), is_silent);
        known.missed = 0;
        // Whoever is online in the log is watched from now on before it is called silent.
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

    /// Online in the log, but of no connection that anybody knows.
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
