//! Names of devices in an append: changed, or freed.

use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, StreamName};

use crate::domain::Decider;
use crate::domain::device::Device;
use crate::domain::name::{Name, NameCommand};
use crate::error::CommandError;
use crate::executor::{Executor, Part};
use crate::request::Request;

/// Returns the part of an append that frees a device's name.
pub(super) async fn released(
    executor: &Executor,
    request: &Request,
    device: DeviceId,
    state: &Device,
) -> Result<Option<Part>, CommandError> {
    let Some(name) = &state.name else { return Ok(None) };
    let stream = StreamName::Name(name.clone());
    let held = executor.load::<Name>(&request.project, &stream).await?;
    let released = held.state.decide(NameCommand::Release(device))?;
    Ok(Some((stream, held.version, released)))
}

/// Returns the parts of an append that give a device another name, and free the previous one.
pub(super) async fn renamed(
    executor: &Executor,
    request: &Request,
    device: DeviceId,
    state: &Device,
    name: &DeviceName,
) -> Result<Vec<Part>, CommandError> {
    let stream = StreamName::Name(name.clone());
    let new = executor.load::<Name>(&request.project, &stream).await?;
    let mut parts = vec![(stream, new.version, new.state.decide(NameCommand::Reserve(device))?)];
    if let Some(old) = &state.name {
        let stream = StreamName::Name(old.clone());
        let old = executor.load::<Name>(&request.project, &stream).await?;
        parts.push((stream, old.version, old.state.decide(NameCommand::Release(device))?));
    }
    Ok(parts)
}
