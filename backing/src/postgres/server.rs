//! A running PostgreSQL.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use nix::sys::signal::Signal;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::cluster::{Cluster, USER, data_argument};
use super::error::{MIN_MAJOR_VERSION, PostgresError};
use super::options::{PostgresOptions, settings};
use crate::child::{Check, Child, ChildError, ChildSpec, NotReady};
use crate::ports;
use crate::run_as::RunAs;

/// A PostgreSQL server with the database `muster`.
#[derive(Debug)]
pub struct Postgres {
    child: Child,
    port: u16,
    password: String,
    bin: PathBuf,
}

impl Postgres {
    /// Creates the cluster and the database if they do not exist, starts the server, and waits
    /// until both are ready.
    ///
    /// # Errors
    /// [`PostgresError`], with the end of the server's log if the server did not start.
    #[boxed]
    pub async fn start(options: PostgresOptions) -> Result<Self, PostgresError> {
        let dir = absolute(&options.dir).map_err(|source| PostgresError::File {
            attempt: "resolve",
            path: options.dir.clone(),
            source,
        })?;
        let run_as = RunAs::for_postgres().map_err(PostgresError::RunAs)?;
        let cluster = Cluster { dir: &dir, run_as: run_as.as_ref() };
        let existing = cluster.major()?;
        let bin = options.search_path.postgres_bin(existing)?;
        check_binaries(&bin, run_as.as_ref())?;
        let password = cluster.password()?;
        if existing.is_none() {
            tracing::info!(data = %cluster.data().display(), "creating a PostgreSQL cluster");
            cluster.create(&bin, &password, options.tuning).await?;
        } else {
            cluster.chown_data()?;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let port = match options.port {
                Some(port) => port,
                None => ports::free_port()?,
            };
            let spec = spec(&options, &dir, &bin, run_as.as_ref(), port, &password);
            match Child::start(spec).await {
                Ok(child) => {
                    let postgres = Self { child, port, password, bin };
                    return match postgres.create_database().await {
                        Ok(()) => Ok(postgres),
                        Err(error) => {
                            postgres.stop().await?;
                            Err(PostgresError::Database(error))
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

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its binaries, which also contains the matching `pg_dump`.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Returns `postgres://muster:…@127.0.0.1:PORT/muster`. It contains the password and must not
    /// be logged.
    pub fn connection_url(&self) -> String {
        self.connection_url_of(USER)
    }

    /// Returns the URL of another database on this server, as created by tests.
    pub fn connection_url_of(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Stops it permanently and orderly (a fast shutdown: open transactions are rolled back).
    ///
    /// # Errors
    /// When the process is no longer supervised.
    #[boxed]
    pub async fn stop(self) -> Result<(), ChildError> {
        self.child.shut_down().await.map(drop)
    }

    async fn create_database(&self) -> Result<(), tokio_postgres::Error> {
        match connect(self.port, &self.password, USER).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_DATABASE) => {
                let client = connect(self.port, &self.password, "postgres").await?;
                client.batch_execute("CREATE DATABASE muster").await
            }
            Err(error) => Err(error),
        }
    }
}

fn check_binaries(bin: &Path, run_as: Option<&RunAs>) -> Result<(), PostgresError> {
    if let Some(user) = run_as
        && let Some(barred) = user.inaccessible_dir(&bin.join("postgres"))
    {
        return Err(PostgresError::BinariesInaccessible {
            user: user.name.clone(),
            bin: bin.into(),
            barred,
        });
    }
    match crate::find::postgres_major(bin) {
        Some(major) if major < MIN_MAJOR_VERSION => {
            Err(PostgresError::TooOld { bin: bin.into(), major })
        }
        _ => Ok(()),
    }
}

fn spec(
    options: &PostgresOptions,
    dir: &Path,
    bin: &Path,
    run_as: Option<&RunAs>,
    port: u16,
    password: &str,
) -> ChildSpec {
    let data = dir.join("data");
    let mut args: Vec<OsString> = vec!["-D".into(), data_argument(&data, run_as)];
    args.extend(
        settings(port, options.tuning)
            .into_iter()
            .flat_map(|setting| ["-c".into(), setting.into()]),
    );
    let password = password.to_owned();
    ChildSpec {
        name: "postgres",
        program: bin.join("postgres"),
        args,
        listen_addresses: vec![(Ipv4Addr::LOCALHOST, port).into()],
        dir: dir.into(),
        open_dir: run_as.map(|_| data),
        run_as: run_as.cloned(),
        variables: &[],
        stop_signal: Signal::SIGINT,
        stop_timeout: Duration::from_secs(30),
        start_timeout: Duration::from_secs(300),
        restart: options.restart,
        check: Check::new(move || {
            let password = password.clone();
            async move { check_ready(port, &password).await }
        }),
        // Resources that processes of a killed server hold briefly.
        transient: &[
            "pre-existing shared memory block",
            "lock file \"postmaster.pid\" already exists",
        ],
        on_progress: options.on_progress.clone(),
    }
}

/// Makes a real connection and query, which fail while the server is still recovering.
async fn check_ready(port: u16, password: &str) -> Result<(), NotReady> {
    let attempt =
        async { connect(port, password, "postgres").await?.simple_query("SELECT 1").await };
    match attempt.await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::INVALID_PASSWORD) => {
            Err(NotReady::Ever(format!(
                "it rejects the password of user {USER}; restore the data folder and its password \
                 file from the same backup"
            )))
        }
        Err(error) => Err(NotReady::Yet(match error.as_db_error() {
            Some(refusal) => refusal.message().to_owned(),
            None => "it does not accept connections yet".to_owned(),
        })),
    }
}

async fn connect(
    port: u16,
    password: &str,
    database: &str,
) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(port)
        .user(USER)
        .password(password)
        .dbname(database)
        .application_name("muster-backing")
        .connect_timeout(Duration::from_secs(5))
        .connect(NoTls)
        .await?;
    tokio::spawn(connection); // Ends with the client, whose calls return its error.
    Ok(client)
}
