//! The life of one connection: sends what the session schedules, and passes received messages to
//! it.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::{Client, Event, Message, RequestError, ServerError};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use muster_channel::Publisher;
use muster_schemas::cose::{self, Kind};
use muster_schemas::errors::error_chain;
use muster_schemas::names::ConfigVars;
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{Ack, ConfigUpdate, KIND_HEADER, Welcome, config_context};
use muster_schemas::{ConfigVersion, Epoch, Seq, codec};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Link;
use super::keep_alive::{CHECK_INTERVAL, Check, KeepAlive};
use super::lost::ConnectionLost;
use super::renewal::Renewal;
use crate::clock::{Anchor, Moment};
use crate::identity::Credentials;
use crate::outbox::IgnoredMessage;
use crate::session::{Effect, Outgoing, Session};
use crate::store::StoreError;

/// How a connection ended.
pub(super) enum End {
    /// The connection was lost.
    Lost(ConnectionLost),
    /// The next connection has new credentials; this one is still open.
    Renewed(Credentials),
}

/// Maximum interval between checks when nothing is due.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// Minimum interval between log lines about messages that are ignored.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// A hello in flight: when it was sent, by both clocks, and the response.
type HelloReply = (Moment, Instant, Result<Message, RequestError>);

struct Driver<'a> {
    link: &'a Link,
    session: &'a mut Session,
    client: Client,
    publisher: Publisher,
    subjects: DeviceSubjects,
    /// The newest error of the broker: the reason if it closes the connection.
    broker_error: Option<ServerError>,
    /// Whether a hello of this connection got its welcome. Orders are refused before that.
    is_greeted: bool,
    ignored: IgnoredMessages,
}

/// Messages without a valid server signature or that cannot be parsed: counted, and logged once a
/// minute.
#[derive(Default)]
struct IgnoredMessages {
    count: u64,
    logged_at: Option<Instant>,
}

impl IgnoredMessages {
    fn record(&mut self, kind: &str, problem: &str) {
        self.count += 1;
        if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(kind, problem, messages = self.count, "invalid messages were ignored");
            *self = Self { count: 0, logged_at: Some(Instant::now()) };
        }
    }
}

/// Drives a connection until it ends.
pub(super) async fn drive(
    link: &Link,
    session: &mut Session,
    publisher: Publisher,
    events: mpsc::Receiver<Event>,
    credentials: &Credentials,
) -> End {
    let client = publisher.client().clone();
    let subjects = DeviceSubjects::new(&link.identity.project, link.identity.device);
    session.connected(Instant::now());
    let driver = Driver {
        link,
        session,
        client,
        publisher,
        subjects,
        broker_error: None,
        is_greeted: false,
        ignored: IgnoredMessages::default(),
    };
    driver.run(events, credentials).await.unwrap_or_else(End::Lost)
}

impl Driver<'_> {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        credentials: &Credentials,
    ) -> Result<End, ConnectionLost> {
        let mut acks = self.client.subscribe(self.subjects.acks()).await?;
        let mut commands = self.client.subscribe(self.subjects.commands()).await?;
        let mut published = FuturesUnordered::new();
        let mut hello: Option<BoxFuture<'static, HelloReply>> = None;
        let mut renewal = Renewal::new(self.link, credentials);
        let mut keep_alive = KeepAlive::default();
        let mut checks = tokio::time::interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let link = self.link;
        loop {
            let now = Instant::now();
            self.session.tick(now, rand::random());
            let held_until = link.recorder.held_until(now);
            while held_until.is_none()
                && let Some(outgoing) = self.session.next_event(now)?
            {
                published.push(publish(self.publisher.clone(), self.subjects.events(), outgoing));
            }
            if hello.is_none() {
                hello = self.send_hello(now);
            }
            let wake = [self.session.wake_at(now), held_until]
                .into_iter()
                .flatten()
                .fold(now + MAX_CHECK_INTERVAL, Instant::min);
            tokio::select! {
                event = events.recv() => {
                    self.on_event(event)?;
                }
                message = acks.next() => match message {
                    Some(message) => self.on_ack(&message.payload)?,
                    None => return Err(self.take_close_reason()),
                },
                message = commands.next() => match message {
                    Some(message) => self.on_command(&message),
                    None => return Err(self.take_close_reason()),
                },
                Some((epoch, seq, is_stored)) = published.next(), if !published.is_empty() => {
                    self.session.on_broker_reply(epoch, seq, is_stored, Instant::now(), rand::random());
                }
                reply = wait_for(&mut hello) => {
                    hello = None;
                    self.on_hello_reply(reply);
                }
                () = link.recorder.recorded() => {}
                _ = checks.tick() => {
                    let (received, published) = self.traffic();
                    match keep_alive.check(received, published) {
                        Check::Idle => {}
                        Check::KeepAlive => {
                            // A subscription that is dropped immediately has no lasting cost. It
                            // waits while nothing can be written; the checks continue.
                            let subscribe = self.client.subscribe(self.client.new_inbox());
                            if let Ok(sent) = tokio::time::timeout(CHECK_INTERVAL, subscribe).await {
                                drop(sent?);
                            }
                        }
                        Check::Lost => return Err(ConnectionLost::Silent),
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
                new = renewal.renewed() => return Ok(End::Renewed(new)),
            }
        }
    }

    /// Returns the number of bytes received from the broker, and of messages published to it.
    fn traffic(&self) -> (u64, u64) {
        let statistics = self.client.statistics();
        let received = statistics.in_bytes.load(Ordering::Relaxed);
        (received, statistics.out_messages.load(Ordering::Relaxed))
    }

    fn take_close_reason(&mut self) -> ConnectionLost {
        self.broker_error.take().map_or(ConnectionLost::Closed, ConnectionLost::Broker)
    }

    /// Handles an event of the connection.
    ///
    /// # Errors
    /// When the connection has ended.
    fn on_event(&mut self, event: Option<Event>) -> Result<(), ConnectionLost> {
        match event {
            None | Some(Event::Disconnected | Event::Closed) => {
                return Err(self.take_close_reason());
            }
            Some(Event::ServerError(error)) => {
                let message = error.to_string();
                tracing::warn!(error = message, "the broker reported an error");
                self.link.connection.set_last_error(&message);
                self.broker_error = Some(error);
            }
            Some(Event::SlowConsumer(_)) => {
                tracing::warn!("messages were lost because the agent read them too slowly");
                // An ack or a config may be among the dropped messages.
                self.session.schedule_hello(Instant::now());
            }
            Some(other) => {
                tracing::debug!(event = %other, "the broker connection reported an event");
            }
        }
        Ok(())
    }

    fn send_hello(&mut self, now: Instant) -> Option<BoxFuture<'static, HelloReply>> {
        let at = Moment::now();
        let version = self.link.config.version();
        let hello = self.session.next_hello(now, &at, version, Uuid::new_v4())?;
        let sealed = self.session.proving_key().seal(Kind::Hello, codec::encode(&hello));
        let (client, subject) = (self.client.clone(), self.subjects.request("hello"));
        Some(Box::pin(async move { (at, now, client.request(subject, sealed.into()).await) }))
    }

    fn on_hello_reply(&mut self, (requested_at, sent, reply): HelloReply) {
        let now = Instant::now();
        let failed = |session: &mut Session, problem: &str| {
            tracing::warn!(problem, "the server did not respond to a hello");
            session.hello_failed(now, rand::random());
        };
        let message = match reply {
            Ok(message) if message.payload.is_empty() => {
                return failed(self.session, "the server is not ready");
            }
            Ok(message) => message,
            Err(error) => return failed(self.session, &error.to_string()),
        };
        let welcome = match self.open::<Welcome>(&message.payload, Kind::Welcome) {
            Ok(welcome) => welcome,
            Err(problem) => return failed(self.session, &problem.to_string()),
        };
        let at = Moment::now();
        let outcome = self.session.on_welcome(&welcome, now, at, Uuid::new_v4(), rand::random());
        match outcome {
            Ok(effect) => self.apply_effect(effect),
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(error, "failed to process a welcome");
                return;
            }
        }
        // The server read its clock at about half of the round trip.
        let mono = requested_at.mono.saturating_add(at.mono.saturating_sub(requested_at.mono) / 2);
        let anchor = Anchor { boot: at.boot, mono, server: welcome.time };
        self.link.clock.confirm(anchor);
        self.is_greeted = true;
        self.link.connection.on_hello(now - sent, at.wall);
        let Welcome { config_version, config, sealed_config, .. } = welcome;
        if let Err(error) = self.apply_config(config_version, config, sealed_config.as_deref()) {
            tracing::warn!(error = error_chain(&error), "failed to apply the config");
        }
        self.link.config.rotate_key_if_requested();
    }

    fn on_ack(&mut self, payload: &[u8]) -> Result<(), StoreError> {
        let ack: Ack = match codec::decode(payload) {
            Ok(ack) => ack,
            Err(error) => {
                self.ignored.record("ack", &error.to_string());
                return Ok(());
            }
        };
        let at = Moment::now();
        let effect = self.session.on_ack(&ack, Instant::now(), self.link.clock.time(&at))?;
        self.apply_effect(effect);
        Ok(())
    }

    fn apply_effect(&mut self, effect: Effect) {
        let at = Moment::now();
        match effect {
            Effect::Nothing => {}
            Effect::Confirmed(count) => {
                self.link.connection.on_ack(count, at.wall);
                if let Err(error) = self.link.recorder.outbox().record_dropped(at) {
                    tracing::warn!(
                        error = error_chain(&error),
                        "failed to record the number of dropped events"
                    );
                }
                // A rotation may have waited for the previous one.
                self.link.config.rotate_key_if_requested();
            }
            Effect::Inconsistent => {
                tracing::info!("the log is at an unexpected position; sending another hello");
            }
            Effect::Rewound => {
                tracing::warn!("the log lost acknowledged events; sending them again");
            }
            Effect::NeedsEpoch => {
                tracing::warn!(
                    "the event chains of this device and of the log differ; requesting a new epoch"
                );
            }
            Effect::NewEpoch(epoch) => {
                tracing::warn!(
                    epoch = epoch.get(),
                    "continuing in a new epoch; events that the log misses are sent in it"
                );
            }
        }
    }

    fn on_command(&mut self, message: &Message) {
        let headers = message.headers.as_ref();
        let kind = headers
            .and_then(|headers| headers.get(KIND_HEADER))
            .map(async_nats::HeaderValue::as_str);
        let outcome = match kind {
            None | Some("config") => self.on_config(&message.payload),
            Some("run") => self.link.orders.handle_order(&message.payload, self.is_greeted),
            Some("cancel") => self.link.orders.handle_cancel(&message.payload),
            Some("open") => {
                let key = self.session.proving_key();
                self.link.channels.handle(&self.client, key, &message.payload, self.is_greeted)
            }
            Some(_) => Err(IgnoredMessage::UnknownKind),
        };
        if let Err(problem) = outcome {
            self.ignored.record(kind.unwrap_or("config"), &problem.to_string());
        }
    }

    fn on_config(&mut self, payload: &[u8]) -> Result<(), IgnoredMessage> {
        let identity = &self.link.identity;
        let update = self.open::<ConfigUpdate>(payload, Kind::Config)?;
        let epoch = self.link.recorder.outbox().view().epoch;
        let is_ours = update.project == identity.project
            && update.device == identity.device
            && update.epoch == epoch;
        if !is_ours {
            return Err(IgnoredMessage::OtherDevice);
        }
        let outcome = self.apply_config(update.version, update.vars, update.sealed_vars.as_deref());
        if matches!(outcome, Err(IgnoredMessage::Sealed(_))) {
            // The welcome contains them, sealed to the key that signs the hello.
            self.session.schedule_hello(Instant::now());
        }
        outcome
    }

    /// Applies config variables and the sealed, secret ones, if their version is newer.
    fn apply_config(
        &self,
        version: ConfigVersion,
        mut vars: ConfigVars,
        sealed: Option<&[u8]>,
    ) -> Result<(), IgnoredMessage> {
        if !self.link.config.needs(version) {
            return Ok(());
        }
        if let Some(sealed) = sealed {
            let identity = &self.link.identity;
            let context = config_context(&identity.project, identity.device, version);
            vars.extend(codec::decode::<ConfigVars>(
                &self.link.recorder.outbox().open_sealed(&context, sealed)?,
            )?);
        }
        Ok(self.link.config.apply(version, &vars)?)
    }

    /// Decrypts and verifies a message that was sealed with the project's operation key.
    fn open<T: serde::de::DeserializeOwned>(
        &self,
        payload: &[u8],
        kind: Kind,
    ) -> Result<T, IgnoredMessage> {
        let opened = cose::open(payload, kind, &self.link.identity.operation_key()?)?;
        Ok(codec::decode(&opened)?)
    }
}

/// Publishes one event and waits for the broker's confirmation.
async fn publish(publisher: Publisher, subject: String, outgoing: Outgoing) -> (Epoch, Seq, bool) {
    let (epoch, seq) = (outgoing.epoch, outgoing.seq);
    let outcome = publisher.publish(subject, outgoing.bytes.into()).await;
    if let Err(error) = &outcome {
        tracing::debug!(epoch = epoch.get(), seq = seq.get(), %error, "the broker failed to store an event");
    }
    (epoch, seq, outcome.is_ok())
}

/// Waits for the future if there is one, otherwise forever.
async fn wait_for<F: Future + Unpin>(waiting: &mut Option<F>) -> F::Output {
    match waiting {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
