//! Routes that register, change and delete many devices in one request.

use std::collections::{BTreeMap, HashSet};

use axum::extract::State;
use muster_api::auth::WriteDevices;
use muster_api::idempotency::IdempotencyParam;
use muster_api::params::ProjectParam;
use muster_api::problem::WriteProblems;
use muster_api::{Json, Problem};
use muster_api_types::bulk::{
    BulkItem, BulkResult, ChangeDevices, DeleteDevices, MAX_REGISTERED, RegisterDevices,
    RegisterDevicesResult, RegisteredItem,
};
use muster_api_types::devices::{DeviceRef, RegisterDevice};
use muster_schemas::DeviceId;
use muster_schemas::names::DeviceName;

use super::operations::target;
use super::state::CommandState;
use super::write::{Bulk, Write, bulk};
use crate::request::{Request, Written};
use crate::service::{BulkWrite, DeviceChanges, NewDevice, Outcome, Target};

/// Register devices
///
/// Registers up to 1000 devices, as `POST /devices` does. The response has a result for each
/// device: one that cannot be registered, because its name is taken, does not affect the others.
#[utoipa::path(
    post, path = "/api/v1/devices/bulk/register", tag = "devices",
    params(ProjectParam, IdempotencyParam),
    request_body = RegisterDevices,
    responses(
        (status = 200, description = "The result for each device", body = RegisterDevicesResult),
        WriteProblems,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn register_devices(
    State(state): State<CommandState>,
    Write { request, .. }: Write<WriteDevices>,
    Json(body): Json<RegisterDevices>,
) -> Result<Bulk<RegisterDevicesResult>, Problem> {
    let count = body.devices.len();
    if !(1..=MAX_REGISTERED).contains(&count) {
        let rule = format!("must be 1 to {MAX_REGISTERED} devices");
        return Err(Problem::field("devices", rule, Some(count.into())));
    }
    reject_repeated_names(&body.devices)?;
    let names: Vec<DeviceName> = body.devices.iter().map(|device| device.name.clone()).collect();
    let new = body.devices.into_iter().map(|device| {
        let RegisterDevice { name, labels, fingerprint } = device;
        NewDevice { name, labels, fingerprint }
    });
    let outcomes = state.service.bulk.register(&request, new.collect()).await?;
    let position = outcomes.iter().flatten().map(|(_, written)| written.position).max();
    let items = names.into_iter().zip(outcomes).enumerate();
    let items = items.map(|(index, (name, outcome))| registered(index, name, outcome));
    let items: Vec<RegisteredItem> = items.collect();
    let failed_count = items.iter().filter(|item| item.problem.is_some()).count() as u64;
    let registered_count = items.len() as u64 - failed_count;
    let result = RegisterDevicesResult { registered_count, failed_count, items };
    Ok(bulk(&request.project, position, result))
}

/// Refuses a name that is in the request twice: both devices would be the same one.
fn reject_repeated_names(devices: &[RegisterDevice]) -> Result<(), Problem> {
    let mut seen = HashSet::new();
    match devices.iter().position(|device| !seen.insert(&device.name)) {
        None => Ok(()),
        Some(index) => {
            let name = devices.get(index).map(|device| device.name.to_string().into());
            let rule = "is the name of another device of the request, too";
            Err(Problem::field(&format!("devices.{index}.name"), rule, name))
        }
    }
}

fn registered(
    index: usize,
    name: DeviceName,
    outcome: Outcome<(DeviceId, Written)>,
) -> RegisteredItem {
    match outcome {
        Ok((id, written)) => {
            let device = DeviceRef { id, name: Some(name.to_string()) };
            let version = Some(written.version);
            RegisteredItem { name, device: Some(device), version, problem: None }
        }
        Err(error) => {
            let mut problem = Problem::from(error).document();
            for pointer in problem.errors.iter_mut().filter_map(|error| error.pointer.as_mut()) {
                pointer.insert_str(0, &format!("/devices/{index}"));
            }
            RegisteredItem { name, device: None, version: None, problem: Some(problem) }
        }
    }
}

/// Label and configure devices
///
/// Changes each target device as `PATCH /devices/{device}` and `PATCH /devices/{device}/config` do.
/// `dry_run` returns the target devices without changing them.
#[utoipa::path(
    post, path = "/api/v1/devices/bulk/change", tag = "devices",
    params(ProjectParam),
    request_body = ChangeDevices,
    responses(
        (status = 200, description = "The result for each target device", body = BulkResult),
        WriteProblems,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn change_devices(
    State(state): State<CommandState>,
    Write { request, .. }: Write<WriteDevices>,
    Json(body): Json<ChangeDevices>,
) -> Result<Bulk<BulkResult>, Problem> {
    let ChangeDevices { target: requested, labels, vars, dry_run } = body;
    let target = target(requested)?;
    let write = BulkWrite::Change(DeviceChanges { name: None, labels, vars });
    write_all(&state, &request, &target, write, dry_run).await
}

/// Delete devices
///
/// Deletes each target device as `DELETE /devices/{device}` does. `dry_run` returns the target
/// devices without deleting them.
#[utoipa::path(
    post, path = "/api/v1/devices/bulk/delete", tag = "devices",
    params(ProjectParam),
    request_body = DeleteDevices,
    responses(
        (status = 200, description = "The result for each target device", body = BulkResult),
        WriteProblems,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn delete_devices(
    State(state): State<CommandState>,
    Write { request, .. }: Write<WriteDevices>,
    Json(body): Json<DeleteDevices>,
) -> Result<Bulk<BulkResult>, Problem> {
    let target = target(body.target)?;
    if matches!(&target, Target::Selector(selector) if selector.trim().is_empty()) {
        let rule = "must not be empty; `id=*` selects all devices of the project";
        return Err(Problem::field("target.selector", rule, Some("".into())));
    }
    write_all(&state, &request, &target, BulkWrite::Delete, body.dry_run).await
}

async fn write_all(
    state: &CommandState,
    request: &Request,
    target: &Target,
    write: BulkWrite,
    dry_run: bool,
) -> Result<Bulk<BulkResult>, Problem> {
    if request.may_be_repeated {
        let rule = "is not for this request: a repetition resolves the target again";
        return Err(Problem::header("Idempotency-Key", rule, None));
    }
    let service = &state.service.bulk;
    let found = service.resolve(&request.project, target).await?;
    let without_fresh_value = found.without_fresh_value.into_iter().map(Into::into).collect();
    let (items, position) = if dry_run {
        (targets(found.devices), None)
    } else {
        let outcomes = service.write(request, found.devices.keys().copied(), &write).await?;
        let position = outcomes.iter().flatten().map(|written| written.position).max();
        (written(found.devices, outcomes), position)
    };
    let result = BulkResult {
        dry_run,
        device_count: items.len() as u64,
        failed_count: items.iter().filter(|item| item.problem.is_some()).count() as u64,
        without_fresh_value,
        items,
    };
    Ok(bulk(&request.project, position, result))
}

/// Returns the items of a dry run.
fn targets(devices: BTreeMap<DeviceId, DeviceName>) -> Vec<BulkItem> {
    let item = |(id, name): (DeviceId, DeviceName)| BulkItem {
        device: DeviceRef { id, name: Some(name.to_string()) },
        version: None,
        problem: None,
    };
    devices.into_iter().map(item).collect()
}

fn written(
    devices: BTreeMap<DeviceId, DeviceName>,
    outcomes: Vec<Outcome<Written>>,
) -> Vec<BulkItem> {
    let results = outcomes.into_iter().map(|outcome| match outcome {
        Ok(written) => (Some(written.version), None),
        Err(error) => (None, Some(Problem::from(error).document())),
    });
    let items = targets(devices).into_iter().zip(results);
    items.map(|(item, (version, problem))| BulkItem { version, problem, ..item }).collect()
}
