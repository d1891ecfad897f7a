//! The conversation with the server: how acks and welcomes change the outbox and the sender.

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

/// Minimum time for which the log must report the same loss before the device starts a new epoch,
/// if the server does not know whether the log is still reading the events from its stream.
const SETTLE: Duration = Duration::from_secs(5);

/// Interval between hellos while the log is still reading the device's events from its stream.
const CATCH_UP_INTERVAL: Duration = Duration::from_secs(2);

/// An event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Epoch of the event.
    pub epoch: u64,
    /// Sequence number of the event.
    pub seq: u64,
    /// Sealed bytes of the event.
    pub bytes: Vec<u8>,
}

/// Effect of a message from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// No change.
    Nothing,
    /// The log has confirmed this many further events.
    Confirmed(u64),
    /// The log has lost events; they are sent again.
    SentAgain,
    /// The message is inconsistent with the device's state: a hello will be sent.
    Odd,
    /// A new epoch is needed and will be requested.
    NeedsEpoch,
    /// The device continues in a new epoch.
    NewEpoch(u64),
}

/// The reason why a welcome is ignored.
#[derive(Debug, thiserror::Error)]
pub enum Ignored {
    /// The welcome does not belong to the latest hello.
    #[error("a welcome without a matching hello of this connection was ignored")]
    NotAsked,
    /// The welcome is for another device or project.
    #[error("a welcome for another device or project was ignored")]
    OtherDevice,
    /// The welcome starts a new epoch that was not requested, or a different one.
    #[error("a welcome to epoch {offered} was ignored: the device is in epoch {current}")]
    Epoch {
        /// Epoch of the welcome.
        offered: u64,
        /// Epoch of the device.
        current: u64,
    },
    /// Carrying out the welcome failed.
    #[error("failed to process a welcome")]
    Store(#[from] StoreError),
}

/// The conversation of one device; it outlives connections.
#[derive(Debug)]
pub struct Session {
    outbox: Arc<Outbox>,
    project: ProjectId,
    device: DeviceId,
    pacer: Pacer,
    hello: Rhythm,
    /// Head that the log seems to have lost, and when that was first suspected.
    suspect: Option<((u64, u64), Instant)>,
    settle: Duration,
    /// Sequence number of the event that is to be sent next and cannot be read.
    damaged: Option<u64>,
}

impl Session {
    /// Creates the conversation of the device with this outbox.
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

    /// Handles a new connection.
    pub fn connected(&mut self, now: Instant) {
        self.pacer.start(&self.outbox.view());
        self.hello.start(now);
        self.damaged = None;
    }

    /// Schedules a hello now, because its welcome is needed: for the config, for example.
    pub fn hasten_hello(&mut self, now: Instant) {
        self.hello.hasten(now, Duration::ZERO);
    }

    /// Returns the next event to publish now. Pass it to [`Self::settled`] when the broker has
    /// replied. An unreadable event blocks the following ones until the next welcome, then it is
    /// declared lost.
    ///
    /// # Errors
    /// When the event cannot be read.
    pub fn next_event(&mut self, now: Instant) -> Result<Option<Outgoing>, StoreError> {
        let view = self.outbox.view();
        let Some(seq) = self.pacer.due(&view, now) else { return Ok(None) };
        let Some(bytes) = self.outbox.sealed(seq)? else {
            // Earlier events may still be confirmed. Then a hello finds out whether the log has
            // this one.
            if seq == view.confirmed + 1 && self.damaged != Some(seq) {
                self.damaged = Some(seq);
                self.hello.hasten(now, Duration::ZERO);
            }
            return Ok(None);
        };
        self.pacer.sent(now);
        Ok(Some(Outgoing { epoch: view.epoch, seq, bytes }))
    }

    /// Handles the broker's reply to a published event: stored, refused, or no reply.
    pub fn settled(&mut self, epoch: u64, seq: u64, is_stored: bool, now: Instant, chance: f64) {
        if epoch == self.outbox.view().epoch {
            self.pacer.settled(seq, is_stored, now, chance);
        } else {
            self.pacer.settled_before();
        }
    }

    /// Handles the passage of time, or a newly recorded event.
    pub fn tick(&mut self, now: Instant, chance: f64) {
        self.pacer.tick(&self.outbox.view(), now, chance);
    }

    /// Time at which the next action is due.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        [self.pacer.wake_at(now), self.hello.wake_at()].into_iter().flatten().min()
    }

    /// Handles an ack: the log reports how far it has committed. `time` is the best known time.
    ///
    /// # Errors
    /// When the outbox cannot store the result.
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

    /// Returns the hello to send now, if one is due. `nonce` is random.
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
            confirmed_seq: Some(view.confirmed),
        };
        let by = self.outbox.prover(self.hello.unanswered);
        self.hello.said(Asked { hello: hello.clone(), by, confirmed: view.confirmed }, now);
        Some(hello)
    }

    /// The key that proves the latest hello.
    #[must_use]
    pub fn proving_key(&self) -> SigningKey {
        let by = self.hello.asked.as_ref().map_or(Prover::Current, |asked| asked.by);
        self.outbox.proving_key(by)
    }

    /// Handles a hello without a response.
    pub fn hello_failed(&mut self, now: Instant, chance: f64) {
        self.hello.failed(now, chance);
    }

    /// Handles the response to the hello, after its signature was verified. `request` is random.
    ///
    /// # Errors
    /// When the welcome must be ignored.
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
                    Effect::NeedsEpoch => self.hello.follow_up(now),
                    Effect::Odd if welcome.is_caught_up.is_some() => {
                        self.hello.hasten(now, CATCH_UP_INTERVAL);
                    }
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
            // The device has requested a new epoch, and did not get one.
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
            // Events that were confirmed while the response was in flight are not lost.
            Verdict::Lower | Verdict::Pruned if !is_behind => {}
            Verdict::Lower => {
                self.outbox.rewind(seq)?;
                self.pacer.rewound(&self.outbox.view());
                self.suspect = None;
                return Ok(Effect::SentAgain);
            }
            Verdict::Pruned | Verdict::OlderEpoch => {
                if !self.is_certain_loss((welcome.epoch, seq), welcome.is_caught_up, now) {
                    return Ok(Effect::Odd);
                }
                self.outbox.ask_after_loss(welcome.epoch, seq, request)?;
                return Ok(Effect::NeedsEpoch);
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

    /// Whether the log has lost what is after this position, rather than not read it yet.
    fn is_certain_loss(
        &mut self,
        position: (u64, u64),
        is_caught_up: Option<bool>,
        now: Instant,
    ) -> bool {
        if let Some(is_caught_up) = is_caught_up {
            self.suspect = None;
            return is_caught_up;
        }
        match self.suspect {
            Some((suspect, since)) if suspect == position => now >= since + self.settle,
            _ => {
                self.suspect = Some((position, now));
                false
            }
        }
    }

    /// Handles an unreadable event that the log does not have: the device continues without it.
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
