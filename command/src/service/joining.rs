//! What operators say to machines that wait, and to devices that shall be out.

use muster_schemas::{DeviceId, StreamName};

use super::{Request, Service, ServiceError, TRIES, Written, until_appended};
use crate::domain::device::{Device, DeviceCommand};
use crate::domain::name::{Name, NameCommand};
use crate::domain::{Decider, Rejection};

impl Service {
    /// Lets a waiting machine in: as itself, or as a device that was known already, which keeps its
    /// name, labels, config and history and gets the machine's keys.
    ///
    /// # Errors
    /// When it does not wait, the other device is not there, or the log cannot be asked.
    pub async fn accept_device(
        &self,
        request: &Request,
        device: DeviceId,
        replaces: Option<DeviceId>,
    ) -> Result<Written, ServiceError> {
        let stream = StreamName::Device(device);
        if let Some(written) = self.written_before(request, &stream).await? {
            return Ok(written);
        }
        if replaces == Some(device) {
            return Err(Rejection::Conflict("a device cannot replace itself".to_owned()).into());
        }
        let done = until_appended!({
            let loaded = self.load::<Device>(&request.project, &stream).await?;
            let events = loaded.state.decide(DeviceCommand::Accept { replaces })?;
            request.check_version(loaded.version)?;
            let version = loaded.version + events.len() as u64;
            let mut parts = vec![(stream.clone(), loaded.version, events)];
            if let (Some(other), Some(waiting)) = (replaces, loaded.state.waiting.clone()) {
                parts.extend(self.released(request, device, &loaded.state).await?);
                let stream = StreamName::Device(other);
                let other = self.load::<Device>(&request.project, &stream).await?;
                let enrolled = other.state.decide(DeviceCommand::Enroll(Box::new(waiting)))?;
                parts.push((stream, other.version, enrolled));
            }
            self.try_append(request, parts).await?.map(|position| Written { version, position })
        });
        // The keys of the device that was replaced were revoked by the append.
        self.revoked.notify_one();
        done
    }

    /// Sends a waiting machine away.
    ///
    /// # Errors
    /// When it does not wait, or the log cannot be asked.
    pub async fn reject_device(
        &self,
        request: &Request,
        device: DeviceId,
        reason: Option<String>,
    ) -> Result<Written, ServiceError> {
        let stream = StreamName::Device(device);
        if let Some(written) = self.written_before(request, &stream).await? {
            return Ok(written);
        }
        until_appended!({
            let loaded = self.load::<Device>(&request.project, &stream).await?;
            let events = loaded.state.decide(DeviceCommand::Reject { reason: reason.clone() })?;
            request.check_version(loaded.version)?;
            let version = loaded.version + events.len() as u64;
            let mut parts = vec![(stream.clone(), loaded.version, events)];
            parts.extend(self.released(request, device, &loaded.state).await?);
            self.try_append(request, parts).await?.map(|position| Written { version, position })
        })
    }

    /// Makes a device's keys worth nothing: its connection is closed, and it does not come back
    /// before it enrolls again with a token that was made for it.
    ///
    /// # Errors
    /// When there is no such device, it never enrolled, or the log cannot be asked.
    pub async fn revoke_device(
        &self,
        request: &Request,
        device: DeviceId,
        reason: Option<String>,
    ) -> Result<Written, ServiceError> {
        let stream = StreamName::Device(device);
        if let Some(written) = self.written_before(request, &stream).await? {
            return Ok(written);
        }
        let done = until_appended!({
            let loaded = self.load::<Device>(&request.project, &stream).await?;
            let events = loaded.state.decide(DeviceCommand::Revoke { reason: reason.clone() })?;
            request.check_version(loaded.version)?;
            let version = loaded.version + events.len() as u64;
            let parts = vec![(stream.clone(), loaded.version, events)];
            self.try_append(request, parts).await?.map(|position| Written { version, position })
        });
        self.revoked.notify_one();
        done
    }

    /// The part of an append that frees a device's name.
    pub(super) async fn released(
        &self,
        request: &Request,
        device: DeviceId,
        state: &Device,
    ) -> Result<Option<(StreamName, u64, Vec<muster_schemas::Event>)>, ServiceError> {
        let Some(name) = &state.name else { return Ok(None) };
        let stream = StreamName::Name(name.clone());
        let held = self.load::<Name>(&request.project, &stream).await?;
        let released = held.state.decide(NameCommand::Release(device))?;
        Ok(Some((stream, held.version, released)))
    }
}
