//! What it means when the log names the newest event that it has of this device.
//!
//! Changes nothing: a verdict is carried out by the session, and only on a signed word.

use muster_schemas::Hash;

use super::Outbox;
use crate::store::StoreError;

/// What the log's word about this device's history means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is about an epoch before this one: the log does not know this device's epoch.
    OlderEpoch,
    /// It is about an epoch that this device is not in: another branch of its history.
    NewerEpoch,
    /// The log stands where this device thought.
    Known,
    /// The log has more than this device knew; all of it is this device's.
    Confirmed,
    /// The log has less than it once had, and what it misses is still here.
    Lower,
    /// The log has less than it once had, and this device has let go a part of that.
    Pruned,
    /// The log has something else at this place than this device, or more than it ever recorded.
    Fork {
        /// This device's own hash there, when it has an event there.
        own: Option<Hash>,
    },
}

/// Judges the log's word that `hash` at (`epoch`, `seq`) is the newest it has.
///
/// # Errors
/// When the database cannot be read.
pub fn judge(outbox: &Outbox, epoch: u64, seq: u64, hash: Hash) -> Result<Verdict, StoreError> {
    let view = outbox.view();
    if epoch != view.epoch {
        return Ok(if epoch < view.epoch { Verdict::OlderEpoch } else { Verdict::NewerEpoch });
    }
    if seq > view.last_seq {
        return Ok(Verdict::Fork { own: None });
    }
    let own = outbox.hash_at(epoch, seq)?;
    if own.is_some_and(|own| own != hash) {
        return Ok(Verdict::Fork { own });
    }
    if seq > view.confirmed {
        return Ok(Verdict::Confirmed);
    }
    if seq == view.confirmed {
        return Ok(Verdict::Known);
    }
    // An event that is no longer known at all is one whose successor was let go too.
    let is_whole = own.is_some() && outbox.holds(seq + 1)?;
    Ok(if is_whole { Verdict::Lower } else { Verdict::Pruned })
}
