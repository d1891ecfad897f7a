//! A running InfluxDB.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, absolute};
use std::sync::Arc;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use muster_metric_store::{Api, Credentials, Flavor, InfluxClient, StoreError, StoreSettings};
use nix::sys::signal::Signal;

use super::bootstrap::bootstrap;
use super::config;
use super::credentials::read_or_create;
use super::error::InfluxError;
use super::options::InfluxOptions;
use crate::child::{Check, Child, ChildError, ChildSpec, NotReady, OneShot};
use crate::files;
use crate::ports;

/// Timeout of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the credentials of the server that these options start, whether or not it is running:
/// its secrets are in its folder, and created if they are missing.
///
/// # Errors
/// When the folder cannot be read or written.
#[boxed]
pub async fn credentials(options: &InfluxOptions) -> Result<Credentials, InfluxError> {
    std::fs::create_dir_all(&options.dir).map_err(|source| InfluxError::File {
        attempt: "make",
        path: options.dir.clone(),
        source,
    })?;
    // Without a binary that prints its version, assume the most common generation.
    let flavor = match options.search_path.influxd() {
        Ok(program) => flavor(&program).await.unwrap_or(Flavor::V1),
        Err(_) => Flavor::V1,
    };
    read_or_create(options, &options.dir, flavor)
}

/// An InfluxDB with its database.
#[derive(Debug)]
pub struct InfluxDb {
    child: Child,
    address: SocketAddr,
    flavor: Flavor,
    settings: StoreSettings,
}

impl InfluxDb {
    /// Starts the server, waits until it responds, and creates its administrator and its database
    /// if they are missing.
    ///
    /// # Errors
    /// [`InfluxError`], with the end of the server's log if the server did not start.
    #[boxed]
    pub async fn start(options: InfluxOptions) -> Result<Self, InfluxError> {
        let dir = absolute(&options.dir).map_err(|source| InfluxError::File {
            attempt: "resolve",
            path: options.dir.clone(),
            source,
        })?;
        let program = options.search_path.influxd()?;
        let flavor = flavor(&program).await?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let port = options.port.map_or_else(ports::free_port, Ok)?;
            let spec = spec(&options, &dir, &program, flavor, port)?;
            match Child::start(spec).await {
                Ok(child) => {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    return match prepare(&options, &dir, flavor, address).await {
                        Ok(settings) => Ok(Self { child, address, flavor, settings }),
                        Err(error) => {
                            child.shut_down().await?;
                            Err(error)
                        }
                    };
                }
                Err(error) if error.is_port_taken() && options.port.is_none() && attempt < 5 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns the process: its events, and methods to stop, start, kill and suspend it.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The InfluxDB generation.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Its HTTP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The initial database (2.x: the bucket).
    pub fn database(&self) -> &str {
        &self.settings.database
    }

    /// Its credentials.
    pub fn credentials(&self) -> &Credentials {
        &self.settings.credentials
    }

    /// The settings of a client: its address, its database and its credentials.
    pub fn store_settings(&self) -> &StoreSettings {
        &self.settings
    }

    /// Stops it permanently and orderly.
    ///
    /// # Errors
    /// When the process is no longer supervised.
    #[boxed]
    pub async fn stop(self) -> Result<(), ChildError> {
        self.child.shut_down().await.map(drop)
    }
}

async fn flavor(program: &Path) -> Result<Flavor, InfluxError> {
    let printed = OneShot::new("influxd version", program.into(), vec!["version".into()])
        .run()
        .await
        .map_err(|source| InfluxError::Version { program: program.into(), source })?;
    match Flavor::parse(&printed) {
        Some(flavor @ (Flavor::V1 | Flavor::V2)) => Ok(flavor),
        _ => Err(InfluxError::Unsupported {
            program: program.into(),
            printed: printed.trim().into(),
        }),
    }
}

fn spec(
    options: &InfluxOptions,
    dir: &Path,
    program: &Path,
    flavor: Flavor,
    port: u16,
) -> Result<ChildSpec, InfluxError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let args = match flavor {
        Flavor::V1 => {
            let path = dir.join("influxdb.conf");
            files::write_private(&path, config::v1(dir, port, options.auth).as_bytes()).map_err(
                |source| InfluxError::File { attempt: "write", path: path.clone(), source },
            )?;
            vec!["-config".into(), path.into_os_string()]
        }
        Flavor::V2 | Flavor::V3 => config::v2(dir, port),
    };
    let client = Arc::new(client(settings(address, &options.database, flavor, Credentials::Open))?);
    Ok(ChildSpec {
        name: "influxd",
        program: program.into(),
        args,
        listen_addresses: vec![address],
        dir: dir.into(),
        open_dir: None,
        run_as: None,
        variables: &[],
        stop_signal: Signal::SIGTERM,
        stop_timeout: Duration::from_secs(60),
        // It responds only after it has read its whole write-ahead log.
        start_timeout: Duration::from_secs(900),
        restart: options.restart,
        check: Check::new(move || check_ready(Arc::clone(&client))),
        transient: &[],
        on_progress: options.on_progress.clone(),
    })
}

/// Returns the settings of a client.
fn settings(
    address: SocketAddr,
    database: &str,
    flavor: Flavor,
    credentials: Credentials,
) -> StoreSettings {
    let api = if flavor == Flavor::V1 { Api::V1 } else { Api::V2 };
    StoreSettings { api, credentials, ..StoreSettings::new(&format!("http://{address}"), database) }
}

fn client(settings: StoreSettings) -> Result<InfluxClient, InfluxError> {
    InfluxClient::new(StoreSettings { timeout: REQUEST_TIMEOUT, ..settings })
        .map_err(|source| InfluxError::Store { attempt: "create a client of InfluxDB", source })
}

/// Creates what a server that has started lacks; returns the settings of its clients.
async fn prepare(
    options: &InfluxOptions,
    dir: &Path,
    flavor: Flavor,
    address: SocketAddr,
) -> Result<StoreSettings, InfluxError> {
    let credentials = read_or_create(options, dir, flavor)?;
    let settings = settings(address, &options.database, flavor, credentials);
    bootstrap(&client(settings.clone())?, dir).await?;
    Ok(settings)
}

async fn check_ready(client: Arc<InfluxClient>) -> Result<(), NotReady> {
    client.ping().await.map_err(|error| {
        NotReady::Yet(match error {
            StoreError::Unreachable { .. } => "it does not accept connections yet".into(),
            error => error.to_string(),
        })
    })
}
