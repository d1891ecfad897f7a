//! Progress: one line for all files, and the result.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use anyhow::Result;
use serde_json::json;

use crate::output::{self, note};

/// Result of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// The file was copied.
    Complete {
        /// Number of transferred bytes.
        bytes: u64,
    },
    /// The target was already equal.
    Unchanged,
}

/// Result of a file, or why it was not copied.
pub(super) type CopyResult = Result<Copied>;

/// The progress line.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    started_at: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        let template =
            "{bar:30} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, started_at: Instant::now() }
    }

    /// Adds bytes to copy to the total.
    pub(super) fn add_total(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// Shows the name of a file in progress.
    pub(super) fn name(&self, name: &str) {
        self.bar.set_message(name.to_owned());
    }

    /// Adds copied bytes.
    pub(super) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Subtracts bytes that must be copied again.
    pub(super) fn subtract(&self, bytes: u64) {
        self.bar.dec(bytes);
    }

    /// Prints a message without interrupting the progress line.
    pub(super) fn print(&self, message: impl AsRef<str>) {
        self.bar.suspend(|| note(message));
    }

    /// Prints the result; with `json`, on standard output.
    ///
    /// # Errors
    /// When the result cannot be serialized.
    pub(super) fn end(&self, done: &[CopyResult], json: bool) -> Result<()> {
        self.bar.finish_and_clear();
        let (mut files, mut bytes, mut same) = (0_u64, 0_u64, 0_u64);
        for copied in done.iter().flatten() {
            match copied {
                Copied::Complete { bytes: more } => {
                    files += 1;
                    bytes += more;
                }
                Copied::Unchanged => same += 1,
            }
        }
        let seconds = self.started_at.elapsed().as_secs_f64().max(0.001);
        if json {
            let problems: Vec<String> = done
                .iter()
                .filter_map(|copied| Some(format!("{:#}", copied.as_ref().err()?)))
                .collect();
            return output::json(&json!({
                "files": files, "bytes": bytes, "same": same, "seconds": seconds,
                "problems": problems,
            }));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a figure for a person, of two that are positive"
        )]
        let rate = indicatif::HumanBytes((bytes as f64 / seconds) as u64);
        let bytes = indicatif::HumanBytes(bytes);
        let plural = if files == 1 { "file" } else { "files" };
        let mut text = format!("{files} {plural}, {bytes} in {seconds:.1} s ({rate}/s)");
        if same > 0 {
            text.push_str(&format!("; {same} already there"));
        }
        note(text);
        Ok(())
    }
}
