//! Options of an InfluxDB.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::child::{Progress, Restart};
use crate::find::SearchPath;

/// Authentication of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auth {
    /// One administrator, created at the first start; its password (2.x: and token) is stored in
    /// the folder, readable only by the current user.
    #[default]
    Password,
    /// No authentication on this machine. 1.x only: 2.x always requires a token.
    Open,
}

/// Options of an [`super::InfluxDb`].
#[derive(Clone)]
pub struct InfluxOptions {
    /// Its folder: data, `logs/`, the password, the configuration. Created if it is missing.
    pub dir: PathBuf,
    /// Its HTTP port on 127.0.0.1; a free one if `None`.
    pub port: Option<u16>,
    /// Authentication of clients.
    pub auth: Auth,
    /// The initial database (2.x: the bucket). In 2.x it is also the name of the organization.
    pub database: String,
    /// Reaction to a crash.
    pub restart: Restart,
    /// Search path of the binary.
    pub search_path: SearchPath,
    /// Called when the start is slow: after a crash the whole write-ahead log is read first.
    pub on_progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl InfluxOptions {
    /// A server in `dir` on a free port, with a password, with a binary found through the
    /// environment, always restarted.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            port: None,
            auth: Auth::default(),
            database: "muster".into(),
            restart: Restart::default(),
            search_path: SearchPath::from_env(),
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
