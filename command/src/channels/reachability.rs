//! Check that a session with a device can be opened now: decided from the log, before anything is
//! recorded or sent.

use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, Epoch, ProjectId, StreamName, Timestamp};

use super::ports::Channels;
use crate::dispatch::WorkQueue;
use crate::domain::Rejection;
use crate::domain::device::Device;
use crate::error::CommandError;

/// Why no session with a device can be opened.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The device does not exist, or the log could not be read.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The device is not connected.
    #[error("{name} {}", offline(*.since))]
    Offline {
        /// Name of the device.
        name: DeviceName,
        /// Time of its disconnection; absent when it never connected, or the time is not known.
        since: Option<Timestamp>,
    },
    /// The device has no keys yet.
    #[error(
        "{name} was registered and has not enrolled yet; install the agent there with a token: muster token create --device {name}"
    )]
    NotEnrolled {
        /// Name of the device.
        name: DeviceName,
    },
    /// The enrollment is pending.
    #[error("{name} waits to be accepted: muster device accept {name}")]
    Pending {
        /// Name of the device.
        name: DeviceName,
    },
    /// The device's keys are revoked.
    #[error(
        "{name} is revoked; it can connect again after it enrolls with a token that was made for it: muster token create --device {name}"
    )]
    Revoked {
        /// Name of the device.
        name: DeviceName,
    },
}

fn offline(since: Option<Timestamp>) -> String {
    since.map_or("is offline".to_owned(), |since| format!("has been offline since {since}"))
}

impl Channels {
    /// Checks that a session with a device can be opened now.
    ///
    /// # Errors
    /// When the device does not exist, cannot connect or is offline, or the log cannot be read.
    pub(crate) async fn check_reachable(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<(), Unreachable> {
        let stream = StreamName::Device(device);
        let presence = async { Ok(self.executor.log.is_known_offline(project, device).await?) };
        let (loaded, is_offline) =
            tokio::try_join!(self.executor.load::<Device>(project, &stream), presence)?;
        let state = loaded.state;
        let Some(name) = state.name.filter(|_| !state.is_deleted) else {
            return Err(CommandError::from(Rejection::NotFound("device")).into());
        };
        if state.pending_enrollment.is_some() {
            return Err(Unreachable::Pending { name });
        }
        if state.is_revoked {
            return Err(Unreachable::Revoked { name });
        }
        if state.epoch == Epoch::ZERO {
            return Err(Unreachable::NotEnrolled { name });
        }
        if is_offline {
            let queue = WorkQueue::new(self.executor.log.clone());
            let since = queue.offline_since(project, device).await.map_err(CommandError::from)?;
            return Err(Unreachable::Offline { name, since });
        }
        Ok(())
    }
}
