//! A simulated device at the broker: publishes, receives acks, resends until the log has
//! everything.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::RequestError;
use bytes::Bytes;
use futures::StreamExt;
use muster_channel::Publisher;
use muster_schemas::cose::Kind;
use muster_schemas::metrics::MetricBatch;
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{Ack, Hello};
use muster_schemas::{ConfigVersion, Seq, codec};
use muster_simulate::{Chain, Enrolled};
use tokio::sync::watch;
use uuid::Uuid;

use super::enroll::enroll;
use crate::api::Api;
use crate::wait;

/// Maximum number of events that wait for the broker's confirmation.
const CONFIRM_WINDOW: usize = 64;
/// Timeout for the broker's confirmation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// A device.
#[derive(Debug)]
pub struct SimDevice {
    /// The result of its enrollment.
    pub enrolled: Enrolled,
    /// Its events.
    pub chain: Chain,
    /// Its connection.
    pub nats: async_nats::Client,
    /// Its subjects.
    pub subjects: DeviceSubjects,
    /// Publishes on its connection.
    pub publisher: Publisher,
    acks: watch::Receiver<Option<Ack>>,
}

impl SimDevice {
    /// Enrolls with a token, and connects.
    pub async fn join(api: &Api, ca: &Path, token: &str, name: &str) -> Self {
        let enrolled = enroll(api, token, name).await;
        Self::connect(enrolled, ca).await
    }

    /// Connects as an enrolled device, with an empty chain.
    ///
    /// # Panics
    /// When the broker refuses the connection.
    pub async fn connect(enrolled: Enrolled, ca: &Path) -> Self {
        let response = &enrolled.response;
        let subjects = DeviceSubjects::new(&response.project, response.device);
        let key: Arc<_> = enrolled.nats_key.clone();
        let servers: Vec<String> = response
            .credentials
            .servers
            .iter()
            .map(|server| server.replace("0.0.0.0", "127.0.0.1"))
            .collect();
        let nats =
            async_nats::ConnectOptions::with_jwt(response.credentials.jwt.clone(), move |nonce| {
                let key = key.clone();
                async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
            })
            .custom_inbox_prefix(subjects.inbox_prefix())
            .add_root_certificates(ca.to_owned())
            .require_tls(true)
            .connection_timeout(Duration::from_secs(10))
            .reconnect_delay_callback(|_| Duration::from_millis(100))
            .connect(servers)
            .await
            .expect("a connection to the broker");
        let (sender, acks) = watch::channel(None);
        let mut subscription = nats.subscribe(subjects.acks()).await.expect("its own acks");
        let publisher = Publisher::new(nats.clone(), subjects.stored(), CONFIRM_TIMEOUT);
        let publisher = publisher.await.expect("its own confirmations");
        nats.flush().await.expect("the broker");
        tokio::spawn(async move {
            while let Some(message) = subscription.next().await {
                if let Ok(ack) = codec::decode::<Ack>(&message.payload) {
                    let _ = sender.send(Some(ack));
                }
            }
        });
        let chain = Chain::new(
            response.project.clone(),
            response.device,
            response.epoch,
            enrolled.key.clone(),
        );
        Self { enrolled, chain, nats, subjects, publisher, acks }
    }

    /// Its id as text.
    #[must_use]
    pub fn id(&self) -> String {
        self.chain.device.to_string()
    }

    /// The newest ack.
    #[must_use]
    pub fn ack(&self) -> Option<Ack> {
        *self.acks.borrow()
    }

    /// The last sequence number that the log has committed, by the newest ack.
    #[must_use]
    pub fn committed(&self) -> Seq {
        self.ack().map_or(Seq::ZERO, |ack| ack.seq)
    }

    /// A hello of this device, without events.
    #[must_use]
    pub fn hello(&self) -> Hello {
        let response = &self.enrolled.response;
        Hello {
            project: response.project.clone(),
            device: response.device,
            epoch: response.epoch,
            nonce: Uuid::new_v4(),
            last_seq: Seq::ZERO,
            time: SystemTime::now().into(),
            agent_version: "test".into(),
            config_version: ConfigVersion::ZERO,
            new_epoch: None,
            confirmed_seq: None,
        }
    }

    /// Sends a hello and returns the content of the response, sealed or empty.
    ///
    /// # Errors
    /// When there is no response.
    pub async fn send_hello(&self, hello: &Hello) -> Result<Bytes, RequestError> {
        let sealed = self.enrolled.key.seal(Kind::Hello, codec::encode(hello));
        let response = self.nats.request(self.subjects.request("hello"), sealed.into()).await?;
        Ok(response.payload)
    }

    /// Publishes bytes as an event, without waiting for a confirmation.
    ///
    /// # Panics
    /// When the connection is closed.
    pub async fn publish_raw(&self, bytes: Bytes) {
        self.nats.publish(self.subjects.events(), bytes).await.expect("a connection");
        self.nats.flush().await.expect("a connection");
    }

    /// Publishes events that the log does not have, with a window of confirmations; returns false
    /// when the broker did not confirm one.
    pub async fn publish_pending(&self) -> bool {
        let from = usize::try_from(self.committed().get()).unwrap_or(usize::MAX);
        for window in self.chain.events.get(from..).unwrap_or_default().chunks(CONFIRM_WINDOW) {
            let mut waiting = Vec::new();
            for event in window {
                match self.publisher.send(self.subjects.events(), event.bytes.clone()).await {
                    Ok(ack) => waiting.push(ack),
                    Err(_) => return false,
                }
            }
            for ack in waiting {
                if ack.await.is_err() {
                    return false;
                }
            }
        }
        true
    }

    /// Publishes and resends until the log has all recorded events.
    ///
    /// # Panics
    /// When that takes longer than `patience`.
    pub async fn sync(&self, timeout: Duration) {
        let last = Seq(self.chain.events.len() as u64);
        let hash = self.chain.events.last().map(|event| event.hash);
        let done = || self.ack().is_some_and(|ack| ack.seq == last && Some(ack.hash) == hash);
        let mut acks = self.acks.clone();
        let started_at = tokio::time::Instant::now();
        while !done() && last > Seq::ZERO {
            assert!(
                started_at.elapsed() < timeout,
                "device {} has {last} events, and the log {} after {timeout:?}",
                self.id(),
                self.committed()
            );
            self.publish_pending().await;
            let moved = acks.wait_for(|ack| ack.is_some_and(|ack| ack.seq == last));
            let _ = tokio::time::timeout(Duration::from_secs(1), moved).await;
        }
    }

    /// Publishes a metric batch, and waits for the broker's confirmation.
    ///
    /// # Panics
    /// When the broker does not confirm it in time.
    pub async fn measure(&self, batch: &MetricBatch) {
        let bytes: Bytes = batch.encode().into();
        wait::until("a confirmation for metrics", Duration::from_secs(30), || async {
            let subject = self.subjects.live_metrics("host");
            self.publisher.publish(subject, bytes.clone()).await.ok()
        })
        .await;
    }

    /// Sends this many invalid metric messages at the maximum rate.
    pub async fn flood_metrics(&self, messages: u32) {
        let subject = self.subjects.live_metrics("host");
        for number in 0..messages {
            let junk = Bytes::from(format!("junk {number}"));
            self.nats.publish(subject.clone(), junk).await.expect("the connection is open");
        }
        self.nats.flush().await.expect("the connection is open");
    }
}
