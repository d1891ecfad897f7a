//! `--wait`: a command that needs an online device waits for it.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use muster_client::RequestError;
use muster_schemas::units::parse_seconds;
use tokio::time::{Instant, sleep};

use crate::exit::is_offline;
use crate::output::{note, safe_value};

/// Interval between two attempts to reach a device that is offline.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Flag of every command that needs an online device.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Wait {
    /// Wait for an offline device: --wait, or --wait=TIME, such as --wait=2h
    ///
    /// Without a time, the limit is 10 minutes. Without --wait, an offline device is an error.
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10m",
        value_parser = parse_seconds
    )]
    wait: Option<u32>,
}

impl Wait {
    /// Runs an attempt that needs an online device; repeats it while the device is offline, within
    /// the limit of the flag.
    pub(crate) async fn until_online<T, F>(self, attempt: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let first = match attempt().await {
            Err(error) if is_offline(&error) => error,
            done => return done,
        };
        let Some(seconds) = self.wait else { return Err(with_remedy(first)) };
        let limit = Duration::from_secs(seconds.into());
        let end = Instant::now() + limit;
        let bar = progress(&first, limit);
        loop {
            sleep(RETRY_INTERVAL.min(end.saturating_duration_since(Instant::now()))).await;
            match attempt().await {
                Err(error) if is_offline(&error) => {
                    if Instant::now() >= end {
                        bar.finish_and_clear();
                        return Err(error);
                    }
                }
                done => {
                    bar.finish_and_clear();
                    return done;
                }
            }
        }
    }
}

/// Shows the wait: a spinner on a terminal, otherwise one line.
fn progress(error: &anyhow::Error, limit: Duration) -> ProgressBar {
    let reason = safe_value(&error.to_string()).into_owned();
    let seconds = limit.as_secs();
    if !std::io::stderr().is_terminal() {
        note(format!("{reason}; waiting for at most {seconds} s"));
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}; waiting ({elapsed})") {
        bar.set_style(style);
    }
    bar.set_message(reason);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Adds a hint to the error.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<RequestError>() {
        Ok(RequestError::Problem { status, kind, detail }) => {
            let detail = format!("{detail}; add --wait to wait until it is online");
            RequestError::Problem { status, kind, detail }.into()
        }
        Ok(other) => other.into(),
        Err(other) => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::exit::{OFFLINE, code};

    fn offline() -> anyhow::Error {
        let (kind, detail) = (OFFLINE.to_owned(), "robot is offline since noon".to_owned());
        RequestError::Problem { status: 409, kind, detail }.into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_offline_device_is_an_error_without_wait() {
        let error = Wait::default().until_online(async || Err::<(), _>(offline())).await;
        let error = error.unwrap_err();
        assert!(error.to_string().contains("--wait"), "{error}");
        assert_eq!(code(&error), 5);

        let tries = AtomicU32::new(0);
        let attempt = async || match tries.fetch_add(1, Ordering::Relaxed) {
            0..5 => Err(offline()),
            _ => Ok(7),
        };
        assert_eq!(Wait { wait: Some(60) }.until_online(attempt).await.unwrap(), 7);

        let started_at = Instant::now();
        let error = Wait { wait: Some(3) }.until_online(async || Err::<(), _>(offline())).await;
        assert!(is_offline(&error.unwrap_err()));
        assert_eq!(started_at.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test]
    async fn permanent_errors_are_not_waited_for() {
        let attempt = async || Err::<(), _>(anyhow::anyhow!("forbidden"));
        let error = Wait { wait: Some(60) }.until_online(attempt).await.unwrap_err();
        assert_eq!(error.to_string(), "forbidden");
    }
}
