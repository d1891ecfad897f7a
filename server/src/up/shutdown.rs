//! Signals to `muster up`, from its start on.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Ctrl-C, and the signal that a service manager sends.
#[derive(Clone, Debug)]
pub(super) struct ShutdownSignals {
    stop: CancellationToken,
    second: CancellationToken,
}

impl ShutdownSignals {
    /// Installs the signal handlers.
    pub(super) fn listen() -> Result<Self> {
        let mut interrupt =
            signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
        let mut terminate =
            signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
        let signals = Self { stop: CancellationToken::new(), second: CancellationToken::new() };
        let (stop, hurry) = (signals.stop.clone(), signals.second.clone());
        tokio::spawn(async move {
            for token in [stop, hurry] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(signals)
    }

    /// Waits for a request to stop.
    pub(super) async fn wait_for_stop(&self) {
        self.stop.cancelled().await;
    }

    /// Waits for a second request: do not wait for servers that still start.
    pub(super) async fn wait_for_second(&self) {
        self.second.cancelled().await;
    }
}
