//! The keys that seal events: the current one and the previous one.
//!
//! Invariant: a new key, the event that announces it and the previous key are stored in one
//! transaction; so after a crash at any moment, the device continues with exactly one key for what
//! it records.
//!
//! The previous key is kept for two reasons: hellos are proved by it until the log has the
//! rotation; and a log that was restored from an older backup knows only that key.

use muster_schemas::cose::Kind;
use muster_schemas::envelope::parse_sealed;
use muster_schemas::events::DeviceKeyRotated;
use muster_schemas::{DeviceId, Event, SigningKey, codec};
use serde::{Deserialize, Serialize};

use super::Outbox;
use super::record::Content;
use super::state::State;
use crate::clock::Moment;
use crate::identity::{DeviceKeys, Identity};
use crate::store::{self, StoreError, key};

/// While the log certainly has the rotation, one of this many hellos is proved by the previous key.
const PREVIOUS_KEY_INTERVAL: u32 = 4;

/// Type of the event that announces a new key.
pub(super) const ROTATED: &str = "DeviceKeyRotated";

/// The newest rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rotation {
    /// Id of the request that caused it.
    request: i64,
    /// The previous keys.
    before: DeviceKeys,
    /// Position of the event that announces the new key: epoch and sequence number.
    place: (u64, u64),
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

    /// Whether there is a rotation that the log does not have yet.
    fn is_unconfirmed(&self, state: &State) -> bool {
        self.rotation
            .as_ref()
            .is_some_and(|rotation| rotation.place > (state.epoch, state.confirmed))
    }

    fn key(&self, prover: Prover) -> SigningKey {
        match (&self.rotation, prover) {
            (Some(rotation), Prover::Previous) => rotation.before.signing(),
            _ => self.current.clone(),
        }
    }

    /// Whether this device sealed these bytes for this position.
    pub(super) fn is_intact(&self, position: (u64, u64), bytes: &[u8]) -> bool {
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
            None => self.rotation.as_ref().is_some_and(|rotation| position < rotation.place),
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

/// Builds the event that replaces the old key by the new one.
pub(super) fn rotation(
    (device, epoch): (DeviceId, u64),
    old: &SigningKey,
    new: &SigningKey,
) -> Event {
    let statement = codec::encode(&(device, epoch, old.thumbprint()));
    DeviceKeyRotated {
        signing_key: new.public().to_cose_key(),
        proof: new.seal(Kind::Rotation, statement),
    }
    .into()
}

impl Outbox {
    /// Creates a new signing key, unless this request was the last one to be carried out. Returns
    /// false if there is nothing to do, or not yet: the log must first have the previous rotation.
    ///
    /// # Errors
    /// When the store fails; then the device keeps the current key.
    pub fn rotate(&self, request: i64, at: Moment) -> Result<bool, StoreError> {
        let mut state = self.state();
        let keys = self.keys();
        let is_done = keys.rotation.as_ref().is_some_and(|rotation| rotation.request == request);
        if is_done || state.pending.is_some() || keys.is_unconfirmed(&state) {
            return Ok(false);
        }
        let mut next = state.clone();
        let made = self.store.write(|transaction| {
            let Some(mut identity): Option<Identity> = store::get(transaction, key::IDENTITY)?
            else {
                return Err(StoreError::Damaged { what: key::IDENTITY, problem: "gone".into() });
            };
            let before = identity.keys.clone();
            identity.keys = before.with_new_signing_key();
            let new = identity.keys.signing();
            let event = rotation((self.device, next.epoch), keys.current(), &new);
            // Regardless of the limit: an operator requested the rotation.
            self.append(transaction, &mut next, keys.current(), Content::from_event(&event, at))?;
            let made = Rotation { request, before, place: (next.epoch, next.last_seq) };
            store::put(transaction, key::OUTBOX, &next)?;
            store::put(transaction, key::ROTATION, &made)?;
            store::put(transaction, key::IDENTITY, &identity)?;
            Ok(Keys::new(new, Some(made)))
        })?;
        self.set_keys(made);
        *state = next;
        Ok(true)
    }

    /// Selects the key that proves the next hello, by the number of consecutive hellos without a
    /// response.
    pub(crate) fn prover(&self, unanswered: u32) -> Prover {
        let state = self.state();
        let keys = self.keys();
        prover(keys.rotation.is_some(), keys.is_unconfirmed(&state), unanswered)
    }

    /// Returns the key for this proof.
    pub(crate) fn proving_key(&self, prover: Prover) -> SigningKey {
        self.keys().key(prover)
    }

    /// Returns the keys with which to request credentials, the most likely first.
    #[must_use]
    pub fn proving_keys(&self) -> Vec<SigningKey> {
        let first = self.prover(0);
        let keys = self.keys();
        let second = match first {
            Prover::Current => Prover::Previous,
            Prover::Previous => Prover::Current,
        };
        let mut proving = vec![keys.key(first)];
        if keys.rotation.is_some() {
            proving.push(keys.key(second));
        }
        proving
    }

    /// Announces the current key in the new epoch, whose log knows only the previous one.
    pub(super) fn announce_rotation(
        &self,
        transaction: &redb::WriteTransaction,
        next: &mut State,
        at: Moment,
    ) -> Result<Option<Keys>, StoreError> {
        let keys = self.keys();
        let Some(pending) = &keys.rotation else { return Ok(None) };
        let old = pending.before.signing();
        let event = rotation((self.device, next.epoch), &old, keys.current());
        self.append(transaction, next, &old, Content::from_event(&event, at))?;
        let moved = Rotation { place: (next.epoch, next.last_seq), ..pending.clone() };
        store::put(transaction, key::ROTATION, &moved)?;
        Ok(Some(Keys::new(keys.current.clone(), Some(moved))))
    }
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
