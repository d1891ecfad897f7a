//! A running InfluxDB.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use nix::sys::signal::Signal;
use thiserror::Error;

use super::bootstrap::bootstrap;
use super::config;
use super::flavor::Flavor;
use super::http::Request;
use super::options::InfluxOptions;
use crate::child::{Check, Child, ChildError, ChildSpec, NotReady, OneShot, OneShotError};
use crate::files;
use crate::find::FindError;
use crate::ports::{self, NoFreePort};

/// InfluxDB could not be started.
#[derive(Debug, Error)]
pub enum InfluxError {
    /// No binary.
    #[error(transparent)]
    Find(#[from] FindError),
    /// No port.
    #[error(transparent)]
    Port(#[from] NoFreePort),
    /// The process did not start, or is not there.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The binary does not even tell its version.
    #[error("cannot ask {} for its version; run `make deps`, or set MUSTER_INFLUXD", program.display())]
    Version {
        /// The binary.
        program: PathBuf,
        /// Why not.
        source: OneShotError,
    },
    /// The binary is of a generation that is not started here.
    #[error("{} says {printed:?}, and only InfluxDB 1.x and 2.x are started here; set MUSTER_INFLUXD to one of these, or run it yourself and give muster its address", program.display())]
    Unsupported {
        /// The binary.
        program: PathBuf,
        /// What it printed as its version.
        printed: String,
    },
    /// A file could not be made or read.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// InfluxDB runs, and a request to it failed.
    #[error("cannot ask InfluxDB to {attempt}")]
    Http {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// InfluxDB runs, and refused a request.
    #[error("InfluxDB refuses to {attempt}: {answer}")]
    Refused {
        /// What was attempted.
        attempt: &'static str,
        /// What it answered.
        answer: String,
    },
    /// Its data has an administrator whose password is another one.
    #[error(
        "InfluxDB refuses the password in the file beside its data; they do not belong together: restore both from one backup, or choose another folder"
    )]
    ForeignData,
}

/// How to sign in.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all.
    Open,
    /// 1.x: user and password.
    Password {
        /// The administrator.
        user: String,
        /// Its password.
        password: String,
    },
    /// 2.x: an all-access token.
    Token {
        /// The organization that the bucket is in.
        organization: String,
        /// The token.
        token: String,
    },
}

impl fmt::Debug for Credentials {
    /// Without the secret: credentials end up in logs through `Debug`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Password { .. } => "Password(..)",
            Self::Token { .. } => "Token(..)",
        })
    }
}

/// How to sign in to the server that these options start, whether it runs or not: its secrets are kept
/// in its folder, and made when they are missing.
///
/// # Errors
/// When the folder cannot be read or written.
pub async fn credentials(options: &InfluxOptions) -> Result<Credentials, InfluxError> {
    std::fs::create_dir_all(&options.dir).map_err(|source| InfluxError::File {
        attempt: "make",
        path: options.dir.clone(),
        source,
    })?;
    // Without a program that tells its version, it is what runs on most machines.
    let flavor = match options.places.influxd() {
        Ok(program) => flavor(&program).await.unwrap_or(Flavor::V1),
        Err(_) => Flavor::V1,
    };
    super::bootstrap::credentials(options, &options.dir, flavor)
}

/// An InfluxDB with its database.
#[derive(Debug)]
pub struct InfluxDb {
    child: Child,
    address: SocketAddr,
    flavor: Flavor,
    database: String,
    credentials: Credentials,
}

impl InfluxDb {
    /// Starts the server, waits until it answers, and makes its administrator and its database
    /// where they are missing.
    ///
    /// # Errors
    /// [`InfluxError`]; the end of the server's log is in it when the server did not start.
    pub async fn start(options: InfluxOptions) -> Result<Self, InfluxError> {
        let dir = absolute(&options.dir).map_err(|source| InfluxError::File {
            attempt: "resolve",
            path: options.dir.clone(),
            source,
        })?;
        let program = options.places.influxd()?;
        let flavor = flavor(&program).await?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let port = options.port.map_or_else(ports::free_port, Ok)?;
            let spec = spec(&options, &dir, &program, flavor, port)?;
            match Child::start(spec).await {
                Ok(child) => {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    return match bootstrap(&options, &dir, flavor, address).await {
                        Ok(credentials) => Ok(Self {
                            child,
                            address,
                            flavor,
                            database: options.database,
                            credentials,
                        }),
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

    /// The process: its events, and the means to stop, start, kill and freeze it.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Which InfluxDB it is.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Its HTTP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The database (2.x: the bucket) that is there.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// How to sign in.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Stops it for good, in order.
    ///
    /// # Errors
    /// When nothing watches the process any more.
    pub async fn stop(self) -> Result<(), ChildError> {
        self.child.shut_down().await.map(drop)
    }
}

async fn flavor(program: &Path) -> Result<Flavor, InfluxError> {
    let printed = OneShot::plain("influxd version", program.into(), vec!["version".into()])
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
    Ok(ChildSpec {
        name: "influxd",
        program: program.into(),
        args,
        listens: vec![address],
        dir: dir.into(),
        open_dir: None,
        run_as: None,
        variables: &[],
        stop_signal: Signal::SIGTERM,
        stop_within: Duration::from_secs(60),
        // It answers only when it has read its whole write-ahead log.
        start_within: Duration::from_secs(900),
        restart: options.restart,
        check: Check::new(move || pings(address)),
        transient: &[],
        on_progress: options.on_progress.clone(),
    })
}

async fn pings(address: SocketAddr) -> Result<(), NotReady> {
    match Request::get("/ping").send(address).await {
        Ok(answer) if answer.status == 204 => Ok(()),
        Ok(answer) => Err(NotReady::Yet(format!("it answers with status {}", answer.status))),
        Err(_) => Err(NotReady::Yet("it does not accept connections yet".into())),
    }
}
