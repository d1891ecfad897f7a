//! One fleet that has an outage after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use muster_agent::Status;
use muster_agent::outbox::Limits;
use muster_schemas::stream::StreamName;
use muster_schemas::{Epoch, Timestamp};
use muster_simulate::{Counters, FleetOptions};
use muster_tests::fleet::{Fleet, RoleProcess};
use muster_tests::{Api, InProcessAgent, backup, system, wait};
use reqwest::Method;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::block_in_place;

use super::Options;
use super::draw::{Component, Outage};

/// Real agents of a fleet.
const AGENTS: usize = 3;
/// Size of the confirmed events that an agent keeps, in bytes: small, so that a restored log lacks
/// some that no agent has.
const KEPT_BYTES: u64 = 4_000;
/// Events recorded between a backup and its restoration.
const AFTER_BACKUP: u64 = 80;
/// Longest wait for anything; what takes longer counts as this.
const TIMEOUT: Duration = Duration::from_secs(180);
/// Interval between checks of the agents.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Measurements of an outage, in seconds from when the component was ready again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(super) outage: Outage,
    /// From the start of its processes until all were ready.
    pub(super) ready: f64,
    /// Every agent's events are in the log.
    pub(super) events: f64,
    /// The last hello that had failed, or was due, has a response.
    pub(super) hello: Option<f64>,
    /// Every agent has declared what the restored log lacks.
    pub(super) losses: Option<f64>,
    /// All simulated devices are connected and welcomed.
    pub(super) background: Option<f64>,
    devices: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outage { number, component, is_frozen, length, burst } = self.outage;
        let frozen = if is_frozen { " (frozen)" } else { "" };
        let length = length.as_secs_f64();
        write!(f, "outage {number}: {component}{frozen} away for {length:.1} s, {burst} events, ")?;
        write!(
            f,
            "{} devices: ready {:.2} s, events {:.2} s",
            self.devices, self.ready, self.events
        )?;
        let more =
            [("hello", self.hello), ("losses", self.losses), ("background", self.background)];
        more.iter().try_for_each(|(what, time)| match time {
            Some(time) => write!(f, ", {what} {time:.2} s"),
            None => Ok(()),
        })
    }
}

/// A fleet with its agents and simulated devices.
pub(super) struct Lane {
    fleet: Fleet,
    agents: Vec<InProcessAgent>,
    background: Option<(muster_simulate::Fleet, Arc<Counters>)>,
    devices: usize,
}

fn role(fleet: &mut Fleet, component: Component) -> &mut RoleProcess {
    match component {
        Component::Command => &mut fleet.command,
        _ => &mut fleet.ingest,
    }
}

/// Checks all agents until each of them is done; returns the seconds since `since`.
async fn until_all(
    agents: &[InProcessAgent],
    since: Instant,
    is_done: &(dyn Fn(usize, &Status) -> bool + Sync),
) -> f64 {
    while since.elapsed() < TIMEOUT {
        if agents.iter().enumerate().all(|(number, agent)| is_done(number, &agent.status())) {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    since.elapsed().as_secs_f64()
}

impl Lane {
    pub(super) async fn start(devices: usize) -> Self {
        let fleet = Fleet::start().await;
        let (url, ca) = (fleet.api.url.clone(), Some(fleet.ca()));
        let mut agents = Vec::new();
        let limits = Limits { kept_bytes: KEPT_BYTES, ..Limits::default() };
        for number in 0..AGENTS {
            // Agents of one machine look like each other, unless a token is made for each.
            let name = format!("robot-{number}");
            let body = serde_json::json!({"name": name});
            let device = fleet.api.post("/api/v1/devices", &body).await;
            let body = serde_json::json!({"name": name, "max_uses": 1, "device": device["id"]});
            let token = fleet.api.post("/api/v1/enrollment-tokens", &body).await;
            let token = token["secret"].as_str().unwrap();
            agents.push(InProcessAgent::join(fleet.dir(), &url, token, &name, limits).await);
        }
        let background = if devices == 0 {
            None
        } else {
            let token = fleet.api.enrollment_token(u32::try_from(devices).unwrap()).await;
            let (prefix, profile) = ("sim".to_owned(), "busy".parse().unwrap());
            let options = FleetOptions { url, ca, token, devices, prefix, profile };
            let counters = Arc::new(Counters::default());
            let enrolled = muster_simulate::Fleet::enroll(&options, &counters).await.unwrap();
            let running = muster_simulate::Fleet::start(&options, enrolled, Arc::clone(&counters));
            Some((running.unwrap(), counters))
        };
        let mut lane = Self { fleet, agents, background, devices };
        lane.record(5);
        lane.calm().await;
        lane
    }

    fn record(&mut self, count: u64) {
        block_in_place(|| self.agents.iter_mut().for_each(|agent| agent.record_many(count)));
    }

    fn online(&self) -> usize {
        let snapshot = self.background.as_ref().map(|(_, counters)| counters.snapshot());
        usize::try_from(snapshot.map_or(0, |snapshot| snapshot.online)).unwrap()
    }

    /// Waits until nothing is left of an outage.
    async fn calm(&self) {
        wait::until("the fleet to be calm", TIMEOUT, || async {
            let is_calm = self.online() == self.devices
                && self.agents.iter().all(|agent| {
                    let status = agent.status();
                    status.outbox.unconfirmed == 0 && status.broker.is_some()
                });
            is_calm.then_some(())
        })
        .await;
    }

    /// Has outages until all are taken; the number of events that the log lacks or has wrong.
    pub(super) async fn run(
        mut self,
        options: Options,
        next: Arc<AtomicU64>,
        outcomes: UnboundedSender<Outcome>,
    ) -> u64 {
        let may_restore = self.background.is_none();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= options.runs {
                break;
            }
            let outage = Outage::draw(number, options.seed, &options.length, may_restore);
            let outcome = self.outage(outage).await;
            let _ = outcomes.send(outcome);
            self.fleet.wait_until_ready().await;
            self.calm().await;
        }
        if let Some((background, _)) = self.background.take() {
            background.finish(Duration::from_secs(60)).await;
        }
        self.count_inconsistent().await
    }

    async fn outage(&mut self, outage: Outage) -> Outcome {
        let dump = match outage.component {
            Component::Restored => Some(self.backup().await),
            _ => None,
        };
        let epochs: Vec<Epoch> =
            self.agents.iter().map(|agent| agent.status().outbox.epoch).collect();
        let mut hello_after: Timestamp = SystemTime::now().into();
        self.stop_component(outage).await;
        let step = outage.length / 3;
        self.record(outage.burst / 2);
        tokio::time::sleep(step).await;
        // Its hello fails during the outage, so that its backoff grows.
        if outage.component != Component::Restored {
            hello_after = SystemTime::now().into();
            block_in_place(|| {
                self.agents[0].stop();
                self.agents[0].start();
            });
        }
        tokio::time::sleep(step).await;
        self.record(outage.burst - outage.burst / 2);
        tokio::time::sleep(step).await;
        if let Some(dump) = &dump {
            block_in_place(|| backup::restore_database(&self.fleet, dump));
        }
        let (started, wall) = (Instant::now(), Timestamp::from(SystemTime::now()));
        self.restart_component(outage).await;
        let back = started.elapsed().as_secs_f64();
        self.record(1);

        let is_greeted = |status: &Status| status.last_hello > Some(hello_after);
        let loses_connections = matches!(outage.component, Component::Broker | Component::All);
        let says_hello = |number: usize| match outage.component {
            Component::Ingest | Component::Restored => false,
            _ => number == 0 || (loses_connections && !outage.is_frozen),
        };
        let is_restored = outage.component == Component::Restored;
        let is_sent = |_: usize, status: &Status| status.outbox.unconfirmed == 0;
        let is_answered =
            |number: usize, status: &Status| !says_hello(number) || is_greeted(status);
        let is_declared = |number: usize, status: &Status| {
            !is_restored || (status.outbox.epoch > epochs[number] && status.outbox.unconfirmed == 0)
        };
        let (ready, events, _, losses, background) = tokio::join!(
            self.ready(outage, started, back),
            until_all(&self.agents, started, &is_sent),
            until_all(&self.agents, started, &is_answered),
            until_all(&self.agents, started, &is_declared),
            self.background_is_back(started, loses_connections),
        );
        // By the agents' own notes, which are exact.
        let hellos = self.agents.iter().enumerate().filter(|(number, _)| says_hello(*number));
        let hello = hellos
            .map(|(_, agent)| match agent.status().last_hello {
                Some(at) if at > hello_after => (at.micros() - wall.micros()) as f64 / 1e6,
                _ => TIMEOUT.as_secs_f64(),
            })
            .reduce(f64::max);
        let since_ready = |seconds: f64| (seconds - ready).max(0.0);
        Outcome {
            outage,
            ready,
            events: since_ready(events),
            hello: hello.map(since_ready),
            losses: is_restored.then(|| since_ready(losses)),
            background: background.map(since_ready),
            devices: self.devices + AGENTS,
        }
    }

    /// Seconds since `started` until all that was started again is ready; `back` when no role was.
    async fn ready(&self, outage: Outage, started: Instant, back: f64) -> f64 {
        let Fleet { ingest, command, query, .. } = &self.fleet;
        let roles: &[&RoleProcess] = match outage.component {
            _ if outage.is_frozen => &[],
            Component::Broker | Component::Postgres => &[],
            Component::Ingest => &[ingest],
            Component::Command => &[command],
            Component::All => &[ingest, command],
            Component::Restored => &[ingest, command, query],
        };
        let mut ready = back;
        for role in roles {
            let api = Api::new(&role.url(), "", &self.fleet.ca());
            let readiness = || async { api.try_send(Method::GET, "/readyz", None).await };
            while readiness().await.is_none_or(|(status, _)| status != 200) {
                if started.elapsed() > TIMEOUT {
                    break;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            ready = started.elapsed().as_secs_f64();
        }
        ready
    }

    /// Returns the seconds since `started` until all simulated devices are connected again; `None`
    /// if they did not lose their connections.
    async fn background_is_back(&self, started: Instant, is_waited_for: bool) -> Option<f64> {
        if !is_waited_for || self.devices == 0 {
            return None;
        }
        while self.online() < self.devices && started.elapsed() < TIMEOUT {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Some(started.elapsed().as_secs_f64())
    }

    /// A backup, and then events that the agents forget once the log has them.
    async fn backup(&mut self) -> std::path::PathBuf {
        let dump = block_in_place(|| backup::dump(&self.fleet));
        self.record(AFTER_BACKUP);
        self.calm().await;
        // Opening prunes.
        block_in_place(|| {
            for agent in &mut self.agents {
                agent.stop();
                agent.start();
            }
        });
        wait::until("the outboxes to be pruned", TIMEOUT, || async {
            self.agents.iter().all(|agent| agent.kept_bytes() <= KEPT_BYTES).then_some(())
        })
        .await;
        self.calm().await;
        dump
    }

    async fn stop_component(&mut self, outage: Outage) {
        let (postgres, nats) = (self.fleet.postgres.child(), self.fleet.nats.child());
        match (outage.component, outage.is_frozen) {
            (Component::Broker, false) => drop(nats.stop().await.unwrap()),
            (Component::Broker, true) => nats.suspend().unwrap(),
            (Component::Postgres, false) => drop(postgres.stop().await.unwrap()),
            (Component::Postgres, true) => postgres.suspend().unwrap(),
            (Component::Ingest | Component::Command, true) => {
                system::signal(role(&mut self.fleet, outage.component).pid(), "STOP");
            }
            (Component::Ingest | Component::Command, false) => {
                role(&mut self.fleet, outage.component).kill9();
            }
            (Component::All, _) => {
                nats.stop().await.unwrap();
                postgres.stop().await.unwrap();
                self.fleet.ingest.kill9();
                self.fleet.command.kill9();
            }
            (Component::Restored, _) => {
                self.fleet.ingest.kill9();
                self.fleet.command.kill9();
                self.fleet.query.kill9();
                backup::delete_events_stream(&self.fleet).await;
            }
        }
    }

    async fn restart_component(&mut self, outage: Outage) {
        let (postgres, nats) = (self.fleet.postgres.child(), self.fleet.nats.child());
        match (outage.component, outage.is_frozen) {
            (Component::Broker, false) => nats.restart().await.unwrap(),
            (Component::Broker, true) => nats.resume().unwrap(),
            (Component::Postgres, false) => postgres.restart().await.unwrap(),
            (Component::Postgres, true) => postgres.resume().unwrap(),
            (Component::Ingest | Component::Command, true) => {
                system::signal(role(&mut self.fleet, outage.component).pid(), "CONT");
            }
            (Component::Ingest | Component::Command, false) => {
                role(&mut self.fleet, outage.component).restart();
            }
            (Component::All, _) => {
                tokio::try_join!(postgres.restart(), nats.restart()).unwrap();
                self.fleet.ingest.restart();
                self.fleet.command.restart();
            }
            (Component::Restored, _) => {
                self.fleet.ingest.restart();
                self.fleet.command.restart();
                self.fleet.query.restart();
            }
        }
    }

    /// Number of recorded events that are neither in the log nor declared lost, or that are in the
    /// log twice or in another order.
    async fn count_inconsistent(&self) -> u64 {
        let mut wrong = 0;
        for number in 0..AGENTS {
            let (mut epochs, mut numbers, mut declared) =
                (BTreeMap::<Epoch, u64>::new(), vec![], 0);
            let path = format!("/api/v1/devices/robot-{number}/events?order=asc");
            for event in self.fleet.api.list(&path).await {
                let stream = event["stream"].as_str().unwrap_or_default().parse();
                let Ok(StreamName::DeviceReport(_, epoch)) = stream else { continue };
                let newest = epochs.entry(epoch).or_default();
                *newest += 1;
                wrong += u64::from(event["version"].as_u64() != Some(*newest));
                match event["type"].as_str() {
                    Some("DeviceConfigApplied") => {
                        numbers.push(event["data"]["version"].as_u64().unwrap());
                    }
                    Some("DeviceHistoryLost") => {
                        declared += event["data"]["missing_count"].as_u64().unwrap();
                    }
                    _ => {}
                }
            }
            wrong += numbers.windows(2).filter(|pair| pair[0] >= pair[1]).count() as u64;
            let missing = self.agents[number].recorded().saturating_sub(numbers.len() as u64);
            wrong += missing.saturating_sub(declared);
        }
        wrong
    }
}
