//! `muster up`: the whole system on this machine, as children of this process, with this very
//! machine as its first device. Everything is kept in one folder; Ctrl-C stops all of it.

mod agent;
mod bootstrap;
mod folder;
mod say;
mod servers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use muster_command::keys::KeyStore;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::client::contexts;
use crate::serve::{self, Role, Roles, ServeOptions};
use agent::LocalAgent;
use folder::Folder;
use say::Say;
use servers::Servers;

pub(crate) use bootstrap::admin_token;
pub(crate) use folder::write_private;

/// Runs the whole system on this machine, until Ctrl-C.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// The folder that everything is kept in
    #[arg(long, env = "MUSTER_DATA", default_value = "muster-data")]
    data: PathBuf,
    /// The port of the API
    #[arg(long, env = "MUSTER_PORT", default_value_t = 8443)]
    port: u16,
    /// The address to listen on, for the API and for devices; loopback unless told otherwise
    #[arg(long, env = "MUSTER_ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Further names of this machine for the server's certificate
    #[arg(long, value_delimiter = ',')]
    name: Vec<String>,
    /// Do not make this machine a device
    #[arg(long)]
    no_agent: bool,
}

/// Runs until a signal, or until something fails that cannot be mended.
pub(crate) async fn run(args: UpArgs) -> Result<()> {
    let began = Instant::now();
    let say = Say::new();
    let folder = Folder::open(&args.data, args.port)?;
    let listen = SocketAddr::new(args.listen, args.port);
    serve::check_free(listen)?;
    say.line(&format!("muster {} in {}", env!("CARGO_PKG_VERSION"), folder.path().display()));

    let keys = KeyStore::open(&folder.path().join("keys"))?;
    let names = serve::certificate_names(listen, args.name);
    let certificates = keys.certificates(&names, std::time::SystemTime::now().into())?;
    let servers = Servers::start(&folder, &keys, &certificates, args.listen, &say).await?;

    let ended =
        run_roles(args.no_agent, &folder, &keys, &servers, listen, names, &say, began).await;
    say.line("stopping …");
    servers.stop(&say).await;
    if ended.is_ok() {
        say.line("stopped; everything is kept, and `muster up` goes on from here");
    }
    ended
}

#[expect(clippy::too_many_arguments, reason = "one call, which only splits a long function")]
async fn run_roles(
    no_agent: bool,
    folder: &Folder,
    keys: &KeyStore,
    servers: &Servers,
    listen: SocketAddr,
    names: Vec<String>,
    say: &Say,
    began: Instant,
) -> Result<()> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    let options = ServeOptions {
        roles: Roles(Role::All),
        postgres_url: servers.postgres_url(),
        nats_url: servers.nats_url(),
        metric_store: servers.metric_store(),
        keys: keys.dir().to_owned(),
        listen,
        names,
        // Devices take the host by which they reach the API.
        device_servers: vec![format!("tls://0.0.0.0:{}", servers.nats_port())],
        command_url: None,
        offline_after: serve::OFFLINE_AFTER,
    };
    let token =
        admin_token(&options.postgres_url, keys, &folder.path().join("admin-token")).await?;

    let starting = say.start("muster");
    let (ready, is_ready) = oneshot::channel();
    let mut roles = tokio::spawn(serve::run(options, stop.clone(), move || {
        let _ = ready.send(());
    }));
    tokio::select! {
        _ = is_ready => starting.done(),
        ended = &mut roles => {
            starting.failed();
            return ended.context("the roles panicked")?.and_then(|()| bail!("the roles ended"));
        }
        () = signals.received() => {
            starting.failed();
            stop.cancel();
            return settle(roles).await;
        }
    }

    let url = reachable_url(listen);
    let ca = keys.dir().join("ca.pem");
    let agent =
        if no_agent { None } else { LocalAgent::start(folder, &url, &token, &ca, say).await? };
    contexts::remember_local(&url, &token, &ca)?;
    folder.write_ready(&url, &token, &ca)?;
    say.ready(&url, &token, agent.is_some(), began.elapsed());

    let ended = tokio::select! {
        () = signals.received() => Ok(()),
        ended = &mut roles => ended.context("the roles panicked")?.context("muster stopped"),
        () = servers.report(say) => Ok(()),
    };
    folder.remove_ready();
    if let Some(agent) = agent {
        agent.stop().await;
    }
    stop.cancel();
    if roles.is_finished() { ended } else { settle(roles).await.and(ended) }
}

/// Lets the roles finish what they are at, for a while.
async fn settle(roles: tokio::task::JoinHandle<Result<()>>) -> Result<()> {
    match tokio::time::timeout(Duration::from_secs(10), roles).await {
        Ok(ended) => ended.context("the roles panicked")?,
        Err(_) => {
            tracing::warn!("the roles did not end in time; nothing is lost by that");
            Ok(())
        }
    }
}

/// The address by which this machine reaches its own API.
fn reachable_url(listen: SocketAddr) -> String {
    match listen.ip() {
        ip if ip.is_unspecified() || ip.is_loopback() => {
            format!("https://127.0.0.1:{}", listen.port())
        }
        IpAddr::V6(ip) => format!("https://[{ip}]:{}", listen.port()),
        ip => format!("https://{ip}:{}", listen.port()),
    }
}

/// Ctrl-C, and what a service manager sends.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
