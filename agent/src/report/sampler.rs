//! Samples every few seconds and sends the samples. The network never delays the next round.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster_schemas::metrics::{MAX_BATCH_BYTES, MetricBatch};
use muster_schemas::subjects::DeviceSubjects;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backlog::{Backlog, Queued};
use super::in_flight::InFlight;
use super::schedule::SampleSchedule;
use super::settings::SampleSettings;
use crate::clock::{Moment, ServerClock};
use crate::connection::Connection;
use crate::identity::Identity;
use crate::local::LocalMetrics;
use crate::metrics::{AgentCounters, Collectors, Group, GroupSet};
use crate::outbox::Outbox;

/// Delay of the first round after the start.
const FIRST_ROUND_DELAY: Duration = Duration::from_millis(1500);

/// Maximum time for which points of applications wait for a round.
const MAX_LOCAL_WAIT: Duration = Duration::from_secs(10);

/// Interval between checks of the settings if no group is sampled; a change is applied immediately.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// The sampler of the agent's metrics, and of those of applications.
pub(crate) struct Sampler {
    pub(crate) identity: Arc<Identity>,
    /// Root of the measured system.
    pub(crate) root: PathBuf,
    pub(crate) settings: watch::Receiver<SampleSettings>,
    pub(crate) local: Arc<LocalMetrics>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) clock: Arc<ServerClock>,
}

impl Sampler {
    /// Samples and sends until the agent stops; batches that are still in flight are then kept.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let subjects = DeviceSubjects::new(&self.identity.project, self.identity.device);
        let subject = subjects.live_metrics("host");
        let mut collectors = Collectors::new(&self.root);
        let mut settings = self.settings.clone();
        let mut in_flight = InFlight::default();
        let mut current = *settings.borrow_and_update();
        // A first reading, for metrics that are differences. The first round follows as soon as the
        // broker may be connected, so that a device that has just enrolled shows its metrics.
        drop(self.sample(&mut collectors, current.groups));
        let (start, mut rhythm) = (Instant::now() + FIRST_ROUND_DELAY, SampleSchedule::default());
        let mut local_at: Option<Instant> = None;
        // The config owns the sender, so the channel is never closed.
        loop {
            let round_at = rhythm.next(&current).map(|second| start + Duration::from_secs(second));
            let wake = round_at.into_iter().chain(local_at).min();
            let groups = tokio::select! {
                () = stop.cancelled() => break,
                _ = settings.changed() => {
                    let before = std::mem::replace(&mut current, *settings.borrow_and_update());
                    // Groups that were just enabled are sampled immediately.
                    let is_new = |group: &Group| !before.groups.contains(*group);
                    let new: GroupSet = current.groups.iter().filter(is_new).collect();
                    if new == GroupSet::NONE {
                        continue;
                    }
                    new
                }
                Some((queued, is_stored)) = in_flight.next(), if !in_flight.is_empty() => {
                    if is_stored {
                        self.connection.on_batch_sent();
                    } else {
                        self.backlog.push(&queued);
                    }
                    continue;
                }
                () = self.local.points().arrived() => {
                    if !self.local.points().is_send_due() {
                        local_at = local_at.or_else(|| Some(Instant::now() + MAX_LOCAL_WAIT));
                        continue;
                    }
                    GroupSet::NONE
                }
                () = sleep_until(wake.unwrap_or_else(|| Instant::now() + IDLE_CHECK_INTERVAL)) => {
                    let now = Instant::now();
                    if round_at.is_some_and(|at| at <= now) {
                        rhythm.start_round(&current, now.duration_since(start).as_secs())
                    } else {
                        GroupSet::NONE
                    }
                }
            };
            local_at = None;
            for queued in self.sample(&mut collectors, groups) {
                match self.connection.publisher() {
                    Some(publisher) if in_flight.has_room() => {
                        in_flight.send(publisher, subject.clone(), queued);
                    }
                    _ => self.backlog.push(&queued),
                }
            }
        }
        self.keep(in_flight, &mut collectors);
    }

    /// Keeps the unconfirmed batches and the latest points of applications in the backlog.
    fn keep(&self, in_flight: InFlight, collectors: &mut Collectors) {
        // The broker may have them already; the store treats a repeated point as one.
        for queued in in_flight.into_unconfirmed() {
            self.backlog.push(&queued);
        }
        for queued in self.sample(collectors, GroupSet::NONE) {
            self.backlog.push(&queued);
        }
    }

    /// Samples these groups and takes the points of applications, as batches within the broker's
    /// maximum message size; empty if there are none.
    fn sample(&self, collectors: &mut Collectors, groups: GroupSet) -> Vec<Queued> {
        let at = Moment::now();
        let mut points = if groups == GroupSet::NONE {
            Vec::new()
        } else {
            collectors.sample(groups, &self.counters(&at))
        };
        if groups.contains(Group::MusterAgent) {
            points.extend(self.local.points().counts().point());
        }
        points.extend(self.local.points().drain(&at));
        if points.is_empty() {
            return Vec::new();
        }
        let server_time = self.clock.server_time(&at);
        let batch = MetricBatch { time: server_time.unwrap_or(at.wall), points };
        let (messages, dropped) = batch.messages(MetricBatch::encode);
        warn_dropped(dropped);
        let queue = |batch| Queued {
            boot: at.boot,
            mono: at.mono,
            is_corrected: server_time.is_some(),
            batch,
        };
        messages.into_iter().map(queue).collect()
    }

    /// Returns the counters of the agent itself.
    fn counters(&self, at: &Moment) -> AgentCounters {
        let (outbox, backlog) = (self.outbox.view(), self.backlog.view());
        let (connection, totals) = (self.connection.state(), self.connection.totals());
        AgentCounters {
            outbox_events: outbox.unconfirmed(),
            outbox_bytes: outbox.unconfirmed_bytes,
            outbox_dropped: outbox.dropped,
            backlog_batches: backlog.batches,
            backlog_bytes: backlog.bytes,
            backlog_dropped: backlog.dropped,
            events_acked: totals.events_acked,
            batches_sent: totals.batches_sent,
            reconnects: totals.reconnects,
            clock_skew_us: self.clock.skew(at).unwrap_or(0),
            connected_seconds: connection
                .connected
                .map_or(0, |open| open.since.elapsed().as_secs()),
            bytes_out: totals.bytes_out,
            bytes_in: totals.bytes_in,
            rtt_us: totals.rtt_us,
        }
    }
}

/// Logs that points were dropped because they fit into no message: sent again, they would never be
/// stored.
pub(super) fn warn_dropped(points: usize) {
    if points > 0 {
        tracing::warn!(points, "dropped metric points that exceed {MAX_BATCH_BYTES} bytes each");
    }
}
