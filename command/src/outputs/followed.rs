//! The outputs that are followed: how far their followers have read, which pieces are stored, and
//! which outputs are abandoned. Nothing is stored or sent here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use muster_blobs::key::Piece;
use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use super::id::OutputId;

/// Number of bytes that are kept behind the slowest follower, which may have to reconnect.
const KEPT_BEHIND_BYTES: u64 = 8 << 20;
/// Time without a report after which a follower is removed.
const FOLLOWER_TTL: Duration = Duration::from_secs(5);
/// Time without progress after which a follower no longer delays those that read.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Time without a follower after which an output is removed and its pieces are erased. An output
/// without pieces is removed with its last follower.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum number of outputs that are followed concurrently; more are refused.
const MAX_FOLLOWED_OUTPUTS: usize = 10_000;

/// Outputs that are followed.
#[derive(Debug)]
pub(super) struct FollowedOutputs {
    all: Mutex<HashMap<OutputId, FollowedOutput>>,
    /// Time at which this process subscribed to reports: followers have reported only some time
    /// later.
    listening_since: Mutex<Instant>,
}

/// The state of an output that is followed.
#[derive(Debug)]
struct FollowedOutput {
    followers: HashMap<Uuid, Follower>,
    /// Time of the last report of a follower.
    reported_at: Instant,
    /// Pieces that this process has stored and not erased, the oldest first.
    pieces: Vec<Piece>,
    /// Offset before which everything is erased.
    erased_before: u64,
    /// Whether the device has sent all of it.
    has_ended: bool,
}

impl FollowedOutput {
    fn since(now: Instant) -> Self {
        Self {
            followers: HashMap::new(),
            reported_at: now,
            pieces: Vec::new(),
            erased_before: 0,
            has_ended: false,
        }
    }

    /// Whether this process has stored a piece.
    const fn has_stored(&self) -> bool {
        self.erased_before > 0 || !self.pieces.is_empty()
    }

    fn is_abandoned(&self, now: Instant) -> bool {
        let limit = if self.has_stored() { ABANDON_TIMEOUT } else { FOLLOWER_TTL };
        !self.has_ended && now.duration_since(self.reported_at) >= limit
    }
}

#[derive(Clone, Copy, Debug)]
struct Follower {
    position: u64,
    reported_at: Instant,
    advanced_at: Instant,
}

impl Default for FollowedOutputs {
    fn default() -> Self {
        Self { all: Mutex::default(), listening_since: Mutex::new(Instant::now()) }
    }
}

impl FollowedOutputs {
    fn all(&self) -> MutexGuard<'_, HashMap<OutputId, FollowedOutput>> {
        self.all.lock()
    }

    pub(super) fn reset_listening_since(&self, now: Instant) {
        *self.listening_since.lock() = now;
    }

    /// Removes the outputs without a follower; returns those of which pieces may be stored.
    pub(super) fn remove_abandoned(&self, now: Instant) -> Vec<OutputId> {
        let removed = self.all().extract_if(|_, it| it.is_abandoned(now)).collect::<Vec<_>>();
        removed.into_iter().filter(|(_, it)| it.has_stored()).map(|(output, _)| output).collect()
    }

    /// Records the position of a follower.
    pub(super) fn report(&self, output: OutputId, follower: Uuid, position: u64, now: Instant) {
        let mut all = self.all();
        if all.len() >= MAX_FOLLOWED_OUTPUTS && !all.contains_key(&output) {
            return;
        }
        let followed = all.entry(output).or_insert_with(|| FollowedOutput::since(now));
        followed.reported_at = now;
        followed.followers.retain(|_, it| now.duration_since(it.reported_at) < FOLLOWER_TTL);
        let existing = followed.followers.get(&follower).filter(|it| it.position == position);
        let moved = existing.map_or(now, |it| it.advanced_at);
        followed
            .followers
            .insert(follower, Follower { position, reported_at: now, advanced_at: moved });
    }

    /// Returns the position of the slowest follower that can still be served; `None` without one. A
    /// stalled follower does not delay those that read.
    pub(super) fn slowest(&self, output: &OutputId, now: Instant) -> Option<u64> {
        let all = self.all();
        let followed = all.get(output)?;
        let served = || {
            followed.followers.values().filter(|it| {
                now.duration_since(it.reported_at) < FOLLOWER_TTL
                    && it.position >= followed.erased_before
            })
        };
        let reads = |it: &&Follower| now.duration_since(it.advanced_at) < STALL_TIMEOUT;
        let reading = served().filter(reads).map(|it| it.position).min();
        reading.or_else(|| served().map(|it| it.position).min())
    }

    /// Whether an output has a follower, as far as this process can know.
    pub(super) fn is_followed(&self, output: &OutputId, now: Instant) -> bool {
        let since = *self.listening_since.lock();
        now.duration_since(since) < FOLLOWER_TTL || self.slowest(output, now).is_some()
    }

    /// Records a stored piece; returns the pieces that no follower needs.
    pub(super) fn add_piece(&self, output: &OutputId, piece: Piece, read: u64) -> Vec<Piece> {
        let mut all = self.all();
        let Some(followed) = all.get_mut(output) else { return Vec::new() };
        followed.pieces.push(piece);
        let (done, rest): (Vec<_>, Vec<_>) =
            followed.pieces.iter().partition(|piece| piece.end() + KEPT_BEHIND_BYTES <= read);
        followed.pieces = rest;
        followed.erased_before = done.last().map_or(followed.erased_before, |piece| piece.end());
        done
    }

    /// Returns the offset of the next piece, as far as this process knows.
    pub(super) fn end(&self, output: &OutputId) -> Option<u64> {
        self.all().get(output)?.pieces.last().map(|piece| piece.end())
    }

    /// Records that the device has sent all of it; false when that was known. Pieces of an output
    /// without a follower may be stored, too: those that another process has accepted.
    pub(super) fn mark_ended(&self, output: &OutputId, now: Instant) -> bool {
        let mut all = self.all();
        let followed = all.entry(output.clone()).or_insert_with(|| FollowedOutput::since(now));
        !std::mem::replace(&mut followed.has_ended, true)
    }

    pub(super) fn remove(&self, output: &OutputId) {
        self.all().remove(output);
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::wire::OutputStream;
    use muster_schemas::{DeviceId, OperationId, ProjectId};

    use super::*;

    fn output() -> OutputId {
        OutputId {
            project: ProjectId::default_project(),
            operation: OperationId(Uuid::from_u128(1)),
            device: DeviceId(Uuid::from_u128(2)),
            stream: OutputStream::Stdout,
        }
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_slowest_follower_limits_the_device_until_it_disconnects() {
        let (live, output, now) = (FollowedOutputs::default(), output(), Instant::now());
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(live.slowest(&output, now), None);
        live.report(output.clone(), one, 30 * MIB, now);
        live.report(output.clone(), other, 10 * MIB, now);
        assert_eq!(live.slowest(&output, now), Some(10 * MIB));
        let piece = |offset| Piece { offset, bytes: MIB, is_compressed: false };
        assert_eq!(live.add_piece(&output, piece(MIB), 10 * MIB), [piece(MIB)]);
        assert_eq!(live.add_piece(&output, piece(9 * MIB), 10 * MIB), []);
        assert_eq!(live.end(&output), Some(10 * MIB));
        // The first pieces are erased, so a late follower does not count.
        live.report(output.clone(), Uuid::from_u128(3), 0, now);
        assert_eq!(live.slowest(&output, now), Some(10 * MIB));
        let later = now + FOLLOWER_TTL;
        live.report(output.clone(), one, 31 * MIB, later);
        assert_eq!(live.slowest(&output, later), Some(31 * MIB));
        assert_eq!(live.slowest(&output, later + FOLLOWER_TTL), None);
    }

    #[test]
    fn a_stalled_follower_does_not_delay_others() {
        let (live, output, now) = (FollowedOutputs::default(), output(), Instant::now());
        let (paused, reading) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for second in 0..=60 {
            let now = now + Duration::from_secs(second);
            live.report(output.clone(), paused, MIB, now);
        }
        let now = now + STALL_TIMEOUT;
        assert_eq!(live.slowest(&output, now), Some(MIB), "alone, it is waited for");
        live.report(output.clone(), reading, 5 * MIB, now);
        assert_eq!(live.slowest(&output, now), Some(5 * MIB));
    }

    #[test]
    fn an_output_without_followers_is_removed_and_its_end_recorded_once() {
        let (live, now) = (FollowedOutputs::default(), Instant::now());
        let (one, other) = (output(), OutputId { stream: OutputStream::Stderr, ..output() });
        assert!(live.is_followed(&one, now), "it has just begun to listen");
        assert!(!live.is_followed(&one, now + FOLLOWER_TTL * 2));
        live.report(one.clone(), Uuid::from_u128(1), 0, now);
        assert!(live.mark_ended(&one, now) && !live.mark_ended(&one, now));
        live.remove(&one);
        live.report(one.clone(), Uuid::from_u128(1), 0, now);
        live.add_piece(&one, Piece { offset: 0, bytes: MIB, is_compressed: false }, 0);
        live.report(other.clone(), Uuid::from_u128(2), 0, now);
        assert_eq!(live.remove_abandoned(now + FOLLOWER_TTL), []);
        assert!(!live.all().contains_key(&other), "nothing of it was stored");
        assert_eq!(live.remove_abandoned(now + ABANDON_TIMEOUT), [one]);
    }

    #[test]
    fn followers_of_short_outputs_do_not_use_up_the_limit() {
        let live = FollowedOutputs::default();
        let start = Instant::now();
        let id = |number| OutputId { operation: OperationId(Uuid::from_u128(number)), ..output() };
        for number in 0..3 * MAX_FOLLOWED_OUTPUTS as u128 {
            let now = start + Duration::from_millis(number as u64);
            live.report(id(number), Uuid::from_u128(1), 0, now);
            if number % 1000 == 0 {
                assert_eq!(live.remove_abandoned(now), []);
            }
            assert!(live.slowest(&id(number), now).is_some(), "{number}");
        }
    }
}
