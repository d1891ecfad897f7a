//! The conversation with the server: how acks and welcomes change the outbox and the sender.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_schemas::wire::{Ack, Hello, Welcome};
use muster_schemas::{ConfigVersion, DeviceId, Epoch, ProjectId, Seq, SigningKey, Timestamp};
use uuid::Uuid;

use super::hello::{HelloSchedule, SentHello};
use super::pacer::Pacer;
use crate::clock::Moment;
use crate::outbox::{Outbox, Prover, Verdict, compare_head};
use crate::store::StoreError;

/// Minimum time for which the log must report the same loss before the device starts a new epoch,
/// if the server does not know whether the log is still reading the events from its stream.
const LOSS_CONFIRM_TIME: Duration = Duration::from_secs(5);

/// Interval between hellos while the log is still reading the device's events from its stream.
const CATCH_UP_INTERVAL: Duration = Duration::from_secs(2);

/// An event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Epoch of the event.
    pub epoch: Epoch,
    /// Sequence number of the event.
    pub seq: Seq,
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
    Rewound,
    /// The message is inconsistent with the device's state: a hello will be sent.
    Inconsistent,
    /// A new epoch is needed and will be requested.
    NeedsEpoch,
    /// The device continues in a new epoch.
    NewEpoch(Epoch),
}

/// The reason why a welcome is ignored.
#[derive(Debug, thiserror::Error)]
pub enum IgnoredWelcome {
    /// The welcome does not belong to the latest hello.
    #[error("a welcome without a matching hello of this connection was ignored")]
    NotRequested,
    /// The welcome is for another device or project.
    #[error("a welcome for another device or project was ignored")]
    OtherDevice,
    /// The welcome starts a new epoch that was not requested, or a different one.
    #[error("a welcome to epoch {offered} was ignored: the device is in epoch {current}")]
    Epoch {
        /// Epoch of the welcome.
        offered: Epoch,
        /// Epoch of the device.
        current: Epoch,
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
    hello: HelloSchedule,
    /// Head that the log seems to have lost, and when that was first suspected.
    suspected_loss: Option<((Epoch, Seq), Instant)>,
    loss_confirm_time: Duration,
    /// Sequence number of the event that is to be sent next and cannot be read.
    damaged_seq: Option<Seq>,
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
            hello: HelloSchedule::default(),
            suspected_loss: None,
            loss_confirm_time: LOSS_CONFIRM_TIME,
            damaged_seq: None,
        }
    }

    /// Handles a new connection.
    pub fn connected(&mut self, now: Instant) {
        self.pacer.start(&self.outbox.view());
        self.hello.start(now);
        self.damaged_seq = None;
    }

    /// Schedules a hello now, because its welcome is needed: for the config, for example.
    pub fn schedule_hello(&mut self, now: Instant) {
        self.hello.schedule(now, Duration::ZERO);
    }

    /// Returns the next event to publish now. Pass it to [`Self::on_broker_reply`] when the broker has
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
            if seq == view.confirmed + 1 && self.damaged_seq != Some(seq) {
                self.damaged_seq = Some(seq);
                self.hello.schedule(now, Duration::ZERO);
            }
            return Ok(None);
        };
        self.pacer.sent(now);
        Ok(Some(Outgoing { epoch: view.epoch, seq, bytes }))
    }

    /// Handles the broker's reply to a published event: stored, refused, or no reply.
    pub fn on_broker_reply(
        &mut self,
        epoch: Epoch,
        seq: Seq,
        is_stored: bool,
        now: Instant,
        chance: f64,
    ) {
        if epoch == self.outbox.view().epoch {
            self.pacer.on_reply(seq, is_stored, now, chance);
        } else {
            self.pacer.on_earlier_reply();
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
        let effect = match compare_head(&self.outbox, ack.epoch, ack.seq, ack.hash)? {
            // Another branch of this device's history shares its subjects.
            Verdict::OlderEpoch | Verdict::NewerEpoch => return Ok(Effect::Nothing),
            Verdict::Expected => Effect::Nothing,
            Verdict::Confirmed => self.confirm(ack.seq, now, time)?,
            Verdict::Behind | Verdict::Pruned | Verdict::Fork { .. } => {
                if self.outbox.pending_epoch().is_none() {
                    self.hello.schedule(now, Duration::ZERO);
                }
                return Ok(Effect::Inconsistent);
            }
        };
        if ack.resend {
            self.pacer.resend_from(ack.seq + 1, now);
        }
        Ok(effect)
    }

    fn confirm(&mut self, seq: Seq, now: Instant, time: Timestamp) -> Result<Effect, StoreError> {
        let before = self.outbox.view().confirmed;
        self.outbox.confirm(seq, time)?;
        self.pacer.confirmed(&self.outbox.view(), now);
        Ok(Effect::Confirmed(seq.since(before)))
    }

    /// Returns the hello to send now, if one is due. `nonce` is random.
    pub fn next_hello(
        &mut self,
        now: Instant,
        at: &Moment,
        config_version: ConfigVersion,
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
        self.hello.record_sent(
            SentHello { hello: hello.clone(), prover: by, confirmed: view.confirmed },
            now,
        );
        Some(hello)
    }

    /// The key that proves the latest hello.
    #[must_use]
    pub fn proving_key(&self) -> SigningKey {
        let by = self.hello.pending.as_ref().map_or(Prover::Current, |pending| pending.prover);
        self.outbox.proving_key(by)
    }

    /// Handles a hello without a response.
    pub fn hello_failed(&mut self, now: Instant, chance: f64) {
        self.hello.record_failure(now, chance);
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
    ) -> Result<Effect, IgnoredWelcome> {
        let is_response =
            self.hello.pending.as_ref().is_some_and(|pending| pending.hello.nonce == welcome.nonce);
        if !is_response {
            return Err(IgnoredWelcome::NotRequested);
        }
        if welcome.project != self.project || welcome.device != self.device {
            self.hello.record_failure(now, chance);
            return Err(IgnoredWelcome::OtherDevice);
        }
        let Some(pending) = self.hello.pending.clone() else {
            return Err(IgnoredWelcome::NotRequested);
        };
        let outcome = self.apply_welcome(&pending, welcome, now, at, request);
        match outcome {
            Ok(effect) => {
                self.hello.record_response(now, chance);
                match effect {
                    Effect::NeedsEpoch => self.hello.follow_up(now),
                    Effect::Inconsistent if welcome.is_caught_up.is_some() => {
                        self.hello.schedule(now, CATCH_UP_INTERVAL);
                    }
                    Effect::Inconsistent => self.hello.schedule(now, self.loss_confirm_time),
                    _ => {}
                }
                Ok(effect)
            }
            Err(error) => {
                self.hello.record_failure(now, chance);
                Err(error)
            }
        }
    }

    fn apply_welcome(
        &mut self,
        sent: &SentHello,
        welcome: &Welcome,
        now: Instant,
        at: Moment,
        request: Uuid,
    ) -> Result<Effect, IgnoredWelcome> {
        let current = self.outbox.view().epoch;
        if welcome.epoch > sent.hello.epoch {
            let is_granted = sent.hello.new_epoch.is_some()
                && self.outbox.enter_epoch(welcome.epoch, at, sent.prover)?;
            if !is_granted {
                return Err(IgnoredWelcome::Epoch { offered: welcome.epoch, current });
            }
            self.suspected_loss = None;
            self.pacer.start(&self.outbox.view());
            return Ok(Effect::NewEpoch(welcome.epoch));
        }
        if sent.hello.new_epoch.is_some() {
            // The device has requested a new epoch, and did not get one.
            return Err(IgnoredWelcome::Epoch { offered: welcome.epoch, current });
        }
        let (seq, hash) = (welcome.committed_seq, welcome.committed_hash);
        let is_behind = welcome.epoch < current || seq < sent.confirmed;
        match compare_head(&self.outbox, welcome.epoch, seq, hash)? {
            Verdict::Expected | Verdict::NewerEpoch => {}
            Verdict::Confirmed => {
                self.suspected_loss = None;
                let effect = self.confirm(seq, now, welcome.time)?;
                return Ok(self.declare_damaged_lost(request)?.unwrap_or(effect));
            }
            // Events that were confirmed while the response was in flight are not lost.
            Verdict::Behind | Verdict::Pruned if !is_behind => {}
            Verdict::Behind => {
                self.outbox.rewind(seq)?;
                self.pacer.rewound(&self.outbox.view());
                self.suspected_loss = None;
                return Ok(Effect::Rewound);
            }
            Verdict::Pruned | Verdict::OlderEpoch => {
                if !self.is_certain_loss((welcome.epoch, seq), welcome.is_caught_up, now) {
                    return Ok(Effect::Inconsistent);
                }
                self.outbox.request_epoch_after_loss(welcome.epoch, seq, request)?;
                return Ok(Effect::NeedsEpoch);
            }
            Verdict::Fork { own } => {
                let view = self.outbox.view();
                // Beyond the newest: there the log has an event, and this device has none.
                let position = if own.is_some() { seq } else { view.last_seq + 1 };
                self.outbox.request_epoch_after_fork(position, own, request)?;
                return Ok(Effect::NeedsEpoch);
            }
        }
        self.suspected_loss = None;
        Ok(self.declare_damaged_lost(request)?.unwrap_or(Effect::Nothing))
    }

    /// Whether the log has lost what is after this position, rather than not read it yet.
    fn is_certain_loss(
        &mut self,
        position: (Epoch, Seq),
        is_caught_up: Option<bool>,
        now: Instant,
    ) -> bool {
        if let Some(is_caught_up) = is_caught_up {
            self.suspected_loss = None;
            return is_caught_up;
        }
        match self.suspected_loss {
            Some((suspect, since)) if suspect == position => now >= since + self.loss_confirm_time,
            _ => {
                self.suspected_loss = Some((position, now));
                false
            }
        }
    }

    /// Handles an unreadable event that the log does not have: the device continues without it.
    fn declare_damaged_lost(&mut self, request: Uuid) -> Result<Option<Effect>, StoreError> {
        let (Some(damaged), view) = (self.damaged_seq.take(), self.outbox.view()) else {
            return Ok(None);
        };
        if damaged != view.confirmed + 1 || view.is_waiting_for_epoch {
            return Ok(None);
        }
        self.outbox.request_epoch_after_loss(view.epoch, view.confirmed, request)?;
        Ok(Some(Effect::NeedsEpoch))
    }
}
