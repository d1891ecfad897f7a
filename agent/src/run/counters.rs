//! The agent's own counters, in total since its start.

use std::sync::atomic::{AtomicU64, Ordering};

/// The totals. Relaxed throughout: they are only reported, and no decision depends on them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    events_acked: AtomicU64,
    batches_sent: AtomicU64,
    connections: AtomicU64,
    rtt_us: AtomicU64,
    /// Number of bytes of earlier connections.
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
}

impl Counters {
    pub(crate) fn events_acked(&self, count: u64) {
        self.events_acked.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn batches_sent(&self) {
        self.batches_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rtt(&self, micros: u64) {
        self.rtt_us.store(micros, Ordering::Relaxed);
    }

    /// Adds the bytes of a connection that has ended.
    pub(crate) fn disconnected(&self, client: &async_nats::Client) {
        let statistics = client.statistics();
        let out = statistics.out_bytes.load(Ordering::Relaxed);
        let received = statistics.in_bytes.load(Ordering::Relaxed);
        self.bytes_out.fetch_add(out, Ordering::Relaxed);
        self.bytes_in.fetch_add(received, Ordering::Relaxed);
    }

    /// Fills in the fields that are counted here; the caller sets the others.
    pub(crate) fn fill(
        &self,
        counters: &mut crate::metrics::AgentCounters,
        client: Option<&async_nats::Client>,
    ) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        counters.events_acked = get(&self.events_acked);
        counters.batches_sent = get(&self.batches_sent);
        counters.reconnects = get(&self.connections).saturating_sub(1);
        counters.rtt_us = get(&self.rtt_us);
        let (mut out, mut received) = (get(&self.bytes_out), get(&self.bytes_in));
        if let Some(client) = client {
            let statistics = client.statistics();
            out += statistics.out_bytes.load(Ordering::Relaxed);
            received += statistics.in_bytes.load(Ordering::Relaxed);
        }
        counters.bytes_out = out;
        counters.bytes_in = received;
    }
}
