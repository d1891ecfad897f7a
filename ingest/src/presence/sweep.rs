//! Queries the broker for its whole list of connections, and determines how complete it is.
//!
//! Declares no device offline: the table does that.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use async_nats::Client;
use futures::StreamExt;
use muster_schemas::Timestamp;
use serde_json::{Value, json};

use super::connections::{ListedConnection, ServerList};

/// Timeout of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after the last response in which another server may respond, if the number of servers is
/// unknown.
const QUIET_TIME: Duration = Duration::from_millis(500);

/// The responses, and what is missing.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    pub(super) listed: Vec<(Timestamp, ListedConnection)>,
    /// The servers with a complete list.
    pub(super) complete: HashSet<String>,
    /// The servers that no longer exist, and their connections with them.
    pub(super) lost_servers: HashSet<String>,
    /// Whether every server responded with its complete list.
    pub(super) is_complete: bool,
}

/// The servers that have responded before.
#[derive(Debug, Default)]
pub(super) struct Servers {
    seen: HashMap<String, (String, Instant)>,
}

impl Servers {
    /// Combines the responses. A server that has responded before and does not now counts as gone when
    /// another one has its name, or after `patience`.
    pub(super) fn combine(
        &mut self,
        responses: Responses,
        now: Instant,
        timeout: Duration,
    ) -> Sweep {
        let Responses { lists, servers } = responses;
        let names: HashMap<String, String> =
            lists.iter().map(|list| (list.server.clone(), list.name.clone())).collect();
        for (id, name) in &names {
            self.seen.insert(id.clone(), (name.clone(), now));
        }
        let has_ended = |id: &str, name: &str, answered: Instant| {
            let is_replaced =
                !name.is_empty() && names.iter().any(|(other, known)| other != id && known == name);
            !names.contains_key(id)
                && (is_replaced || now.saturating_duration_since(answered) > timeout)
        };
        let lost: HashSet<String> = self
            .seen
            .iter()
            .filter(|(id, (name, answered))| has_ended(id, name, *answered))
            .map(|(id, _)| id.clone())
            .collect();
        self.seen.retain(|id, _| !lost.contains(id));
        let whole: HashSet<String> =
            lists.iter().filter(|list| list.is_complete).map(|list| list.server.clone()).collect();
        let missing: Vec<&String> = self.seen.keys().filter(|id| !whole.contains(*id)).collect();
        let is_whole = missing.is_empty() && whole.len() >= servers;
        if !is_whole {
            tracing::warn!(
                ?missing,
                servers,
                answered = whole.len(),
                "the broker's list of connections is incomplete; devices that it lacks stay online"
            );
        }
        let listed = lists
            .into_iter()
            .flat_map(|list| list.devices.into_iter().map(move |listed| (list.now, listed)))
            .collect();
        Sweep { listed, complete: whole, lost_servers: lost, is_complete: is_whole }
    }

    /// Returns the servers that have responded before.
    pub(super) fn ids(&self) -> HashSet<String> {
        self.seen.keys().cloned().collect()
    }
}

/// The servers' responses.
#[derive(Debug, Default)]
pub(super) struct Responses {
    pub(super) lists: Vec<ServerList>,
    /// The number of servers; 0 if unknown.
    pub(super) servers: usize,
}

/// Queries every server for all its connections; `None` when none responds.
pub(super) async fn query_servers(
    system: &Client,
    account: &str,
    page_size: usize,
    known_servers: &HashSet<String>,
) -> Option<Responses> {
    let request = |offset: usize| {
        json!({"acc": account, "auth": true, "sort": "cid", "limit": page_size, "offset": offset})
            .to_string()
    };
    let inbox = system.new_inbox();
    let mut replies = system.subscribe(inbox.clone()).await.ok()?;
    let started_at = tokio::time::Instant::now();
    system.publish_with_reply("$SYS.REQ.SERVER.PING.CONNZ", inbox, request(0).into()).await.ok()?;
    let servers = count_servers(system).await;
    let mut lists: Vec<ServerList> = Vec::new();
    loop {
        let is_expected =
            known_servers.iter().all(|id| lists.iter().any(|list| list.server == *id));
        if !lists.is_empty() && servers > 0 && is_expected && lists.len() >= servers {
            break;
        }
        let may_be_all = !lists.is_empty() && is_expected && servers == 0;
        let until = if may_be_all {
            tokio::time::Instant::now() + QUIET_TIME
        } else {
            started_at + RESPONSE_TIMEOUT
        };
        match tokio::time::timeout_at(until, replies.next()).await {
            Ok(Some(message)) => match ServerList::parse(&message.payload) {
                Ok(list) => lists.push(list),
                Err(error) => tracing::warn!(
                    %error,
                    "failed to read the broker's list of connections"
                ),
            },
            Ok(None) | Err(_) => break,
        }
    }
    drop(replies);
    for list in &mut lists {
        // Each further page is requested from that server alone.
        while let Some(offset) = list.next_page((page_size / 4).max(1)) {
            let subject = format!("$SYS.REQ.SERVER.{}.CONNZ", list.server);
            let Some(response) = request_once(system, subject, request(offset)).await else {
                break;
            };
            if let Err(error) = list.parse_page(&response) {
                tracing::warn!(%error, "failed to read a page of the broker's list of connections");
                break;
            }
        }
    }
    (!lists.is_empty()).then_some(Responses { lists, servers })
}

/// Returns the number of servers, by the first response; 0 when none responds.
async fn count_servers(system: &Client) -> usize {
    let response =
        request_once(system, "$SYS.REQ.SERVER.PING.STATSZ".to_owned(), String::new()).await;
    response
        .and_then(|response| serde_json::from_slice::<Value>(&response).ok())
        .and_then(|response| response.pointer("/statsz/active_servers")?.as_u64())
        .and_then(|servers| usize::try_from(servers).ok())
        .unwrap_or(0)
}

async fn request_once(system: &Client, subject: String, request: String) -> Option<bytes::Bytes> {
    let response =
        tokio::time::timeout(RESPONSE_TIMEOUT, system.request(subject, request.into())).await;
    Some(response.ok()?.ok()?.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(server: &str, name: &str, total: usize) -> ServerList {
        let response = json!({"server": {"id": server, "name": name},
            "data": {"now": "2026-11-23T08:00:01Z", "total": total}});
        ServerList::parse(response.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_server_that_does_not_respond_makes_the_list_incomplete_until_it_counts_as_lost() {
        let mut servers = Servers::default();
        let (start, timeout) = (Instant::now(), Duration::from_secs(60));
        let mut gather = |lists: Vec<ServerList>, servers_reported, after| {
            let responses = Responses { lists, servers: servers_reported };
            let sweep = servers.combine(responses, start + Duration::from_secs(after), timeout);
            let mut lost: Vec<String> = sweep.lost_servers.into_iter().collect();
            lost.sort();
            (sweep.is_complete, lost)
        };
        assert_eq!(gather(vec![list("A", "a", 0)], 2, 0), (false, vec![]));
        assert_eq!(gather(vec![list("A", "a", 0), list("B", "b", 0)], 2, 1), (true, vec![]));
        // B is late, then has sent only a part, then is complete.
        assert_eq!(gather(vec![list("A", "a", 0)], 1, 30), (false, vec![]));
        assert_eq!(gather(vec![list("A", "a", 0), list("B", "b", 9)], 2, 40), (false, vec![]));
        assert_eq!(gather(vec![list("A", "a", 0), list("B", "b", 0)], 2, 50), (true, vec![]));
        // A was restarted; B does not return.
        assert_eq!(gather(vec![list("C", "a", 0)], 1, 60), (false, vec!["A".to_owned()]));
        assert_eq!(gather(vec![list("C", "a", 0)], 1, 111), (true, vec!["B".to_owned()]));
    }
}
