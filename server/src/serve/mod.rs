//! `muster serve`: runs one role, or all roles, in this process, with existing backing servers.
//!
//! `muster up` runs the same code with servers that it has started.

mod append_report;
mod body;
mod broker;
mod connections;
mod forward;
mod health;
mod https_listener;
mod install;
mod limits;
mod metric_limits;
mod names;
mod options;
mod paths;
mod prometheus;
mod proxies;
mod startup;
mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use muster_api::ApiState;
use muster_blobs::{BlobLocation, Blobs};
use muster_command::keys::{KeyStore, RoleKeys};
use muster_command::service::{BrokerAccess, Service};
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_ingest::presence::PresenceOptions;
use muster_query::StartError;
use muster_schemas::ProjectId;
use muster_schemas::errors::error_chain;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use connections::ConnectionLimits;
pub use https_listener::openapi_document;
pub(crate) use limits::UnauthenticatedRate;
pub(crate) use metric_limits::MetricLimits;
pub(crate) use names::{address_for_others, certificate_names};
pub use options::{DEFAULT_PORT, Listen, ServeArgs, ServeOptions};
pub(crate) use options::{RecordShells, Role, Roles, TokenLimits, parse_offline_after};
pub(crate) use proxies::TrustedProxies;

/// Lifetime of a device's JWT.
const JWT_TTL: std::time::Duration = std::time::Duration::from_secs(3600);

/// Runs the roles until Ctrl-C or SIGTERM.
///
/// # Errors
/// When a role cannot start or continue.
pub async fn run_until_signal(options: ServeOptions) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Each client connection needs an open file, as do those to the database and the broker.
    if let Err(error) = muster_backing::file_limit::raise() {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        stopping.cancel();
    });
    Box::pin(run(options, stop, || tracing::info!("ready"))).await
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

/// Checks that this address is free to listen on, before anything is started for it.
pub(crate) fn check_free(listen: SocketAddr) -> Result<()> {
    std::net::TcpListener::bind(listen).map(drop).with_context(|| {
        format!(
            "failed to listen on {listen}; choose another port with --port, or stop what uses it"
        )
    })
}

/// Runs the roles until `stop`. Calls `ready` when the listener is open.
pub(crate) async fn run(
    options: ServeOptions,
    stop: CancellationToken,
    ready: impl FnOnce() + Send,
) -> Result<()> {
    let connect = ConnectOptions { connections: 16, ..ConnectOptions::new(&options.postgres_url) };
    let roles = options.roles;
    // Only command opens the folder of all keys; each other role uses its own key folder.
    let store = roles.has(Role::Command).then(|| KeyStore::open(&options.keys)).transpose()?;
    let store = store.map(Arc::new);
    let keys_of = |role: &'static str| match &store {
        Some(store) => store.role_keys(role),
        None => RoleKeys::open(&options.keys, role),
    };
    let verifier = match &store {
        Some(store) => store.authority_verifier(),
        None => keys_of(if roles.has(Role::Query) { "query" } else { "ingest" })?.authority,
    };
    let log = open_log(&connect, &stop).await?.with_verifier(verifier);
    for project in [ProjectId::default_project(), ProjectId::system()] {
        let ensure = || log.ensure_project(&project);
        let ensured = startup::retry_until_ready(LOG_NAME, &stop, |_| false, ensure).await;
        ensured.context("failed to create a project's log")?;
    }
    if let Some(store) = &store {
        crate::log_setup::adopt_events(&log, store, false).await?;
    }
    let api = ApiState::new(log.clone());
    let mut parts: JoinSet<Result<()>> = JoinSet::new();

    let mut listener = https_listener::HttpsListener::default();
    listener.metrics(prometheus::ProcessMetrics::install(stop.clone())?, api.clone());
    if roles.has(Role::Ingest) {
        let keys = keys_of("ingest")?;
        let nats = broker::connect(&options, &keys, "ingest", &stop).await?;
        let (system, reconnected) = broker::connect_system(&options, &keys, &stop).await?;
        listener.dependencies(health::Dependencies { log: log.clone(), nats: nats.clone() });
        // Before query reads the streams, when both are in one process. A cluster that has just
        // started has no leader yet and does not respond.
        let ensure = || muster_ingest::streams::ensure(&nats, options.copies);
        startup::retry_until_ready("the broker's streams", &stop, |_| false, ensure)
            .await
            .context("failed to open the broker's streams")?;
        let presence = PresenceOptions {
            offline_after: options.offline_after,
            ..PresenceOptions::new(log.clone(), system, reconnected, keys.account)
        };
        let report = append_report::run(log.clone(), nats.clone(), stop.clone());
        parts.spawn(async move {
            report.await;
            Ok(())
        });
        let ingest = muster_ingest::IngestOptions {
            log: log.clone(),
            nats,
            store: options.needed_metric_store()?.clone(),
            limits: options.metric_limits.into(),
            presence,
            copies: options.copies,
        };
        let stop = stop.clone();
        parts.spawn(async move { Ok(muster_ingest::run(ingest, stop).await?) });
    }
    if let Some(store) = &store {
        let keys = store.role_keys("command")?;
        let nats = broker::connect(&options, &keys, "command", &stop).await?;
        let (system, reconnected) = broker::connect_system(&options, &keys, &stop).await?;
        listener.dependencies(health::Dependencies { log: log.clone(), nats: nats.clone() });
        if !roles.has(Role::Ingest) {
            let report = append_report::run(log.clone(), nats.clone(), stop.clone());
            parts.spawn(async move {
                report.await;
                Ok(())
            });
        }
        let access = BrokerAccess { servers: options.device_servers.clone(), jwt_ttl: JWT_TTL };
        let blobs = open_blobs(&options.blobs).await?;
        let service = Service::new(&log, store.clone(), nats, system, access, blobs)
            .with_recording(options.recording);
        let ensure = || service.projects.ensure_default();
        let ensured = startup::retry_until_ready(LOG_NAME, &stop, |_| false, ensure).await;
        ensured.context("failed to create the project 'default'")?;
        listener.command(muster_command::http::router(api.clone(), service.clone()));
        let dispatch = || service.dispatch.clone().start(stop.clone());
        let dispatching = startup::retry_until_ready(LOG_NAME, &stop, |_| false, dispatch).await;
        let dispatching = dispatching.context("failed to create the list of open runs")?;
        let keep = || muster_command::uploads::start(service.uploads.clone(), stop.clone());
        let keeping = startup::retry_until_ready(LOG_NAME, &stop, |_| false, keep).await;
        let keeping = keeping.context("failed to create the list of files")?;
        let stop = stop.clone();
        parts.spawn(async move {
            let revocations = service.accounts.maintain(reconnected, stop.clone());
            let link = service.link.run(stop.clone());
            let relays = service.channels.maintain_relays(stop.clone());
            let shells = service.channels.end_shells_of_ended_tokens(stop.clone());
            let uses = service.token_uses.record(stop.clone());
            let reports = service.outputs.receive_reports(stop.clone());
            tokio::join!(link, revocations, dispatching, keeping, relays, shells, uses, reports);
            Ok(())
        });
    }
    if roles.has(Role::Query) {
        let keys = keys_of("query")?;
        let nats = broker::connect(&options, &keys, "query", &stop).await?;
        let query = muster_query::QueryOptions {
            log: log.clone(),
            nats,
            blobs: open_blobs(&options.blobs).await?,
            influx: options.needed_metric_store()?.clone(),
            key: keys.response_key.clone(),
            streams_per_token: options.token_limits.streams_per_token,
            walks_per_minute: options.token_limits.list_walks_per_minute,
            stop: stop.clone(),
        };
        let start = || muster_query::Query::start(query.clone());
        let is_final = |error: &StartError| matches!(error, StartError::Influx(_));
        let query = startup::retry_until_ready(LOG_NAME, &stop, is_final, start).await;
        let query = query.context("failed to start the query role")?;
        listener.query(query.router(), limits::Limits::new(options.unauthenticated_rate));
        if let Some(url) = options.command_url.as_ref().filter(|_| !roles.has(Role::Command)) {
            listener.forward(forward::Forward::new(url, &keys.ca)?);
        }
        let mut tasks = query.tasks;
        parts.spawn(async move {
            while let Some(ended) = tasks.join_next().await {
                ended.context("a task of the query role panicked")?;
            }
            Ok(())
        });
    }
    if let Some(listen) =
        options.listen.or(listener.has_services().then_some(options::DEFAULT_ADDRESS))
    {
        let certificates = match &store {
            Some(store) => options.certificates(store)?,
            None => keys_of(if roles.has(Role::Query) { "query" } else { "ingest" })?
                .certificates
                .context(
                    "the role's folder contains no server.pem and server.key; `muster bootstrap` \
                 creates them",
                )?,
        };
        let is_front = roles.has(Role::Query);
        let forwards = options.command_url.is_some() && !roles.has(Role::Command);
        let files = muster_backing::file_limit::current()?;
        let limits = options.connections.with_files(files, is_front, forwards);
        let connections = connections::Connections::new(limits, options.proxies.clone());
        if is_front {
            listener.installer(install::Installer::new(
                options.agents.as_deref(),
                certificates.pin()?,
            )?);
            listener.tunnel(tunnel::Tunnel::new(
                &options.nats_urls,
                connections.clone(),
                stop.clone(),
            ));
        }
        let stop = stop.clone();
        parts.spawn(listener.open(listen, certificates, options.proxies, connections, stop).await?);
    }
    ready();
    while let Some(ended) = parts.join_next().await {
        // A role that cannot continue stops the process; its supervisor restarts it.
        if let Err(error) = ended.context("a role panicked").and_then(|ended| ended) {
            stop.cancel();
            return Err(error);
        }
    }
    Ok(())
}
