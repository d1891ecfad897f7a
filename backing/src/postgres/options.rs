//! Options of a PostgreSQL server, and the resulting settings.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::child::{Progress, Restart};
use crate::find::SearchPath;

/// Purpose of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tuning {
    /// A production server.
    #[default]
    Production,
    /// As durable, with little memory: for system tests.
    Small,
    /// Fast to create, and does not survive a power failure (`fsync` is off): for unit tests of
    /// stores. A kill -9 of the server still loses nothing, because the kernel keeps the written
    /// data.
    Throwaway,
}

/// Options of a [`super::Postgres`].
#[derive(Clone)]
pub struct PostgresOptions {
    /// Its folder: `data/`, `logs/`, the password. Created if it is missing.
    pub dir: PathBuf,
    /// Its port on 127.0.0.1; a free one if `None`.
    pub port: Option<u16>,
    /// Purpose of the server.
    pub tuning: Tuning,
    /// Reaction to a crash.
    pub restart: Restart,
    /// Search path of the binaries.
    pub search_path: SearchPath,
    /// Called when the start is slow: recovery after a crash takes time.
    pub on_progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl PostgresOptions {
    /// A production server in `dir`, on a free port, with binaries found through the environment,
    /// always restarted.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            port: None,
            tuning: Tuning::default(),
            restart: Restart::default(),
            search_path: SearchPath::from_env(),
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

/// Returns the settings for the command line: they always apply, and leave `postgresql.conf` to
/// administrators.
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
        // An idle transaction keeps dead rows, and appends become slower every second.
        "idle_in_transaction_session_timeout=60s",
        // Time after which a half-open connection releases its locks.
        "tcp_keepalives_idle=30",
        "tcp_keepalives_interval=10",
        "tcp_keepalives_count=3",
        // The log has hundreds of partitions, and a backup locks them all.
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
