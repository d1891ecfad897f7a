//! Taking a round of samples every few seconds and sending it, without ever waiting for the
//! network before the next one.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_schemas::metrics::{MAX_BATCH_BYTES, MetricBatch};
use muster_schemas::subjects::DeviceSubjects;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backlog::Queued;
use super::rhythm::Rhythm;
use crate::clock::Moment;
use crate::metrics::{Collectors, GroupSet};
use crate::run::Shared;

/// More batches than this do not wait for the broker at once; the rest goes to the backlog.
const IN_FLIGHT: usize = 4;

/// The first round comes this long after the start.
const FIRST: Duration = Duration::from_millis(1500);

/// What applications wrote waits at most this long for a round.
const LOCAL: Duration = Duration::from_secs(10);

/// With no group to sample it is looked at the settings this often; a change comes at once.
const IDLE: Duration = Duration::from_secs(3600);

/// Samples and sends until it is told to stop; what is then still on its way is kept.
pub(crate) async fn sample_and_send(shared: &Shared, stop: &CancellationToken) {
    let subjects = DeviceSubjects::new(&shared.identity.project, shared.identity.device);
    let subject = subjects.live_metrics("host");
    let mut collectors = Collectors::new(&shared.root);
    let mut settings = shared.settings.subscribe();
    let mut waiting: Vec<(u64, Queued)> = Vec::new();
    let mut acks = FuturesUnordered::new();
    let mut number = 0_u64;
    let mut current = *settings.borrow_and_update();
    // A first reading, for what is measured as a difference; the first round follows as soon as the
    // broker can have been reached, so that a device that has just joined shows its figures.
    drop(sample(shared, &mut collectors, current.groups));
    let (start, mut rhythm) = (Instant::now() + FIRST, Rhythm::default());
    let mut local_at: Option<Instant> = None;
    // The sender lives in `shared`, so the channel is never closed.
    loop {
        let round_at = rhythm.next(&current).map(|second| start + Duration::from_secs(second));
        let wake = round_at.into_iter().chain(local_at).min();
        let groups = tokio::select! {
            () = stop.cancelled() => break,
            _ = settings.changed() => {
                let before = std::mem::replace(&mut current, *settings.borrow_and_update());
                // What was not sampled until now is shown at once.
                let new: GroupSet =
                    current.groups.iter().filter(|group| !before.groups.contains(*group)).collect();
                if new == GroupSet::NONE {
                    continue;
                }
                new
            }
            Some((sent, is_stored)) = acks.next(), if !acks.is_empty() => {
                if let Some(index) = waiting.iter().position(|(number, _)| *number == sent) {
                    let (_, queued) = waiting.swap_remove(index);
                    if is_stored {
                        shared.counters.batches_sent();
                    } else {
                        shared.keep(&queued);
                    }
                }
                continue;
            }
            () = shared.intake.arrived() => {
                if !shared.intake.is_pressing() {
                    local_at = local_at.or_else(|| Some(Instant::now() + LOCAL));
                    continue;
                }
                GroupSet::NONE
            }
            () = sleep_until(wake.unwrap_or_else(|| Instant::now() + IDLE)) => {
                let now = Instant::now();
                if round_at.is_some_and(|at| at <= now) {
                    rhythm.round(&current, now.duration_since(start).as_secs())
                } else {
                    GroupSet::NONE
                }
            }
        };
        local_at = None;
        for queued in sample(shared, &mut collectors, groups) {
            let link = shared.link.borrow().clone();
            match link {
                Some(publisher) if waiting.len() < IN_FLIGHT => {
                    number += 1;
                    let (sent, subject, bytes) = (number, subject.clone(), queued.batch.clone());
                    waiting.push((sent, queued));
                    acks.push(async move {
                        (sent, publisher.publish(subject, bytes.into()).await.is_ok())
                    });
                }
                _ => shared.keep(&queued),
            }
        }
    }
    // The broker may have them already; a store takes the same point twice as one.
    for (_, queued) in waiting {
        shared.keep(&queued);
    }
    // What applications wrote a moment ago.
    for queued in sample(shared, &mut collectors, GroupSet::NONE) {
        shared.keep(&queued);
    }
}

/// These groups as they are now, and what applications wrote, as batches of the size that the broker
/// takes; empty when there is nothing.
fn sample(shared: &Shared, collectors: &mut Collectors, groups: GroupSet) -> Vec<Queued> {
    let at = Moment::now();
    let mut points = if groups == GroupSet::NONE {
        Vec::new()
    } else {
        collectors.sample(groups, &shared.agent_counters(&at))
    };
    points.extend(shared.intake.drain(&at));
    if points.is_empty() {
        return Vec::new();
    }
    let server_time = shared.server_time(&at);
    let batch = MetricBatch { time: server_time.unwrap_or(at.wall), points };
    let (messages, dropped) = batch.messages(MetricBatch::encode);
    warn_dropped(dropped);
    let queue =
        |batch| Queued { boot: at.boot, mono: at.mono, is_corrected: server_time.is_some(), batch };
    messages.into_iter().map(queue).collect()
}

/// Points that fit into no message are dropped: repeated, they would never be stored.
pub(super) fn warn_dropped(points: usize) {
    if points > 0 {
        tracing::warn!(points, "dropped metric points that exceed {MAX_BATCH_BYTES} bytes each");
    }
}
