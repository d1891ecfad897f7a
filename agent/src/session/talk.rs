//! The conversation itself: acks, hellos and welcomes, and what they do to outbox and sender.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_schemas::wire::{Ack, Hello, Welcome};
use muster_schemas::{DeviceId, ProjectId, SigningKey, Timestamp};
use uuid::Uuid;

use super::hello::{Asked, Rhythm};
use super::pacer::Pacer;
use crate::clock::Moment;
use crate::outbox::{Outbox, Prover, Verdict, judge};
use crate::store::StoreError;

/// A log that seems to have lost what this device cannot send again may still be reading it from
/// its stream: it is asked twice, this far apart, before the device goes on in a new epoch.
const SETTLE: Duration = Duration::from_secs(5);

/// An event on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its epoch.
    pub epoch: u64,
    /// Its place.
    pub seq: u64,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
}

/// What a word of the server did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing new.
    Nothing,
    /// The log has this many events more.
    Confirmed(u64),
    /// The log has lost some; they are sent again.
    SentAgain,
    /// Something is odd: hello will be said.
    Odd,
    /// A new epoch is needed and will be asked for.
    NeedsEpoch,
    /// The device goes on in a new epoch.
    NewEpoch(u64),
}

/// A welcome that is not acted on.
#[derive(Debug, thiserror::Error)]
pub enum Ignored {
    /// Not the answer to the hello that was said last.
    #[error("a welcome that answers no hello of this connection was ignored")]
    NotAsked,
    /// For somebody else.
    #[error("a welcome for another device or project was ignored")]
    OtherDevice,
    /// A new epoch out of nowhere, or not the one that was asked for.
    #[error("a welcome to epoch {offered} was ignored: the device is in epoch {current}")]
    Epoch {
        /// The welcome's.
        offered: u64,
        /// The device's.
        current: u64,
    },
    /// It could not be carried out.
    #[error("the answer to a hello could not be carried out")]
    Store(#[from] StoreError),
}

/// One device's conversation; it outlives connections.
#[derive(Debug)]
pub struct Session {
    outbox: Arc<Outbox>,
    project: ProjectId,
    device: DeviceId,
    pacer: Pacer,
    hello: Rhythm,
    /// What the log seems to miss, and since when.
    suspect: Option<((u64, u64), Instant)>,
    settle: Duration,
    /// The event that is to be sent next and cannot be read.
    damaged: Option<u64>,
}

impl Session {
    /// The conversation of the device whose outbox this is.
    #[must_use]
    pub fn new(outbox: Arc<Outbox>, project: ProjectId, device: DeviceId) -> Self {
        Self {
            outbox,
            project,
            device,
            pacer: Pacer::default(),
            hello: Rhythm::default(),
            suspect: None,
            settle: SETTLE,
            damaged: None,
        }
    }

    /// A connection was made.
    pub fn connected(&mut self, now: Instant) {
        self.pacer.start(&self.outbox.view());
        self.hello.start(now);
        self.damaged = None;
    }

    /// Something is to be said that the server should answer with a welcome: its config, say.
    pub fn hasten_hello(&mut self, now: Instant) {
        self.hello.hasten(now, Duration::ZERO);
    }

    /// The next event to publish now; hand it to [`Self::settled`] when the broker answered. One
    /// that cannot be read is waited at until the next welcome: then it is declared lost.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn next_event(&mut self, now: Instant) -> Result<Option<Outgoing>, StoreError> {
        let view = self.outbox.view();
        let Some(seq) = self.pacer.due(&view, now) else { return Ok(None) };
        let Some(bytes) = self.outbox.sealed(seq)? else {
            // What comes before it may still be confirmed. Then the log is asked whether it has it.
            if seq == view.confirmed + 1 && self.damaged != Some(seq) {
                self.damaged = Some(seq);
                self.hello.hasten(now, Duration::ZERO);
            }
            return Ok(None);
        };
        self.pacer.sent(now);
        Ok(Some(Outgoing { epoch: view.epoch, seq, bytes }))
    }

    /// The broker has stored an event, or not, or did not say.
    pub fn settled(&mut self, epoch: u64, seq: u64, is_stored: bool, now: Instant, chance: f64) {
        if epoch == self.outbox.view().epoch {
            self.pacer.settled(seq, is_stored, now, chance);
        } else {
            self.pacer.settled_before();
        }
    }

    /// Time has passed, or an event was recorded.
    pub fn tick(&mut self, now: Instant, chance: f64) {
        self.pacer.tick(&self.outbox.view(), now, chance);
    }

    /// When something is due next.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        [self.pacer.wake_at(now), self.hello.wake_at()].into_iter().flatten().min()
    }

    /// The log says how far it has committed. `time` is the best known time.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn on_ack(
        &mut self,
        ack: &Ack,
        now: Instant,
        time: Timestamp,
    ) -> Result<Effect, StoreError> {
        let effect = match judge(&self.outbox, ack.epoch, ack.seq, ack.hash)? {
            // Another branch of this device's history shares its subjects.
            Verdict::OlderEpoch | Verdict::NewerEpoch => return Ok(Effect::Nothing),
            Verdict::Known => Effect::Nothing,
            Verdict::Confirmed => self.confirm(ack.seq, now, time)?,
            Verdict::Lower | Verdict::Pruned | Verdict::Fork { .. } => {
                if self.outbox.pending_epoch().is_none() {
                    self.hello.hasten(now, Duration::ZERO);
                }
                return Ok(Effect::Odd);
            }
        };
        if ack.resend {
            self.pacer.resend_from(ack.seq + 1, now);
        }
        Ok(effect)
    }

    fn confirm(&mut self, seq: u64, now: Instant, time: Timestamp) -> Result<Effect, StoreError> {
        let before = self.outbox.view().confirmed;
        self.outbox.confirm(seq, time)?;
        self.pacer.confirmed(&self.outbox.view(), now);
        Ok(Effect::Confirmed(seq - before))
    }

    /// The hello to say now, if one is due. `nonce` is random.
    pub fn next_hello(
        &mut self,
        now: Instant,
        at: &Moment,
        config_version: u64,
        nonce: Uuid,
    ) -> Option<Hello> {
        if !self.hello.is_due(now) {
            return None;
        }
        let view = self.outbox.view();
        let hello = Hello {
            project: self.project.clone(),
            device: self.device,
            epoch: view.epoch,
            nonce,
            last_seq: view.last_seq,
            time: at.wall,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            config_version,
            new_epoch: self.outbox.pending_epoch(),
        };
        let by = self.outbox.prover(self.hello.unanswered);
        self.hello.said(Asked { hello: hello.clone(), by, confirmed: view.confirmed }, now);
        Some(hello)
    }

    /// The key that proves the hello that was said last.
    #[must_use]
    pub fn proving_key(&self) -> SigningKey {
        let by = self.hello.asked.as_ref().map_or(Prover::Current, |asked| asked.by);
        self.outbox.proving_key(by)
    }

    /// The hello was not answered.
    pub fn hello_failed(&mut self, now: Instant, chance: f64) {
        self.hello.failed(now, chance);
    }

    /// The answer to the hello. Its signature was verified; `request` is random.
    ///
    /// # Errors
    /// When it is none to act on.
    pub fn on_welcome(
        &mut self,
        welcome: &Welcome,
        now: Instant,
        at: Moment,
        request: Uuid,
        chance: f64,
    ) -> Result<Effect, Ignored> {
        let is_answer =
            self.hello.asked.as_ref().is_some_and(|asked| asked.hello.nonce == welcome.nonce);
        if !is_answer {
            return Err(Ignored::NotAsked);
        }
        if welcome.project != self.project || welcome.device != self.device {
            self.hello.failed(now, chance);
            return Err(Ignored::OtherDevice);
        }
        let Some(asked) = self.hello.asked.clone() else { return Err(Ignored::NotAsked) };
        let outcome = self.act(&asked, welcome, now, at, request);
        match outcome {
            Ok(effect) => {
                self.hello.answered(now, chance);
                match effect {
                    Effect::NeedsEpoch => self.hello.hasten(now, Duration::ZERO),
                    Effect::Odd => self.hello.hasten(now, self.settle),
                    _ => {}
                }
                Ok(effect)
            }
            Err(error) => {
                self.hello.failed(now, chance);
                Err(error)
            }
        }
    }

    fn act(
        &mut self,
        asked: &Asked,
        welcome: &Welcome,
        now: Instant,
        at: Moment,
        request: Uuid,
    ) -> Result<Effect, Ignored> {
        let current = self.outbox.view().epoch;
        if welcome.epoch > asked.hello.epoch {
            let is_granted = asked.hello.new_epoch.is_some()
                && self.outbox.enter_epoch(welcome.epoch, at, asked.by)?;
            if !is_granted {
                return Err(Ignored::Epoch { offered: welcome.epoch, current });
            }
            self.suspect = None;
            self.pacer.start(&self.outbox.view());
            return Ok(Effect::NewEpoch(welcome.epoch));
        }
        if asked.hello.new_epoch.is_some() {
            // Asked for a new epoch, and got none.
            return Err(Ignored::Epoch { offered: welcome.epoch, current });
        }
        let (seq, hash) = (welcome.committed_seq, welcome.committed_hash);
        let is_behind = welcome.epoch < current || seq < asked.confirmed;
        match judge(&self.outbox, welcome.epoch, seq, hash)? {
            Verdict::Known | Verdict::NewerEpoch => {}
            Verdict::Confirmed => {
                self.suspect = None;
                let effect = self.confirm(seq, now, welcome.time)?;
                return Ok(self.give_up_damaged(request)?.unwrap_or(effect));
            }
            // What was confirmed while the answer was on its way is not lost.
            Verdict::Lower | Verdict::Pruned if !is_behind => {}
            Verdict::Lower => {
                self.outbox.rewind(seq)?;
                self.pacer.rewound(&self.outbox.view());
                self.suspect = None;
                return Ok(Effect::SentAgain);
            }
            Verdict::Pruned | Verdict::OlderEpoch => {
                let place = (welcome.epoch, seq);
                match self.suspect {
                    Some((suspect, since)) if suspect == place => {
                        if now >= since + self.settle {
                            self.outbox.ask_after_loss(place.0, place.1, request)?;
                            return Ok(Effect::NeedsEpoch);
                        }
                    }
                    _ => self.suspect = Some((place, now)),
                }
                return Ok(Effect::Odd);
            }
            Verdict::Fork { own } => {
                let view = self.outbox.view();
                // Beyond the newest: there the log has an event, and this device has none.
                let place = if own.is_some() { seq } else { view.last_seq + 1 };
                self.outbox.ask_after_fork(place, own, request)?;
                return Ok(Effect::NeedsEpoch);
            }
        }
        self.suspect = None;
        Ok(self.give_up_damaged(request)?.unwrap_or(Effect::Nothing))
    }

    /// The log does not have the event that cannot be read: the device goes on without it.
    fn give_up_damaged(&mut self, request: Uuid) -> Result<Option<Effect>, StoreError> {
        let (Some(damaged), view) = (self.damaged.take(), self.outbox.view()) else {
            return Ok(None);
        };
        if damaged != view.confirmed + 1 || view.is_waiting_for_epoch {
            return Ok(None);
        }
        self.outbox.ask_after_loss(view.epoch, view.confirmed, request)?;
        Ok(Some(Effect::NeedsEpoch))
    }
}
