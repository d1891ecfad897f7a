//! What may be chosen about a PostgreSQL server, and the settings that follow.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::child::{Progress, Restart};
use crate::find::Places;

/// What the server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tuning {
    /// A server that is there to stay.
    #[default]
    Production,
    /// As durable, in little memory: system tests.
    Small,
    /// Survives no power failure (`fsync` is off) and is quick to make: unit tests of stores.
    /// A kill -9 of the server loses nothing even so, as the kernel keeps what was written.
    Throwaway,
}

/// How to start a [`super::Postgres`].
#[derive(Clone)]
pub struct PostgresOptions {
    /// Its folder: `data/`, `logs/`, the password. Made when missing.
    pub dir: PathBuf,
    /// Its port on 127.0.0.1; chosen when `None`.
    pub port: Option<u16>,
    /// What it is for.
    pub tuning: Tuning,
    /// What a crash is answered with.
    pub restart: Restart,
    /// Where binaries are looked for.
    pub places: Places,
    /// Told when the start is slow: after a crash, recovery takes its time.
    pub on_progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl PostgresOptions {
    /// A production server in `dir`, on a free port, found by the environment, restarted always.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            port: None,
            tuning: Tuning::default(),
            restart: Restart::default(),
            places: Places::from_env(),
            on_progress: None,
        }
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("dir", &self.dir)
            .field("port", &self.port)
            .field("tuning", &self.tuning)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}

/// Settings, given on the command line: they always apply, and leave `postgresql.conf` to whoever
/// wants to add to it.
pub(super) fn settings(port: u16, tuning: Tuning) -> Vec<String> {
    const ALWAYS: &[&str] = &[
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=100",
        "password_encryption=scram-sha-256",
        "timezone=UTC",
        "log_timezone=UTC",
        "log_line_prefix=%m [%p] ",
        "log_min_duration_statement=2s",
        // An idle transaction holds dead rows back, and appends get slower by the second.
        "idle_in_transaction_session_timeout=60s",
        // A half-open connection keeps its locks; this is how long.
        "tcp_keepalives_idle=30",
        "tcp_keepalives_interval=10",
        "tcp_keepalives_count=3",
        // The log has partitions by the hundred, and a backup locks them all.
        "max_locks_per_transaction=256",
        // Short statements only: compiling them costs more than it gains.
        "jit=off",
    ];
    const PRODUCTION: &[&str] = &[
        "shared_buffers=256MB",
        "effective_cache_size=1GB",
        "maintenance_work_mem=128MB",
        "wal_buffers=16MB",
        "min_wal_size=256MB",
        "max_wal_size=4GB",
        "checkpoint_timeout=15min",
        "random_page_cost=1.1",
    ];
    const SMALL: &[&str] = &["shared_buffers=32MB", "max_wal_size=256MB", "max_parallel_workers=0"];
    const THROWAWAY: &[&str] = &[
        "shared_buffers=32MB",
        "max_wal_size=1GB",
        "fsync=off",
        "full_page_writes=off",
        "autovacuum_naptime=10min",
    ];
    let by_tuning = match tuning {
        Tuning::Production => PRODUCTION,
        Tuning::Small => SMALL,
        Tuning::Throwaway => THROWAWAY,
    };
    [ALWAYS, by_tuning]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .chain([format!("port={port}")])
        .collect()
}
