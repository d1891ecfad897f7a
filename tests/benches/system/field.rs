//! The system as separate processes with production's settings, and devices that have enrolled
//! through its listener. This process publishes their events and metrics over a few connections.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use muster_backing::postgres::Tuning;
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_schemas::ProjectId;
use muster_schemas::subjects::{self, DeviceSubjects};
use muster_tests::fleet::Fleet;
use muster_tests::sim::{Chain, enroll};

/// Number of devices.
pub(crate) const DEVICES: usize = 200;
/// Number of publishing connections.
const LINKS: usize = 4;
/// Maximum number of messages of one connection that wait for a confirmation.
const WINDOW: usize = 256;

/// The system and its devices.
pub(crate) struct Field {
    pub(crate) fleet: Fleet,
    pub(crate) log: EventLog,
    pub(crate) chains: Vec<Chain>,
    pub(crate) links: Vec<async_nats::Client>,
}

/// A message to be published.
pub(crate) type Message = (String, Bytes);

impl Field {
    pub(crate) async fn start() -> Self {
        let fleet = Fleet::start_with(Tuning::Production, &[]).await;
        let token = fleet.api.enrollment_token(DEVICES as u32 + 1).await;
        let chains = futures::stream::iter(0..DEVICES)
            .map(|number| {
                let (api, token) = (fleet.api.clone(), token.clone());
                async move {
                    let enrolled = enroll(&api, &token, &format!("bench-{number}")).await;
                    let response = enrolled.response;
                    Chain::new(response.project, response.device, response.epoch, enrolled.key)
                }
            })
            .buffered(8)
            .collect()
            .await;
        let mut links = Vec::new();
        for _ in 0..LINKS {
            links.push(fleet.broker().await);
        }
        let connect = ConnectOptions::new(fleet.postgres.connection_url());
        let log = EventLog::open(&connect, LogOptions::default()).await.unwrap();
        Self { fleet, log, chains, links }
    }

    /// The newest position of the log.
    pub(crate) async fn head(&self) -> u64 {
        self.log.head(&ProjectId::default_project()).await.unwrap().unwrap().position.get()
    }

    /// Signs this many further events of every device; returns them by connection, each device's in
    /// order on one.
    pub(crate) fn seal(&mut self, events: u64) -> Vec<Vec<Message>> {
        std::thread::scope(|scope| {
            for chains in self.chains.chunks_mut(DEVICES.div_ceil(LINKS)) {
                scope.spawn(|| chains.iter_mut().for_each(|chain| chain.record_many(events)));
            }
        });
        let events = usize::try_from(events).unwrap();
        self.by_link(|chain| {
            let sealed = &chain.events[chain.events.len() - events..];
            let subject = DeviceSubjects::new(&chain.project, chain.device).events();
            sealed.iter().map(|event| (subject.clone(), event.bytes.clone())).collect()
        })
    }

    /// The messages of all devices by connection, alternating between the devices of a connection.
    pub(crate) fn by_link(&self, of: impl Fn(&Chain) -> Vec<Message>) -> Vec<Vec<Message>> {
        self.chains
            .chunks(DEVICES.div_ceil(LINKS))
            .map(|chains| {
                let mut queues: Vec<VecDeque<Message>> =
                    chains.iter().map(|chain| of(chain).into()).collect();
                let mut messages = Vec::new();
                while queues.iter().any(|queue| !queue.is_empty()) {
                    messages.extend(queues.iter_mut().filter_map(VecDeque::pop_front));
                }
                messages
            })
            .collect()
    }

    /// Publishes all messages at the broker's maximum rate.
    pub(crate) async fn publish(&self, by_link: Vec<Vec<Message>>) {
        let links = self.links.iter().zip(by_link).map(|(link, messages)| {
            let link = link.clone();
            tokio::spawn(async move {
                let mut publisher = Publisher::new(link);
                for message in messages {
                    publisher.publish(message).await;
                }
                publisher.finish().await;
            })
        });
        for link in links.collect::<Vec<_>>() {
            link.await.unwrap();
        }
    }
}

/// Publishes for many devices on one connection, with a window of confirmations.
pub(crate) struct Publisher {
    link: async_nats::Client,
    devices: HashMap<String, muster_channel::Publisher>,
    waiting: VecDeque<BoxFuture<'static, Result<(), muster_channel::PublishError>>>,
}

impl Publisher {
    pub(crate) fn new(link: async_nats::Client) -> Self {
        Self { link, devices: HashMap::new(), waiting: VecDeque::new() }
    }

    pub(crate) async fn publish(&mut self, (subject, bytes): Message) {
        if self.waiting.len() >= WINDOW
            && let Some(oldest) = self.waiting.pop_front()
        {
            oldest.await.unwrap();
        }
        let (project, device, _) = subjects::parse(&subject).unwrap();
        let stored = DeviceSubjects::new(&project, device).stored();
        if !self.devices.contains_key(&stored) {
            let publisher = muster_channel::Publisher::new(
                self.link.clone(),
                stored.clone(),
                Duration::from_secs(30),
            );
            self.devices.insert(stored.clone(), publisher.await.unwrap());
        }
        let sent = self.devices[&stored].send(subject, bytes).await.unwrap();
        self.waiting.push_back(Box::pin(sent));
    }

    pub(crate) async fn finish(&mut self) {
        for ack in self.waiting.drain(..) {
            ack.await.unwrap();
        }
    }
}

/// The rate at which work is processed: polls `done` until it is `total`. The measurement starts at
/// the first progress, and excludes the work done by then.
pub(crate) async fn drain_rate<F: Future<Output = u64>>(total: u64, done: impl Fn() -> F) -> f64 {
    let started_at = Instant::now();
    let mut measurement: Option<(Instant, u64)> = None;
    loop {
        assert!(started_at.elapsed() < Duration::from_secs(90), "it is not worked off");
        let now = done().await;
        match measurement {
            None if now > 0 => measurement = Some((Instant::now(), now)),
            Some((start, first)) if now >= total => {
                return (total - first) as f64 / start.elapsed().as_secs_f64();
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
