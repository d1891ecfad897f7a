//! The keys that the outbox seals with: the one of now, and the one before it.
//!
//! Invariant: a new key, the event that says so and the key before it are stored in one
//! transaction; so whenever the device dies, it goes on with exactly one key for what it records.
//!
//! The key before is kept for two reasons: until the log has the rotation, hellos are proved by it;
//! and a log that was restored from an older backup knows no other.

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

/// While the log surely has the rotation, the key before is tried only this often.
const RARELY: u32 = 4;

/// The type of the event that says so.
pub(super) const ROTATED: &str = "DeviceKeyRotated";

/// The newest rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rotation {
    /// What asked for it.
    request: i64,
    /// The keys of before.
    before: DeviceKeys,
    /// Where the event is that says so.
    place: (u64, u64),
}

/// Which key a hello is proved by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prover {
    /// The newest.
    Current,
    /// The one before it.
    Before,
}

/// The keys at hand.
#[derive(Debug)]
pub(super) struct Keys {
    current: SigningKey,
    rotation: Option<Rotation>,
}

impl Keys {
    pub(super) const fn new(current: SigningKey, rotation: Option<Rotation>) -> Self {
        Self { current, rotation }
    }

    /// What is recorded now is sealed by it.
    pub(super) const fn current(&self) -> &SigningKey {
        &self.current
    }

    /// Is there a rotation that the log does not have yet?
    fn is_unsettled(&self, state: &State) -> bool {
        self.rotation.as_ref().is_some_and(|known| known.place > (state.epoch, state.confirmed))
    }

    fn by(&self, prover: Prover) -> SigningKey {
        match (&self.rotation, prover) {
            (Some(rotation), Prover::Before) => rotation.before.signing(),
            _ => self.current.clone(),
        }
    }

    /// Are these the bytes that this device sealed for this place?
    pub(super) fn is_intact(&self, place: (u64, u64), bytes: &[u8]) -> bool {
        let Ok((message, envelope)) = parse_sealed(bytes) else { return false };
        if (envelope.epoch, envelope.seq) != place {
            return false;
        }
        let before = self.rotation.as_ref().map(|rotation| rotation.before.signing().public());
        let kid = message.kid();
        let known = [Some(self.current.public()), before]
            .into_iter()
            .flatten()
            .find(|key| key.thumbprint() == kid);
        match known {
            Some(key) => message.verify(Kind::Event, &key).is_ok(),
            // Sealed by a key that is gone: that can only be what came before the one before.
            None => self.rotation.as_ref().is_some_and(|rotation| place < rotation.place),
        }
    }
}

/// Which key to prove the next hello by, after so many that were not answered in a row. Nobody but
/// the server knows which one it has, and it does not answer to another.
const fn prover(has_before: bool, is_unsettled: bool, unanswered: u32) -> Prover {
    if !has_before {
        return Prover::Current;
    }
    let is_before =
        if is_unsettled { unanswered.is_multiple_of(2) } else { unanswered % RARELY == RARELY - 1 };
    if is_before { Prover::Before } else { Prover::Current }
}

/// The event that gives the old key's place to the new one.
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
    /// Makes the device a new signing key, if this request is not the one that was carried out last.
    /// False when there is nothing to do, or not yet: the log has to take the rotation before it.
    ///
    /// # Errors
    /// When it cannot be stored; then the key of before goes on.
    pub fn rotate(&self, request: i64, at: Moment) -> Result<bool, StoreError> {
        let mut state = self.state();
        let keys = self.keys();
        let is_done = keys.rotation.as_ref().is_some_and(|known| known.request == request);
        if is_done || state.pending.is_some() || keys.is_unsettled(&state) {
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
            // However full the outbox is: an operator asked for it.
            self.append(transaction, &mut next, keys.current(), Content::of(&event, at))?;
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

    /// Which key the next hello is proved by, after so many that were not answered in a row.
    pub(crate) fn prover(&self, unanswered: u32) -> Prover {
        let state = self.state();
        let keys = self.keys();
        prover(keys.rotation.is_some(), keys.is_unsettled(&state), unanswered)
    }

    /// The key to prove something by.
    pub(crate) fn proving_key(&self, by: Prover) -> SigningKey {
        self.keys().by(by)
    }

    /// The keys to ask for credentials with, the likeliest first.
    #[must_use]
    pub fn proving_keys(&self) -> Vec<SigningKey> {
        let first = self.prover(0);
        let keys = self.keys();
        let second = match first {
            Prover::Current => Prover::Before,
            Prover::Before => Prover::Current,
        };
        let mut proving = vec![keys.by(first)];
        if keys.rotation.is_some() {
            proving.push(keys.by(second));
        }
        proving
    }

    /// The new epoch's log knows the key before: it is told of the new one at once.
    pub(super) fn rotate_again(
        &self,
        transaction: &redb::WriteTransaction,
        next: &mut State,
        at: Moment,
    ) -> Result<Option<Keys>, StoreError> {
        let keys = self.keys();
        let Some(known) = &keys.rotation else { return Ok(None) };
        let old = known.before.signing();
        let event = rotation((self.device, next.epoch), &old, keys.current());
        self.append(transaction, next, &old, Content::of(&event, at))?;
        let moved = Rotation { place: (next.epoch, next.last_seq), ..known.clone() };
        store::put(transaction, key::ROTATION, &moved)?;
        Ok(Some(Keys::new(keys.current.clone(), Some(moved))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelier_key_comes_first_and_the_other_has_its_turn() {
        use Prover::{Before, Current};
        for (has_before, is_unsettled, expected) in [
            (false, false, [Current; 5]),
            (true, true, [Before, Current, Before, Current, Before]),
            (true, false, [Current, Current, Current, Before, Current]),
        ] {
            let tried: Vec<Prover> =
                (0..5).map(|tries| prover(has_before, is_unsettled, tries)).collect();
            assert_eq!(tried, expected);
        }
    }
}
