//! What the person asks of `muster up` by signals, from its first moment on.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Ctrl-C, and what a service manager sends.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    stop: CancellationToken,
    hurry: CancellationToken,
}

impl Asked {
    /// Listens from now on.
    pub(super) fn listen() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let asked = Self { stop: CancellationToken::new(), hurry: CancellationToken::new() };
        let (stop, hurry) = (asked.stop.clone(), asked.hurry.clone());
        tokio::spawn(async move {
            for token in [stop, hurry] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(asked)
    }

    /// It shall stop.
    pub(super) async fn to_stop(&self) {
        self.stop.cancelled().await;
    }

    /// It was asked a second time: it shall not wait for what still starts.
    pub(super) async fn to_hurry(&self) {
        self.hurry.cancelled().await;
    }
}
