//! What may be chosen about an InfluxDB.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::child::{Progress, Restart};
use crate::find::Places;

/// Who may read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auth {
    /// One administrator, made at first start; its password (2.x: and token) is kept in the
    /// folder, readable by us alone.
    #[default]
    Password,
    /// Anybody on this machine. 1.x only: 2.x always wants a token.
    Open,
}

/// How to start an [`super::InfluxDb`].
#[derive(Clone)]
pub struct InfluxOptions {
    /// Its folder: data, `logs/`, the password, the configuration. Made when missing.
    pub dir: PathBuf,
    /// Its HTTP port on 127.0.0.1; chosen when `None`.
    pub port: Option<u16>,
    /// Who may read and write.
    pub auth: Auth,
    /// The database (2.x: the bucket) that is there from the start. It is also the name of the
    /// organization in 2.x.
    pub database: String,
    /// What a crash is answered with.
    pub restart: Restart,
    /// Where the binary is looked for.
    pub places: Places,
    /// Told when the start is slow: after a crash the whole write-ahead log is read first.
    pub on_progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl InfluxOptions {
    /// A server in `dir` on a free port, with a password, found by the environment, restarted
    /// always.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            port: None,
            auth: Auth::default(),
            database: "muster".into(),
            restart: Restart::default(),
            places: Places::from_env(),
            on_progress: None,
        }
    }
}

impl fmt::Debug for InfluxOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InfluxOptions")
            .field("dir", &self.dir)
            .field("port", &self.port)
            .field("auth", &self.auth)
            .field("database", &self.database)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}
