//! Opens of sessions: create, attach, end.

use std::sync::Arc;
use std::time::Duration;

use muster_schemas::SessionId;
use muster_schemas::wire::{ChannelRefusalCause, TerminalSize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::opening::Opening;
use super::options::MAX_SESSIONS;
use super::reason;
use super::registry::{Channels, ReserveError};
use super::screen::clamp_size;
use super::session::Session;
use super::session_request::{Attach, SessionRequest};
use super::terminal::Terminal;
use crate::run_as::run_as;

/// Time after SIGKILL at which a session that has not ended is abandoned.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

/// Parameters of a new session.
pub(super) struct ShellOptions {
    pub(super) session: SessionId,
    pub(super) user: Option<String>,
    pub(super) command: Option<String>,
    pub(super) term: String,
    pub(super) size: TerminalSize,
    pub(super) grace_seconds: u32,
}

/// Whether this is a valid terminal name. It becomes an environment variable and part of a file
/// name.
fn is_term(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain)
}

/// Creates a session with its first channel and follows it until its end.
pub(super) async fn open(
    channels: Arc<Channels>,
    opening: Opening,
    permit: OwnedSemaphorePermit,
    options: ShellOptions,
) {
    // On every return path, the session is no longer open.
    let mut pending = channels.ends.pending(options.session);
    let found = run_as(options.user.as_deref());
    // Whether the user exists is not revealed to those whom the policy does not allow it.
    let name = match &found {
        Ok(user) => user.name.clone(),
        Err(_) => options.user.clone().unwrap_or_default(),
    };
    if let Err(denied) = channels.policy().and_then(|policy| policy.allows_shell(&name)) {
        return opening.refuse(ChannelRefusalCause::Policy, denied.to_string()).await;
    }
    let user = match found {
        Ok(user) => user,
        Err(error) => {
            return opening.refuse(ChannelRefusalCause::Invalid, error.to_string()).await;
        }
    };
    let term = if options.term.is_empty() { "xterm-256color" } else { options.term.as_str() };
    let line = options.command.as_deref();
    if !is_term(term) || line.is_some_and(|line| line.contains('\0')) {
        let reason = "the terminal type or the command contains invalid characters".to_owned();
        return opening.refuse(ChannelRefusalCause::Invalid, reason).await;
    }
    let (reserved, asks) = match channels.reserve(options.session, &user.name) {
        Ok(made) => made,
        Err(ReserveError::AlreadyExists) => {
            let reason = format!("session {} exists already", options.session);
            return opening.refuse(ChannelRefusalCause::Invalid, reason).await;
        }
        Err(ReserveError::Busy) => {
            let reason =
                format!("the limit of {MAX_SESSIONS} open sessions on this device is reached");
            return opening.refuse(ChannelRefusalCause::Busy, reason).await;
        }
    };
    let size = clamp_size(options.size);
    let terminal = match Terminal::open(&user, line, term, size).await {
        Ok(terminal) => terminal,
        Err(error) => {
            return opening.refuse(ChannelRefusalCause::Failed, error.to_string()).await;
        }
    };
    let id = opening.channel;
    let channel = match opening.accept().await {
        Ok(channel) => channel,
        Err(error) => {
            let problem = error.to_string();
            tracing::warn!(channel = %id, problem, "failed to open a channel");
            return terminal.abandon().await;
        }
    };
    let grace = Duration::from_secs(u64::from(options.grace_seconds));
    let first = Attach { channel, permit, is_read_only: false, size };
    let session = Session::new(Arc::clone(&channels), reserved, asks, terminal, size, grace);
    pending.exit = Some(session.run(first).await);
}

fn unknown(session: SessionId) -> String {
    format!("session {session} does not exist on this device, or has ended")
}

/// Attaches another channel to a session.
pub(super) async fn attach(
    channels: Arc<Channels>,
    opening: Opening,
    permit: OwnedSemaphorePermit,
    session: SessionId,
    is_read_only: bool,
    size: TerminalSize,
) {
    let Some(existing) = channels.find(session) else {
        return opening.refuse(ChannelRefusalCause::Invalid, unknown(session)).await;
    };
    if let Err(denied) = channels.policy().and_then(|policy| policy.allows_shell(&existing.user)) {
        return opening.refuse(ChannelRefusalCause::Policy, denied.to_string()).await;
    }
    let id = opening.channel;
    match opening.accept().await {
        Ok(channel) => {
            let attach = Attach { channel, permit, is_read_only, size: clamp_size(size) };
            if let Err(unheard) = existing.requests.send(SessionRequest::Attach(attach)).await {
                unheard.0.decline().await;
            }
        }
        Err(error) => {
            let problem = error.to_string();
            tracing::warn!(channel = %id, problem, "failed to open a channel");
        }
    }
}

/// Ends a session. The channel ends after it.
pub(super) async fn end(
    channels: Arc<Channels>,
    opening: Opening,
    _permit: OwnedSemaphorePermit,
    session: SessionId,
) {
    let Some(existing) = channels.find(session) else {
        return opening.refuse(ChannelRefusalCause::Invalid, unknown(session)).await;
    };
    let Ok(channel) = opening.accept().await else { return };
    let (done, ended) = oneshot::channel();
    // If the send fails, the session has ended.
    let _ = existing.requests.send(SessionRequest::End(done)).await;
    let _ = timeout(channels.options.kill_after + ABANDON_TIMEOUT, ended).await;
    channel.sender.close(reason::SESSION_TERMINATED).await;
}
