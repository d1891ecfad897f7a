//! The keys that seal events: the current one and the previous one.
//!
//! The previous key is kept for two reasons: hellos are proved by it until the log has the
//! rotation; and a log that was restored from an older backup knows only that key.

use muster_schemas::cose::Kind;
use muster_schemas::envelope::parse_sealed;
use muster_schemas::{Epoch, Seq, SigningKey};
use serde::{Deserialize, Serialize};

use super::state::State;
use crate::identity::DeviceKeys;

/// While the log certainly has the rotation, one of this many hellos is proved by the previous key.
const PREVIOUS_KEY_INTERVAL: u32 = 4;

/// The newest rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rotation {
    /// Id of the request that caused it.
    pub(super) request: i64,
    /// The previous keys.
    pub(super) before: DeviceKeys,
    /// Position of the event that announces the new key: epoch and sequence number.
    #[serde(rename = "place")]
    pub(super) position: (Epoch, Seq),
}

/// The key that proves a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prover {
    /// The current key.
    Current,
    /// The previous key.
    Previous,
}

/// The available keys.
#[derive(Debug)]
pub(super) struct Keys {
    current: SigningKey,
    rotation: Option<Rotation>,
}

impl Keys {
    pub(super) const fn new(current: SigningKey, rotation: Option<Rotation>) -> Self {
        Self { current, rotation }
    }

    /// The key that seals new events.
    pub(super) const fn current(&self) -> &SigningKey {
        &self.current
    }

    /// The newest rotation, if there was one.
    pub(super) const fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// Selects the key that proves the next hello, by the number of consecutive hellos without a
    /// response.
    pub(super) fn prover(&self, state: &State, unanswered: u32) -> Prover {
        prover(self.rotation.is_some(), self.is_unconfirmed(state), unanswered)
    }

    /// Whether there is a rotation that the log does not have yet.
    pub(super) fn is_unconfirmed(&self, state: &State) -> bool {
        self.rotation
            .as_ref()
            .is_some_and(|rotation| rotation.position > (state.epoch, state.confirmed))
    }

    pub(super) fn key(&self, prover: Prover) -> SigningKey {
        match (&self.rotation, prover) {
            (Some(rotation), Prover::Previous) => rotation.before.signing(),
            _ => self.current.clone(),
        }
    }

    /// Whether this device sealed these bytes for this position.
    pub(super) fn is_intact(&self, position: (Epoch, Seq), bytes: &[u8]) -> bool {
        let Ok((message, envelope)) = parse_sealed(bytes) else { return false };
        if (envelope.epoch, envelope.seq) != position {
            return false;
        }
        let before = self.rotation.as_ref().map(|rotation| rotation.before.signing().public());
        let kid = message.kid();
        let candidate = [Some(self.current.public()), before]
            .into_iter()
            .flatten()
            .find(|key| key.thumbprint() == kid);
        match candidate {
            Some(key) => message.verify(Kind::Event, &key).is_ok(),
            // Sealed by a deleted key: only events before the newest rotation can be.
            None => self.rotation.as_ref().is_some_and(|rotation| position < rotation.position),
        }
    }
}

/// Selects the key that proves the next hello, by the number of consecutive hellos without a
/// response. Only the server knows which key it has, and it ignores hellos by another one.
const fn prover(has_previous: bool, is_unconfirmed: bool, unanswered: u32) -> Prover {
    if !has_previous {
        return Prover::Current;
    }
    let is_before = if is_unconfirmed {
        unanswered.is_multiple_of(2)
    } else {
        unanswered % PREVIOUS_KEY_INTERVAL == PREVIOUS_KEY_INTERVAL - 1
    };
    if is_before { Prover::Previous } else { Prover::Current }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelier_key_is_tried_first_and_the_other_periodically() {
        use Prover::{Current, Previous};
        for (has_before, is_unsettled, expected) in [
            (false, false, [Current; 5]),
            (true, true, [Previous, Current, Previous, Current, Previous]),
            (true, false, [Current, Current, Current, Previous, Current]),
        ] {
            let tried: Vec<Prover> =
                (0..5).map(|tries| prover(has_before, is_unsettled, tries)).collect();
            assert_eq!(tried, expected);
        }
    }
}
