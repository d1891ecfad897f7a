//! Writes to many devices in one request. Each device has an append of its own, so a rejection for
//! one device does not affect the others; a failure of the log ends the request.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use muster_schemas::names::{DeviceName, Labels};
use muster_schemas::wire::internal::WithoutFreshValue;
use muster_schemas::{DeviceId, Hash, ProjectId, StreamName};

use super::devices::{DeviceChanges, Devices};
use super::targets::{Target, TargetResolver};
use crate::domain::device::Device;
use crate::domain::{Conflict, Rejection};
use crate::error::CommandError;
use crate::executor::Executor;
use crate::request::{Request, Written};

/// Number of devices that are written concurrently: the log commits them in groups.
const CONCURRENT_WRITES: usize = 64;

/// A write to each target device.
#[derive(Clone, Debug)]
pub enum BulkWrite {
    /// Label and configure it.
    Change(DeviceChanges),
    /// Delete it.
    Delete,
}

/// A device to register.
#[derive(Clone, Debug)]
pub struct NewDevice {
    /// Name of the device.
    pub name: DeviceName,
    /// Labels of the device.
    pub labels: Labels,
    /// Fingerprint of the key that it will enroll with.
    pub fingerprint: Option<Hash>,
}

/// Target devices, ordered by id.
#[derive(Clone, Debug, Default)]
pub struct BulkTargets {
    /// Each device with its name.
    pub devices: BTreeMap<DeviceId, DeviceName>,
    /// Metrics of the selector of which devices had no fresh value.
    pub without_fresh_value: Vec<WithoutFreshValue>,
}

/// The result for one device: what was written, or why nothing was.
pub type Outcome<T> = Result<T, CommandError>;

/// Registers, changes and deletes many devices in one request.
#[derive(Clone, Debug)]
pub struct BulkDevices {
    executor: Executor,
    devices: Devices,
    targets: TargetResolver,
}

impl BulkDevices {
    pub(super) const fn new(executor: Executor, devices: Devices, targets: TargetResolver) -> Self {
        Self { executor, devices, targets }
    }

    /// Registers devices; returns a result for each, in their order.
    ///
    /// # Errors
    /// When the log cannot be used.
    pub async fn register(
        &self,
        request: &Request,
        new: Vec<NewDevice>,
    ) -> Result<Vec<Outcome<(DeviceId, Written)>>, CommandError> {
        let register = |request: Request, NewDevice { name, labels, fingerprint }: NewDevice| async move {
            separate(self.devices.register(&request, name, labels, fingerprint).await)
        };
        let mut new = new.into_iter();
        // The first one has the request's own append id, and is registered before the others: a key
        // that was used with another body is refused before anything is written.
        let mut outcomes = Vec::with_capacity(new.len());
        if let Some(first) = new.next() {
            outcomes.push(register(request.clone(), first).await?);
        }
        let others = new.map(|device| {
            let part = request.part(device.name.as_str().as_bytes());
            register(part, device)
        });
        let others: Vec<_> = stream::iter(others).buffered(CONCURRENT_WRITES).try_collect().await?;
        outcomes.extend(others);
        Ok(outcomes)
    }

    /// Resolves the target devices.
    ///
    /// # Errors
    /// When the target is invalid, or the log or the query role cannot be used.
    pub async fn resolve(
        &self,
        project: &ProjectId,
        target: &Target,
    ) -> Result<BulkTargets, CommandError> {
        let resolved = self.targets.resolve_all(project, target).await?;
        let streams = resolved.devices.iter().copied().map(StreamName::Device).collect();
        let states = self.executor.load_all::<Device>(project, streams).await?;
        let devices = states.into_iter().filter(|(_, state)| state.exists());
        let devices = devices.filter_map(|(stream, state)| Some((stream.device()?, state.name?)));
        Ok(BulkTargets {
            devices: devices.collect(),
            without_fresh_value: resolved.without_fresh_value,
        })
    }

    /// Writes to each of these devices; returns a result for each, in their order.
    ///
    /// # Errors
    /// When the log cannot be used.
    pub async fn write(
        &self,
        request: &Request,
        devices: impl IntoIterator<Item = DeviceId>,
        write: &BulkWrite,
    ) -> Result<Vec<Outcome<Written>>, CommandError> {
        let write = |device: DeviceId| async move {
            let request = request.part(device.0.as_bytes());
            separate(match write {
                BulkWrite::Change(changes) => {
                    self.devices.change(&request, device, changes.clone()).await
                }
                BulkWrite::Delete => self.devices.delete(&request, device).await,
            })
        };
        let writes = stream::iter(devices.into_iter().map(write));
        writes.buffered(CONCURRENT_WRITES).try_collect().await
    }
}

/// Separates the rejection for one device, which is its result, from a failure that the next devices
/// would have, too.
fn separate<T>(result: Result<T, CommandError>) -> Result<Outcome<T>, CommandError> {
    match result {
        Ok(done) => Ok(Ok(done)),
        Err(CommandError::Rejected(Rejection::Conflict(
            conflict @ Conflict::ProjectArchived(_),
        ))) => Err(Rejection::from(conflict).into()),
        Err(error @ CommandError::Rejected(_)) => Ok(Err(error)),
        Err(error) => Err(error),
    }
}
