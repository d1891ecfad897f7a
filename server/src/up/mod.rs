//! `muster up`: runs the whole system as children of this process, with this machine as its first
//! device. All data is in one folder; Ctrl-C stops the system.

mod agent;
mod console;
mod folder;
mod servers;
mod shutdown;
mod stored;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_recursion::async_recursion as boxed;
use clap::Args;
use muster_backing::ports;
use muster_client::Client;
use muster_client::contexts::{self, StoredContext};
use muster_command::channels::Recording;
use muster_command::keys::{KeyStore, Listener};
use muster_eventlog::DatabaseRole;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::database_users;
use crate::log_setup::{admin_token, open_as_owner};
use crate::otlp::OtlpArgs;
use crate::serve::{
    self, ConnectionLimits, CorsOrigins, DEFAULT_PORT, Listen, MetricLimits, RecordShells, Role,
    Roles, ServeOptions, TokenLimits, TrustedProxies, UnauthenticatedRate,
};

use agent::LocalAgent;
use console::{Console, Ready};
use folder::{Folder, Ports};
use servers::{ServerOptions, Servers};
use shutdown::ShutdownSignals;

pub use stored::{ports_in, servers_in};

/// Timeout for servers that still start when shutdown is requested; servers that are up are stopped
/// in order.
const START_GRACE: Duration = Duration::from_secs(10);

/// Run the whole system on this machine until Ctrl-C
#[derive(Args, Debug)]
pub struct UpArgs {
    #[command(flatten)]
    /// Export of spans.
    pub otlp: OtlpArgs,
    /// Data folder of the whole system
    #[arg(long, env = "MUSTER_DATA", default_value = "muster-data")]
    data: PathBuf,
    /// Port of the API; default: 8443; 0 selects a free port and keeps it
    #[arg(long, env = "MUSTER_PORT")]
    port: Option<u16>,
    /// Address to listen on, for the API and for devices; default: loopback
    #[arg(
        long,
        env = "MUSTER_LISTEN",
        default_value_t = Listen { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None },
        value_name = "ADDRESS[:PORT]"
    )]
    listen: Listen,
    /// Additional names of this machine in the server's certificate
    #[arg(long, env = "MUSTER_NAMES", value_delimiter = ',')]
    name: Vec<String>,
    /// Timeout after which a device without messages is offline: 10s, 1m
    #[arg(long, env = "MUSTER_OFFLINE_AFTER", default_value = "60s", value_parser = serve::parse_offline_after)]
    offline_after: Duration,
    #[command(flatten)]
    joins: UnauthenticatedRate,
    #[command(flatten)]
    connections: ConnectionLimits,
    #[command(flatten)]
    token_limits: TokenLimits,
    #[command(flatten)]
    metric_limits: MetricLimits,
    #[command(flatten)]
    record: RecordShells,
    #[command(flatten)]
    cors: CorsOrigins,
    /// Do not enroll this machine as a device
    #[arg(long)]
    no_agent: bool,
    /// Folder of agents for other machines
    ///
    /// The files are named `muster-agent-<architecture>`, as `uname -m` prints it. The agent for
    /// this machine is found next to this program.
    #[arg(long, env = "MUSTER_AGENTS")]
    agents: Option<PathBuf>,
}

/// State that the parts of the system share.
struct Up<'a> {
    folder: &'a Folder,
    keys: &'a KeyStore,
    servers: &'a Servers,
    console: &'a Console,
    shutdown: &'a ShutdownSignals,
    listen: SocketAddr,
    names: Vec<String>,
    with_agent: bool,
    offline_after: Duration,
    unauthenticated_rate: NonZeroU32,
    connections: ConnectionLimits,
    token_limits: TokenLimits,
    metric_limits: MetricLimits,
    recording: Recording,
    cors: CorsOrigins,
    agents: Option<PathBuf>,
    started_at: Instant,
}

/// Runs until a signal, or until an error from which it cannot recover.
///
/// # Errors
/// When the system cannot start or continue.
#[boxed]
pub async fn run(args: UpArgs) -> Result<()> {
    let started_at = Instant::now();
    let shutdown = ShutdownSignals::listen()?;
    let say = Console::new();
    if let Err(error) = muster_backing::file_limit::raise() {
        say.line(&format!("  !! failed to raise the limit of open files: {error}"));
    }
    let port = args.port.or(args.listen.port).unwrap_or(DEFAULT_PORT);
    let folder = Folder::open(&args.data, port)?;
    let listen = listen_on(args.listen.ip, port, &folder)?;
    say.line(&format!("muster {} in {}", env!("CARGO_PKG_VERSION"), folder.path().display()));
    if port == 0 {
        say.line(&format!("  the API is on port {}", listen.port()));
    }

    let keys = KeyStore::open(&folder.path().join("keys"))?;
    let names = serve::certificate_names(listen, args.name);
    let certificates =
        keys.certificates(Listener::Broker, &names, std::time::SystemTime::now().into())?;
    let options = ServerOptions {
        folder: &folder,
        keys: &keys,
        certificates: &certificates,
        listen: listen.ip(),
        silence_timeout: args.offline_after,
        console: &say,
    };
    let Some(servers) = start_servers(options, &shutdown).await? else {
        say.line("stopped before all servers had started");
        return Ok(());
    };
    let up = Up {
        folder: &folder,
        keys: &keys,
        servers: &servers,
        console: &say,
        shutdown: &shutdown,
        listen,
        names,
        with_agent: !args.no_agent,
        offline_after: args.offline_after,
        unauthenticated_rate: args.joins.joins_per_second,
        connections: args.connections,
        token_limits: args.token_limits,
        metric_limits: args.metric_limits,
        recording: args.record.record_shells.into(),
        cors: args.cors,
        agents: args.agents,
        started_at,
    };
    let ended = up.run_roles().await;
    say.line("stopping …");
    servers.stop(&say).await;
    if ended.is_ok() {
        say.line("stopped; all data is kept, and `muster up` continues with it");
    }
    ended
}

/// Returns an address that is free to listen on; port 0 becomes the previous port, or a free one.
fn listen_on(ip: IpAddr, port: u16, folder: &Folder) -> Result<SocketAddr> {
    if port != 0 {
        let listen = SocketAddr::new(ip, port);
        return serve::check_free(listen).map(|()| listen);
    }
    let kept = folder.ports()?;
    let is_free = |port: &u16| serve::check_free(SocketAddr::new(ip, *port)).is_ok();
    let mut port = kept.api.filter(is_free);
    for _ in 0..20 {
        if port.is_none() {
            port = Some(ports::free_port()?).filter(is_free);
        }
    }
    let port = port.with_context(|| format!("no port of {ip} is free to listen on"))?;
    folder.store_ports(&Ports { api: Some(port), ..kept })?;
    Ok(SocketAddr::new(ip, port))
}

/// Starts the servers; returns `None` when shutdown was requested before all were up.
async fn start_servers(
    options: ServerOptions<'_>,
    shutdown: &ShutdownSignals,
) -> Result<Option<Servers>> {
    let say = options.console;
    let starting = Servers::start(options);
    tokio::pin!(starting);
    tokio::select! {
        started = &mut starting => return started.map(Some),
        () = shutdown.wait_for_stop() => {}
    }
    say.line("stopping …");
    tokio::select! {
        started = tokio::time::timeout(START_GRACE, starting) => {
            if let Ok(Ok(servers)) = started {
                servers.stop(say).await;
            }
        }
        () = shutdown.wait_for_second() => {}
    }
    Ok(None)
}

impl Up<'_> {
    fn options(&self) -> ServeOptions {
        ServeOptions {
            roles: Roles(Role::All),
            postgres_url: self.servers.postgres_url(),
            nats_urls: vec![self.servers.nats_url()],
            copies: muster_ingest::streams::Copies(1),
            metric_store: Some(self.servers.metric_store()),
            keys: self.keys.dir().to_owned(),
            blobs: muster_blobs::BlobLocation::Folder(self.folder.path().join("blobs")),
            listen: Some(self.listen),
            names: self.names.clone(),
            // Devices use the host by which they reach the API.
            device_servers: vec![format!("tls://0.0.0.0:{}", self.servers.nats_port())],
            command_url: None,
            agents: self.agents.clone(),
            offline_after: self.offline_after,
            unauthenticated_rate: self.unauthenticated_rate,
            connections: self.connections,
            token_limits: self.token_limits,
            metric_limits: self.metric_limits,
            proxies: TrustedProxies::default(),
            cors: self.cors.clone(),
            recording: self.recording,
        }
    }

    /// Sets up the log; returns the admin token and, if the roles have a database user, its URL.
    async fn set_up_log(&self, owner: &str) -> Result<(String, Option<String>)> {
        let file = self.folder.path().join("admin-token");
        let log = open_as_owner(owner, self.keys).await?;
        let token = admin_token(&log, self.keys, &file, false).await?;
        let has_users = database_users::create(&log, owner, self.keys).await?;
        let url = || database_users::url_of(owner, DatabaseRole::Server, self.keys);
        Ok((token, has_users.then(url).transpose()?))
    }

    async fn run_roles(&self) -> Result<()> {
        let mut options = self.options();
        let (token, url) = self.set_up_log(&options.postgres_url).await?;
        options.postgres_url = url.unwrap_or(options.postgres_url);

        let starting = self.console.start("muster");
        let stop = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let ready = Box::new(move || {
            let _ = ready.send(());
        });
        let mut roles = tokio::spawn(serve::run(options, stop.clone(), ready));
        tokio::select! {
            Ok(()) = is_ready => starting.done(),
            ended = &mut roles => {
                starting.failed();
                return roles_ended(ended);
            }
            () = self.shutdown.wait_for_stop() => {
                starting.failed();
                stop.cancel();
                return wait_for_roles(roles).await;
            }
        }
        let mut agent = None;
        let ended = tokio::select! {
            ended = self.run_until_stopped(&token, &mut agent) => ended,
            ended = &mut roles => roles_ended(ended),
            () = self.shutdown.wait_for_stop() => Ok(()),
        };
        self.folder.remove_ready();
        if let Some(agent) = agent {
            agent.stop().await;
        }
        stop.cancel();
        if roles.is_finished() { ended } else { wait_for_roles(roles).await.and(ended) }
    }

    /// Enrolls this machine as a device, reports that the system is ready, then supervises the
    /// children. Returns only on error.
    async fn run_until_stopped(&self, token: &str, agent: &mut Option<LocalAgent>) -> Result<()> {
        let url = format!("https://{}", reachable(self.listen));
        let ca = self.keys.dir().join("ca.pem");
        let client = Client::new(&url, token, Some(&ca))?;
        if self.with_agent {
            *agent = LocalAgent::start(self.folder, &client, &ca, self.console).await?;
        }
        let context = self.store_context(&url, token, &ca);
        self.folder.write_ready(&url, token, &ca)?;
        self.console.ready(&Ready {
            url: &url,
            token,
            token_file: &self.folder.path().join("admin-token"),
            device: agent.as_ref().map(LocalAgent::name),
            for_others: serve::address_for_others(self.listen.ip())
                .map(|ip| SocketAddr::new(ip, self.listen.port())),
            broker_port: self.servers.nats_port(),
            context,
            elapsed: self.started_at.elapsed(),
        });
        match agent {
            Some(agent) => {
                tokio::join!(
                    self.servers.report(self.console),
                    agent.report(&client, self.console)
                );
            }
            None => self.servers.report(self.console).await,
        }
        Ok(())
    }

    /// Stores the context of this data folder. The system runs without it, too.
    fn store_context(&self, url: &str, token: &str, ca: &Path) -> Option<StoredContext> {
        match contexts::store_local(url, token, ca) {
            Ok(context) => {
                if context.name != contexts::LOCAL {
                    self.console.line(&format!(
                        "  the context 'local' belongs to another data folder; this one is '{}'",
                        context.name
                    ));
                }
                Some(context)
            }
            Err(error) => {
                self.console.line(&format!(
                    "  !! failed to store the context of this server: {error:#}\n     give --url, \
                     MUSTER_TOKEN and --ca, which are in {}",
                    self.folder.path().join("ready.json").display()
                ));
                None
            }
        }
    }
}

fn roles_ended(ended: Result<Result<()>, JoinError>) -> Result<()> {
    ended.context("the roles panicked")?.context("muster stopped")?;
    bail!("the roles ended")
}

/// Waits, with a timeout, until the roles have finished their work.
async fn wait_for_roles(roles: JoinHandle<Result<()>>) -> Result<()> {
    match tokio::time::timeout(Duration::from_secs(10), roles).await {
        Ok(ended) => ended.context("the roles panicked")?,
        Err(_) => {
            tracing::warn!("the roles did not end in time; no data is lost");
            Ok(())
        }
    }
}

/// Returns the address by which this machine reaches its own API.
fn reachable(listen: SocketAddr) -> SocketAddr {
    SocketAddr::new(ports::reachable(listen.ip()), listen.port())
}
