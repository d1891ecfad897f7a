//! The broker's own list of connections, as one server answers it, a page at a time. Pure.
//!
//! Source: the server's `CONNZ`. The list is alive: between two pages connections come at its end
//! and go anywhere, so pages overlap, and one that does not follow the page before is noticed.

use muster_schemas::Timestamp;
use serde::Deserialize;

use super::table::Connection;

/// One server's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerList {
    /// The server: another one after each start.
    pub(super) server: String,
    /// Its name, which outlives a restart.
    pub(super) name: String,
    /// Its clock.
    pub(super) now: Timestamp,
    /// The devices' connections.
    pub(super) devices: Vec<Listed>,
    /// Is nothing missing?
    pub(super) is_whole: bool,
    /// The newest connection on the pages so far, whoever's it is.
    last: u64,
    /// Where the next page begins, when there is one.
    next: Option<usize>,
}

/// A connection on the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) connection: Connection,
    /// When a message or a subscription last went over it, by the server's clock. Pings do not
    /// count.
    pub(super) active: Timestamp,
    /// The round trip of the last ping that the client answered; another one is a sign of life.
    pub(super) rtt: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    server: Server,
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Server {
    id: String,
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
struct Data {
    now: Timestamp,
    total: usize,
    #[serde(default)]
    offset: usize,
    #[serde(default)]
    connections: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    cid: u64,
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    last_activity: Timestamp,
    #[serde(default)]
    rtt: String,
}

impl ServerList {
    /// Reads the first page.
    ///
    /// # Errors
    /// When it is not what a broker answers.
    pub fn parse(payload: &[u8]) -> Result<Self, serde_json::Error> {
        let Answer { server, data } = serde_json::from_slice(payload)?;
        let mut list = Self {
            server: server.id,
            name: server.name,
            now: data.now,
            devices: Vec::new(),
            is_whole: false,
            last: 0,
            next: None,
        };
        list.add(data, None);
        Ok(list)
    }

    /// Where the next page begins, `overlap` entries before the end of the last one; `None` when
    /// there is no more.
    #[must_use]
    pub fn next_page(&self, overlap: usize) -> Option<usize> {
        self.next.map(|next| next.saturating_sub(overlap))
    }

    /// Reads a further page. When it does not follow, the list stays incomplete, and there is no
    /// next page.
    ///
    /// # Errors
    /// When it is not what a broker answers.
    pub fn parse_page(&mut self, payload: &[u8]) -> Result<(), serde_json::Error> {
        let Answer { server, data } = serde_json::from_slice(payload)?;
        self.next = None;
        // The list is in the order of the ids, which only grow: a page that begins at or before
        // the end of the one before has left nothing out.
        let follows = data.connections.first().is_some_and(|first| first.cid <= self.last);
        if server.id == self.server && follows {
            self.add(data, Some(self.last));
        }
        Ok(())
    }

    /// Adds a page; of a further one, what comes after the pages before.
    fn add(&mut self, data: Data, after: Option<u64>) {
        let end = data.offset.saturating_add(data.connections.len());
        let is_empty = data.connections.is_empty();
        for entry in data.connections {
            self.last = self.last.max(entry.cid);
            if after.is_some_and(|after| entry.cid <= after) {
                continue;
            }
            let listed = Connection::of(&self.server, entry.cid, entry.ip, &entry.tags);
            self.devices.extend(listed.map(|connection| Listed {
                connection,
                active: entry.last_activity,
                rtt: entry.rtt,
            }));
        }
        self.is_whole = end >= data.total;
        // A page that brings nothing new leads nowhere.
        let is_news = !is_empty && after.is_none_or(|after| self.last > after);
        self.next = (!self.is_whole && is_news).then_some(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(server: &str, total: usize, offset: usize, cids: impl Iterator<Item = u64>) -> Vec<u8> {
        let entry = |cid: u64| {
            serde_json::json!({"cid": cid, "last_activity": "2026-11-23T08:00:00.123456789Z",
                "rtt": "68µs", "tags": ["project:default",
                format!("device:{}", uuid::Uuid::from_u128(cid.into()))]})
        };
        let connections: Vec<_> = cids.map(entry).collect();
        serde_json::json!({"server": {"id": server, "name": "n"},
            "data": {"now": "2026-11-23T08:00:01Z", "total": total, "offset": offset,
                "connections": connections}})
        .to_string()
        .into_bytes()
    }

    #[test]
    fn one_page_is_the_list_when_it_holds_the_total() {
        let list = ServerList::parse(&page("S", 10, 0, 1..=10)).unwrap();
        assert!(list.is_whole && list.next_page(3).is_none());
        assert_eq!(list.devices.len(), 10);
        let empty = ServerList::parse(&page("S", 0, 0, 0..0)).unwrap();
        assert!(empty.is_whole);
        // It said ten, and gave none: that is no list.
        let odd = ServerList::parse(&page("S", 10, 0, 0..0)).unwrap();
        assert!(!odd.is_whole && odd.next_page(3).is_none());
    }

    #[test]
    fn pages_overlap_and_a_gap_is_noticed() {
        let mut list = ServerList::parse(&page("S", 15, 0, 1..=10)).unwrap();
        assert!(!list.is_whole);
        assert_eq!(list.next_page(4), Some(6));
        // Three of the first ten have gone since, and two have come.
        list.parse_page(&page("S", 14, 6, 10..=17)).unwrap();
        assert!(list.is_whole);
        assert_eq!(list.devices.len(), 17);

        // So many have gone that what followed the first page is not on the second.
        let mut list = ServerList::parse(&page("S", 15, 0, 1..=10)).unwrap();
        list.parse_page(&page("S", 9, 6, 13..=15)).unwrap();
        assert!(!list.is_whole && list.next_page(4).is_none());

        // A page of another server, and one that leads nowhere.
        for odd in [page("T", 15, 6, 7..=15), page("S", 15, 6, 7..=10)] {
            let mut list = ServerList::parse(&page("S", 15, 0, 1..=10)).unwrap();
            list.parse_page(&odd).unwrap();
            assert!(!list.is_whole && list.next_page(4).is_none());
        }
    }
}
