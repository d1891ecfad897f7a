//! The log level: the configured one, and a temporary one.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::{filter, reload};

/// The reason why the log level was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// There is no such level.
    #[error("'{0}' is not a level; use error, warn, info, debug or trace")]
    Unknown(String),
    /// The level makes no filter.
    #[error(transparent)]
    Filter(#[from] filter::ParseError),
    /// The filter could not be replaced.
    #[error(transparent)]
    Reload(#[from] reload::Error),
}

/// Sets the log level, or returns the reason why it cannot.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), LevelError> + Send + Sync>;

/// The log level of this process.
pub(crate) struct LogLevel {
    set: SetLevel,
    configured: Mutex<String>,
}

impl LogLevel {
    pub(crate) fn new(set: SetLevel) -> Self {
        Self { set, configured: Mutex::default() }
    }

    /// Sets the level of the config.
    ///
    /// # Errors
    /// When it is not a level.
    pub(crate) fn configure(&self, level: &str) -> Result<(), LevelError> {
        level.clone_into(&mut self.configured.lock());
        (self.set)(level)
    }

    /// Sets a temporary level.
    ///
    /// # Errors
    /// When it is not a level.
    pub(crate) fn set_temporarily(&self, level: &str) -> Result<(), LevelError> {
        (self.set)(level)
    }

    /// Restores the level of the config.
    pub(crate) fn reset(&self) {
        let configured = self.configured.lock();
        // An invalid level in the config was reported when it was applied.
        let _ = (self.set)(&configured);
    }
}
