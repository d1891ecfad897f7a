//! Received orders: to run something, and to cancel it. The decision is in the journal when these
//! functions return.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster_channel::SealedError;
use muster_schemas::cose::{self, CoseError, Kind};
use muster_schemas::events::{RefusalCause, RunAccepted};
use muster_schemas::wire::{CancelOrder, PrivateInput, RunDelivery, RunOrder, input_context};
use muster_schemas::{Event, Hash, OperationId, Timestamp, codec};
use tokio::sync::watch;

use super::check::{Address, PrivatePartError, check_address, check_private};
use super::entry::{Entry, StartedRun, State};
use super::exec::MAX_MERGED_RUN_TIME;
use super::journal;
use super::kind::OperationKind;
use super::prepare::{self, InvalidExec};
use super::queue::{MAX_WAITING_RUNS, RunStatus};
use super::record::{Outcome, Runs, empty_report, expired, rejected};
use crate::clock::{Moment, ServerClock};
use crate::identity::{CurrentIdentity, Identity, NotForDevice, is_expired};
use crate::outbox::{IgnoredMessage, Outbox};
use crate::policy::{PolicyError, check_policy};
use crate::run_as::{RunAsError, run_as};

/// Retention of a cancel whose order has not arrived: longer than the lifetime of
/// any order.
const EARLY_CANCEL_TTL: Duration = Duration::from_secs(90 * 24 * 3600);

/// The reason why an order is refused.
#[derive(Debug, thiserror::Error)]
enum OrderRefused {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    PrivatePart(#[from] PrivatePartError),
    #[error(transparent)]
    User(#[from] RunAsError),
    #[error(transparent)]
    Exec(#[from] InvalidExec),
    #[error(
        "the limit of {MAX_WAITING_RUNS} waiting runs on this device is reached; runs.at_once in \
         its config sets the number of concurrent programs"
    )]
    Busy,
}

impl OrderRefused {
    const fn cause(&self) -> RefusalCause {
        match self {
            Self::Policy(_) => RefusalCause::Policy,
            Self::PrivatePart(_) => RefusalCause::PrivatePart,
            Self::User(_) | Self::Exec(_) => RefusalCause::Invalid,
            Self::Busy => RefusalCause::Busy,
        }
    }
}

/// The receiver of orders.
pub(crate) struct Orders {
    pub(super) identity: Arc<Identity>,
    pub(super) runs: Arc<Runs>,
    pub(super) clock: Arc<ServerClock>,
    /// Policy file of the device's owner.
    pub(super) policy: PathBuf,
    pub(super) max_concurrent_runs: watch::Receiver<usize>,
}

impl Orders {
    /// Handles an order to run something. `is_greeted`: whether a hello of this connection got its
    /// welcome.
    ///
    /// # Errors
    /// The reason why the order was ignored.
    pub(crate) fn handle_order(
        &self,
        message: &[u8],
        is_greeted: bool,
    ) -> Result<(), IgnoredMessage> {
        let delivery: RunDelivery = codec::decode(message)?;
        let opened = self.open(&delivery.order, Kind::Run)?;
        let address = self.address(&opened)?;
        let id = address.operation;
        match self.runs.read(id)? {
            Some(Entry { state: State::Barred, expires_at, .. }) => {
                let report = empty_report(id);
                return self.refuse(id, expires_at, &Outcome::Canceled.event(report));
            }
            Some(_) => {
                tracing::debug!(operation = %id, "received a known order again");
                return Ok(());
            }
            None => {}
        }
        if !is_greeted {
            return Err(NotForDevice::NoHello.into());
        }
        let expires_at = address.expires_at.ok_or(IgnoredMessage::NoExpiry)?;
        let server_time = self.clock.confirmed_time();
        if is_expired(expires_at, server_time)? {
            return self.refuse(id, expires_at, &expired(id));
        }
        let order: RunOrder = match codec::decode(&opened) {
            Ok(order) => order,
            Err(error) => {
                let reason = format!(
                    "muster-agent {} does not support this request: {error}",
                    env!("CARGO_PKG_VERSION")
                );
                let event = rejected(id, RefusalCause::Unsupported, &reason);
                return self.refuse(id, expires_at, &event);
            }
        };
        let private = self.private_part(&order, delivery.private, delivery.sealed.as_deref())?;
        match self.validate(&order, private.as_deref()) {
            Ok(()) => self.accept(order, &delivery.order, private.as_deref()),
            Err(refused) => {
                let (cause, reason) = (refused.cause(), refused.to_string());
                tracing::info!(operation = %id, ?cause, reason, "an order was refused");
                self.refuse(id, expires_at, &rejected(id, cause, &reason))
            }
        }
    }

    /// Verifies and opens a message that was sealed with the project's operation key.
    fn open(&self, sealed: &[u8], kind: Kind) -> Result<Vec<u8>, CoseError> {
        cose::open(sealed, kind, &self.identity.operation_key()?)
    }

    /// Reads the address of an order; an error if it is not for this device in its current state.
    fn address(&self, opened: &[u8]) -> Result<Address, IgnoredMessage> {
        let address: Address = codec::decode(opened)?;
        let me = CurrentIdentity {
            project: &self.identity.project,
            device: self.identity.device,
            epoch: self.outbox().view().epoch,
        };
        check_address(&address, &me)?;
        Ok(address)
    }

    /// Returns the private part of an order, decrypted.
    ///
    /// # Errors
    /// When it is sealed to none of the device's keys: the server sends it again, sealed to the key
    /// that it then knows.
    fn private_part(
        &self,
        order: &RunOrder,
        private: Option<Vec<u8>>,
        sealed: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, SealedError> {
        let Some(sealed) = sealed else { return Ok(private) };
        let context = input_context(&order.project, order.device, order.operation);
        self.outbox().open_sealed(&context, sealed).map(Some)
    }

    /// Checks whether the order is allowed and possible.
    fn validate(&self, order: &RunOrder, private: Option<&[u8]>) -> Result<(), OrderRefused> {
        check_policy(&self.policy, &order.action)?;
        let kind = OperationKind::of(&order.action);
        let input = check_private(kind.program, order.private.as_ref(), private)?;
        if let Some(exec) = kind.program {
            let env = input.map(|input: PrivateInput| input.env).unwrap_or_default();
            run_as(exec.user.as_deref())?;
            prepare::check(exec, &env)?;
        }
        if self.runs.queue.is_busy(kind.lane) {
            return Err(OrderRefused::Busy);
        }
        Ok(())
    }

    fn accept(
        &self,
        order: RunOrder,
        signed: &[u8],
        private: Option<&[u8]>,
    ) -> Result<(), IgnoredMessage> {
        let (id, action) = (order.operation, order.action.clone());
        // There must also be room for the events of its start and its end.
        if !self.outbox().has_room() {
            return Err(IgnoredMessage::OutboxFull);
        }
        let event: Event = RunAccepted { operation: id, order: Hash::of(signed) }.into();
        let ticket = self.runs.queue.next_ticket();
        let input = private.filter(|_| order.private.is_some());
        // If the run starts now, the journal records its start together with its acceptance. The
        // private part is kept until the start is recorded.
        let kind = OperationKind::of(&action);
        let begins = kind.can_start_on_acceptance
            && input.is_none()
            && self.runs.queue.would_start(&action, *self.max_concurrent_runs.borrow());
        let (expires_at, order) = (order.expires_at, Box::new(order));
        let state = if begins {
            State::Started(Box::new(StartedRun::now(order)))
        } else {
            State::Accepted(order)
        };
        let entry = Entry { ticket, expires_at, state };
        if begins && kind.program.is_some() {
            // The helper starts while the order is written to disk.
            self.runs.launcher.prepare();
        }
        let events = [(&event, Moment::now())];
        let recorded = self.outbox().record_all_in_transaction(&events, |transaction| {
            journal::put(transaction, id, &entry)?;
            input.map_or(Ok(()), |input| journal::put_input(transaction, id, input))
        });
        if let Err(error) = recorded {
            self.runs.launcher.discard();
            return Err(error.into());
        }
        if begins {
            // The events of a short run are sent together: the log appends them in one transaction.
            self.runs.recorder.hold_back(MAX_MERGED_RUN_TIME);
        } else {
            self.runs.recorder.notify();
        }
        tracing::info!(operation = %id, action = action.name(), "an order was accepted");
        self.runs.queue.enqueue(id, ticket, &action);
        Ok(())
    }

    /// Refuses an operation, once: it is then in the journal, and never accepted again.
    fn refuse(
        &self,
        id: OperationId,
        expires_at: Timestamp,
        event: &Event,
    ) -> Result<(), IgnoredMessage> {
        let ticket = self.runs.queue.next_ticket();
        let entry = Entry { ticket, expires_at, state: State::Ended(None) };
        self.runs.record_with_entry(id, &entry, event)?;
        Ok(())
    }

    /// Handles an order to cancel.
    ///
    /// # Errors
    /// The reason why the order was ignored.
    pub(crate) fn handle_cancel(&self, message: &[u8]) -> Result<(), IgnoredMessage> {
        let opened = self.open(message, Kind::Cancel)?;
        let id = self.address(&opened)?.operation;
        let order: CancelOrder = codec::decode(&opened)?;
        match self.runs.queue.cancel(id) {
            RunStatus::Running => {
                tracing::info!(operation = %id, "a run was canceled");
                return Ok(());
            }
            RunStatus::Waiting => return self.cancel_waiting(id),
            RunStatus::NotOpen => {}
        }
        let found = self.runs.read(id)?;
        if found.is_some() {
            return Ok(());
        }
        let expires_at = order.issued_at + EARLY_CANCEL_TTL;
        let ticket = self.runs.queue.next_ticket();
        let entry = Entry { ticket, expires_at, state: State::Barred };
        tracing::info!(
            operation = %id,
            "a run was canceled before its order arrived; it will not start"
        );
        Ok(self.runs.put(id, &entry)?)
    }

    fn cancel_waiting(&self, id: OperationId) -> Result<(), IgnoredMessage> {
        let found = self.runs.read(id)?;
        let Some(entry) = found else { return Ok(()) };
        let event = Outcome::Canceled.event(empty_report(id));
        // If this fails, the run still waits, and the server sends the cancel again.
        self.runs.record_with_entry(id, &entry.ended(), &event)?;
        self.runs.queue.close(id);
        tracing::info!(operation = %id, "a waiting run was canceled");
        Ok(())
    }

    fn outbox(&self) -> &Outbox {
        self.runs.recorder.outbox()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_order_has_a_cause_and_a_reason() {
        let unknown = RunAsError::UnknownUser("app".to_owned());
        for (refused, cause, reason) in [
            (
                OrderRefused::from(PrivatePartError::Missing),
                RefusalCause::PrivatePart,
                "the private part of the order is missing",
            ),
            (unknown.into(), RefusalCause::Invalid, "user 'app' does not exist on this device"),
            (InvalidExec::NoProgram.into(), RefusalCause::Invalid, "the program is missing"),
            (
                OrderRefused::Busy,
                RefusalCause::Busy,
                "the limit of 100 waiting runs on this device is reached; runs.at_once in its \
                 config sets the number of concurrent programs",
            ),
        ] {
            assert_eq!((refused.cause(), refused.to_string().as_str()), (cause, reason));
        }
    }
}
