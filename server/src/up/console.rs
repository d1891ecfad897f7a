//! Output of `muster up`: spinners on a terminal, otherwise plain lines.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use muster_client::contexts::StoredContext;

/// Destination of the output.
#[derive(Clone, Debug)]
pub(super) struct Console {
    bars: MultiProgress,
    is_terminal: bool,
}

/// Content of the final message.
#[derive(Debug)]
pub(super) struct Ready<'a> {
    pub(super) url: &'a str,
    pub(super) token: &'a str,
    /// File with the token.
    pub(super) token_file: &'a Path,
    /// Name of this machine's device.
    pub(super) device: Option<&'a str>,
    /// Address of the API for other machines; `None` when it listens only on loopback.
    pub(super) for_others: Option<SocketAddr>,
    pub(super) broker_port: u16,
    /// Context of this server, if it was stored.
    pub(super) context: Option<StoredContext>,
    pub(super) elapsed: Duration,
}

impl Ready<'_> {
    /// Formats the message. It contains the token only on a terminal: redirected output may end in
    /// files that other users can read.
    fn message(&self, muster: &str, is_terminal: bool) -> String {
        let url = self.url;
        let token = if is_terminal {
            self.token.to_owned()
        } else {
            format!("in the file {}", self.token_file.display())
        };
        let context = match &self.context {
            Some(context) if !context.is_current => format!(" --context {}", context.name),
            _ => String::new(),
        };
        let agent = self.device.map_or("", |_| "This machine is the first device. ");
        let others = self.for_others.map_or_else(String::new, |address| {
            format!(
                "\n  others       https://{address}   (open TCP ports {} and {}, the broker's)",
                address.port(),
                self.broker_port
            )
        });
        let show = self
            .device
            .map_or_else(String::new, |name| format!("\n  {muster}{context} device show {name}"));
        format!(
            "\nmuster is ready after {:.1} s. {agent}\
             Ctrl-C stops all servers and keeps all data.\n\n  \
             URL          {url}   (API: {url}/docs){others}\n  \
             admin token  {token}\n\n\
             Try next, in another terminal:\n  \
             {muster}{context} device list{show}\n  \
             {muster}{context} events --follow\n",
            self.elapsed.as_secs_f64()
        )
    }
}

/// Returns the command that runs this program from another terminal: its name if it is on PATH.
fn runnable(program: &Path, path: &OsStr) -> String {
    let found = std::env::split_paths(path).map(|dir| dir.join("muster")).find(|it| it.is_file());
    let is_this = found.is_some_and(|it| it.canonicalize().ok() == program.canonicalize().ok());
    if is_this {
        return "muster".to_owned();
    }
    let text = program.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// A step that takes some time.
#[derive(Debug)]
pub(super) struct Step {
    description: String,
    started_at: Instant,
    bar: ProgressBar,
    console: Console,
}

impl Console {
    pub(super) fn new() -> Self {
        Self { bars: MultiProgress::new(), is_terminal: std::io::stderr().is_terminal() }
    }

    /// Prints one line.
    pub(super) fn line(&self, text: &str) {
        if self.is_terminal {
            let _ = self.bars.println(text);
        } else {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Shows that a step has started.
    pub(super) fn start(&self, description: &str) -> Step {
        let bar = self.bars.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message(description.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Step {
            description: description.to_owned(),
            started_at: Instant::now(),
            bar,
            console: self.clone(),
        }
    }

    /// Prints the final message.
    pub(super) fn ready(&self, ready: &Ready<'_>) {
        let program = std::env::current_exe().unwrap_or_else(|_| "muster".into());
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.line(&ready.message(&runnable(&program, &path), self.is_terminal));
    }
}

impl Step {
    /// Shows the progress of the step.
    pub(super) fn note(&self, text: &str) {
        self.bar.set_message(format!("{} ({text})", self.description));
    }

    pub(super) fn done(&self) {
        let took = self.started_at.elapsed().as_secs_f64();
        self.bar.finish_and_clear();
        self.console.line(&format!("  ok {:<28} {took:.1} s", self.description));
    }

    pub(super) fn failed(&self) {
        self.bar.finish_and_clear();
        self.console.line(&format!("  -- {}", self.description));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggested_commands_can_be_run_unchanged() {
        let ready = Ready {
            url: "https://127.0.0.1:1",
            token: "mst_x",
            token_file: Path::new("/data/admin-token"),
            device: Some("vm-2"),
            for_others: Some(([10, 0, 0, 7], 1).into()),
            broker_port: 2,
            context: Some(StoredContext { name: "local".to_owned(), is_current: false }),
            elapsed: Duration::ZERO,
        };
        let message = ready.message("/opt/muster", true);
        for line in ["/opt/muster --context local device show vm-2", "https://10.0.0.7:1"] {
            assert!(message.contains(line), "{line} is missing: {message}");
        }
        assert!(message.contains("mst_x"));
        let redirected = ready.message("/opt/muster", false);
        assert!(!redirected.contains("mst_x") && redirected.contains("/data/admin-token"));
        let alone = Ready { device: None, for_others: None, context: None, ..ready };
        let message = alone.message("muster", true);
        assert!(message.contains("  muster device list\n  muster events"), "{message}");
        assert!(!message.contains("10.0.0.7") && !message.contains("context"), "{message}");
    }

    #[test]
    fn a_program_outside_path_is_shown_with_its_full_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("muster");
        std::fs::write(&program, "").unwrap();
        let text = program.display().to_string();
        assert_eq!(runnable(&program, dir.path().as_os_str()), "muster");
        assert_eq!(runnable(&program, OsStr::new("")), text);
        assert_eq!(runnable(Path::new("/a b/muster"), OsStr::new("")), "'/a b/muster'");
    }
}
