//! What `muster up` tells the person in front of it: spinners on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where to say it.
#[derive(Clone, Debug)]
pub(super) struct Say {
    bars: MultiProgress,
    is_terminal: bool,
}

/// Something that takes a while.
#[derive(Debug)]
pub(super) struct Doing {
    what: String,
    began: Instant,
    bar: ProgressBar,
    say: Say,
}

impl Say {
    pub(super) fn new() -> Self {
        Self { bars: MultiProgress::new(), is_terminal: std::io::stderr().is_terminal() }
    }

    /// One line.
    pub(super) fn line(&self, text: &str) {
        if self.is_terminal {
            let _ = self.bars.println(text);
        } else {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Shows that something is under way.
    pub(super) fn start(&self, what: &str) -> Doing {
        let bar = self.bars.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Doing { what: what.to_owned(), began: Instant::now(), bar, say: self.clone() }
    }

    /// The last words before it just runs.
    pub(super) fn ready(&self, url: &str, token: &str, has_agent: bool, took: Duration) {
        let agent = if has_agent { "This machine is the first device. " } else { "" };
        self.line(&format!(
            "\nmuster is ready after {:.1} s. {agent}Ctrl-C stops all of it, and keeps all data.\n\n  \
             URL          {url}   (API: {url}/docs)\n  \
             admin token  {token}\n\n\
             Try next, in another terminal:\n  \
             muster device list\n  \
             muster device show $(hostname | tr A-Z a-z)\n  \
             muster events --follow\n",
            took.as_secs_f64()
        ));
    }
}

impl Doing {
    /// Shows how far it is.
    pub(super) fn note(&self, text: &str) {
        self.bar.set_message(format!("{} ({text})", self.what));
    }

    pub(super) fn done(&self) {
        let took = self.began.elapsed().as_secs_f64();
        self.bar.finish_and_clear();
        self.say.line(&format!("  ok {:<28} {took:.1} s", self.what));
    }

    pub(super) fn failed(&self) {
        self.bar.finish_and_clear();
        self.say.line(&format!("  -- {}", self.what));
    }
}
