//! Relay between a websocket and a channel: binary messages carry bytes, text messages are JSON
//! control messages. A side that does not read slows the other one down; nothing is buffered here.

use std::time::Duration;

use axum::extract::ws::{CloseCode, CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use muster_api_types::devices::DeviceRef;
use muster_api_types::sessions::{SessionControl, SessionUpdate};
use muster_channel::{Channel, Frame, Receiver, Sender};
use muster_schemas::events::{SessionDetached, SessionEnded};
use muster_schemas::wire::{Purpose, TerminalSize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::open::OpenError;
use super::record::Recorder;
use super::session::Session;
use super::token;
use crate::error::CommandError;

/// Interval between pings to a client.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Silence after which a client is considered unreachable.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time within which the device must be reached to end a shell that must be recorded and cannot
/// be.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size of a client's message, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Reason of the end of a shell that must be recorded and cannot be.
const RECORDING_FAILED: &str = "failed to write the recording";

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

/// A client's input that may be part of the recording.
#[derive(Debug)]
enum RecordedInput {
    Resized(TerminalSize),
    Typed(Bytes),
}

/// How a client's messages are processed.
struct InputOptions {
    recorded_input: mpsc::Sender<RecordedInput>,
    /// Whether input is recorded.
    is_recorded: bool,
    /// Whether the client only watches.
    is_watching: bool,
}

/// How a relay ended.
#[derive(Debug, Default)]
struct Outcome {
    reason: String,
    /// The program behind the channel has ended, with this exit code.
    exit: Option<Option<i32>>,
    bytes_in: u64,
    bytes_out: u64,
    /// Whether its recording could not be written.
    is_unrecorded: bool,
    /// Whether the token no longer allows it to stay open.
    is_revoked: bool,
}

impl Outcome {
    /// The close code for the client: a shell that was only detached still exists and accepts
    /// clients.
    const fn code(&self, is_shell: bool) -> CloseCode {
        match (is_shell, self.exit, self.is_unrecorded) {
            _ if self.is_revoked => close_code::POLICY,
            (true, None, false) => close_code::RESTART,
            _ => close_code::NORMAL,
        }
    }
}

fn text(value: &serde_json::Value) -> Message {
    Message::Text(value.to_string().into())
}

fn opened(session: &Session) -> serde_json::Value {
    let device = DeviceRef { id: session.device, name: None };
    json!(SessionUpdate::Opened { session: session.id, device })
}

/// Relays a shell until one of the sides disconnects, then records that the session was detached
/// or has ended. Returns whether that event was appended.
pub async fn relay_shell(
    socket: WebSocket,
    channel: Channel,
    session: Session,
    recorder: Option<Recorder>,
    is_watching: bool,
) -> bool {
    let opened = opened(&session);
    let work = RelayOptions { opened, is_watching, is_shell: true };
    let outcome = relay(socket, channel, &work, recorder, &session).await;
    // Neither an unrecorded shell nor one that was opened by a revoked token may continue.
    if outcome.is_unrecorded || (outcome.is_revoked && session.was_opened_by_its_actor().await) {
        end(&session).await;
    }
    match outcome.exit {
        Some(exit_code) => {
            let Outcome { reason, bytes_in, bytes_out, .. } = outcome;
            session
                .record_best_effort(SessionEnded { exit_code, reason, bytes_in, bytes_out })
                .await
        }
        None => session.record_best_effort(SessionDetached { reason: outcome.reason }).await,
    }
}

/// Relays bytes that do not belong to a terminal until one of the sides disconnects. Returns
/// whether the session's end was appended.
pub async fn relay_bytes(socket: WebSocket, channel: Channel, session: Session) -> bool {
    let opened = opened(&session);
    let work = RelayOptions { opened, is_watching: false, is_shell: false };
    let outcome = relay(socket, channel, &work, None, &session).await;
    let Outcome { reason, bytes_in, bytes_out, .. } = outcome;
    session.record_best_effort(SessionEnded { exit_code: None, reason, bytes_in, bytes_out }).await
}

/// Ends the session's shell. This can fail for the same reason for which the recording could not be
/// written.
async fn end(session: &Session) {
    let Session { project, device, actor, .. } = session;
    let started_at = Instant::now();
    loop {
        let end = Purpose::End { session: session.id };
        match session.channels().open_channel(project, *device, actor, end).await {
            Ok(_) | Err(OpenError::SessionEnded(_)) => return,
            Err(error) if started_at.elapsed() > END_TIMEOUT => {
                tracing::warn!(
                    session = %session.id, %error,
                    "a shell continues without its recording"
                );
                return;
            }
            Err(_) => tokio::time::sleep(PING_INTERVAL).await,
        }
    }
}

/// Parameters of a relay.
struct RelayOptions {
    /// The first message to the client.
    opened: serde_json::Value,
    /// Whether the client only watches.
    is_watching: bool,
    is_shell: bool,
}

async fn relay(
    socket: WebSocket,
    channel: Channel,
    work: &RelayOptions,
    mut recorder: Option<Recorder>,
    session: &Session,
) -> Outcome {
    let Channel { sender, receiver } = channel;
    let relays = session.relays();
    let (mut sink, stream) = socket.split();
    let mut outcome = Outcome::default();
    let (mut bytes_in, mut bytes_out) = (0, 0);
    if sink.send(text(&work.opened)).await.is_err() {
        "the client disconnected".clone_into(&mut outcome.reason);
    } else {
        let (notes, mut noted) = mpsc::channel(64);
        let hears = recorder.as_ref().is_some_and(Recorder::has_input);
        let ear = InputOptions {
            recorded_input: notes,
            is_recorded: hears,
            is_watching: work.is_watching,
        };
        let up = relay_from_client(stream, &sender, &mut bytes_in, &ear);
        let down = relay_to_client(&mut sink, receiver, &mut recorder, &mut noted, &mut bytes_out);
        tokio::select! {
            reason = up => outcome.reason = reason,
            reason = token::wait_until_ended(session) => {
                outcome.reason = reason;
                outcome.is_revoked = true;
            }
            () = relays.stop.cancelled() => {
                "the server is stopping".clone_into(&mut outcome.reason);
            }
            (reason, ended) = down => {
                outcome.is_unrecorded = reason == RECORDING_FAILED;
                outcome.reason = reason;
                outcome.exit = ended;
            }
        }
        // Regardless of which side disconnected first, input and output until then are part of the
        // recording.
        if let Some(recorder) = &mut recorder
            && let Err(error) =
                wait_for_recording(&mut sink, flush_recording(recorder, &mut noted)).await
        {
            tracing::warn!(%error, "failed to write the end of a recording");
            outcome.is_unrecorded = true;
        }
    }
    (outcome.bytes_in, outcome.bytes_out) = (bytes_in, bytes_out);
    sender.close(&outcome.reason).await;
    // Truncated, because a close frame is limited in size.
    let reason: String = outcome.reason.chars().take(100).collect();
    let frame = CloseFrame { code: outcome.code(work.is_shell), reason: reason.into() };
    let closing = sink.send(Message::Close(Some(frame)));
    let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
    outcome
}

/// Adds a note to a recording.
async fn record_input(recorder: &mut Recorder, note: RecordedInput) -> Result<(), CommandError> {
    match note {
        RecordedInput::Resized(size) => recorder.resized(size),
        RecordedInput::Typed(bytes) => recorder.input(&bytes).await?,
    }
    Ok(())
}

/// Writes the rest of a recording.
async fn flush_recording(
    recorder: &mut Recorder,
    recorded_input: &mut mpsc::Receiver<RecordedInput>,
) -> Result<(), CommandError> {
    while let Ok(left) = recorded_input.try_recv() {
        record_input(recorder, left).await?;
    }
    recorder.write().await
}

/// Returns the client's next message, starting with one that was received already, or why there is
/// none.
async fn next_message(stream: &mut Stream, pending: Option<Message>) -> Result<Message, String> {
    if let Some(message) = pending {
        return Ok(message);
    }
    match tokio::time::timeout(CLIENT_TIMEOUT, stream.next()).await {
        Err(_) => Err("the client does not respond".to_owned()),
        Ok(None) => Err("the client disconnected".to_owned()),
        Ok(Some(Err(error))) => Err(format!("the client disconnected: {error}")),
        Ok(Some(Ok(message))) => Ok(message),
    }
}

/// Waits for the device to accept a message, and checks meanwhile that the client is alive. One
/// more message of the client may be received and kept.
async fn wait_for_device<T>(
    stream: &mut Stream,
    pending: &mut Option<Message>,
    work: impl Future<Output = T>,
) -> Result<T, String> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            message = next_message(stream, None), if pending.is_none() => match message? {
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Text(text) if text.contains("\"ping\"") => {}
                message => *pending = Some(message),
            },
        }
    }
}

/// Relays from the client to the device; returns why this direction ended.
async fn relay_from_client(
    mut stream: Stream,
    sender: &Sender,
    bytes_in: &mut u64,
    options: &InputOptions,
) -> String {
    let mut waiting = None;
    let InputOptions { recorded_input: notes, is_recorded: hears, is_watching: watch } = options;
    let (hears, watch) = (*hears, *watch);
    loop {
        let message = tokio::select! {
            message = next_message(&mut stream, waiting.take()) => message,
            () = sender.closed() => {
                // Messages that the device sent before its end are still delivered.
                std::future::pending::<()>().await;
                return String::new();
            }
        };
        let message = match message {
            Ok(message) => message,
            Err(reason) => return reason,
        };
        let result = match message {
            Message::Close(_) => return "the client closed the connection".to_owned(),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Binary(_) if watch => continue,
            Message::Binary(bytes) => {
                *bytes_in += bytes.len() as u64;
                // Recorded before the device receives it: input that is not recorded has no effect.
                if hears {
                    let noted = notes
                        .send_timeout(RecordedInput::Typed(bytes.clone()), CLIENT_TIMEOUT)
                        .await;
                    if noted.is_err() {
                        return "failed to record the input".to_owned();
                    }
                }
                match wait_for_device(&mut stream, &mut waiting, sender.send_data(bytes)).await {
                    Ok(result) => result,
                    Err(reason) => return reason,
                }
            }
            Message::Text(text) => match serde_json::from_str::<SessionControl>(&text) {
                Ok(SessionControl::Ping {}) => continue,
                Ok(SessionControl::Eof {}) => sender.send(Frame::Eof).await,
                Ok(SessionControl::Resize { .. }) if watch => continue,
                Ok(SessionControl::Resize { cols, rows }) => {
                    let size = TerminalSize { cols, rows };
                    let _ = notes.try_send(RecordedInput::Resized(size));
                    sender.send(Frame::Resize(size)).await
                }
                Err(error) => return format!("the client sent an invalid message: {error}"),
            },
        };
        if result.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Sends pings to the client while a recording is written, which can take long. A client that has
/// disconnected is detected when the next message is sent to it.
async fn wait_for_recording<T>(sink: &mut Sink, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(PING_INTERVAL) => {
                let _ = sink.send(Message::Ping(Bytes::new())).await;
            }
        }
    }
}

/// Relays from the device to the client; returns why this direction ended, and the program's exit
/// code.
async fn relay_to_client(
    sink: &mut Sink,
    mut receiver: Receiver,
    recorder: &mut Option<Recorder>,
    recorded_input: &mut mpsc::Receiver<RecordedInput>,
    bytes_out: &mut u64,
) -> (String, Option<Option<i32>>) {
    let mut ping = tokio::time::interval(PING_INTERVAL);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let not_recorded = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "failed to write a recording; the shell is ended");
        (RECORDING_FAILED.to_owned(), None)
    };
    loop {
        let due = recorder.as_ref().and_then(Recorder::due_at);
        let write_at = async {
            match due {
                Some(due) => tokio::time::sleep_until(Instant::from_std(due)).await,
                None => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            () = write_at => {
                if let Some(recorder) = recorder
                    && let Err(error) = wait_for_recording(sink, recorder.write()).await
                {
                    return not_recorded(&error);
                }
                continue;
            }
            Some(new) = recorded_input.recv() => {
                if let Some(recorder) = recorder
                    && let Err(error) = wait_for_recording(sink, record_input(recorder, new)).await
                {
                    return not_recorded(&error);
                }
                continue;
            }
            _ = ping.tick() => Message::Ping(Bytes::new()),
            frame = receiver.next() => match frame {
                Ok(Frame::Data(bytes) | Frame::Screen(bytes)) => {
                    *bytes_out += bytes.len() as u64;
                    if let Some(recorder) = recorder
                        && let Err(error) = wait_for_recording(sink, recorder.output(&bytes)).await
                    {
                        return not_recorded(&error);
                    }
                    Message::Binary(bytes)
                }
                Ok(Frame::Eof) => text(&json!(SessionUpdate::Eof)),
                Ok(Frame::Attached(attached)) => text(&json!(SessionUpdate::Attached {
                    client_count: attached.shared,
                    watcher_count: attached.watching,
                })),
                Ok(Frame::Exit(exit)) => {
                    let (exit_code, reason) = (exit.code, exit.reason.clone());
                    let update = SessionUpdate::Exit { exit_code, reason };
                    let _ = sink.send(text(&json!(update))).await;
                    let reason = exit.reason.unwrap_or_else(|| "the program ended".to_owned());
                    return (reason, Some(exit.code));
                }
                Ok(_) => continue,
                Err(closed) => return (closed.0, None),
            },
        };
        if let Err(error) = sink.send(message).await {
            return (format!("the client disconnected: {error}"), None);
        }
    }
}
