//! Compares the log's head of this device with the outbox.
//!
//! This module changes nothing: the session acts on the verdict, and only if the message is signed.

use muster_schemas::{Epoch, Hash, Seq};

use super::Outbox;
use crate::store::StoreError;

/// Meaning of the log's head for this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The head is in an earlier epoch: the log does not know this device's epoch.
    OlderEpoch,
    /// The head is in an epoch that this device has not entered: another branch of its history.
    NewerEpoch,
    /// The head is the one that this device expected.
    Expected,
    /// The log has more events than this device knew; all of them are this device's.
    Confirmed,
    /// The log has fewer events than before, and this device still has the missing ones.
    Behind,
    /// The log has fewer events than before, and this device has pruned some of the missing ones.
    Pruned,
    /// The log has a different event at this position, or more events than this device has
    /// recorded.
    Fork {
        /// Hash of this device's own event at this position, if it has one.
        own: Option<Hash>,
    },
}

/// Evaluates the log's report that its newest event is `hash` at (`epoch`, `seq`).
///
/// # Errors
/// When reading the database fails.
pub fn compare_head(
    outbox: &Outbox,
    epoch: Epoch,
    seq: Seq,
    hash: Hash,
) -> Result<Verdict, StoreError> {
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
        return Ok(Verdict::Expected);
    }
    // If an event's hash is unknown, its successor was pruned, too.
    let is_whole = own.is_some() && outbox.holds(seq + 1)?;
    Ok(if is_whole { Verdict::Behind } else { Verdict::Pruned })
}
