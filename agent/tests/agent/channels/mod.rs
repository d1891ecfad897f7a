//! Tests of channels: shells and connections on a device, opened by a minimal server.

mod opens;
mod sessions;
mod shell;
mod stalls;
mod tcp;

use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt;
use muster_agent::channels::reason;
use muster_channel::frame::{Attached, Exit};
use muster_channel::{Channel, Frame, KeyExchange, ProtocolVersion, Side};
use muster_schemas::cose::{self, Kind};
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{
    ChannelAnswer, ChannelOpen, ChannelRefusal, ChannelRefusalCause, KIND_HEADER, Purpose,
    TerminalSize,
};
use muster_schemas::{ChannelId, Epoch, Hash, ProjectId, SessionId, codec};
use uuid::Uuid;

use crate::running::Running;
use crate::support::{Server, device, flush, now, operation_key};

const SIZE: TerminalSize = TerminalSize { cols: 80, rows: 24 };
/// Timeout of all waits; long enough for a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

fn session(number: u128) -> SessionId {
    SessionId(Uuid::from_u128(number))
}

fn shell(number: u128) -> Purpose {
    Purpose::Shell {
        session: session(number),
        user: None,
        command: Some("exec /bin/sh".to_owned()),
        term: "xterm".to_owned(),
        size: SIZE,
        grace_seconds: 60,
    }
}

fn line(number: u128, text: &str) -> Purpose {
    let Purpose::Shell { session, user, term, size, grace_seconds, .. } = shell(number) else {
        unreachable!()
    };
    Purpose::Shell { session, user, command: Some(text.to_owned()), term, size, grace_seconds }
}

fn attach(number: u128, watch: bool) -> Purpose {
    Purpose::Attach { session: session(number), watch, size: SIZE }
}

/// An open that was not sent yet.
struct Opening {
    open: ChannelOpen,
    key_exchange: KeyExchange,
}

fn opening(purpose: Purpose) -> Opening {
    let half = KeyExchange::new().unwrap();
    let open = ChannelOpen {
        project: ProjectId::default_project(),
        device: device(),
        epoch: Epoch(1),
        channel: ChannelId(Uuid::new_v4()),
        issued_at: now(),
        expires_at: now().plus_micros(30_000_000),
        actor: "token:test".to_owned(),
        key: half.public().to_vec(),
        purpose,
    };
    Opening { open, key_exchange: half }
}

fn sealed(open: &ChannelOpen) -> Vec<u8> {
    operation_key().seal(Kind::Open, codec::encode(open))
}

fn subjects() -> DeviceSubjects {
    DeviceSubjects::new(&ProjectId::default_project(), device())
}

/// Sends an open; returns the messages on `.up`.
async fn send(server: &Server, client: &async_nats::Client, open: &ChannelOpen) -> Subscriber {
    let up = client.subscribe(subjects().channel_up(open.channel)).await.unwrap();
    flush(client).await;
    server.command("open", sealed(open)).await;
    up
}

/// Opens a channel; returns it or the refusal.
async fn try_open(server: &Server, purpose: Purpose) -> Result<Channel, ChannelRefusal> {
    let Opening { open, key_exchange: half } = opening(purpose);
    let client = server.client().await;
    let mut up = send(server, &client, &open).await;
    let message = tokio::time::timeout(WAIT_TIMEOUT, up.next()).await.unwrap().unwrap();
    assert_eq!(message.headers.unwrap().get(KIND_HEADER).unwrap().as_str(), "opened");
    let key = server.state.lock().unwrap().key.unwrap();
    let response: ChannelAnswer =
        codec::decode(&cose::open(&message.payload, Kind::Opened, &key).unwrap()).unwrap();
    let hash = Hash::of(&sealed(&open));
    assert_eq!((response.channel, response.open), (open.channel, hash));
    if let Some(refusal) = response.refused {
        assert!(response.key.is_empty());
        return Err(refusal);
    }
    let keys = half.agree(Side::Server, &response.key, &hash).unwrap();
    assert!(response.wide);
    let down = subjects().channel_down(open.channel);
    Ok(Channel::start(client, down, up, keys, ProtocolVersion::V2))
}

async fn open(server: &Server, purpose: Purpose) -> ReceivedChannel {
    ReceivedChannel::new(try_open(server, purpose).await.unwrap())
}

async fn refusal(server: &Server, purpose: Purpose) -> ChannelRefusal {
    try_open(server, purpose).await.map(drop).unwrap_err()
}

/// A channel, and its received frames.
struct ReceivedChannel {
    channel: Channel,
    text: String,
    rest: Vec<u8>,
    screens: Vec<String>,
    attached: Option<Attached>,
    exit: Option<Exit>,
}

impl ReceivedChannel {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            text: String::new(),
            rest: Vec::new(),
            screens: Vec::new(),
            attached: None,
            exit: None,
        }
    }

    async fn type_in(&self, text: &str) {
        self.channel.sender.send_data(Bytes::copy_from_slice(text.as_bytes())).await.unwrap();
    }

    /// Returns the end of the received text, for messages.
    fn newest(&self) -> &str {
        let start = self.text.len().saturating_sub(1000);
        let start = (start..).find(|at| self.text.is_char_boundary(*at)).unwrap();
        &self.text[start..]
    }

    /// Receives one frame; an error if the channel has ended.
    async fn receive(&mut self) -> Result<(), String> {
        let next = tokio::time::timeout(WAIT_TIMEOUT, self.channel.receiver.next()).await;
        match next.unwrap_or_else(|_| panic!("nothing more came after {:?}", self.newest())) {
            Ok(Frame::Data(bytes)) => {
                self.rest.extend_from_slice(&bytes);
                // A character may be split between two frames.
                let whole = match std::str::from_utf8(&self.rest) {
                    Err(error) if error.error_len().is_none() => error.valid_up_to(),
                    _ => self.rest.len(),
                };
                let bytes: Vec<u8> = self.rest.drain(..whole).collect();
                self.text.push_str(&String::from_utf8_lossy(&bytes));
            }
            Ok(Frame::Screen(bytes)) => {
                self.screens.push(String::from_utf8(bytes.to_vec()).unwrap());
            }
            Ok(Frame::Attached(attached)) => self.attached = Some(attached),
            Ok(Frame::Exit(exit)) => self.exit = Some(exit),
            Ok(_) => {}
            Err(closed) => return Err(closed.0),
        }
        Ok(())
    }

    /// Receives frames until the condition holds.
    async fn until(&mut self, description: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
        while !condition(self) {
            if let Err(why) = self.receive().await {
                panic!("{description} did not come ({why}); seen: {:?}", self.newest());
            }
            assert!(tokio::time::Instant::now() < deadline, "{description}: {:?}", self.newest());
        }
    }

    async fn wait_for_text(&mut self, text: &str) {
        self.until(text, |seen| seen.text.contains(text)).await;
    }

    async fn is_attached(&mut self, shared: u32, watching: u32) {
        let expected = Some(Attached { shared, watching });
        self.until(&format!("{expected:?}"), |seen| seen.attached == expected).await;
    }

    /// Receives frames until the channel ends; returns the reason.
    async fn end(&mut self) -> String {
        loop {
            if let Err(why) = self.receive().await {
                return why;
            }
        }
    }
}

async fn greeted() -> (Server, Running) {
    let server = Server::start().await;
    let running = greet(&server).await;
    (server, running)
}

/// Starts an agent and waits until it accepts opens.
async fn greet(server: &Server) -> Running {
    let before = server.state.lock().unwrap().hellos;
    let running = Running::start_with(server, |options| {
        options.channels.kill_after = Duration::from_secs(1);
        options.channels.stall_timeout = Duration::from_secs(2);
        options.channels.connect_timeout = Duration::from_secs(2);
    })
    .await;
    server.until("the device was greeted", |state| state.hellos > before).await;
    while running.agent.status().last_hello.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running
}

/// Asserts the cause, and that the reason contains all parts, which are separated by `|`.
fn causes(refusal: &ChannelRefusal, cause: ChannelRefusalCause, parts: &str) {
    assert_eq!(refusal.cause, cause, "{refusal:?}");
    assert!(parts.split('|').all(|part| refusal.reason.contains(part)), "{refusal:?}");
}
