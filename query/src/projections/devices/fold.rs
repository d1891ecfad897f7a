//! The fold: the effect of each event on a device. Pure; the same for the live table, a rebuild,
//! and a point-in-time query.
//!
//! An event is applied in two parts: [`Device::apply_metadata`] reads only its row, and [`Device::apply`] its
//! content. An event that is completely replaced by a later one ([`is_replaced_by_next`]) needs no
//! second part if the later one is available.

use std::time::Duration;

use muster_api_types::devices::{
    DeviceRef, Enrollment, Epoch, EpochCause, Loss, PendingEnrollment, Presence,
};
use muster_eventlog::StoredEvent;
use muster_schemas::events::{
    Cause, DeviceConfigApplied, DeviceEventUnreadable, DeviceInventoryReported, author,
};
use muster_schemas::{DeviceId, Event, PublicKey, Seq, StreamName, Timestamp};

use super::state::Device;

/// Maximum time by which a plausible time is ahead of the server's clock.
const MAX_AHEAD: Duration = Duration::from_secs(300);

/// An event of a type that the fold handles cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotApply(pub String);

/// Returns the device whose row an event changes: runs have rows of their own.
#[must_use]
pub fn changed_device(stored: &StoredEvent) -> Option<DeviceId> {
    match &stored.stream {
        StreamName::Run(..) | StreamName::Session(..) => None,
        stream => stream.device(),
    }
}

/// Whether the content of an event of this type is completely replaced by the next one of its type.
#[must_use]
pub fn is_replaced_by_next(kind: &str) -> bool {
    [DeviceInventoryReported::TYPE, DeviceConfigApplied::TYPE].contains(&kind)
}

impl Device {
    /// Applies both parts of an event.
    ///
    /// # Errors
    /// When the record cannot be decoded, or is inconsistent.
    pub fn evolve(&mut self, stored: &StoredEvent) -> Result<(), CannotApply> {
        self.apply_metadata(stored);
        self.apply(stored)
    }

    /// Counts the event, and applies what its row contains.
    pub fn apply_metadata(&mut self, stored: &StoredEvent) {
        self.updated_position = stored.position;
        match &stored.stream {
            StreamName::Device(_) => {
                self.version = stored.stream_version;
                self.events.setting_count += 1;
            }
            StreamName::DevicePresence(_) => {
                self.heard_at = Some(stored.recorded_at);
                self.events.presence_count += 1;
            }
            StreamName::DeviceReport(_, epoch) => {
                self.heard_at = Some(stored.recorded_at);
                self.events.report_count += 1;
                self.flags.clock_implausible = has_implausible_time(stored);
                self.flags.implausible_time_count += u64::from(self.flags.clock_implausible);
                let existing = self.epochs.iter_mut().rfind(|existing| existing.epoch == *epoch);
                if let Some(existing) = existing {
                    existing.newest_seq = stored.stream_version.into();
                }
            }
            StreamName::Token(_)
            | StreamName::Project(_)
            | StreamName::Operation(_)
            | StreamName::Run(..)
            | StreamName::Session(..)
            | StreamName::Name(_) => {}
        }
    }

    /// Applies the event's content.
    ///
    /// # Errors
    /// When the record cannot be decoded, or is inconsistent.
    pub fn apply(&mut self, stored: &StoredEvent) -> Result<(), CannotApply> {
        if stored.kind == DeviceEventUnreadable::TYPE {
            self.flags.unreadable_count += 1;
            return Ok(());
        }
        let event = match stored.event() {
            Ok(event) => event,
            // A type that this release does not know changes nothing here.
            Err(_) if author(&stored.kind).is_none() => return Ok(()),
            Err(error) => return Err(CannotApply(error.to_string())),
        };
        self.take(event, stored)
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each event type, none is forgotten")]
    fn take(&mut self, event: Event, stored: &StoredEvent) -> Result<(), CannotApply> {
        let at = stored.recorded_at;
        match event {
            Event::DeviceRegistered(registered) => {
                self.name = Some(registered.name);
                self.labels = registered.labels;
                self.created_at = at;
                self.created_by.clone_from(&stored.actor);
                self.created_position = stored.position;
            }
            Event::DeviceEnrollmentRequested(requested) => {
                self.pending_enrollment = Some(PendingEnrollment {
                    requested_at: at,
                    fingerprint: requested.fingerprint,
                    token: requested.token,
                    hostname: requested.hostname,
                    same_machine: requested.like.map(|id| DeviceRef { id, name: None }),
                });
            }
            Event::DeviceEnrollmentAccepted(_) | Event::DeviceEnrollmentRejected(_) => {
                self.pending_enrollment = None;
            }
            Event::DeviceRevoked(_) => self.revoked_at = Some(at),
            Event::DeviceEnrolled(enrolled) => {
                self.revoked_at = None;
                self.enrollment = Some(Enrollment {
                    enrolled_at: at,
                    fingerprint: enrolled.fingerprint,
                    nats_key: enrolled.nats_key,
                    token: enrolled.token,
                    hostname: enrolled.hostname,
                    machine_hash: enrolled.machine,
                });
                self.start_epoch(enrolled.epoch, EpochCause::Enrolled, at);
            }
            Event::DeviceEpochGranted(granted) => {
                let cause = match granted.cause {
                    Cause::Fork => EpochCause::Fork,
                    Cause::HistoryLost => EpochCause::HistoryLost,
                };
                self.start_epoch(granted.epoch, cause, at);
            }
            Event::DeviceRenamed(renamed) => self.name = Some(renamed.name),
            Event::DeviceLabelsChanged(changed) => {
                for key in changed.removed {
                    self.labels.remove(&key);
                }
                self.labels.extend(changed.set);
            }
            Event::DeviceConfigSet(set) => {
                for key in set.removed {
                    self.config.vars.remove(&key);
                }
                self.config.vars.extend(set.set);
                self.config.version = set.version;
            }
            Event::DeviceConfigApplied(applied) => {
                self.config.applied_version = applied.version;
                self.config.applied_at = Some(stored.occurred_at);
                self.config.errors = applied.errors;
            }
            Event::DeviceInventoryReported(inventory) => {
                self.inventory = Some(inventory);
                self.inventory_at = Some(stored.occurred_at);
            }
            Event::DeviceConnected(connected) => {
                self.presence = Some(Presence {
                    online: true,
                    changed_at: stored.occurred_at,
                    address: connected.address,
                    reason: None,
                });
            }
            Event::DeviceDisconnected(disconnected) => {
                let address = self.presence.take().and_then(|presence| presence.address);
                self.presence = Some(Presence {
                    online: false,
                    changed_at: stored.occurred_at,
                    address,
                    reason: Some(disconnected.reason.into()),
                });
            }
            Event::DeviceForked(_) => self.flags.fork_count += 1,
            Event::DeviceHistoryLost(lost) => {
                self.flags.loss_count += 1;
                self.flags.last_loss = Some(Loss {
                    cause: lost.cause.into(),
                    epoch: lost.epoch,
                    missing_count: lost.count,
                    reported_at: at,
                });
            }
            Event::DeviceKeyRotated(rotated) => {
                let key = PublicKey::from_cose_key(&rotated.signing_key)
                    .map_err(|error| CannotApply(error.to_string()))?;
                if let Some(enrollment) = &mut self.enrollment {
                    enrollment.fingerprint = key.thumbprint();
                }
            }
            Event::DeviceDeleted(_) => self.deleted_at = Some(at),
            // Not about a device's own state, or already counted by `apply`.
            Event::DeviceEventUnreadable(_)
            | Event::DeviceNameReserved(_)
            | Event::DeviceNameReleased(_)
            | Event::EnrollmentTokenCreated(_)
            | Event::EnrollmentTokenUsed(_)
            | Event::EnrollmentTokenRevoked(_)
            | Event::ApiTokenCreated(_)
            | Event::ApiTokenUsed(_)
            | Event::ApiTokenRevoked(_)
            | Event::ProjectCreated(_)
            | Event::ProjectRenamed(_)
            | Event::ProjectArchived(_)
            | Event::ProjectRestored(_)
            | Event::ProjectRetentionSet(_)
            | Event::OperationRequested(_)
            | Event::OperationPaused(_)
            | Event::OperationResumed(_)
            | Event::OperationAborted(_)
            | Event::RunRequested(_)
            | Event::RunDispatched(_)
            | Event::RunCancelRequested(_)
            | Event::RunClosed(_)
            | Event::RunAccepted(_)
            | Event::RunStarted(_)
            | Event::RunSucceeded(_)
            | Event::RunFailed(_)
            | Event::RunTimedOut(_)
            | Event::RunCanceled(_)
            | Event::RunInterrupted(_)
            | Event::RunRejected(_)
            | Event::RunExpired(_)
            | Event::UploadErased(_)
            | Event::UploadStalled(_)
            | Event::DownloadLinkMade(_)
            | Event::SessionRequested(_)
            | Event::SessionAttached(_)
            | Event::SessionDetached(_)
            | Event::SessionRefused(_)
            | Event::SessionRecorded(_)
            | Event::SessionEnded(_)
            | Event::ShellEnded(_) => {}
        }
        Ok(())
    }

    fn start_epoch(
        &mut self,
        epoch: muster_schemas::Epoch,
        cause: EpochCause,
        started_at: Timestamp,
    ) {
        if self.epochs.len() == Self::EPOCHS {
            self.epochs.remove(0);
        }
        self.epochs.push(Epoch { epoch, cause: cause.into(), started_at, newest_seq: Seq::ZERO });
    }
}

/// Whether a device's event has an impossible time: an implausible one, or one in the future.
/// (Events of an offline device have times long past.)
#[must_use]
pub(crate) fn has_implausible_time(stored: &StoredEvent) -> bool {
    let ahead = stored.occurred_at.since(stored.recorded_at);
    !stored.occurred_at.is_plausible() || ahead > MAX_AHEAD
}
