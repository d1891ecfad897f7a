//! `muster connect` and `muster forward`: TCP connections that a device opens for this machine.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use clap::Args;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use muster_api_types::sessions::{SessionControl, SessionUpdate};
use muster_client::{Client, RequestError, Socket, control, segment};
use serde::de::IgnoredAny;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::target::one_device;
use super::wait::Wait;
use crate::connection::Connection;
use crate::exit::UsageError;
use crate::output::{line, note};

/// Maximum size of one message, in bytes.
const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// Interval between the keep-alives of this side.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// Connect standard input and output to a port of a device
///
/// For OpenSSH and programs that use it:
///
///   ssh -o ProxyCommand='muster connect %h %p' robot-7
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct ConnectArgs {
    /// Name or id of the device, or a selector that matches one
    device: String,
    /// PORT, or HOST:PORT as seen from the device
    target: String,
    #[command(flatten)]
    wait: Wait,
}

/// Forward a local port to a device
///
///   muster forward robot-7 8080:localhost:80
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct ForwardArgs {
    /// Name or id of the device, or a selector that matches one
    device: String,
    /// [[ADDRESS:]PORT:]HOST:PORT: local port, and target seen from the device
    #[arg(required = true)]
    forwards: Vec<String>,
    #[command(flatten)]
    wait: Wait,
}

/// Timeout after which a server that sends nothing is considered unreachable.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of input for `muster connect` after the device's side has ended: a closed side and one
/// that only ended its output cannot be distinguished before data is written to them.
const INPUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Close reasons of a connection without an error.
const NORMAL_CLOSE_REASONS: [&str; 3] = ["", "the connection has ended", "all was said"];

/// Host and port.
type Address = (String, u16);

/// Parses `PORT` or `HOST:PORT`.
fn target(text: &str) -> Result<Address, UsageError> {
    let wrong = || UsageError(format!("'{text}' is neither PORT nor HOST:PORT"));
    let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

/// Parses `[[ADDRESS:]PORT:]HOST:PORT`: where to listen, and where to connect to.
fn forward(text: &str) -> Result<(Address, Address), UsageError> {
    let wrong = || UsageError(format!("'{text}' is not [[ADDRESS:]PORT:]HOST:PORT"));
    let parts: Vec<&str> = text.split(':').collect();
    let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let (address, here, host, there) = match parts.as_slice() {
        [host, there] => ("127.0.0.1", *there, *host, *there),
        [here, host, there] => ("127.0.0.1", *here, *host, *there),
        [address, here, host, there] => (*address, *here, *host, *there),
        _ => return Err(wrong()),
    };
    let there = port(there)?;
    if host.is_empty() || there == 0 {
        return Err(wrong());
    }
    Ok(((address.to_owned(), port(here)?), (host.to_owned(), there)))
}

async fn open(client: &Client, device: &str, (host, port): &Address) -> Result<Socket> {
    client.socket(&tcp(device), &[("host", host.clone()), ("port", port.to_string())]).await
}

fn tcp(device: &str) -> String {
    format!("/api/v1/devices/{}/tcp", segment(device))
}

/// Checks that a connection could be opened, without opening one: the server refuses a request that
/// is not a websocket only after all other checks of it have passed.
async fn check(client: &Client, device: &str, (host, port): &Address) -> Result<()> {
    let query = [("host", host.clone()), ("port", port.to_string())];
    let Err(error) = client.get::<IgnoredAny>(&tcp(device), &query).await else { return Ok(()) };
    match error.downcast_ref::<RequestError>() {
        Some(RequestError::Problem { status: 400, detail, .. })
            if detail.starts_with("Upgrade:") =>
        {
            Ok(())
        }
        _ => Err(error),
    }
}

pub(crate) async fn connect(connection: Connection, args: ConnectArgs) -> Result<()> {
    let target = target(&args.target)?;
    let client = connection.client()?;
    let device = one_device(&client, args.device).await?;
    let socket = args.wait.until_online(async || open(&client, &device, &target).await).await?;
    transfer_until(socket, tokio::io::stdin(), StandardOutput::new(), Some(INPUT_TIMEOUT)).await?;
    // A thread is blocked on input and would keep the process running.
    std::process::exit(0);
}

pub(crate) async fn forwards(connection: Connection, args: ForwardArgs) -> Result<()> {
    let client = connection.client()?;
    let device = one_device(&client, args.device).await?;
    let mut listeners = tokio::task::JoinSet::new();
    let forwards: Vec<_> =
        args.forwards.iter().map(|text| forward(text)).collect::<Result<_, _>>()?;
    for (_, there) in &forwards {
        args.wait.until_online(async || check(&client, &device, there).await).await?;
    }
    for (here, there) in forwards {
        let listener = TcpListener::bind((here.0.as_str(), here.1))
            .await
            .with_context(|| format!("failed to listen on {}:{}", here.0, here.1))?;
        let address = listener.local_addr()?;
        line(format!("{address} is {}:{} of {}", there.0, there.1, device));
        listeners.spawn(serve(client.clone(), device.clone(), there, listener));
    }
    note("press Ctrl-C to stop");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok(()),
        ended = listeners.join_next() => match ended {
            Some(Ok(ended)) => ended,
            _ => bail!("all listeners have stopped"),
        },
    }
}

async fn serve(
    client: Client,
    device: String,
    there: Address,
    listener: TcpListener,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("failed to accept a connection")?;
        let (client, device, there) = (client.clone(), device.clone(), there.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let (read, write) = stream.into_split();
            let carried = match open(&client, &device, &there).await {
                Ok(socket) => transfer(socket, read, write).await,
                Err(error) => Err(error),
            };
            if let Err(error) = carried {
                note(format!("{}:{} of {device}: {error:#}", there.0, there.1));
            }
        });
    }
}

/// Standard output that is closed on shutdown, so that the reader of the pipe sees the end.
struct StandardOutput(tokio::io::Stdout);

impl StandardOutput {
    fn new() -> Self {
        Self(tokio::io::stdout())
    }
}

impl AsyncWrite for StandardOutput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Poller<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Poller<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Pin::new(&mut self.0).poll_flush(context))?;
        let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
        Poll::Ready(nix::unistd::dup2_stdout(null).map_err(io::Error::from))
    }
}

/// Transfers bytes until both directions have ended or the connection is lost.
pub(crate) async fn transfer(
    socket: Socket,
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
) -> Result<()> {
    transfer_until(socket, read, write, None).await
}

/// Whether a message of the server is the end of the device's bytes.
fn is_eof(message: &str) -> bool {
    matches!(serde_json::from_str(message), Ok(SessionUpdate::Eof))
}

/// As [`transfer`]. After the device's side has ended, input is read for at most `input_timeout`, or
/// until its own end when absent.
async fn transfer_until(
    socket: Socket,
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    input_timeout: Option<Duration>,
) -> Result<()> {
    let (sink, stream) = socket.split();
    let far_end = Notify::new();
    tokio::select! {
        never = send_input(sink, read, &far_end, input_timeout) => match never {},
        ended = receive_output(stream, write, &far_end) => ended,
    }
}

/// Sends input until its end, then keep-alives.
async fn send_input(
    mut sink: SplitSink<Socket, Message>,
    mut read: impl AsyncRead + Unpin,
    far_end: &Notify,
    input_timeout: Option<Duration>,
) -> Infallible {
    let mut ping = tokio::time::interval(KEEP_ALIVE_INTERVAL);
    let mut buffer = BytesMut::new();
    let mut open = true;
    let mut silent_at = None;
    loop {
        buffer.reserve(MAX_MESSAGE_BYTES);
        let eof = || control(&SessionControl::Eof {});
        let message = tokio::select! {
            count = read.read_buf(&mut buffer), if open => match count {
                Ok(0) | Err(_) => {
                    open = false;
                    eof()
                }
                Ok(_) => {
                    if let (Some(at), Some(limit)) = (&mut silent_at, input_timeout) {
                        *at = Instant::now() + limit;
                    }
                    Message::Binary(buffer.split().freeze())
                }
            },
            () = far_end.notified() => {
                silent_at = input_timeout.map(|limit| Instant::now() + limit);
                continue;
            }
            () = sleep_until(silent_at.unwrap_or_else(Instant::now)), if open && silent_at.is_some() => {
                open = false;
                eof()
            }
            _ = ping.tick() => control(&SessionControl::Ping {}),
        };
        if sink.send(message).await.is_err() {
            // Data that was sent before the end is still received.
            return std::future::pending().await;
        }
    }
}

/// Writes the device's bytes until the connection is closed.
async fn receive_output(
    mut stream: SplitStream<Socket>,
    mut write: impl AsyncWrite + Unpin,
    far_end: &Notify,
) -> Result<()> {
    // The server sends keep-alives.
    while let Ok(message) = tokio::time::timeout(SERVER_TIMEOUT, stream.next()).await {
        let Some(message) = message else { bail!("the connection was lost") };
        match message? {
            Message::Binary(bytes) => {
                write.write_all(&bytes).await?;
                write.flush().await?;
            }
            Message::Text(text) if is_eof(&text) => {
                let _ = write.shutdown().await;
                far_end.notify_one();
            }
            Message::Close(frame) => {
                let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                if NORMAL_CLOSE_REASONS.contains(&reason.as_str()) {
                    return Ok(());
                }
                bail!("the connection was lost: {reason}");
            }
            _ => {}
        }
    }
    bail!("the connection was lost: the server does not respond")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_forwards_are_parsed() {
        let parse = |text: &str| target(text).ok();
        assert_eq!(parse("22"), Some(("localhost".to_owned(), 22)));
        assert_eq!(parse("db:5432"), Some(("db".to_owned(), 5432)));
        assert_eq!(parse("[::1]:80"), Some(("::1".to_owned(), 80)));
        for bad in ["", "x", "0", ":22", "a:b"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
        let address = |host: &str, port| (host.to_owned(), port);
        for (text, here, there) in [
            ("localhost:80", address("127.0.0.1", 80), address("localhost", 80)),
            ("8080:localhost:80", address("127.0.0.1", 8080), address("localhost", 80)),
            ("0.0.0.0:8080:db:80", address("0.0.0.0", 8080), address("db", 80)),
        ] {
            assert_eq!(forward(text).ok(), Some((here, there)), "{text}");
        }
        for bad in ["80", "a:b:c", "1:2:3:4:5", "8080::80", "x:0"] {
            assert!(forward(bad).is_err(), "{bad}");
        }
    }
}
