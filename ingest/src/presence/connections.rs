//! The broker's list of connections, as returned by one server, page by page. Pure.
//!
//! Source: the server's `CONNZ`. The list changes between two pages: connections are added at its
//! end and removed anywhere, so pages overlap, and a page that does not follow the previous one is
//! noticed.

use muster_schemas::Timestamp;
use serde::Deserialize;

use super::connection::Connection;

/// One server's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerList {
    /// The server's id: a new one after each start.
    pub(super) server: String,
    /// Its name, which is the same after a restart.
    pub(super) name: String,
    /// Its clock.
    pub(super) now: Timestamp,
    /// The devices' connections.
    pub(super) devices: Vec<ListedConnection>,
    /// Whether the list is complete.
    pub(super) is_complete: bool,
    /// The newest connection on the pages so far, of any client.
    last_cid: u64,
    /// The offset of the next page, if there is one.
    next_offset: Option<usize>,
}

/// A connection on the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedConnection {
    pub(super) connection: Connection,
    /// When a message or a subscription was last seen on it, by the server's clock. Pings do not
    /// count.
    pub(super) active_at: Timestamp,
    /// The round trip of the last ping that the client responded to; a new value is a heartbeat.
    pub(super) rtt: String,
}

#[derive(Debug, Deserialize)]
struct ConnectionsResponse {
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
    /// Parses the first page.
    ///
    /// # Errors
    /// When it is not a response of the broker.
    pub fn parse(payload: &[u8]) -> Result<Self, serde_json::Error> {
        let ConnectionsResponse { server, data } = serde_json::from_slice(payload)?;
        let mut list = Self {
            server: server.id,
            name: server.name,
            now: data.now,
            devices: Vec::new(),
            is_complete: false,
            last_cid: 0,
            next_offset: None,
        };
        list.add(data, None);
        Ok(list)
    }

    /// Returns the offset of the next page, `overlap` entries before the end of the last one; `None`
    /// when there is none.
    #[must_use]
    pub fn next_page(&self, overlap: usize) -> Option<usize> {
        self.next_offset.map(|next| next.saturating_sub(overlap))
    }

    /// Parses a further page. If it does not follow, the list stays incomplete, and there is no
    /// next page.
    ///
    /// # Errors
    /// When it is not a response of the broker.
    pub fn parse_page(&mut self, payload: &[u8]) -> Result<(), serde_json::Error> {
        let ConnectionsResponse { server, data } = serde_json::from_slice(payload)?;
        self.next_offset = None;
        // The list is ordered by id, and ids only grow: a page that starts at or before the end of
        // the previous one has left nothing out.
        let follows = data.connections.first().is_some_and(|first| first.cid <= self.last_cid);
        if server.id == self.server && follows {
            self.add(data, Some(self.last_cid));
        }
        Ok(())
    }

    /// Adds a page; of a further one, only the entries after the previous pages.
    fn add(&mut self, data: Data, after: Option<u64>) {
        let end = data.offset.saturating_add(data.connections.len());
        let is_empty = data.connections.is_empty();
        for entry in data.connections {
            self.last_cid = self.last_cid.max(entry.cid);
            if after.is_some_and(|after| entry.cid <= after) {
                continue;
            }
            let listed = Connection::from_tags(&self.server, entry.cid, entry.ip, &entry.tags);
            self.devices.extend(listed.map(|connection| ListedConnection {
                connection,
                active_at: entry.last_activity,
                rtt: entry.rtt,
            }));
        }
        self.is_complete = end >= data.total;
        // A page without new entries ends the list.
        let is_new = !is_empty && after.is_none_or(|after| self.last_cid > after);
        self.next_offset = (!self.is_complete && is_new).then_some(end);
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
    fn a_page_with_all_entries_is_the_complete_list() {
        let list = ServerList::parse(&page("S", 10, 0, 1..=10)).unwrap();
        assert!(list.is_complete && list.next_page(3).is_none());
        assert_eq!(list.devices.len(), 10);
        let empty = ServerList::parse(&page("S", 0, 0, 0..0)).unwrap();
        assert!(empty.is_complete);
        // It announced ten, and returned none: not a list.
        let odd = ServerList::parse(&page("S", 10, 0, 0..0)).unwrap();
        assert!(!odd.is_complete && odd.next_page(3).is_none());
    }

    #[test]
    fn pages_overlap_and_a_gap_is_detected() {
        let mut list = ServerList::parse(&page("S", 15, 0, 1..=10)).unwrap();
        assert!(!list.is_complete);
        assert_eq!(list.next_page(4), Some(6));
        // Three of the first ten were closed since, and two were opened.
        list.parse_page(&page("S", 14, 6, 10..=17)).unwrap();
        assert!(list.is_complete);
        assert_eq!(list.devices.len(), 17);

        // Enough connections were closed that the second page does not follow the first.
        let mut list = ServerList::parse(&page("S", 15, 0, 1..=10)).unwrap();
        list.parse_page(&page("S", 9, 6, 13..=15)).unwrap();
        assert!(!list.is_complete && list.next_page(4).is_none());

        // A page of another server, and one without new entries.
        for odd in [page("T", 15, 6, 7..=15), page("S", 15, 6, 7..=10)] {
            let mut list = ServerList::parse(&page("S", 15, 0, 1..=10)).unwrap();
            list.parse_page(&odd).unwrap();
            assert!(!list.is_complete && list.next_page(4).is_none());
        }
    }
}
