//! `muster serve`: one role or all of them, in this process, against servers that are already there.
//!
//! `muster up` runs the same code on servers that it has started itself.

mod broker;
mod door;
mod forward;
mod options;

use std::sync::Arc;

use anyhow::{Context, Result};
use muster_api::ApiState;
use muster_command::keys::KeyStore;
use muster_command::service::{BrokerAccess, Service};
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_ingest::presence::PresenceOptions;
use muster_schemas::ProjectId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use door::openapi_document;
pub(crate) use options::{MetricStore, Role, Roles, ServeArgs, ServeOptions, certificate_names};

/// How long a device's JWT works.
const JWT_LIFE: std::time::Duration = std::time::Duration::from_secs(3600);

/// A device that was not heard for so long is offline, if nobody says otherwise.
pub(crate) const OFFLINE_AFTER: std::time::Duration = std::time::Duration::from_secs(60);

/// Runs the roles until Ctrl-C or SIGTERM.
pub(crate) async fn run_until_signal(options: ServeOptions) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
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
    let listen = options.listen;
    run(options, stop, move || tracing::info!(%listen, "ready")).await
}

/// How long a server that is not there yet is waited for at start.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Opens the log; waits for a PostgreSQL that is still starting.
async fn open_log(connect: &ConnectOptions, stop: &CancellationToken) -> Result<EventLog> {
    let began = std::time::Instant::now();
    let mut told = String::new();
    loop {
        let error = match EventLog::open(connect, LogOptions::default()).await {
            Ok(log) => return Ok(log),
            Err(error) => error,
        };
        if began.elapsed() > PATIENCE || stop.is_cancelled() {
            return Err(error).context("cannot open the event log in PostgreSQL");
        }
        let text = muster_api::problem::describe(&error);
        if text != told {
            tracing::warn!(error = %text, "PostgreSQL is not there yet; waiting for it");
            told = text;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

/// Is this address free to listen on? Asked before anything is started for it.
pub(crate) fn check_free(listen: std::net::SocketAddr) -> Result<()> {
    std::net::TcpListener::bind(listen).map(drop).with_context(|| {
        format!("cannot listen on {listen}; choose another port with --port, or stop what uses it")
    })
}

/// Runs the roles until `stop`. `ready` is called once the door is open.
pub(crate) async fn run(
    options: ServeOptions,
    stop: CancellationToken,
    ready: impl FnOnce() + Send,
) -> Result<()> {
    let connect = ConnectOptions { connections: 16, ..ConnectOptions::new(&options.postgres_url) };
    let log = open_log(&connect, &stop).await?;
    for project in [ProjectId::default_project(), ProjectId::system()] {
        log.ensure_project(&project).await.context("cannot make a project's log")?;
    }
    let keys = Arc::new(KeyStore::open(&options.keys)?);
    let roles = options.roles;
    let api = ApiState::new(log.clone());
    let (system, reconnected) = broker::connect_system(&options, &keys).await?;
    let mut parts: JoinSet<Result<()>> = JoinSet::new();

    let mut door = door::Door::default();
    if roles.has(Role::Ingest) {
        let nats = broker::connect(&options, &keys, "ingest").await?;
        // Before query looks for them, when both are in one process.
        muster_ingest::streams::ensure(&nats).await.context("cannot open the broker's streams")?;
        let account = keys.broker_identity()?.account;
        let presence = PresenceOptions {
            offline_after: options.offline_after,
            ..PresenceOptions::new(log.clone(), system.clone(), reconnected, account)
        };
        let ingest = muster_ingest::IngestOptions {
            log: log.clone(),
            nats,
            store: options.metric_store.store_settings(),
            presence,
        };
        let stop = stop.clone();
        parts.spawn(async move { Ok(muster_ingest::run(ingest, stop).await?) });
    }
    if roles.has(Role::Command) {
        let nats = broker::connect(&options, &keys, "command").await?;
        let access = BrokerAccess { servers: options.device_servers.clone(), jwt_life: JWT_LIFE };
        let service = Service::new(log.clone(), keys.clone(), nats, system.clone(), access);
        service.push_account().await?;
        door.command(muster_command::http::router(api.clone(), service.clone()));
        let stop = stop.clone();
        parts.spawn(async move {
            muster_command::link::run(service, stop).await;
            Ok(())
        });
    }
    if roles.has(Role::Query) {
        let nats = broker::connect(&options, &keys, "query").await?;
        let query = muster_query::Query::start(muster_query::QueryOptions {
            log: log.clone(),
            nats,
            influx: options.metric_store.query_options()?,
            stop: stop.clone(),
        })
        .await
        .context("cannot start the query role")?;
        door.query(query.router());
        if let Some(url) = options.command_url.as_ref().filter(|_| !roles.has(Role::Command)) {
            door.forward(forward::Forward::new(url, &keys.dir().join("ca.pem"))?);
        }
        let mut tasks = query.tasks;
        parts.spawn(async move {
            while let Some(ended) = tasks.join_next().await {
                ended.context("a part of the query role panicked")?;
            }
            Ok(())
        });
    }
    if door.is_wanted() {
        let listen = options.listen;
        let certificates = options.certificates(&keys)?;
        let stop = stop.clone();
        parts.spawn(door.open(listen, certificates, stop).await?);
    }
    ready();
    while let Some(ended) = parts.join_next().await {
        // One role that cannot go on stops the process: whoever watches it starts it again.
        if let Err(error) = ended.context("a role panicked").and_then(|ended| ended) {
            stop.cancel();
            return Err(error);
        }
    }
    Ok(())
}
