//! The connection to the broker, as the rest of the agent sees it. `crate::link` keeps it up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::Client;
use muster_channel::Publisher;
use muster_schemas::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::clock::Moment;

/// The open connection.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) broker: String,
    pub(crate) since: Instant,
    /// Time of the connection, by the device's wall clock.
    pub(crate) at: Timestamp,
}

/// The state of the connection, for the status.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionState {
    pub(crate) connected: Option<Connected>,
    pub(crate) last_ack: Option<Timestamp>,
    pub(crate) last_hello: Option<Timestamp>,
    pub(crate) last_error: Option<(Timestamp, String)>,
}

/// Totals since the agent's start, over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionTotals {
    pub(crate) events_acked: u64,
    pub(crate) batches_sent: u64,
    /// Number of connections after the first one.
    pub(crate) reconnects: u64,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    /// The last round-trip time, in microseconds; 0 while unknown.
    pub(crate) rtt_us: u64,
}

/// The counters. Relaxed throughout: they are only reported, and no decision depends on them.
#[derive(Debug, Default)]
struct Counters {
    events_acked: AtomicU64,
    batches_sent: AtomicU64,
    connections: AtomicU64,
    rtt_us: AtomicU64,
    /// Number of bytes of earlier connections.
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
}

/// The connection to the broker, if there is one.
#[derive(Debug)]
pub(crate) struct Connection {
    publisher: watch::Sender<Option<Publisher>>,
    state: Mutex<ConnectionState>,
    counters: Counters,
}

impl Connection {
    pub(crate) fn new() -> Self {
        Self {
            publisher: watch::Sender::new(None),
            state: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Follows the connection, from its current state.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Publisher>> {
        self.publisher.subscribe()
    }

    /// Returns the current connection.
    pub(crate) fn publisher(&self) -> Option<Publisher> {
        self.publisher.borrow().clone()
    }

    fn state_mut(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock()
    }

    /// Returns a snapshot of the state.
    pub(crate) fn state(&self) -> ConnectionState {
        self.state_mut().clone()
    }

    /// Records that this connection was made.
    pub(crate) fn set_connected(&self, publisher: Publisher, broker: &str) {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        let (since, at) = (Instant::now(), Moment::now().wall);
        self.state_mut().connected = Some(Connected { broker: broker.to_owned(), since, at });
        self.publisher.send_replace(Some(publisher));
    }

    /// Records that a connection has ended.
    pub(crate) fn set_disconnected(&self, client: &Client) {
        self.publisher.send_replace(None);
        self.state_mut().connected = None;
        let (out, received) = bytes_of(client);
        self.counters.bytes_out.fetch_add(out, Ordering::Relaxed);
        self.counters.bytes_in.fetch_add(received, Ordering::Relaxed);
    }

    /// Records that there will be no further connection: the agent stops.
    pub(crate) fn close(&self) {
        self.publisher.send_replace(None);
    }

    /// Stores a failure for the status.
    pub(crate) fn set_last_error(&self, error: &str) {
        self.state_mut().last_error = Some((Moment::now().wall, error.to_owned()));
    }

    /// Records that the log has confirmed further events.
    pub(crate) fn on_ack(&self, events: u64, at: Timestamp) {
        self.counters.events_acked.fetch_add(events, Ordering::Relaxed);
        self.state_mut().last_ack = Some(at);
    }

    /// Records a response to a hello.
    pub(crate) fn on_hello(&self, round_trip: Duration, at: Timestamp) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.counters.rtt_us.store(micros, Ordering::Relaxed);
        self.state_mut().last_hello = Some(at);
    }

    /// Records that the broker has stored a batch of metrics.
    pub(crate) fn on_batch_sent(&self) {
        self.counters.batches_sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the totals.
    pub(crate) fn totals(&self) -> ConnectionTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let client = self.publisher.borrow().as_ref().map(|publisher| publisher.client().clone());
        let (out, received) = client.as_ref().map_or((0, 0), bytes_of);
        ConnectionTotals {
            events_acked: get(&counters.events_acked),
            batches_sent: get(&counters.batches_sent),
            reconnects: get(&counters.connections).saturating_sub(1),
            bytes_out: get(&counters.bytes_out) + out,
            bytes_in: get(&counters.bytes_in) + received,
            rtt_us: get(&counters.rtt_us),
        }
    }
}

/// Returns the number of bytes that a client has sent and received.
fn bytes_of(client: &Client) -> (u64, u64) {
    let statistics = client.statistics();
    let out = statistics.out_bytes.load(Ordering::Relaxed);
    (out, statistics.in_bytes.load(Ordering::Relaxed))
}

/// Waits for a connection.
pub(crate) async fn connected(connection: &mut watch::Receiver<Option<Publisher>>) -> Client {
    match connection
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|publisher| publisher.as_ref().map(|publisher| publisher.client().clone()))
    {
        Some(client) => client,
        // The agent is ending, and this task with it.
        None => std::future::pending().await,
    }
}
