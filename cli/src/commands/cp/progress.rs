//! How far it is: one line for all files, and what it came to.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::Done;
use crate::output::{self, note};

/// What became of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// It was copied; so many bytes went over the wire.
    Whole {
        /// How many.
        bytes: u64,
    },
    /// It was there already.
    Same,
}

/// The line.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    began: Instant,
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
        Self { bar, began: Instant::now() }
    }

    /// So many more bytes are to be copied.
    pub(super) fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// This file is at work.
    pub(super) fn name(&self, name: &str) {
        self.bar.set_message(name.to_owned());
    }

    /// So many bytes more are there.
    pub(super) fn step(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// So many bytes are to be copied once more.
    pub(super) fn back(&self, bytes: u64) {
        self.bar.dec(bytes);
    }

    /// Says something without breaking the line.
    pub(super) fn say(&self, words: impl AsRef<str>) {
        self.bar.suspend(|| note(words));
    }

    /// Says what it came to, on standard output for a program.
    ///
    /// # Errors
    /// When JSON cannot be made of it.
    pub(super) fn end(&self, done: &[Done], json: bool) -> Result<()> {
        self.bar.finish_and_clear();
        let (mut files, mut bytes, mut same) = (0_u64, 0_u64, 0_u64);
        for copied in done.iter().flatten() {
            match copied {
                Copied::Whole { bytes: more } => {
                    files += 1;
                    bytes += more;
                }
                Copied::Same => same += 1,
            }
        }
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
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
        let rate = indicatif::HumanBytes((bytes as f64 / seconds) as u64);
        let bytes = indicatif::HumanBytes(bytes);
        let plural = if files == 1 { "file" } else { "files" };
        let mut words = format!("{files} {plural}, {bytes} in {seconds:.1} s ({rate}/s)");
        if same > 0 {
            words.push_str(&format!("; {same} there already"));
        }
        note(words);
        Ok(())
    }
}
