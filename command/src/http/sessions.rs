//! Shells: websockets to a terminal on a device; and functions that all session routes share.

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use muster_api::auth::{RunOperations, Scope};
use muster_api::params::{NoParams, ProjectParam};
use muster_api::problem::{Kind, WriteProblems};
use muster_api::{PathParam, Problem, Query};
use muster_api_types::schema;
use muster_api_types::sessions::{self as api, SessionEndedResult};
use muster_schemas::events::{
    SessionAttached, SessionDetached, SessionEnded, SessionKind, SessionRefused, SessionRequested,
};
use muster_schemas::wire::{Purpose, TerminalSize};
use muster_schemas::{DeviceId, SessionId, StreamVersion};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::location;
use super::state::CommandState;
use crate::channels::{OpenError, Opening, RecordedStreams, Recorder, Session, relay_shell};

/// Websocket subprotocol that clients name; browsers append their token to it, since they cannot
/// set headers.
pub(super) const PROTOCOL: &str = "muster.v1";
/// Maximum grace time of a detached session, in seconds: a day.
const MAX_GRACE_SECS: u32 = 24 * 3600;

/// Address of the client that sent a request.
pub(super) struct ClientAddress(pub(super) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let info = parts.extensions.get::<axum::extract::ConnectInfo<std::net::SocketAddr>>();
        Ok(Self(info.map(|info| info.0.ip().to_string())))
    }
}

/// Rejects requests of pages of another origin, which could use the browser's credentials.
pub(super) fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let of_origin = origin.split_once("://").map_or("", |(_, host)| host);
    if !of_origin.is_empty() && of_origin == host {
        return Ok(());
    }
    let message = format!("the origin '{origin}' is not this server's");
    Err(Problem::new(Kind::Forbidden, message))
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Command(error) => error.into(),
            OpenError::Refused(_) => Self::new(Kind::Forbidden, error.to_string()),
            OpenError::SessionEnded(_) => Self::new(Kind::Gone, error.to_string()),
            OpenError::NoResponse => Self::new(Kind::NotYet, error.to_string()).retry_after(5),
            OpenError::InvalidResponse(_) => {
                tracing::warn!(%error, "failed to open a channel");
                Self::unavailable(error.to_string(), 5)
            }
            OpenError::Seal(_) => Self::internal(&error),
        }
    }
}

/// Resolves a device by name or id, if a session with it can be opened now.
pub(super) async fn reachable(
    state: &CommandState,
    scope: &Scope<RunOperations>,
    device: &str,
) -> Result<DeviceId, Problem> {
    let device = state.service.devices.resolve(&scope.project, device).await?;
    state.service.channels.check_reachable(&scope.project, device).await?;
    Ok(device)
}

/// Query parameters of a new shell.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OpenShell {
    /// User that the shell runs as; default: the agent's own.
    #[param(max_length = 64)]
    user: Option<String>,
    /// Command line for the shell, instead of an interactive one.
    #[param(max_length = 16384)]
    command: Option<String>,
    /// Terminal type, for `TERM`.
    #[serde(default = "xterm")]
    #[param(value_type = Option<String>, max_length = 64, example = "xterm-256color")]
    term: String,
    /// Columns of the terminal.
    #[serde(default = "eighty")]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    cols: u16,
    /// Rows of the terminal.
    #[serde(default = "twenty_four")]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    rows: u16,
    /// Grace time for which a detached session is kept, in seconds; default: 10 minutes.
    #[serde(default = "ten_minutes")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 86400)]
    grace_seconds: u32,
    /// Whether output is recorded; default: true. Only an admin may set false, and only if
    /// the server's configuration allows it.
    #[serde(default = "yes")]
    #[param(value_type = Option<bool>)]
    record: bool,
    /// Whether input is recorded, including passwords; default: false.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    record_input: bool,
}

fn xterm() -> String {
    "xterm-256color".to_owned()
}

const fn eighty() -> u16 {
    80
}

const fn twenty_four() -> u16 {
    24
}

const fn ten_minutes() -> u32 {
    600
}

const fn yes() -> bool {
    true
}

fn size(cols: u16, rows: u16) -> Result<TerminalSize, Problem> {
    for (name, value) in [("cols", cols), ("rows", rows)] {
        if !(1..=1000).contains(&value) {
            return Err(Problem::parameter(name, "must be from 1 to 1000", Some(value.into())));
        }
    }
    Ok(TerminalSize { cols, rows })
}

pub(super) fn check_length(field: &str, text: Option<&str>, max: usize) -> Result<(), Problem> {
    match text {
        Some(text) if text.is_empty() || text.len() > max || text.contains('\0') => {
            let rule = format!("must be 1 to {max} bytes without a NUL");
            Err(Problem::parameter(
                field,
                rule,
                Some(text.chars().take(80).collect::<String>().into()),
            ))
        }
        _ => Ok(()),
    }
}

/// Open a shell
///
/// Upgrades to a websocket. Binary messages carry input and output; text messages are JSON: the
/// client sends `{"kind":"resize","cols":80,"rows":24}`, the server
/// `{"kind":"opened","session":…}`, `{"kind":"attached",…}` and `{"kind":"exit","exit_code":0}`. Each
/// side sends a message at least every 10 s. If the websocket is lost, the session is kept and
/// clients can attach to it again. The server closes the websocket with 1000 when the shell has
/// ended, and with 1012 when the session still exists.
///
/// If the device is offline, the request fails immediately with 409 and the type
/// `/problems/device-offline`.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}/shell", tag = "sessions",
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        OpenShell, ProjectParam,
    ),
    responses((status = 101, description = "The shell is open"), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn open_shell(
    State(state): State<CommandState>,
    scope: Scope<RunOperations>,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    PathParam(device): PathParam<String>,
    Query(query): Query<OpenShell>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    check_origin(&headers)?;
    let size = size(query.cols, query.rows)?;
    check_length("user", query.user.as_deref(), 64)?;
    check_length("command", query.command.as_deref(), 16 * 1024)?;
    check_length("term", Some(&query.term), 64)?;
    if !(1..=MAX_GRACE_SECS).contains(&query.grace_seconds) {
        let rule = format!("must be from 1 to {MAX_GRACE_SECS}");
        return Err(Problem::parameter("grace_seconds", rule, Some(query.grace_seconds.into())));
    }
    if !query.record && state.service.channels.recording.is_required_for(scope.principal.role) {
        let message = "shells of this token's role are recorded; leave out record=false";
        return Err(Problem::new(Kind::Forbidden, message));
    }
    if query.record_input && !query.record {
        let rule = "must be omitted if the shell is not recorded";
        return Err(Problem::parameter("record_input", rule, Some(true.into())));
    }
    let device = reachable(&state, &scope, &device).await?;
    let upgrade = upgrade.map_err(not_a_websocket)?;
    let (project, actor) = (scope.project, scope.principal.actor());
    let id = SessionId(Uuid::now_v7());
    let session = Session::new(state.service.channels.clone(), project, device, id, actor);
    let kind = SessionKind::Shell { user: query.user.clone(), command: query.command.clone() };
    let requested = SessionRequested {
        session: kind,
        address,
        recorded: query.record,
        input_recorded: query.record_input,
    };
    let (opening, version) = Opening::record_request(&session, requested, detached()).await?;
    session.channels().register_shell(&session, query.grace_seconds).await?;
    let purpose = Purpose::Shell {
        session: id,
        user: query.user,
        command: query.command,
        term: query.term.clone(),
        size,
        grace_seconds: query.grace_seconds,
    };
    let streams = RecordedStreams { output: query.record, input: query.record_input };
    let recorder = streams.recorder(&session, recording(version), size, &query.term);
    let (recorder, opening) = start_recording(&session, opening, recorder).await?;
    let (channel, opening) = open(&session, opening, purpose).await?;
    Ok(accept(upgrade, opening, &session.clone(), move |socket| {
        relay_shell(socket, channel, session, recorder, false)
    }))
}

/// The number of a recording: the version of the event that started it.
fn recording(version: StreamVersion) -> u32 {
    u32::try_from(version.get()).unwrap_or(u32::MAX)
}

/// Writes the first part of the recording before the device is contacted: a shell whose recording
/// cannot be written does not start.
async fn start_recording(
    session: &Session,
    opening: Opening,
    recorder: Option<Recorder>,
) -> Result<(Option<Recorder>, Opening), Problem> {
    let Some(mut recorder) = recorder else { return Ok((None, opening)) };
    if let Err(error) = recorder.write().await {
        let refusal = SessionRefused { reason: "failed to write the recording".to_owned() };
        opening.end(session.record_best_effort(refusal).await).await;
        return Err(error.into());
    }
    Ok((Some(recorder), opening))
}

/// Opens a channel; a refusal by the device is recorded as an event.
pub(super) async fn open(
    session: &Session,
    opening: Opening,
    purpose: Purpose,
) -> Result<(muster_channel::Channel, Opening), Problem> {
    let Session { project, device, actor, .. } = session;
    let opened = session.channels().open_channel(project, *device, actor, purpose).await;
    let error = match opened {
        Ok(channel) => return Ok((channel, opening)),
        Err(error) => error,
    };
    let is_known = match &error {
        OpenError::SessionEnded(reason) => session.record_best_effort(ended(reason.clone())).await,
        error => session.record_best_effort(SessionRefused { reason: error.to_string() }).await,
    };
    opening.end(is_known).await;
    Err(error.into())
}

/// Reason of a session that ended before its client was connected.
pub(super) const CLIENT_LEFT: &str = "the client disconnected before it was open";

fn detached() -> SessionDetached {
    SessionDetached { reason: CLIENT_LEFT.to_owned() }
}

/// The end of a session of which only the reason is known.
pub(super) const fn ended(reason: String) -> SessionEnded {
    SessionEnded { exit_code: None, reason, bytes_in: 0, bytes_out: 0 }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` calls")]
pub(super) fn not_a_websocket(
    rejection: axum::extract::ws::rejection::WebSocketUpgradeRejection,
) -> Problem {
    Problem::header("Upgrade", format!("this path requires a websocket: {rejection}"), None)
}

/// Responds with a websocket, which `work` then carries until the session's end is in the log.
pub(super) fn accept<F, W>(
    upgrade: WebSocketUpgrade,
    opening: Opening,
    session: &Session,
    work: F,
) -> Response
where
    F: FnOnce(axum::extract::ws::WebSocket) -> W + Send + 'static,
    W: Future<Output = bool> + Send + 'static,
{
    let relays = session.relays();
    let largest = crate::channels::MAX_MESSAGE_BYTES;
    upgrade.protocols([PROTOCOL]).max_message_size(largest).on_upgrade(move |socket| {
        relays.track(async move {
            let is_known = work(socket).await;
            opening.end(is_known).await;
        })
    })
}

/// Query parameters of an attachment.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AttachSession {
    /// Whether the client only watches.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    watch: bool,
    /// Columns of the terminal.
    #[serde(default = "eighty")]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    cols: u16,
    /// Rows of the terminal.
    #[serde(default = "twenty_four")]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    rows: u16,
}

/// Attach to a session
///
/// Upgrades to a websocket, as for a new shell. The current content of the terminal is sent first.
/// If the device is offline, the request fails immediately with 409 and the type
/// `/problems/device-offline`.
#[utoipa::path(
    get, path = "/api/v1/devices/{device}/sessions/{session}/attach", tag = "sessions",
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        ("session" = schema::SessionId, Path, description = "The session's id"),
        AttachSession, ProjectParam,
    ),
    responses((status = 101, description = "Attached"), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn attach_session(
    State(state): State<CommandState>,
    scope: Scope<RunOperations>,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    PathParam((device, id)): PathParam<(String, SessionId)>,
    Query(query): Query<AttachSession>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    check_origin(&headers)?;
    let size = size(query.cols, query.rows)?;
    let device = reachable(&state, &scope, &device).await?;
    let upgrade = upgrade.map_err(not_a_websocket)?;
    let (project, actor) = (scope.project, scope.principal.actor());
    let session = Session::new(state.service.channels.clone(), project, device, id, actor);
    let streams = RecordedStreams::read(&session).await?;
    let is_required = session.channels().recording.is_required_for(scope.principal.role);
    if !query.watch && !streams.output && is_required {
        let message =
            "this shell is not recorded, but shells of this token's role must be; watch it instead";
        return Err(Problem::new(Kind::Forbidden, message));
    }
    let attached = SessionAttached { address, watch: query.watch };
    let (opening, version) = Opening::record_request(&session, attached, detached()).await?;
    let purpose = Purpose::Attach { session: id, watch: query.watch, size };
    let streams = if query.watch { RecordedStreams::default() } else { streams };
    let recorder = streams.recorder(&session, recording(version), size, "xterm-256color");
    let (recorder, opening) = start_recording(&session, opening, recorder).await?;
    let (channel, opening) = open(&session, opening, purpose).await?;
    let watch = query.watch;
    Ok(accept(upgrade, opening, &session.clone(), move |socket| {
        relay_shell(socket, channel, session, recorder, watch)
    }))
}

/// End a session
///
/// Ends the shell and disconnects its clients. The request also succeeds if the session has already
/// ended.
#[utoipa::path(
    post, path = "/api/v1/devices/{device}/sessions/{session}/end", tag = "sessions",
    params(
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        ("session" = schema::SessionId, Path, description = "The session's id"),
        ProjectParam,
    ),
    responses((status = 200, description = "The session", body = api::Session), WriteProblems),
    security(("bearer" = [])),
)]
pub(super) async fn end_session(
    State(state): State<CommandState>,
    scope: Scope<RunOperations>,
    PathParam((device, id)): PathParam<(String, SessionId)>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    let device = state.service.devices.resolve(&scope.project, &device).await?;
    let (project, actor) = (scope.project, scope.principal.actor());
    let session = Session::new(state.service.channels.clone(), project, device, id, actor);
    RecordedStreams::read(&session).await?;
    session.channels().check_reachable(&session.project, session.device).await?;
    let Session { project, device, actor, .. } = &session;
    let purpose = Purpose::End { session: id };
    match session.channels().open_channel(project, *device, actor, purpose).await {
        Ok(channel) => channel.sender.close("the session was ended").await,
        // The session had already ended; its end is recorded below.
        Err(OpenError::SessionEnded(_)) => {}
        Err(error) => return Err(error.into()),
    }
    session.record_best_effort(ended("a client ended it".to_owned())).await;
    let location = location::session(&session.project, id);
    Ok(([(header::LOCATION, location)], axum::Json(SessionEndedResult { ended: true })))
}
