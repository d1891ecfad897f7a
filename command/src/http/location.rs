//! Paths of resources, for `Location`: the listener reads the resource there.

use muster_schemas::{DeviceId, OperationId, ProjectId, SessionId, TokenId};

/// A read of the list of devices, which is finished when the read model has a position.
pub(super) fn devices(project: &ProjectId) -> String {
    format!("/api/v1/devices?limit=1&project={project}")
}

pub(super) fn device(project: &ProjectId, id: DeviceId) -> String {
    format!("/api/v1/devices/{id}?project={project}")
}

pub(super) fn device_config(project: &ProjectId, id: DeviceId) -> String {
    format!("/api/v1/devices/{id}/config?project={project}")
}

pub(super) fn operation(project: &ProjectId, id: OperationId) -> String {
    format!("/api/v1/operations/{id}?project={project}")
}

pub(super) fn run(project: &ProjectId, operation: OperationId, device: DeviceId) -> String {
    format!("/api/v1/operations/{operation}/runs/{device}?project={project}")
}

pub(super) fn upload(project: &ProjectId, operation: OperationId, device: DeviceId) -> String {
    format!("/api/v1/uploads/{operation}/{device}?project={project}")
}

pub(super) fn session(project: &ProjectId, id: SessionId) -> String {
    format!("/api/v1/sessions/{id}?project={project}")
}

pub(super) fn enrollment_token(project: &ProjectId, id: TokenId) -> String {
    format!("/api/v1/enrollment-tokens/{id}?project={project}")
}

pub(super) fn api_token(project: &ProjectId, id: TokenId) -> String {
    format!("/api/v1/tokens/{id}?project={project}")
}

pub(super) fn project(id: &ProjectId) -> String {
    format!("/api/v1/projects/{id}")
}
