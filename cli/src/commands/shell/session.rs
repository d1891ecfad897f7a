//! Connects the terminal with a session: sends the input and shows the output; a lost connection is
//! reopened to the same session.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures::{SinkExt, StreamExt};
use muster_api_types::sessions::{SessionControl, SessionUpdate};
use muster_client::{Client, Socket, control, segment};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

use super::terminal::{Escape, EscapeCharacter, Escapes, Key, RawMode, size};
use crate::commands::wait::Wait;
use crate::exit::{self, Exited};
use crate::output::note;
use crate::terminal_modes::TerminalModes;

/// Interval between the client's keep-alives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// Timeout after which a silent server is considered unreachable.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay before each attempt to reconnect, and the maximum number of attempts.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
const MAX_RECONNECTS: u32 = 600;

/// Session to connect with.
pub(super) struct SessionTarget {
    /// Name or id of the device.
    pub(super) device: String,
    /// Id of an existing session.
    pub(super) session: Option<String>,
    /// Whether to attach read-only.
    pub(super) is_read_only: bool,
    /// Character that starts an escape.
    pub(super) escape: EscapeCharacter,
}

/// Local display of the session's output. Restores the terminal's modes on drop.
struct Screen {
    /// `None` when standard output is not a terminal.
    modes: Option<TerminalModes>,
}

impl Screen {
    fn new() -> Self {
        Self { modes: std::io::stdout().is_terminal().then(TerminalModes::default) }
    }

    fn show(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if let Some(modes) = &mut self.modes {
            modes.feed(bytes);
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(modes) = &mut self.modes {
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(&modes.restore()).and_then(|()| stdout.flush());
        }
    }
}

/// Waits for a signal that ends this program; returns its number.
async fn ended_by_signal() -> u8 {
    let (mut terminated, mut hung_up) =
        (signal(SignalKind::terminate()).ok(), signal(SignalKind::hangup()).ok());
    let next = async |signals: &mut Option<Signal>| match signals {
        Some(signals) => drop(signals.recv().await),
        None => std::future::pending().await,
    };
    tokio::select! {
        () = next(&mut terminated) => 15,
        () = next(&mut hung_up) => 1,
    }
}

/// End of one connection.
enum ConnectionEnd {
    /// The shell ended with this exit code.
    Exit(Option<i32>),
    /// The user detached.
    Detached,
    /// The server closed the session with this reason.
    Closed(String),
    /// The connection was lost.
    Lost,
    /// This program received this signal.
    Signal(u8),
}

enum UserInput {
    Bytes(Vec<u8>),
    Escape(Escape),
    End,
}

/// Runs until the shell ends, or the user detaches.
pub(super) async fn run_shell(
    client: &Client,
    mut target: SessionTarget,
    query: Vec<(&'static str, String)>,
    wait: Wait,
) -> Result<()> {
    let socket = wait.until_online(async || open(client, &target, &query).await).await?;
    let raw = RawMode::new();
    let screen = Screen::new();
    let left = tokio::select! {
        left = in_session(client, &mut target, socket, raw.is_some(), screen) => left,
        // Dropping the other future restores the terminal.
        signal = ended_by_signal() => Ok(ConnectionEnd::Signal(signal)),
    };
    drop(raw);
    let code = match left? {
        ConnectionEnd::Exit(code) => {
            code.and_then(|code| u8::try_from(code & 0xff).ok()).unwrap_or(125)
        }
        ConnectionEnd::Detached => {
            let session = target.session.unwrap_or_default();
            note(format!("\ndetached; the session continues: muster shell attach {session}"));
            0
        }
        ConnectionEnd::Closed(why) => {
            note(format!("\nended: {why}"));
            125
        }
        ConnectionEnd::Signal(signal) => 128 + signal,
        ConnectionEnd::Lost => 125,
    };
    let _ = std::io::stdout().flush();
    // A thread is blocked on input and would keep the process running.
    if code == 0 {
        std::process::exit(0);
    }
    Err(Exited(code).into())
}

/// As [`work`], with reconnections.
async fn in_session(
    client: &Client,
    target: &mut SessionTarget,
    mut socket: Socket,
    is_terminal: bool,
    mut screen: Screen,
) -> Result<ConnectionEnd> {
    let character = target.escape.0.filter(|_| is_terminal);
    let mut typed = read_keys(character);
    let say = |message: &str| {
        // A terminal in raw mode needs carriage returns.
        note(format!("\r\n[muster] {message}\r"));
    };
    loop {
        match run_connection(socket, target, &mut typed, &mut screen, &say).await {
            ConnectionEnd::Lost => {}
            left => return Ok(left),
        }
        let Some(session) = target.session.clone() else {
            return Ok(ConnectionEnd::Closed(
                "the connection was lost before the shell was open".to_owned(),
            ));
        };
        say("the connection was lost; the session continues; reconnecting (Ctrl-C stops)");
        socket = match reconnect(client, target, is_terminal.then_some(&mut typed)).await {
            Ok(socket) => socket,
            Err(error) => {
                drop(screen);
                if exit::code(&error) != exit::NOT_FOUND {
                    note(format!("to continue: muster shell attach {session}"));
                }
                return Err(error);
            }
        };
        say("reconnected");
    }
}

async fn open(
    client: &Client,
    target: &SessionTarget,
    query: &[(&'static str, String)],
) -> Result<Socket> {
    let (cols, rows) = size();
    let mut query = query.to_vec();
    query.extend([("cols", cols.to_string()), ("rows", rows.to_string())]);
    let device = segment(&target.device);
    let path = match &target.session {
        Some(session) => {
            query.retain(|(name, _)| ["cols", "rows"].contains(name));
            query.push(("watch", target.is_read_only.to_string()));
            format!("/api/v1/devices/{device}/sessions/{}/attach", segment(session))
        }
        None => {
            let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
            query.extend(term.map(|term| ("term", term)));
            format!("/api/v1/devices/{device}/shell")
        }
    };
    client.socket(&path, &query).await
}

/// Returns the next input of the user; never returns if there is none.
async fn next_input(typed: &mut Option<&mut mpsc::Receiver<UserInput>>) -> Option<UserInput> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

/// Reconnects, up to the maximum number of attempts. `typed` is the user's input: Ctrl-C stops it.
/// Output of programs is buffered until then.
async fn reconnect(
    client: &Client,
    target: &SessionTarget,
    mut typed: Option<&mut mpsc::Receiver<UserInput>>,
) -> Result<Socket> {
    let mut last = anyhow!("no attempt was made");
    for _ in 0..MAX_RECONNECTS {
        let wait = tokio::time::sleep(RECONNECT_DELAY);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                key = next_input(&mut typed) => match key {
                    Some(UserInput::Bytes(bytes)) if !bytes.contains(&3) => {}
                    Some(UserInput::End) | None => typed = None,
                    Some(_) => return Err(anyhow!("canceled")),
                },
            }
        }
        match open(client, target, &[]).await {
            Ok(socket) => return Ok(socket),
            Err(error) if exit::is_temporary(&error) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Reads the input in a separate thread; recognizes escapes if there is an escape character.
fn read_keys(character: Option<u8>) -> mpsc::Receiver<UserInput> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let (mut stdin, mut escapes) = (tokio::io::stdin(), character.map(Escapes::new));
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = match stdin.read(&mut buffer).await {
                Ok(0) | Err(_) => {
                    let _ = sender.send(UserInput::End).await;
                    return;
                }
                Ok(count) => count,
            };
            let keys = match &mut escapes {
                Some(escapes) => escapes.feed(&buffer[..count], Instant::now()),
                None => vec![Key::Bytes(buffer[..count].to_vec())],
            };
            for key in keys {
                let typed = match key {
                    Key::Bytes(bytes) => UserInput::Bytes(bytes),
                    Key::Escape(escape) => UserInput::Escape(escape),
                };
                if sender.send(typed).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// Runs one connection.
async fn run_connection(
    socket: Socket,
    target: &mut SessionTarget,
    typed: &mut mpsc::Receiver<UserInput>,
    screen: &mut Screen,
    print: &impl Fn(&str),
) -> ConnectionEnd {
    let (mut sink, mut stream) = socket.split();
    let mut ping = tokio::time::interval(KEEP_ALIVE_INTERVAL);
    let mut resized = signal(SignalKind::window_change()).ok();
    let mut received_at = tokio::time::Instant::now();
    let mut input_ended = false;
    loop {
        let resize = async {
            match &mut resized {
                Some(resized) => resized.recv().await,
                None => std::future::pending().await,
            }
        };
        let outgoing = tokio::select! {
            message = stream.next() => {
                received_at = tokio::time::Instant::now();
                match receive(message, target, screen, print) {
                    Some(end) => return end,
                    None => continue,
                }
            }
            key = typed.recv(), if !input_ended => match key {
                Some(UserInput::Bytes(bytes)) => Message::Binary(bytes.into()),
                Some(UserInput::Escape(Escape::Detach)) => return ConnectionEnd::Detached,
                Some(UserInput::Escape(Escape::Help)) => {
                    print_help(target.escape, print);
                    continue;
                }
                Some(UserInput::End) | None => {
                    input_ended = true;
                    // A program that reads to the end receives it, as on a terminal (Ctrl-D).
                    Message::Binary(vec![4].into())
                }
            },
            _ = resize => {
                let (cols, rows) = size();
                control(&SessionControl::Resize { cols, rows })
            }
            _ = ping.tick() => {
                if received_at.elapsed() > SERVER_TIMEOUT {
                    return ConnectionEnd::Lost;
                }
                control(&SessionControl::Ping {})
            }
        };
        if sink.send(outgoing).await.is_err() {
            return ConnectionEnd::Lost;
        }
    }
}

fn print_help(c: EscapeCharacter, print: &impl Fn(&str)) {
    print(&format!(
        "{c}. detaches from the session, which continues; {c}{c} sends {c}; both after Enter"
    ));
}

/// Handles what the server sent; returns the end of the connection.
fn receive(
    message: Option<Result<Message, tungstenite::Error>>,
    target: &mut SessionTarget,
    screen: &mut Screen,
    print: &impl Fn(&str),
) -> Option<ConnectionEnd> {
    match message {
        Some(Ok(Message::Binary(bytes))) => {
            screen.show(&bytes).is_err().then_some(ConnectionEnd::Detached)
        }
        Some(Ok(Message::Text(text))) => handle_message(&text, target, print),
        // A session lost by the server still exists on the device; an ended one does not.
        Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Normal => {
            Some(ConnectionEnd::Closed(frame.reason.to_string()))
        }
        Some(Ok(Message::Close(_)) | Err(_)) | None => Some(ConnectionEnd::Lost),
        Some(Ok(_)) => None,
    }
}

/// Handles a message of the server about the session.
fn handle_message(
    message: &str,
    target: &mut SessionTarget,
    print: &impl Fn(&str),
) -> Option<ConnectionEnd> {
    match serde_json::from_str(message).ok()? {
        SessionUpdate::Opened { session, device } => {
            target.session = Some(session.to_string());
            target.device = device.id.to_string();
            None
        }
        SessionUpdate::Attached { client_count, watcher_count } => {
            if client_count + watcher_count > 1 {
                print(&format!("attached: {client_count}, watching: {watcher_count}"));
            }
            None
        }
        SessionUpdate::Exit { exit_code, .. } => Some(ConnectionEnd::Exit(exit_code)),
        SessionUpdate::Eof | SessionUpdate::Unknown => None,
    }
}
