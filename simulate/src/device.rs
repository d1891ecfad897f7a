//! One simulated device: connects, sends hellos, reports, resends, disconnects and reconnects.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use async_nats::{Client, Subscriber};
use data_encoding::BASE64URL_NOPAD;
use futures::StreamExt;
use muster_channel::Publisher;
use muster_schemas::cose::{self, Kind};
use muster_schemas::events::{
    Action, DeviceConfigApplied, OutputSummary, RefusalCause, RunAccepted, RunRejected, RunReport,
    RunStarted, RunSucceeded,
};
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{
    Ack, ConfigUpdate, CredentialsResponse, Hello, KIND_HEADER, RunDelivery, RunOrder, Welcome,
};
use muster_schemas::{ConfigVersion, Event, Hash, OperationId, PublicKey, Seq, Timestamp, codec};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::connection::{self, Access};
use crate::counters::add;
use crate::enrollment::Enrolled;
use crate::fleet_context::FleetContext;
use crate::outbox::{Confirmed, Outbox};
use crate::samples;

/// Initial and maximum delay after which the first unconfirmed event is sent again. When the log
/// has it, the rest follows. The agent does the same.
const RESEND_DELAY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));
/// Remaining lifetime at which credentials are renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(120);
/// Timeout of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Initial and maximum delay between two attempts to connect, as in the agent.
const RECONNECT_DELAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// Practically never.
const FAR_FUTURE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The reason why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disconnect {
    /// It was lost: reconnect after a delay.
    Lost,
    /// The profile schedules a disconnection: reconnect later.
    Scheduled,
    /// All devices reconnect at the same time.
    Storm,
    /// The simulation ends, and the log has everything.
    Done,
}

/// The times of the next actions.
struct Schedule {
    event: Instant,
    metrics: Instant,
    disconnect: Instant,
    resend: Instant,
    resend_delay: Duration,
    /// Whether only the first event was sent again.
    is_probing: bool,
}

pub(crate) struct Device {
    number: usize,
    enrolled: Enrolled,
    credentials: CredentialsResponse,
    operation_key: PublicKey,
    subjects: DeviceSubjects,
    outbox: Outbox,
    config_version: ConfigVersion,
    /// The operations that it has performed.
    operations: HashSet<OperationId>,
    round: usize,
    started_at: Instant,
    fleet: Arc<FleetContext>,
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Returns a random delay with this mean.
fn random_delay(mean: Option<Duration>) -> Duration {
    mean.map_or(FAR_FUTURE, |mean| mean.mul_f64(0.5 + rand::random::<f64>()))
}

impl Device {
    /// `None` if the server's operation key is invalid.
    pub(crate) fn new(number: usize, enrolled: Enrolled, fleet: Arc<FleetContext>) -> Option<Self> {
        let response = &enrolled.response;
        let operation_key = BASE64URL_NOPAD.decode(response.operation_key.as_bytes()).ok()?;
        let operation_key = PublicKey::from_cose_key(&operation_key).ok()?;
        Some(Self {
            number,
            credentials: response.credentials.clone(),
            operation_key,
            subjects: DeviceSubjects::new(&response.project, response.device),
            outbox: Outbox::new(
                response.project.clone(),
                response.device,
                response.epoch,
                enrolled.key.clone(),
            ),
            enrolled,
            config_version: ConfigVersion::ZERO,
            operations: HashSet::new(),
            round: 0,
            started_at: Instant::now(),
            fleet,
        })
    }

    /// Runs until the simulation ends and the log has everything, or it is stopped.
    pub(crate) async fn run(mut self) {
        let mut wait = RECONNECT_DELAY.0;
        let mut storms = self.fleet.storms.subscribe();
        let first = self.fleet.profile.metrics_interval.unwrap_or_default();
        // The devices of a fleet do not sample at the same time.
        let mut metrics_at = Instant::now() + first.mul_f64(rand::random());
        loop {
            if self.fleet.ending.is_cancelled() && self.outbox.is_empty() {
                return;
            }
            storms.borrow_and_update();
            let left = match self.connect().await {
                Ok((client, disconnected)) => {
                    let left = self.work(&client, disconnected, &mut storms, &mut metrics_at).await;
                    let welcomed = left.is_ok();
                    let left = left.unwrap_or_else(|error| {
                        self.fleet.counters.error(&error);
                        Disconnect::Lost
                    });
                    if welcomed {
                        wait = RECONNECT_DELAY.0;
                    }
                    // Its tasks end with it.
                    let _ = client.drain().await;
                    left
                }
                Err(error) => {
                    self.fleet.counters.error(&error);
                    Disconnect::Lost
                }
            };
            match left {
                Disconnect::Done => return,
                Disconnect::Storm => {}
                Disconnect::Scheduled => {
                    let away = self.fleet.profile.max_offline_time.mul_f64(rand::random());
                    tokio::select! {
                        () = sleep(away) => {}
                        () = self.fleet.ending.cancelled() => {}
                    }
                }
                Disconnect::Lost => {
                    sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    wait = (wait * 2).min(RECONNECT_DELAY.1);
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(Client, CancellationToken), String> {
        if self.credentials.expires_at.since(now()) < RENEW_BEFORE {
            let response = &self.enrolled.response;
            let (key, device) = (&self.enrolled.key, response.device);
            let renewed = self.fleet.api.credentials(key, &response.project, device).await;
            self.credentials = renewed.map_err(|error| error.to_string())?;
        }
        let servers: Vec<String> = self
            .credentials
            .servers
            .iter()
            .map(|server| server.replace("0.0.0.0", &self.fleet.host))
            .collect();
        let access = Access {
            servers: &servers,
            jwt: &self.credentials.jwt,
            key: &self.enrolled.nats_key,
            subjects: &self.subjects,
            tls: &self.fleet.tls,
        };
        // Thousands of concurrent TLS handshakes would only slow each other down.
        let _permit = self.fleet.connecting.acquire().await;
        let made = connection::connect(access).await.map_err(|error| error.to_string())?;
        add(&self.fleet.counters.connects, 1);
        Ok(made)
    }

    /// Handles one connection until it ends.
    async fn work(
        &mut self,
        client: &Client,
        closed: CancellationToken,
        storms: &mut watch::Receiver<u64>,
        metrics_at: &mut Instant,
    ) -> Result<Disconnect, String> {
        let subscribe = |subject: String| async {
            client.subscribe(subject).await.map_err(|error| error.to_string())
        };
        let acks = subscribe(self.subjects.acks()).await?;
        let commands = subscribe(self.subjects.commands()).await?;
        let publisher = Publisher::new(client.clone(), self.subjects.stored(), RESPONSE_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        self.send_hello(&publisher).await?;
        add(&self.fleet.counters.online, 1);
        let left = self.report(&publisher, (acks, commands), &closed, storms, metrics_at).await;
        self.fleet.counters.online.fetch_sub(1, Ordering::Relaxed);
        left
    }

    async fn send_hello(&mut self, publisher: &Publisher) -> Result<(), String> {
        let response = &self.enrolled.response;
        let hello = Hello {
            project: response.project.clone(),
            device: response.device,
            epoch: response.epoch,
            nonce: Uuid::new_v4(),
            last_seq: self.outbox.last_seq(),
            time: now(),
            agent_version: concat!("simulated-", env!("CARGO_PKG_VERSION")).to_owned(),
            config_version: self.config_version,
            new_epoch: None,
            confirmed_seq: None,
        };
        let nonce = hello.nonce;
        let sealed = self.enrolled.key.seal(Kind::Hello, codec::encode(&hello));
        let request = publisher.client().request(self.subjects.request("hello"), sealed.into());
        let message = tokio::time::timeout(RESPONSE_TIMEOUT, request)
            .await
            .map_err(|_| "no welcome arrived in time".to_owned())?
            .map_err(|error| format!("no welcome: {error}"))?;
        let welcome = cose::open(&message.payload, Kind::Welcome, &self.operation_key)
            .map_err(|error| format!("the welcome was not signed by the server: {error}"))?;
        let welcome: Welcome = codec::decode(&welcome).map_err(|error| error.to_string())?;
        if welcome.nonce != nonce {
            return Err("the welcome is for another hello".to_owned());
        }
        if welcome.committed_seq > Seq::ZERO {
            self.confirm(welcome.committed_seq, welcome.committed_hash);
        }
        self.apply(welcome.config_version);
        self.send_pending(publisher).await
    }

    async fn report(
        &mut self,
        publisher: &Publisher,
        (mut acks, mut commands): (Subscriber, Subscriber),
        closed: &CancellationToken,
        storms: &mut watch::Receiver<u64>,
        metrics_at: &mut Instant,
    ) -> Result<Disconnect, String> {
        let fleet = Arc::clone(&self.fleet);
        let profile = fleet.profile;
        let start = Instant::now();
        let mut plan = Schedule {
            event: start + random_delay(profile.event_interval),
            metrics: profile.metrics_interval.map_or(start + FAR_FUTURE, |_| *metrics_at),
            disconnect: start + random_delay(profile.mean_online_time),
            resend: start + RESEND_DELAY.0,
            resend_delay: RESEND_DELAY.0,
            is_probing: false,
        };
        loop {
            let is_ending = fleet.ending.is_cancelled();
            if is_ending && self.outbox.is_empty() {
                return Ok(Disconnect::Done);
            }
            tokio::select! {
                () = closed.cancelled() => return Ok(Disconnect::Lost),
                () = fleet.ending.cancelled(), if !is_ending => {}
                _ = storms.changed(), if !is_ending => return Ok(Disconnect::Storm),
                () = sleep_until(plan.disconnect), if !is_ending => return Ok(Disconnect::Scheduled),
                message = acks.next() => {
                    let Some(message) = message else { return Ok(Disconnect::Lost) };
                    let Ok(ack) = codec::decode::<Ack>(&message.payload) else { continue };
                    self.receive_ack(publisher, &ack, &mut plan).await?;
                }
                message = commands.next() => {
                    let Some(message) = message else { return Ok(Disconnect::Lost) };
                    if self.execute(&message) {
                        self.send_pending(publisher).await?;
                    }
                }
                () = sleep_until(plan.event), if !is_ending => {
                    plan.event = Instant::now() + random_delay(profile.event_interval);
                    self.record();
                    self.send_newest(publisher).await?;
                }
                () = sleep_until(plan.metrics), if !is_ending => {
                    let every = profile.metrics_interval.unwrap_or(FAR_FUTURE);
                    plan.metrics = (plan.metrics + every).max(Instant::now());
                    *metrics_at = plan.metrics;
                    self.measure(publisher).await?;
                }
                () = sleep_until(plan.resend) => self.resend(publisher, &mut plan).await?,
            }
        }
    }

    async fn receive_ack(
        &mut self,
        publisher: &Publisher,
        ack: &Ack,
        plan: &mut Schedule,
    ) -> Result<(), String> {
        let is_ours = ack.epoch == self.enrolled.response.epoch;
        let has_moved = is_ours && ack.seq > Seq::ZERO && self.confirm(ack.seq, ack.hash);
        if (plan.is_probing && has_moved) || (is_ours && ack.resend) {
            self.send_pending(publisher).await?;
        }
        if has_moved {
            (plan.is_probing, plan.resend_delay) = (false, RESEND_DELAY.0);
            plan.resend = Instant::now() + RESEND_DELAY.0;
        }
        Ok(())
    }

    /// Sends the first event without an ack again, less and less often.
    async fn resend(&self, publisher: &Publisher, plan: &mut Schedule) -> Result<(), String> {
        plan.resend = Instant::now() + plan.resend_delay;
        plan.resend_delay = (plan.resend_delay * 2).min(RESEND_DELAY.1);
        if let Some(first) = self.outbox.pending().next() {
            add(&self.fleet.counters.resent, 1);
            self.send(publisher, first).await?;
            plan.is_probing = true;
        }
        Ok(())
    }

    /// Returns whether the log has more than before.
    fn confirm(&mut self, seq: Seq, hash: muster_schemas::Hash) -> bool {
        match self.outbox.confirm(seq, hash) {
            Confirmed::New(count) => {
                add(&self.fleet.counters.committed, count);
                return count > 0;
            }
            Confirmed::Differs => add(&self.fleet.counters.differing, 1),
            // A welcome has overtaken the ack, or the log was restored.
            Confirmed::Behind => {}
        }
        false
    }

    /// Executes a command; true if it caused new events.
    fn execute(&mut self, message: &async_nats::Message) -> bool {
        let kind = message.headers.as_ref().and_then(|headers| headers.get(KIND_HEADER));
        match kind.map(async_nats::HeaderValue::as_str) {
            None => {
                let opened = cose::open(&message.payload, Kind::Config, &self.operation_key);
                let update =
                    opened.ok().and_then(|bytes| codec::decode::<ConfigUpdate>(&bytes).ok());
                update.is_some_and(|update| self.apply(update.version))
            }
            Some("run") => {
                let delivery = codec::decode::<RunDelivery>(&message.payload).ok();
                delivery.is_some_and(|delivery| self.accept_order(&delivery.order))
            }
            // Other commands need no action: its operations have already ended.
            Some(_) => false,
        }
    }

    /// Accepts an order, once; its operation succeeds immediately.
    fn accept_order(&mut self, sealed: &[u8]) -> bool {
        let opened = cose::open(sealed, Kind::Run, &self.operation_key).ok();
        let Some(order) = opened.and_then(|bytes| codec::decode::<RunOrder>(&bytes).ok()) else {
            return false;
        };
        let response = &self.enrolled.response;
        let is_ours = order.device == response.device && order.epoch == response.epoch;
        if !is_ours || !self.operations.insert(order.operation) {
            return false;
        }
        let operation = order.operation;
        if matches!(order.action, Action::Upload(_)) {
            let reason = "a simulated device has no files".to_owned();
            let cause = RefusalCause::Unsupported;
            self.record_event(&RunRejected { operation, cause, reason }.into());
            return true;
        }
        let report = RunReport {
            operation,
            exit_code: Some(0),
            signal: None,
            problem: None,
            started_at: Some(now()),
            ended_at: Some(now()),
            user_us: 0,
            system_us: 0,
            peak_memory: 0,
            stdout: OutputSummary::default(),
            stderr: OutputSummary::default(),
            file: None,
        };
        self.record_event(&RunAccepted { operation, order: Hash::of(sealed) }.into());
        self.record_event(&RunStarted { operation, pid: None, user: None }.into());
        self.record_event(&RunSucceeded(report).into());
        add(&self.fleet.counters.runs, 1);
        true
    }

    /// Applies a config; true if it caused a new event.
    fn apply(&mut self, version: ConfigVersion) -> bool {
        let is_newer = version > self.config_version;
        if is_newer {
            self.config_version = version;
            self.record();
        }
        is_newer
    }

    fn record(&mut self) {
        let event =
            DeviceConfigApplied { version: self.config_version, errors: Default::default() };
        self.record_event(&event.into());
    }

    fn record_event(&mut self, event: &Event) {
        let mono = u64::try_from(self.started_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.outbox.record(event, now(), mono);
        add(&self.fleet.counters.events, 1);
    }

    async fn send_newest(&self, publisher: &Publisher) -> Result<(), String> {
        match self.outbox.pending().last() {
            Some(bytes) => self.send(publisher, bytes).await,
            None => Ok(()),
        }
    }

    async fn send_pending(&self, publisher: &Publisher) -> Result<(), String> {
        for bytes in self.outbox.pending() {
            self.send(publisher, bytes).await?;
        }
        Ok(())
    }

    /// Publishes an event and waits until the broker has stored it.
    async fn send(&self, publisher: &Publisher, bytes: bytes::Bytes) -> Result<(), String> {
        let sent = publisher.publish(self.subjects.events(), bytes).await;
        sent.map_err(|error| error.to_string())
    }

    async fn measure(&mut self, publisher: &Publisher) -> Result<(), String> {
        self.round += 1;
        let batch = samples::batch(self.number, self.round, now());
        let counters = &self.fleet.counters;
        add(&counters.batches, 1);
        let subject = self.subjects.live_metrics("host");
        let sent = publisher.publish(subject, batch.encode().into()).await;
        sent.map_err(|error| error.to_string())?;
        add(&counters.batches_stored, 1);
        add(&counters.points, samples::POINTS);
        Ok(())
    }
}
