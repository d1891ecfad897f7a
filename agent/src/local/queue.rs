//! Queues the points of applications until the next batch.
//!
//! The caller passes the time.

use std::time::Duration;

use muster_schemas::metrics::Point;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::parse::{Format, read};
use super::point::{Cause, WrittenPoint, size_of};
use super::quota::{Quota, QuotaLimiter};
use crate::clock::Moment;
use crate::metrics::{Group, GroupSet};

/// Maximum encoded size of the waiting points, in bytes: a batch of this size is well below the
/// broker's maximum message size.
const MAX_QUEUED_BYTES: usize = 192 * 1024;
/// Maximum number of waiting points.
const MAX_QUEUED_POINTS: usize = 5000;
/// Maximum age of a point: applications may write late.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Maximum time of a point in the future: clocks differ.
const MAX_AHEAD: Duration = Duration::from_secs(600);

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of accepted points.
    pub accepted: u64,
    /// Number of dropped points, by [`Cause::ALL`].
    pub dropped: [u64; Cause::ALL.len()],
    /// Number of tags and fields that were removed from accepted points.
    pub removed_entries: u64,
    /// Number of active series.
    pub series: u64,
}

impl Counts {
    /// Returns the number of points that were dropped for a cause.
    #[must_use]
    pub fn dropped_for(&self, cause: Cause) -> u64 {
        self.dropped.get(cause as usize).copied().unwrap_or_default()
    }

    /// Returns the number of dropped points.
    #[must_use]
    pub fn total_dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Builds `muster_agent_local`: the accepted points of applications, and the dropped ones by
    /// cause; `None` until an application has written.
    pub(crate) fn point(&self) -> Option<Point> {
        if self.accepted == 0 && self.total_dropped() == 0 {
            return None;
        }
        let point = Point::new("muster_agent_local")
            .field("points", self.accepted)
            .field("series", self.series)
            .field("tags_left_out", self.removed_entries);
        let causes = Cause::ALL.into_iter();
        Some(
            causes
                .fold(point, |point, cause| point.field(cause.as_field(), self.dropped_for(cause))),
        )
    }
}

#[derive(Debug, Default)]
struct State {
    limiter: QuotaLimiter,
    /// Measurements that the agent itself currently samples.
    agent_groups: GroupSet,
    counts: Counts,
    /// Points with their time by the monotonic clock, which may be before the boot.
    queued: Vec<(Point, i64)>,
    bytes: usize,
}

/// The input queue of applications' points.
#[derive(Debug, Default)]
pub struct PointQueue {
    state: Mutex<State>,
    arrived: Notify,
}

impl PointQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        // Points and counters only; an inconsistency ends with the next batch.
        self.state.lock()
    }

    /// Sets the quota and the agent's own groups.
    pub fn set(&self, quota: Quota, agent_groups: GroupSet) {
        let mut state = self.state();
        state.limiter.set(quota);
        state.agent_groups = agent_groups;
    }

    /// Returns the counters.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts { series: state.limiter.series() as u64, ..state.counts }
    }

    /// Processes data from an application. Returns whether the quota allowed to read any point.
    pub fn accept(&self, format: Format, bytes: &[u8], at: &Moment) -> bool {
        let mut state = self.state();
        let was_empty = state.queued.is_empty();
        let State { limiter: gate, agent_groups: own, counts, queued: waiting, bytes: held } =
            &mut *state;
        let mut has_read = false;
        // The two closures are called in turn and never overlap.
        let gate = std::cell::RefCell::new(gate);
        read(
            format,
            bytes,
            |bytes| {
                let may = gate.borrow_mut().may_read(bytes, at.mono);
                has_read |= may;
                may
            },
            |written| {
                let outcome = written
                    .and_then(|written| validate(written, &mut gate.borrow_mut(), *own, at))
                    .and_then(|(written, mono)| {
                        let size = size_of(&written.point);
                        if waiting.len() >= MAX_QUEUED_POINTS || *held + size > MAX_QUEUED_BYTES {
                            return Err(Cause::Full);
                        }
                        *held += size;
                        counts.removed_entries += written.removed_entries;
                        waiting.push((written.point, mono));
                        Ok(())
                    });
                match outcome {
                    Ok(()) => counts.accepted += 1,
                    Err(cause) => {
                        if let Some(dropped) = counts.dropped.get_mut(cause as usize) {
                            *dropped += 1;
                        }
                    }
                }
            },
        );
        let is_pressing = is_send_due(&state);
        if (was_empty && !state.queued.is_empty()) || is_pressing {
            self.arrived.notify_one();
        }
        has_read
    }

    /// Counts a point that could not be read.
    pub(super) fn count_dropped(&self, cause: Cause) {
        if let Some(dropped) = self.state().counts.dropped.get_mut(cause as usize) {
            *dropped += 1;
        }
    }

    /// Waits until points arrive in an empty queue, or many points wait.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Whether points wait.
    #[must_use]
    pub fn has_points(&self) -> bool {
        !self.state().queued.is_empty()
    }

    /// Whether enough points wait to be sent now.
    #[must_use]
    pub fn is_send_due(&self) -> bool {
        is_send_due(&self.state())
    }

    /// Takes the waiting points, for a batch of this moment.
    #[must_use]
    pub fn drain(&self, at: &Moment) -> Vec<Point> {
        let (waiting, now) = {
            let mut state = self.state();
            state.bytes = 0;
            (std::mem::take(&mut state.queued), signed(at.mono))
        };
        let stamp =
            |(point, mono): (Point, i64)| Point { offset: mono.saturating_sub(now), ..point };
        waiting.into_iter().map(stamp).collect()
    }
}

fn is_send_due(state: &State) -> bool {
    state.queued.len() >= MAX_QUEUED_POINTS / 2 || state.bytes >= MAX_QUEUED_BYTES / 2
}

fn signed(mono: u64) -> i64 {
    i64::try_from(mono).unwrap_or(i64::MAX)
}

/// Validates a point and returns its time by the monotonic clock.
fn validate(
    written: WrittenPoint,
    limiter: &mut QuotaLimiter,
    agent_groups: GroupSet,
    at: &Moment,
) -> Result<(WrittenPoint, i64), Cause> {
    // Only the agent writes these measurements: a field with another type would make them unusable.
    let measurement = written.point.measurement.as_str();
    let is_own = measurement.parse::<Group>().is_ok_and(|group| agent_groups.contains(group))
        || measurement.starts_with("muster_agent");
    if is_own {
        return Err(Cause::Name);
    }
    let time = written.time.unwrap_or(at.wall);
    if !(at.wall - MAX_AGE..=at.wall + MAX_AHEAD).contains(&time) {
        return Err(Cause::Time);
    }
    if !limiter.admits(&written.point, at.mono) {
        return Err(Cause::Series);
    }
    Ok((written, signed(at.mono).saturating_add(time.micros_since(at.wall))))
}
