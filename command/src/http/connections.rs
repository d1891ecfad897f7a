//! Connections and files: websockets to a port of a device, or to its files.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::HeaderMap;
use axum::response::Response;
use muster_api::auth::{RunOperations, Scope};
use muster_api::params::ProjectParam;
use muster_api::problem::WriteProblems;
use muster_api::{PathParam, Problem, Query};
use muster_api_types::schema;
use muster_schemas::SessionId;
use muster_schemas::events::{SessionKind, SessionRequested};
use muster_schemas::wire::Purpose;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::sessions::{
    CLIENT_LEFT, ClientAddress, accept, check_length, check_origin, ended, not_a_websocket, open,
    reachable,
};
use super::state::CommandState;
use crate::channels::{Opening, Session, relay_bytes};

/// The event of a requested session that is not recorded.
const fn unrecorded(session: SessionKind, address: Option<String>) -> SessionRequested {
    SessionRequested { session, address, recorded: false, input_recorded: false }
}

/// Query parameters of a TCP connection.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OpenTcp {
    /// Host to connect to, as the device resolves it.
    #[serde(default = "localhost")]
    #[param(value_type = Option<String>, max_length = 253, example = "localhost")]
    host: String,
    /// Port to connect to.
    #[param(minimum = 1, maximum = 65535, example = 22)]
    port: u16,
}

fn localhost() -> String {
    "localhost".to_owned()
}

/// Open a TCP connection from a device
///
/// Upgrades to a websocket whose binary messages are the bytes of a TCP connection that the device
/// opens. A text message `{"kind":"eof"}` ends one direction.
///
/// If the device is offline, the request fails immediately with 409 and the type
/// `/problems/device-offline`, even if it is not a websocket request, which otherwise fails with
/// 400.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}/tcp", tag = "sessions",
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        OpenTcp, ProjectParam,
    ),
    responses((status = 101, description = "Connected"), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn open_tcp(
    State(state): State<CommandState>,
    scope: Scope<RunOperations>,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    PathParam(device): PathParam<String>,
    Query(query): Query<OpenTcp>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    check_origin(&headers)?;
    check_length("host", Some(&query.host), 253)?;
    if query.port == 0 {
        return Err(Problem::parameter("port", "must be from 1 to 65535", Some(0.into())));
    }
    let device = reachable(&state, &scope, &device).await?;
    let upgrade = upgrade.map_err(not_a_websocket)?;
    let (project, actor) = (scope.project, scope.principal.actor());
    let id = SessionId(Uuid::now_v7());
    let session = Session::new(state.service.channels.clone(), project, device, id, actor);
    let kind = SessionKind::Tcp { host: query.host.clone(), port: query.port };
    let requested = unrecorded(kind, address);
    let (opening, _) =
        Opening::record_request(&session, requested, ended(CLIENT_LEFT.to_owned())).await?;
    let purpose = Purpose::Tcp { host: query.host, port: query.port };
    let (channel, opening) = open(&session, opening, purpose).await?;
    Ok(accept(upgrade, opening, &session.clone(), move |socket| {
        relay_bytes(socket, channel, session)
    }))
}

/// Query parameters of a file transfer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OpenFiles {
    /// Path of a file, or of a folder with its content: nothing else is accessible. A path that
    /// does not start with `/` is relative to the home of the agent's user.
    #[param(max_length = 4096, example = "/var/log/app")]
    path: String,
    /// Whether files may be changed.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    writable: bool,
}

/// Open files of a device
///
/// Upgrades to a websocket whose binary messages are SFTP (version 3) with the device. The
/// extension `muster-sha256` verifies copied files. If the device is offline, the request fails
/// immediately with 409 and the type `/problems/device-offline`.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}/files", tag = "sessions",
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        OpenFiles, ProjectParam,
    ),
    responses((status = 101, description = "Connected"), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn open_files(
    State(state): State<CommandState>,
    scope: Scope<RunOperations>,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    PathParam(device): PathParam<String>,
    Query(OpenFiles { path, writable }): Query<OpenFiles>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    check_origin(&headers)?;
    check_length("path", Some(&path), 4096)?;
    let device = reachable(&state, &scope, &device).await?;
    let upgrade = upgrade.map_err(not_a_websocket)?;
    let (project, actor) = (scope.project, scope.principal.actor());
    let id = SessionId(Uuid::now_v7());
    let session = Session::new(state.service.channels.clone(), project, device, id, actor);
    let kind = SessionKind::Files { path: path.clone(), write: writable };
    let requested = unrecorded(kind, address);
    let (opening, _) =
        Opening::record_request(&session, requested, ended(CLIENT_LEFT.to_owned())).await?;
    let purpose = Purpose::Files { path, write: writable };
    let (channel, opening) = open(&session, opening, purpose).await?;
    Ok(accept(upgrade, opening, &session.clone(), move |socket| {
        relay_bytes(socket, channel, session)
    }))
}
