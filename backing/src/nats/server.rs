//! A running nats-server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use nix::sys::signal::Signal;
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::config::{MIN_VERSION, Ports, config, parse_version};
use super::options::NatsOptions;
use crate::child::{Check, Child, ChildError, ChildSpec, NotReady, OneShot, OneShotError};
use crate::files;
use crate::find::FindError;
use crate::ports::{self, NoFreePort, reachable};

/// The reason why nats-server could not be started.
#[derive(Debug, Error)]
pub enum NatsError {
    /// The binary was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// No port is free.
    #[error(transparent)]
    Port(#[from] NoFreePort),
    /// The process did not start, or is not running.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The binary does not print its version.
    #[error("failed to read the version of {}; run `make deps`, or set MUSTER_NATS_SERVER", program.display())]
    Version {
        /// The binary.
        program: PathBuf,
        /// The cause.
        source: OneShotError,
    },
    /// The binary is too old, or another program.
    #[error("{} printed the version {printed:?}, and muster needs nats-server {}.{} or newer; run `make deps`, or set MUSTER_NATS_SERVER", program.display(), MIN_VERSION.0, MIN_VERSION.1)]
    Unsupported {
        /// The binary.
        program: PathBuf,
        /// The version that it printed.
        printed: String,
    },
    /// nats-server refuses the configuration.
    #[error("nats-server rejects its configuration {}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// Its error message.
        source: OneShotError,
    },
    /// A file could not be created.
    #[error("failed to {attempt} {}", path.display())]
    File {
        /// The attempted action.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A nats-server with JetStream.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    listen: IpAddr,
    ports: Ports,
    tls: bool,
}

impl NatsServer {
    /// Writes the configuration, lets nats-server check it, starts the server, and waits until
    /// JetStream is ready.
    ///
    /// # Errors
    /// [`NatsError`], with the end of the server's log if the server did not start.
    #[boxed]
    pub async fn start(options: NatsOptions) -> Result<Self, NatsError> {
        let dir = absolute(&options.dir).map_err(|source| NatsError::File {
            attempt: "resolve",
            path: options.dir.clone(),
            source,
        })?;
        let program = options.search_path.nats_server()?;
        check_version(&program).await?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let ports = choose_ports(&options)?;
            let file = write_config(&options, &dir, ports)?;
            if attempt == 1 {
                check_config(&program, &file).await?;
            }
            match Child::start(spec(&options, &dir, &program, &file, ports)).await {
                Ok(child) => {
                    return Ok(Self {
                        child,
                        listen: options.listen,
                        ports,
                        tls: options.tls.is_some(),
                    });
                }
                Err(error) if error.is_port_taken() && chooses_ports(&options) && attempt < 5 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns the process: its events, and methods to stop, start, kill and suspend it.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.ports.client
    }

    /// The port for clients over websocket.
    pub fn websocket_port(&self) -> Option<u16> {
        self.ports.websocket
    }

    /// Returns `nats://…` or `tls://…`, as reached from this machine.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "tls" } else { "nats" }, self.address(self.ports.client))
    }

    /// Returns `ws://…` or `wss://…`, as reached from this machine.
    pub fn websocket_url(&self) -> Option<String> {
        let scheme = if self.tls { "wss" } else { "ws" };
        self.ports.websocket.map(|port| format!("{scheme}://{}", self.address(port)))
    }

    /// Makes it read its certificates again, after their renewal (SIGHUP).
    ///
    /// # Errors
    /// [`ChildError::NotRunning`].
    pub fn reload(&self) -> Result<(), ChildError> {
        self.child.signal(Signal::SIGHUP)
    }

    /// Stops it permanently and orderly.
    ///
    /// # Errors
    /// When the process is no longer supervised.
    #[boxed]
    pub async fn stop(self) -> Result<(), ChildError> {
        self.child.shut_down().await.map(drop)
    }

    fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(reachable(self.listen), port)
    }
}

async fn check_version(program: &Path) -> Result<(), NatsError> {
    let printed = OneShot::new("nats-server --version", program.into(), vec!["--version".into()])
        .run()
        .await
        .map_err(|source| NatsError::Version { program: program.into(), source })?;
    match parse_version(&printed) {
        Some(version) if version >= MIN_VERSION => Ok(()),
        _ => {
            Err(NatsError::Unsupported { program: program.into(), printed: printed.trim().into() })
        }
    }
}

fn choose_ports(options: &NatsOptions) -> Result<Ports, NoFreePort> {
    let client = options.port.map_or_else(ports::free_port, Ok)?;
    let websocket = options
        .websocket
        .as_ref()
        .map(|websocket| websocket.port.map_or_else(ports::free_port, Ok))
        .transpose()?;
    Ok(Ports { client, websocket })
}

/// Whether another attempt would use another port.
fn chooses_ports(options: &NatsOptions) -> bool {
    options.port.is_none()
        || options.websocket.as_ref().is_some_and(|websocket| websocket.port.is_none())
}

fn write_config(options: &NatsOptions, dir: &Path, ports: Ports) -> Result<PathBuf, NatsError> {
    let path = dir.join("nats-server.conf");
    let text = format!("{:#}\n", config(options, dir, ports));
    match files::write_private(&path, text.as_bytes()) {
        Ok(()) => Ok(path),
        Err(source) => Err(NatsError::File { attempt: "write", path, source }),
    }
}

async fn check_config(program: &Path, file: &Path) -> Result<(), NatsError> {
    OneShot::new("nats-server -t", program.into(), vec!["-t".into(), "-c".into(), file.into()])
        .run()
        .await
        .map(drop)
        .map_err(|source| NatsError::Config { path: file.into(), source })
}

/// Collects garbage when the heap has grown by half. With Go's default of 100 a connected device
/// takes a quarter more memory (docs/performance.md), and buffers of a burst are kept for minutes.
const GOGC: (&str, &str) = ("GOGC", "50");

fn spec(options: &NatsOptions, dir: &Path, program: &Path, file: &Path, ports: Ports) -> ChildSpec {
    let address = SocketAddr::new(reachable(options.listen), ports.client);
    let name = options.server_name.clone();
    ChildSpec {
        name: "nats-server",
        program: program.into(),
        args: vec!["-c".into(), file.into()],
        listen_addresses: [Some(ports.client), ports.websocket]
            .into_iter()
            .flatten()
            .map(|port| (options.listen, port).into())
            .collect(),
        dir: dir.into(),
        open_dir: None,
        run_as: None,
        variables: &[GOGC],
        stop_signal: Signal::SIGTERM,
        stop_timeout: Duration::from_secs(20),
        start_timeout: Duration::from_secs(300),
        restart: options.restart,
        check: Check::new(move || check_ready(address, name.clone())),
        transient: &[],
        on_progress: options.on_progress.clone(),
    }
}

/// Reads the INFO message that nats-server sends in plaintext to every new connection. It accepts
/// connections only after JetStream has recovered its streams.
async fn check_ready(address: SocketAddr, name: String) -> Result<(), NotReady> {
    let yet = |what: &str| NotReady::Yet(what.to_owned());
    let stream =
        TcpStream::connect(address).await.map_err(|_| yet("it does not accept connections yet"))?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .await
        .map_err(|_| yet("it sent no INFO message yet"))?;
    let info: Value =
        line.strip_prefix("INFO ").and_then(|info| serde_json::from_str(info).ok()).ok_or_else(
            || NotReady::Ever(format!("the server on {address} is not a nats-server")),
        )?;
    if info["server_name"] != name.as_str() {
        return Err(NotReady::Ever(format!(
            "another nats-server listens on {address}: {}",
            info["server_name"]
        )));
    }
    if info["jetstream"] != true {
        return Err(yet("JetStream is not ready yet"));
    }
    Ok(())
}
