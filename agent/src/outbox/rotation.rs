//! Rotation of the signing key, and the key that proves a hello.
//!
//! Invariant: a new key, the event that announces it and the previous key are stored in one
//! transaction; so after a crash at any moment, the device continues with exactly one key for what
//! it records.

use muster_channel::{SealedError, open_by};
use muster_schemas::cose::Kind;
use muster_schemas::events::DeviceKeyRotated;
use muster_schemas::{DeviceId, Epoch, Event, SigningKey, codec};

use super::Outbox;
use super::envelope::Content;
use super::keys::{Keys, Prover, Rotation};
use super::state::State;
use crate::clock::Moment;
use crate::identity::Identity;
use crate::store::{self, StoreError, key};

/// Type of the event that announces a new key.
pub(super) const ROTATED: &str = DeviceKeyRotated::TYPE;

/// Builds the event that replaces the old key by the new one.
fn rotation(device: DeviceId, epoch: Epoch, old: &SigningKey, new: &SigningKey) -> Event {
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
        let is_done = keys.rotation().is_some_and(|rotation| rotation.request == request);
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
            let event = rotation(self.device, next.epoch, keys.current(), &new);
            // Regardless of the limit: an operator requested the rotation.
            self.append(transaction, &mut next, keys.current(), Content::from_event(&event, at))?;
            let made = Rotation { request, before, position: (next.epoch, next.last_seq) };
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
        self.keys().prover(&state, unanswered)
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
        if keys.rotation().is_some() {
            proving.push(keys.key(second));
        }
        proving
    }

    /// Decrypts a message that was sealed to the device. After a rotation it may be sealed to the
    /// previous key.
    ///
    /// # Errors
    /// When it is sealed to none of the device's keys.
    pub(crate) fn open_sealed(
        &self,
        context: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, SealedError> {
        self.proving_keys()
            .iter()
            .find_map(|key| open_by(key, context, sealed).ok())
            .ok_or(SealedError::Open)
    }

    /// Announces the current key in the new epoch, whose log knows only the previous one.
    pub(super) fn announce_rotation(
        &self,
        transaction: &redb::WriteTransaction,
        next: &mut State,
        at: Moment,
    ) -> Result<Option<Keys>, StoreError> {
        let keys = self.keys();
        let Some(pending) = keys.rotation() else { return Ok(None) };
        let old = pending.before.signing();
        let event = rotation(self.device, next.epoch, &old, keys.current());
        self.append(transaction, next, &old, Content::from_event(&event, at))?;
        let moved = Rotation { position: (next.epoch, next.last_seq), ..pending.clone() };
        store::put(transaction, key::ROTATION, &moved)?;
        Ok(Some(Keys::new(keys.current().clone(), Some(moved))))
    }
}
