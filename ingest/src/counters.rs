//! Ingest's own metrics, sent to the recorder that the process has installed (the facade `metrics`);
//! without one they cost almost nothing.
//!
//! Serves nothing: the process decides how they are exported.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use muster_eventlog::DeadLetterSource;

const EVENTS_WAITING: &str = "muster_ingest_events_waiting";
const EVENT_BATCH: &str = "muster_ingest_event_batch_messages";
const APPEND: &str = "muster_ingest_append_seconds";
const EVENTS_DONE: &str = "muster_ingest_event_messages_total";
const DEAD_LETTERS: &str = "muster_ingest_dead_letters_total";
const METRICS_WAITING: &str = "muster_ingest_metric_batches_waiting";
const METRICS_FILL: &str = "muster_ingest_metric_stream_fill_ratio";
const POINTS: &str = "muster_ingest_points_total";
const MESSAGES_DROPPED: &str = "muster_ingest_metric_messages_dropped_total";
const REQUESTS: &str = "muster_ingest_store_requests_total";
const RETRIES: &str = "muster_ingest_store_retries_total";
const RETENTIONS: &str = "muster_ingest_project_retentions";
const POINTS_HELD: &str = "muster_ingest_points_held_bytes";
const ONLINE: &str = "muster_ingest_devices_online";

/// Registers the descriptions of the metrics; call it after the recorder was installed.
pub(crate) fn describe() {
    describe_gauge!(EVENTS_WAITING, "messages of a partition that are not fetched yet");
    describe_histogram!(EVENT_BATCH, "messages that were validated and appended together");
    describe_histogram!(APPEND, "duration of the append of a batch, in seconds");
    describe_counter!(EVENTS_DONE, "messages of devices whose outcome is committed");
    describe_counter!(DEAD_LETTERS, "messages that became dead letters, by source and cause");
    describe_gauge!(METRICS_WAITING, "metric batches that are not consumed yet");
    describe_gauge!(METRICS_FILL, "fill ratio of the stream of metric batches; at 1 it rejects");
    describe_counter!(POINTS, "points, by outcome");
    describe_counter!(
        MESSAGES_DROPPED,
        "metric messages dropped by a device's rate limit, by cause"
    );
    describe_counter!(REQUESTS, "requests to the metric store");
    describe_counter!(RETRIES, "requests to the metric store that were retried");
    describe_gauge!(
        RETENTIONS,
        "projects with a bucket of their own, by state: kept, refused or awaited"
    );
    describe_gauge!(POINTS_HELD, "bytes of points without an outcome yet");
    describe_gauge!(
        ONLINE,
        "devices that are online, if this process tracks presence; otherwise 0"
    );
}

/// Records a processed batch of events.
pub(crate) fn record_batch(partition: u32, messages: usize, waiting: u64, append: Duration) {
    histogram!(EVENT_BATCH).record(float(messages as u64));
    histogram!(APPEND).record(append.as_secs_f64());
    counter!(EVENTS_DONE).increment(messages as u64);
    gauge!(EVENTS_WAITING, "partition" => partition.to_string()).set(float(waiting));
}

/// This process works on a partition while this value lives; then its backlog gauge is reset.
#[derive(Debug)]
pub(crate) struct WorkedPartition(pub(crate) u32);

impl Drop for WorkedPartition {
    fn drop(&mut self) {
        gauge!(EVENTS_WAITING, "partition" => self.0.to_string()).set(0.0);
    }
}

/// Counts a dead letter, stored or not.
pub(crate) fn dead_letter(source: DeadLetterSource, cause: &'static str) {
    counter!(DEAD_LETTERS, "source" => source.as_str(), "cause" => cause).increment(1);
}

/// Counts points dropped because of a limit on their device.
pub(crate) fn points_dropped(reason: &'static str, points: usize) {
    counter!(POINTS, "outcome" => reason).increment(points as u64);
}

/// Counts a metric message dropped because of a limit on its device.
pub(crate) fn metric_messages_dropped(reason: &'static str) {
    counter!(MESSAGES_DROPPED, "cause" => reason).increment(1);
}

/// Records the number of projects with their own retention, by state in the metric store.
pub(crate) fn project_retentions(states: [(&'static str, usize); 3]) {
    for (state, projects) in states {
        gauge!(RETENTIONS, "state" => state).set(float(projects as u64));
    }
}

/// Records the state of the metric stream; a `limit` of 0 means none.
pub(crate) fn metric_stream(waiting: u64, bytes: u64, limit: u64) {
    gauge!(METRICS_WAITING).set(float(waiting));
    gauge!(METRICS_FILL).set(if limit == 0 { 0.0 } else { float(bytes) / float(limit) });
}

/// Records the number of online devices.
pub(crate) fn online(devices: usize) {
    gauge!(ONLINE).set(float(devices as u64));
}

/// Records the points that the metric store has accepted and refused since the start.
pub(crate) fn points_stored(written: u64, refused: u64) {
    counter!(POINTS, "outcome" => "written").absolute(written);
    counter!(POINTS, "outcome" => "refused").absolute(refused);
}

/// Records the requests to the metric store since the start, and how many of them were retries.
pub(crate) fn store_requests(requests: u64, retries: u64) {
    counter!(REQUESTS).absolute(requests);
    counter!(RETRIES).absolute(retries);
}

/// Records the bytes of points without an outcome.
pub(crate) fn points_held(bytes: u64) {
    gauge!(POINTS_HELD).set(float(bytes));
}

#[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;

    /// Keeps counters and gauges; a gauge as the bits of its float.
    #[derive(Default)]
    struct Seen(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Seen {
        fn cell(&self, key: &Key) -> Arc<AtomicU64> {
            let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
            let name = format!("{}{}", key.name(), labels.collect::<String>());
            self.0.lock().unwrap().entry(name).or_default().clone()
        }

        fn counter(&self, name: &str) -> u64 {
            self.0.lock().unwrap()[name].load(Ordering::Relaxed)
        }

        fn gauge(&self, name: &str) -> f64 {
            f64::from_bits(self.counter(name))
        }
    }

    impl Recorder for Seen {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.cell(key))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.cell(key))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn metrics_reach_the_installed_recorder() {
        let seen = Seen::default();
        metrics::with_local_recorder(&seen, || {
            describe();
            let worked = WorkedPartition(3);
            record_batch(3, 512, 40, Duration::from_millis(7));
            record_batch(3, 8, 2, Duration::from_millis(7));
            assert_eq!(seen.gauge("muster_ingest_events_waiting partition=3"), 2.0);
            drop(worked);
            dead_letter(DeadLetterSource::Events, "fork");
            metric_stream(9, 50, 200);
            online(7);
        });
        assert_eq!(seen.counter("muster_ingest_event_messages_total"), 520);
        assert_eq!(seen.gauge("muster_ingest_events_waiting partition=3"), 0.0);
        let dead_letters = "muster_ingest_dead_letters_total source=events cause=fork";
        assert_eq!(seen.counter(dead_letters), 1);
        assert_eq!(seen.gauge("muster_ingest_metric_stream_fill_ratio"), 0.25);
        assert_eq!(seen.gauge("muster_ingest_devices_online"), 7.0);
    }
}
