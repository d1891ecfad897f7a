//! Taking a round of samples every few seconds and sending it, without ever waiting for the
//! network before the next one.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_schemas::metrics::MetricBatch;
use muster_schemas::subjects::DeviceSubjects;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backlog::Queued;
use crate::clock::Moment;
use crate::metrics::Collectors;
use crate::run::Shared;

/// More batches than this do not wait for the broker at once; the rest goes to the backlog.
const IN_FLIGHT: usize = 4;

/// The first round comes this long after the start.
const FIRST: Duration = Duration::from_millis(1500);

/// Samples and sends until it is told to stop; what is then still on its way is kept.
pub(crate) async fn sample_and_send(shared: &Shared, stop: &CancellationToken) {
    let subjects = DeviceSubjects::new(&shared.identity.project, shared.identity.device);
    let subject = subjects.live_metrics("host");
    let mut collectors = Collectors::new(&shared.root);
    let mut settings = shared.settings.subscribe();
    let mut waiting: Vec<(u64, Queued)> = Vec::new();
    let mut acks = FuturesUnordered::new();
    let mut number = 0_u64;
    // A first reading, for what is measured as a difference; the first round follows as soon as the
    // broker can have been reached, so that a device that has just joined shows its figures.
    drop(sample(shared, &mut collectors, settings.borrow().groups));
    let mut next = Instant::now() + FIRST;
    // The sender lives in `shared`, so the channel is never closed.
    loop {
        let current = *settings.borrow_and_update();
        tokio::select! {
            () = stop.cancelled() => break,
            _ = settings.changed() => {
                next = next.min(Instant::now() + settings.borrow().interval);
                continue;
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
            () = sleep_until(next) => {}
        }
        next = following(next, current.interval);
        let queued = sample(shared, &mut collectors, current.groups);
        let link = shared.link.borrow().clone();
        match link {
            Some(context) if waiting.len() < IN_FLIGHT => {
                number += 1;
                let (sent, subject, bytes) = (number, subject.clone(), queued.batch.clone());
                waiting.push((sent, queued));
                acks.push(async move {
                    let is_stored = match context.publish(subject, bytes.into()).await {
                        Ok(ack) => ack.await.is_ok(),
                        Err(_) => false,
                    };
                    (sent, is_stored)
                });
            }
            _ => shared.keep(&queued),
        }
    }
    // The broker may have them already; a store takes the same point twice as one.
    for (_, queued) in waiting {
        shared.keep(&queued);
    }
}

/// The next round; rounds that were slept through (a suspended machine) are left out.
fn following(last: Instant, interval: Duration) -> Instant {
    let (next, now) = (last + interval, Instant::now());
    if next > now { next } else { now + interval }
}

fn sample(
    shared: &Shared,
    collectors: &mut Collectors,
    groups: crate::metrics::GroupSet,
) -> Queued {
    let at = Moment::now();
    let points = collectors.sample(groups, &shared.agent_counters(&at));
    let server_time = shared.server_time(&at);
    let batch = MetricBatch { time: server_time.unwrap_or(at.wall), points };
    Queued {
        boot: at.boot,
        mono: at.mono,
        is_corrected: server_time.is_some(),
        batch: batch.encode(),
    }
}
