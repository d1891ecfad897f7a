//! Points of applications until the next batch takes them.
//!
//! Reads no clock: every call brings the moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_schemas::Timestamp;
use muster_schemas::metrics::Point;
use tokio::sync::Notify;

use super::gate::{Gate, Quota};
use super::point::{Cause, size_of};
use super::read::{Claim, Format, read};
use crate::clock::Moment;
use crate::metrics::{Group, GroupSet};

/// At most this much waits for a batch, in bytes on the wire: a batch of it is well below what the
/// broker takes.
const MAX_BYTES: usize = 192 * 1024;
/// At most this many points wait.
const MAX_WAITING: usize = 5000;
/// A point may be this much older than now, in microseconds: applications write late …
const PAST: i64 = 7 * 24 * 3600 * 1_000_000;
/// … and this much newer: clocks differ.
const FUTURE: i64 = 600 * 1_000_000;

/// What came in since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Points that were taken.
    pub taken: u64,
    /// Points that were dropped, by [`Cause::ALL`].
    pub dropped: [u64; Cause::ALL.len()],
    /// Tags and fields that were left out of points that were taken.
    pub left_out: u64,
    /// Series that are known now.
    pub series: u64,
}

impl Counts {
    /// How many points were dropped for a cause.
    #[must_use]
    pub fn dropped_for(&self, cause: Cause) -> u64 {
        self.dropped.get(cause as usize).copied().unwrap_or_default()
    }

    /// How many points were dropped.
    #[must_use]
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }
}

#[derive(Debug, Default)]
struct State {
    gate: Gate,
    /// Measurements that the agent itself makes now.
    own: GroupSet,
    counts: Counts,
    /// Points, with their time by the monotonic clock, which may be before the boot.
    waiting: Vec<(Point, i64)>,
    bytes: usize,
}

/// Where applications' points come in.
#[derive(Debug, Default)]
pub struct Intake {
    state: Mutex<State>,
    arrived: Notify,
}

impl Intake {
    fn state(&self) -> MutexGuard<'_, State> {
        // Points and counts; whatever was left half done is dropped with the next batch.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on so much may come in, and these groups are the agent's own.
    pub fn set(&self, quota: Quota, own: GroupSet) {
        let mut state = self.state();
        state.gate.set(quota);
        state.own = own;
    }

    /// What came in since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts { series: state.gate.series() as u64, ..state.counts }
    }

    /// Takes what an application wrote. True when points may be read at all now.
    pub fn take(&self, format: Format, bytes: &[u8], at: &Moment) -> bool {
        let mut state = self.state();
        let was_empty = state.waiting.is_empty();
        let State { gate, own, counts, waiting, bytes: held } = &mut *state;
        let mut has_read = false;
        // Both are asked in turn, never at once.
        let gate = std::cell::RefCell::new(gate);
        read(
            format,
            bytes,
            |bytes| {
                let may = gate.borrow_mut().may_read(bytes, at.mono);
                has_read |= may;
                may
            },
            |claim| {
                let outcome = claim
                    .and_then(|claim| judge(claim, &mut gate.borrow_mut(), *own, at))
                    .and_then(|(claim, mono)| {
                        let size = size_of(&claim.point);
                        if waiting.len() >= MAX_WAITING || *held + size > MAX_BYTES {
                            return Err(Cause::Full);
                        }
                        *held += size;
                        counts.left_out += claim.left_out;
                        waiting.push((claim.point, mono));
                        Ok(())
                    });
                match outcome {
                    Ok(()) => counts.taken += 1,
                    Err(cause) => {
                        if let Some(dropped) = counts.dropped.get_mut(cause as usize) {
                            *dropped += 1;
                        }
                    }
                }
            },
        );
        let is_pressing = is_pressing(&state);
        if (was_empty && !state.waiting.is_empty()) || is_pressing {
            self.arrived.notify_one();
        }
        has_read
    }

    /// Counts a point that could not even be read.
    pub(super) fn drop_one(&self, cause: Cause) {
        if let Some(dropped) = self.state().counts.dropped.get_mut(cause as usize) {
            *dropped += 1;
        }
    }

    /// Waits until points have come in where there were none, or many wait.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Do points wait?
    #[must_use]
    pub fn has_some(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// Do so many wait that they should go now?
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        is_pressing(&self.state())
    }

    /// The points that wait, for a batch of this moment.
    #[must_use]
    pub fn drain(&self, at: &Moment) -> Vec<Point> {
        let (waiting, now) = {
            let mut state = self.state();
            state.bytes = 0;
            (std::mem::take(&mut state.waiting), signed(at.mono))
        };
        let stamp =
            |(point, mono): (Point, i64)| Point { offset: mono.saturating_sub(now), ..point };
        waiting.into_iter().map(stamp).collect()
    }
}

fn is_pressing(state: &State) -> bool {
    state.waiting.len() >= MAX_WAITING / 2 || state.bytes >= MAX_BYTES / 2
}

fn signed(mono: u64) -> i64 {
    i64::try_from(mono).unwrap_or(i64::MAX)
}

/// A point's time by the monotonic clock, when it is taken.
fn judge(claim: Claim, gate: &mut Gate, own: GroupSet, at: &Moment) -> Result<(Claim, i64), Cause> {
    // The agent's word on these is its own: a field that changes its type would spoil it.
    let measurement = claim.point.measurement.as_str();
    let is_own = measurement.parse::<Group>().is_ok_and(|group| own.contains(group))
        || measurement.starts_with("muster_agent");
    if is_own {
        return Err(Cause::Name);
    }
    let age = claim.time.map_or(0, |Timestamp(time)| time.saturating_sub(at.wall.micros()));
    if !(-PAST..=FUTURE).contains(&age) {
        return Err(Cause::Time);
    }
    if !gate.admits(&claim.point, at.mono) {
        return Err(Cause::Series);
    }
    Ok((claim, signed(at.mono).saturating_add(age)))
}
