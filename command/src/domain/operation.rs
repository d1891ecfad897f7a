//! The operation: an action that devices run; it can be paused, resumed and aborted.

use muster_schemas::Event;
use muster_schemas::events::{
    AbortCause, Action, Exec, OperationAborted, OperationPaused, OperationRequested,
    OperationResumed, Program, Upload,
};
use muster_schemas::wire::MAX_UPLOAD_BYTES;

use super::{Conflict, Decider, Decision, Rejection};

/// Maximum timeout of a run, in milliseconds: a day.
pub const MAX_TIMEOUT_MS: u64 = 24 * 3600 * 1000;
/// Maximum timeout of an upload, in milliseconds: 30 days.
pub const MAX_UPLOAD_TIMEOUT_MS: u64 = 30 * MAX_TIMEOUT_MS;
/// Maximum length of a path, in bytes.
const MAX_PATH_BYTES: usize = 4096;
/// Minimum rate limit of an upload, in bytes per second.
const MIN_BYTES_PER_SECOND: u64 = 1024;
/// Maximum number of arguments of a program.
pub const MAX_ARGUMENTS: usize = 1_000;
/// Maximum size of a program's arguments, or of a shell command line, in bytes.
pub const MAX_ARGUMENT_BYTES: usize = 16 * 1024;
/// Maximum number of environment variables.
pub const MAX_VARIABLES: usize = 256;

/// State of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Its request; `None` when it does not exist.
    pub requested: Option<OperationRequested>,
    /// Whether no further run starts until it is resumed.
    pub is_paused: bool,
    /// Whether no further run starts at all.
    pub is_aborted: bool,
}

/// Commands on an operation.
#[derive(Clone, Debug)]
pub enum OperationCommand {
    /// Request the operation.
    Request(Box<OperationRequested>),
    /// Start no further run until it is resumed.
    Pause,
    /// Start runs again.
    Resume,
    /// Start no further run, and cancel those that have started.
    Abort(AbortCause),
}

impl Decider for Operation {
    type Command = OperationCommand;

    fn decide(&self, command: OperationCommand) -> Decision {
        if let OperationCommand::Request(requested) = command {
            if self.requested.is_some() {
                return Err(Conflict::OperationExists.into());
            }
            check(&requested)?;
            return Ok(vec![(*requested).into()]);
        }
        if self.requested.is_none() {
            return Err(Rejection::NotFound("operation"));
        }
        let once = |done: bool, event: Event| if done { Vec::new() } else { vec![event] };
        match command {
            OperationCommand::Request(_) => Ok(Vec::new()),
            OperationCommand::Abort(cause) => {
                Ok(once(self.is_aborted, OperationAborted { cause }.into()))
            }
            OperationCommand::Pause | OperationCommand::Resume if self.is_aborted => {
                Err(Conflict::OperationAborted.into())
            }
            OperationCommand::Pause => Ok(once(self.is_paused, OperationPaused {}.into())),
            OperationCommand::Resume => Ok(once(!self.is_paused, OperationResumed {}.into())),
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::OperationRequested(event) => self.requested = Some(event.clone()),
            Event::OperationPaused(_) => self.is_paused = true,
            Event::OperationResumed(_) => self.is_paused = false,
            Event::OperationAborted(_) => self.is_aborted = true,
            _ => {}
        }
        self
    }
}

fn invalid(field: &'static str, rule: impl Into<String>, value: impl Into<String>) -> Rejection {
    Rejection::Invalid { field, rule: rule.into(), value: value.into() }
}

fn check(requested: &OperationRequested) -> Result<(), Rejection> {
    if requested.devices == 0 {
        return Err(invalid("target", "selects no device", requested.target.clone()));
    }
    let longest = match requested.action {
        Action::Upload(_) => MAX_UPLOAD_TIMEOUT_MS,
        _ => MAX_TIMEOUT_MS,
    };
    if !(1..=longest).contains(&requested.timeout_ms) {
        let value = requested.timeout_ms.to_string();
        return Err(invalid("timeout_ms", format!("must be from 1 to {longest}"), value));
    }
    if requested.at_once == 0 {
        return Err(invalid("at_once", "must be at least 1", "0"));
    }
    if requested.stop_after == Some(0) {
        return Err(invalid("stop_after", "must be at least 1", "0"));
    }
    match &requested.action {
        Action::Exec(exec) => check_exec(exec),
        Action::LogLevel { level, .. } => {
            let known = ["error", "warn", "info", "debug", "trace"];
            if known.contains(&level.as_str()) {
                Ok(())
            } else {
                let rule = "must be error, warn, info, debug or trace";
                Err(invalid("action.level", rule, level.clone()))
            }
        }
        Action::Upload(upload) => check_upload(upload),
        Action::RestartAgent | Action::Reboot | Action::Diagnostics => Ok(()),
    }
}

fn check_upload(upload: &Upload) -> Result<(), Rejection> {
    let path = &upload.path;
    if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains('\0') {
        let rule = format!("must be 1 to {MAX_PATH_BYTES} bytes without a NUL");
        let shown = path.chars().take(80).collect::<String>();
        return Err(invalid("action.path", rule, shown));
    }
    if upload.keep_seconds == Some(0) {
        return Err(invalid("action.keep_seconds", "must be at least 1", "0"));
    }
    if !(1..=MAX_UPLOAD_BYTES).contains(&upload.limit()) {
        let rule = format!("must be from 1 to {MAX_UPLOAD_BYTES}");
        return Err(invalid("action.max_bytes", rule, upload.limit().to_string()));
    }
    match upload.bytes_per_second {
        Some(speed) if speed < MIN_BYTES_PER_SECOND => {
            let rule = format!("must be at least {MIN_BYTES_PER_SECOND}");
            Err(invalid("action.bytes_per_second", rule, speed.to_string()))
        }
        _ => Ok(()),
    }
}

fn check_exec(exec: &Exec) -> Result<(), Rejection> {
    let shown = |text: &str| text.chars().take(80).collect::<String>();
    let parts: Vec<(&'static str, &str)> = match &exec.program {
        Program::Argv(argv) => argv.iter().map(|word| ("action.program.argv", &**word)).collect(),
        Program::Shell(line) => vec![("action.program.shell", line)],
    };
    if parts.first().is_none_or(|(_, word)| word.trim().is_empty()) {
        return Err(invalid("action.program", "must name a program", ""));
    }
    if parts.len() > MAX_ARGUMENTS {
        let rule = format!("has more than {MAX_ARGUMENTS} arguments");
        return Err(invalid("action.program.argv", rule, parts.len().to_string()));
    }
    let bytes: usize = parts.iter().map(|(_, word)| word.len()).sum();
    if bytes > MAX_ARGUMENT_BYTES {
        let rule =
            format!("is longer than {MAX_ARGUMENT_BYTES} bytes; send long input as standard input");
        return Err(invalid("action.program", rule, bytes.to_string()));
    }
    let named = [("action.cwd", exec.cwd.as_deref()), ("action.user", exec.user.as_deref())];
    let named = named.into_iter().filter_map(|(field, text)| Some((field, text?)));
    for (field, text) in parts.iter().copied().chain(named) {
        if text.contains('\0') {
            return Err(invalid(
                field,
                "contains a NUL, which a program cannot receive",
                shown(text),
            ));
        }
    }
    if exec.user.as_ref().is_some_and(|user| user.is_empty() || user.len() > 64) {
        let user = exec.user.clone().unwrap_or_default();
        return Err(invalid("action.user", "must be a user's name", shown(&user)));
    }
    if exec.cwd.as_ref().is_some_and(|cwd| !cwd.starts_with('/') || cwd.len() > 4096) {
        let cwd = exec.cwd.clone().unwrap_or_default();
        return Err(invalid("action.cwd", "must be an absolute path", shown(&cwd)));
    }
    check_variables(&exec.env)
}

fn check_variables(names: &[String]) -> Result<(), Rejection> {
    if names.len() > MAX_VARIABLES {
        let rule = format!("has more than {MAX_VARIABLES} variables");
        return Err(invalid("env", rule, names.len().to_string()));
    }
    let is_name = |name: &&String| {
        !name.is_empty()
            && name.len() <= 256
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match names.iter().find(|name| !is_name(name)) {
        Some(name) => {
            let shown = name.chars().take(80).collect::<String>();
            Err(invalid(
                "env",
                "a name is letters, digits and '_', not starting with a digit",
                shown,
            ))
        }
        None => Ok(()),
    }
}
