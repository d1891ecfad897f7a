//! One process of the servers: what its roles share, and their tasks.

use std::future::Future;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_nats::Client;
use muster_api::ApiState;
use muster_blobs::{BlobLocation, Blobs};
use muster_command::keys::{Certificates, KeyStore, RoleKeys};
use muster_command::service::{BrokerAccess, Service};
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_ingest::IngestOptions;
use muster_ingest::presence::PresenceOptions;
use muster_query::{Query, QueryOptions, StartError};
use muster_schemas::ProjectId;
use muster_schemas::errors::error_chain;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::forward::Forward;
use super::health::Dependencies;
use super::https_listener::HttpsListener;
use super::install::Installer;
use super::limits::Limits;
use super::options::{DEFAULT_ADDRESS, Role, ServeOptions};
use super::prometheus::ProcessMetrics;
use super::tunnel::Tunnel;
use super::{append_report, broker, startup};
use crate::log_setup::adopt_events;

/// Lifetime of a device's JWT.
const JWT_TTL: std::time::Duration = std::time::Duration::from_secs(3600);

/// A process that starts: its roles add their tasks and their routes.
pub(super) struct Process {
    options: ServeOptions,
    stop: CancellationToken,
    /// The folder of all keys, which only command opens; each other role has a folder of its own.
    keys: Option<Arc<KeyStore>>,
    log: EventLog,
    api: ApiState,
    listener: HttpsListener,
    parts: Parts,
}

/// The running parts of the process.
pub(super) struct Parts {
    tasks: JoinSet<Result<()>>,
    stop: CancellationToken,
}

impl Parts {
    fn spawn(&mut self, part: impl Future<Output = Result<()>> + Send + 'static) {
        self.tasks.spawn(part);
    }

    /// Waits until all parts have ended. A role that cannot continue stops the process; its
    /// supervisor restarts it.
    pub(super) async fn wait(mut self) -> Result<()> {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended.context("a role panicked").and_then(|ended| ended) {
                self.stop.cancel();
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Process {
    /// Opens the keys and the log.
    pub(super) async fn open(options: ServeOptions, stop: CancellationToken) -> Result<Self> {
        let connect =
            ConnectOptions { connections: 16, ..ConnectOptions::new(&options.postgres_url) };
        let has_command = options.roles.has(Role::Command);
        let keys = has_command.then(|| KeyStore::open(&options.keys)).transpose()?.map(Arc::new);
        let verifier = match &keys {
            Some(keys) => keys.authority_verifier(),
            None => RoleKeys::open(&options.keys, options.main_role())?.authority,
        };
        let log = open_log(&connect, &stop).await?.with_verifier(verifier);
        for project in [ProjectId::default_project(), ProjectId::system()] {
            let ensure = || log.ensure_project(&project);
            let ensured = startup::retry_until_ready(LOG_NAME, &stop, |_| false, ensure).await;
            ensured.context("failed to create a project's log")?;
        }
        if let Some(keys) = &keys {
            adopt_events(&log, keys, false).await?;
        }
        let api = ApiState::new(log.clone());
        let mut listener = HttpsListener::default();
        listener.metrics(ProcessMetrics::install(stop.clone())?, api.clone());
        let parts = Parts { tasks: JoinSet::new(), stop: stop.clone() };
        Ok(Self { options, stop, keys, log, api, listener, parts })
    }

    /// Returns a role's own keys.
    fn keys_of(&self, role: &'static str) -> Result<RoleKeys> {
        Ok(match &self.keys {
            Some(keys) => keys.role_keys(role)?,
            None => RoleKeys::open(&self.options.keys, role)?,
        })
    }

    pub(super) async fn start_ingest(&mut self) -> Result<()> {
        let keys = self.keys_of("ingest")?;
        let (options, stop) = (&self.options, self.stop.clone());
        let nats = broker::connect(options, &keys, "ingest", &stop).await?;
        let (system, reconnected) = broker::connect_system(options, &keys, &stop).await?;
        // Before query reads the streams, when both are in one process. A cluster that has just
        // started has no leader yet and does not respond.
        let ensure = || muster_ingest::streams::ensure(&nats, options.copies);
        startup::retry_until_ready("the broker's streams", &stop, |_| false, ensure)
            .await
            .context("failed to open the broker's streams")?;
        let presence = PresenceOptions {
            offline_after: options.offline_after,
            ..PresenceOptions::new(self.log.clone(), system, reconnected, keys.account)
        };
        let ingest = IngestOptions {
            log: self.log.clone(),
            nats: nats.clone(),
            store: options.needed_metric_store()?.clone(),
            limits: options.metric_limits.into(),
            presence,
            copies: options.copies,
        };
        self.report_appends(nats);
        self.parts.spawn(async move { Ok(muster_ingest::run(ingest, stop).await?) });
        Ok(())
    }

    pub(super) async fn start_command(&mut self) -> Result<()> {
        let store = self.keys.clone().context("the role command needs the folder of all keys")?;
        let keys = store.role_keys("command")?;
        let (options, stop) = (&self.options, self.stop.clone());
        let nats = broker::connect(options, &keys, "command", &stop).await?;
        let (system, reconnected) = broker::connect_system(options, &keys, &stop).await?;
        let access = BrokerAccess { servers: options.device_servers.clone(), jwt_ttl: JWT_TTL };
        let blobs = open_blobs(&options.blobs).await?;
        let service = Service::new(&self.log, store, nats.clone(), system, access, blobs)
            .with_recording(options.recording);
        let ensure = || service.projects.ensure_default();
        let ensured = startup::retry_until_ready(LOG_NAME, &stop, |_| false, ensure).await;
        ensured.context("failed to create the project 'default'")?;
        let dispatch = || service.dispatch.clone().start(stop.clone());
        let dispatching = startup::retry_until_ready(LOG_NAME, &stop, |_| false, dispatch).await;
        let dispatching = dispatching.context("failed to create the list of open runs")?;
        let keep = || muster_command::uploads::start(service.uploads.clone(), stop.clone());
        let keeping = startup::retry_until_ready(LOG_NAME, &stop, |_| false, keep).await;
        let keeping = keeping.context("failed to create the list of files")?;
        self.report_appends(nats);
        self.listener.command(muster_command::http::router(self.api.clone(), service.clone()));
        self.parts.spawn(async move {
            let revocations = service.accounts.maintain(reconnected, stop.clone());
            let link = service.link.run(stop.clone());
            let relays = service.channels.maintain_relays(stop.clone());
            let shells = service.channels.end_shells_of_ended_tokens(stop.clone());
            let uses = service.token_uses.record(stop.clone());
            let reports = service.outputs.receive_reports(stop.clone());
            tokio::join!(link, revocations, dispatching, keeping, relays, shells, uses, reports);
            Ok(())
        });
        Ok(())
    }

    pub(super) async fn start_query(&mut self) -> Result<()> {
        let keys = self.keys_of("query")?;
        let options = &self.options;
        let query = QueryOptions {
            log: self.log.clone(),
            nats: broker::connect(options, &keys, "query", &self.stop).await?,
            blobs: open_blobs(&options.blobs).await?,
            influx: options.needed_metric_store()?.clone(),
            key: keys.response_key.clone(),
            streams_per_token: options.token_limits.streams_per_token,
            walks_per_minute: options.token_limits.list_walks_per_minute,
            stop: self.stop.clone(),
        };
        let start = || Query::start(query.clone());
        let is_final = |error: &StartError| matches!(error, StartError::Influx(_));
        let query = startup::retry_until_ready(LOG_NAME, &self.stop, is_final, start).await;
        let query = query.context("failed to start the query role")?;
        self.listener.query(query.router(), Limits::new(options.unauthenticated_rate));
        if let Some(url) = options.command_url.as_ref().filter(|_| self.keys.is_none()) {
            self.listener.forward(Forward::new(url, &keys.ca)?);
        }
        let mut tasks = query.tasks;
        self.parts.spawn(async move {
            while let Some(ended) = tasks.join_next().await {
                ended.context("a task of the query role panicked")?;
            }
            Ok(())
        });
        Ok(())
    }

    /// Reports over this connection when the process cannot append, once for all roles.
    fn report_appends(&mut self, nats: Client) {
        let needs = Dependencies { log: self.log.clone(), nats: nats.clone() };
        if self.listener.dependencies(needs).is_some() {
            return;
        }
        let report = append_report::run(self.log.clone(), nats, self.stop.clone());
        self.parts.spawn(async move {
            report.await;
            Ok(())
        });
    }

    /// Opens the listener, if a role has routes or an address is given; returns all parts.
    pub(super) async fn listen(mut self) -> Result<Parts> {
        let default = self.listener.has_services().then_some(DEFAULT_ADDRESS);
        let Some(address) = self.options.listen.or(default) else { return Ok(self.parts) };
        let certificates = self.certificates()?;
        let options = self.options;
        let is_front = options.roles.has(Role::Query);
        let forwards = options.command_url.is_some() && self.keys.is_none();
        let files = muster_backing::file_limit::current()?;
        let limits = options.connections.with_files(files, is_front, forwards);
        let connections = Connections::new(limits, options.proxies.clone());
        if is_front {
            let installer = Installer::new(options.agents.as_deref(), certificates.pin()?)?;
            self.listener.installer(installer);
            let tunnel = Tunnel::new(&options.nats_urls, connections.clone(), self.stop.clone());
            self.listener.tunnel(tunnel);
        }
        let serving = self
            .listener
            .open(address, certificates, options.proxies, &options.cors, connections, self.stop)
            .await?;
        self.parts.spawn(serving);
        Ok(self.parts)
    }

    fn certificates(&self) -> Result<Certificates> {
        if let Some(keys) = &self.keys {
            return self.options.certificates(keys);
        }
        self.keys_of(self.options.main_role())?.certificates.context(
            "the role's folder contains no server.pem and server.key; `muster bootstrap` creates \
             them",
        )
    }
}

/// Name of PostgreSQL in messages while the start waits for it.
const LOG_NAME: &str = "the event log in PostgreSQL";

/// Opens the log; retries while PostgreSQL starts.
async fn open_log(connect: &ConnectOptions, stop: &CancellationToken) -> Result<EventLog> {
    let open = || EventLog::open(connect, LogOptions::default());
    let opened = startup::retry_until_ready(LOG_NAME, stop, |_| false, open);
    opened.await.context("failed to open the event log in PostgreSQL")
}

/// Opens the blob store. Most of a role's functions do not need it: an unreachable store is logged,
/// rejected credentials are an error.
async fn open_blobs(location: &BlobLocation) -> Result<Blobs> {
    let blobs = Blobs::open(location)?;
    match blobs.check().await {
        Err(error) if error.is_final() => Err(error)
            .with_context(|| format!("failed to use {location} for blobs; see --blobs and AWS_*")),
        Err(error) => {
            let error = error_chain(&error);
            tracing::warn!(
                location = %location, error,
                "the blob store is unavailable; requests that need it wait"
            );
            Ok(blobs)
        }
        Ok(()) => Ok(blobs),
    }
}
