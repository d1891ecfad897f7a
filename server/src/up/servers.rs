//! The backing services of `muster up`: started concurrently, supervised, stopped in order.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use muster_backing::child::{Child, ChildEvent, Progress};
use muster_backing::influx::{InfluxDb, InfluxOptions};
use muster_backing::nats::{Identity, NatsOptions, NatsServer, Preload, Tls};
use muster_backing::postgres::{Postgres, PostgresOptions};
use muster_command::keys::{Certificates, KeyStore};
use muster_metric_store::StoreSettings;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::console::Console;
use super::folder::{Folder, Ports};

#[derive(Debug)]
pub(super) struct Servers {
    postgres: Postgres,
    nats: NatsServer,
    influx: Influx,
}

/// Options of the start.
#[derive(Clone, Copy)]
pub(super) struct ServerOptions<'a> {
    pub(super) folder: &'a Folder,
    pub(super) keys: &'a KeyStore,
    /// Certificates of the broker.
    pub(super) certificates: &'a Certificates,
    /// Address by which devices reach the broker.
    pub(super) listen: IpAddr,
    /// Timeout after which the broker closes the connection of a silent device.
    pub(super) silence_timeout: Duration,
    pub(super) console: &'a Console,
}

type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Shows the progress of a start that takes long.
fn progress_step(console: &Console, description: &str) -> (Arc<super::console::Step>, OnProgress) {
    let doing = Arc::new(console.start(description));
    let noted = doing.clone();
    (doing, Arc::new(move |progress: Progress| noted.note(&progress.waiting_for)))
}

fn finish<T, E>(step: &super::console::Step, result: &Result<T, E>) {
    if result.is_ok() { step.done() } else { step.failed() }
}

impl Servers {
    pub(super) async fn start(options: ServerOptions<'_>) -> Result<Self> {
        let (folder, say) = (options.folder, options.console);
        let ports = folder.ports()?;
        let (postgres, nats, influx) = tokio::try_join!(
            start_postgres(folder, ports, say),
            start_nats(&options, ports),
            async { Influx::start(folder, ports, say).await },
        )?;
        folder.store_ports(&Ports {
            postgres: Some(postgres.port()),
            nats: Some(nats.port()),
            influx: Some(influx.port),
            ..ports
        })?;
        Ok(Self { postgres, nats, influx })
    }

    pub(super) fn postgres_url(&self) -> String {
        self.postgres.connection_url()
    }

    pub(super) fn nats_url(&self) -> String {
        self.nats.url()
    }

    pub(super) fn nats_port(&self) -> u16 {
        self.nats.port()
    }

    pub(super) fn metric_store(&self) -> StoreSettings {
        self.influx.store.clone()
    }

    /// Reports changes of the children's state; never returns.
    pub(super) async fn report(&self, console: &Console) {
        let one = report_child(self.postgres.child(), console);
        let two = report_child(self.nats.child(), console);
        tokio::join!(one, two);
        std::future::pending::<()>().await;
    }

    /// Stops the servers: first the ones that accept messages, last the one with the log.
    pub(super) async fn stop(self, console: &Console) {
        let report = |what: &str, result: Result<(), muster_backing::child::ChildError>| {
            if let Err(error) = result {
                console.line(&format!("  !! {what} did not stop cleanly: {error}"));
            }
        };
        report("nats-server", self.nats.stop().await);
        if let Some(influx) = self.influx.stop().await {
            report("InfluxDB", influx.stop().await);
        }
        report("PostgreSQL", self.postgres.stop().await);
    }
}

async fn start_postgres(folder: &Folder, ports: Ports, console: &Console) -> Result<Postgres> {
    let (doing, on_progress) = progress_step(console, "PostgreSQL (event log)");
    let started = Postgres::start(PostgresOptions {
        port: ports.postgres,
        on_progress: Some(on_progress),
        ..PostgresOptions::new(folder.path().join("postgres"))
    })
    .await;
    finish(&doing, &started);
    started.context("failed to start PostgreSQL")
}

async fn start_nats(options: &ServerOptions<'_>, ports: Ports) -> Result<NatsServer> {
    let ServerOptions {
        folder,
        keys,
        certificates,
        listen,
        silence_timeout: silence,
        console: say,
    } = *options;
    let identity = keys.broker_identity()?;
    let (doing, on_progress) = progress_step(say, "nats-server (broker)");
    let accounts = identity.accounts.into_iter();
    let preload = accounts.map(|(account, jwt)| Preload { account, jwt }).collect();
    let started = NatsServer::start(NatsOptions {
        port: ports.nats,
        listen,
        silence_timeout: silence,
        tls: Some(Tls {
            certificate: certificates.chain.clone(),
            key: certificates.key.clone(),
            client_ca: None,
        }),
        identity: Some(Identity {
            operator: identity.operator_jwt,
            system_account: identity.system_account,
            preload,
        }),
        on_progress: Some(on_progress),
        ..NatsOptions::new(folder.path().join("nats"))
    })
    .await;
    finish(&doing, &started);
    started.context("failed to start nats-server")
}

/// InfluxDB, without which the other servers run: metrics wait in the broker and on the devices. A
/// failed start is retried in the background.
#[derive(Debug)]
struct Influx {
    port: u16,
    store: StoreSettings,
    /// Stops the task on drop.
    stop: DropGuard,
    task: JoinHandle<Option<InfluxDb>>,
}

/// Maximum time for which the start waits for InfluxDB.
const INFLUX_START_TIMEOUT: Duration = Duration::from_secs(60);
/// Delay before a failed start of InfluxDB is retried.
const INFLUX_RETRY_INTERVAL: Duration = Duration::from_secs(15);

impl Influx {
    async fn start(folder: &Folder, ports: Ports, console: &Console) -> Result<Self> {
        let (doing, on_progress) = progress_step(console, "InfluxDB (metrics)");
        let port = ports.influx.map_or_else(muster_backing::ports::free_port, Ok)?;
        let options = InfluxOptions {
            port: Some(port),
            on_progress: Some(on_progress),
            ..InfluxOptions::new(folder.path().join("influx"))
        };
        let credentials = muster_backing::influx::credentials(&options).await;
        let credentials = credentials.context("failed to read the secrets of InfluxDB")?;
        let url = format!("http://127.0.0.1:{port}");
        let store = StoreSettings { credentials, ..StoreSettings::new(&url, &options.database) };
        let stop = CancellationToken::new();
        let (first, started) = oneshot::channel();
        let task = tokio::spawn(supervise_influx(options, console.clone(), first, stop.clone()));
        match tokio::time::timeout(INFLUX_START_TIMEOUT, started).await {
            Ok(Ok(true)) => doing.done(),
            Ok(_) => doing.failed(),
            Err(_) => {
                doing.failed();
                console.line(
                    "  !! InfluxDB is still starting; everything else runs, and metrics wait for it",
                );
            }
        }
        Ok(Self { port, store, stop: stop.drop_guard(), task })
    }

    /// Stops the supervision; returns the server if it runs.
    async fn stop(self) -> Option<InfluxDb> {
        drop(self.stop);
        // A panic in the task is a bug; its server stops with it.
        self.task.await.unwrap_or_default()
    }
}

/// Starts InfluxDB until it runs, then reports on it until `stop`. `first` receives whether the
/// first start succeeded.
async fn supervise_influx(
    options: InfluxOptions,
    console: Console,
    first: oneshot::Sender<bool>,
    stop: CancellationToken,
) -> Option<InfluxDb> {
    let mut first = Some(first);
    let mut failures = 0_u32;
    loop {
        let started = tokio::select! {
            () = stop.cancelled() => return None,
            started = InfluxDb::start(options.clone()) => started,
        };
        if let Some(first) = first.take() {
            // The receiver may have timed out.
            let _ = first.send(started.is_ok());
        }
        match started {
            Ok(influx) => {
                if failures > 0 {
                    console.line(
                        "  ok InfluxDB is running; the metrics that waited are being written",
                    );
                }
                tokio::select! {
                    () = report_child(influx.child(), &console) => {}
                    () = stop.cancelled() => {}
                }
                stop.cancelled().await;
                return Some(influx);
            }
            Err(error) => {
                failures += 1;
                // Reports failures 1, 2, 4, 8 …
                if failures.is_power_of_two() {
                    let text = format!("{:#}", anyhow::Error::new(error));
                    console.line(&format!(
                        "  !! InfluxDB failed to start; everything else runs, metrics wait, and \
                         the start is retried every {} s: {text}",
                        INFLUX_RETRY_INTERVAL.as_secs()
                    ));
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(INFLUX_RETRY_INTERVAL) => {}
        }
    }
}

/// Uptime after which a child has recovered: its next crash counts as the first.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Reports crashes and recoveries. For a child that crashes repeatedly: crashes 1, 2, 4, 8 …
pub(super) async fn report_child(child: &Child, console: &Console) {
    use tokio::sync::broadcast::error::RecvError;
    let mut events = child.events();
    let (mut crashes, mut last) = (0_u32, Instant::now());
    loop {
        match events.recv().await {
            Ok(ChildEvent::Exited { is_requested: true, .. }) | Err(RecvError::Lagged(_)) => {}
            Ok(ChildEvent::Exited { exit, .. }) => {
                crashes = if last.elapsed() > RECOVERED_AFTER { 1 } else { crashes + 1 };
                last = Instant::now();
                let (name, log) = (child.name(), child.log().display());
                match crashes {
                    1 => console.line(&format!(
                        "  !! {name} ended ({exit}); starting it again; its log: {log}"
                    )),
                    times if times.is_power_of_two() => console.line(&format!(
                        "  !! {name} ended {times} times in a row ({exit}); its log: {log}"
                    )),
                    _ => {}
                }
            }
            Ok(ChildEvent::Restarted { down, .. }) if crashes.is_power_of_two() => {
                let down = down.as_secs_f64();
                console.line(&format!("  ok {} is back after {down:.1} s", child.name()));
            }
            Ok(ChildEvent::Restarted { .. }) => {}
            Ok(ChildEvent::RestartFailed { reason }) => {
                console.line(&format!("  !! {} failed to start: {reason}", child.name()));
            }
            Err(RecvError::Closed) => return,
        }
    }
}
