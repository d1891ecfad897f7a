//! The device's policy: what its owner allows the project to do, independent of the requests of the
//! project's operators.
//!
//! A missing file allows everything; a file that cannot be read or parsed allows nothing.
//! Everything that the file does not mention is allowed.

mod pattern;
mod ports;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use muster_schemas::events::{Action, Exec, Program};
use serde::Deserialize;

use self::pattern::{matches, matches_argv};
use self::ports::PortRule;
use crate::run_as::run_as;

/// Default path of the policy file.
pub const POLICY_FILE: &str = "/etc/muster/policy.toml";
/// Maximum size of the policy file, in bytes.
const MAX_POLICY_BYTES: u64 = 256 * 1024;

/// The policy of a device's owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Path of the file; empty if there is none.
    #[serde(skip)]
    file: PathBuf,
    exec: ExecRules,
    shell: ShellRules,
    files: FileRules,
    ports: PortRules,
    power: PowerRules,
    agent: AgentRules,
}

/// The reason why the policy refuses a request, or all requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The file exists and cannot be read.
    #[error("failed to read the policy {} ({reason}), so all requests are refused", .file.display())]
    Unreadable {
        /// Path of the file.
        file: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The file's content is invalid.
    #[error("the policy {} is invalid{location} ({reason}), so all requests are refused", .file.display())]
    Invalid {
        /// Path of the file.
        file: PathBuf,
        /// Place in the file, such as `, line 2`; may be empty.
        location: String,
        /// What is wrong there.
        reason: String,
    },
    /// A rule forbids the request.
    #[error("the device's policy forbids this: {rule} in {}", .file.display())]
    Forbidden {
        /// Path of the file.
        file: PathBuf,
        /// The rule.
        rule: String,
    },
}

/// Rules for programs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExecRules {
    enabled: bool,
    /// Allowed programs with their arguments; any if absent.
    allow: Option<Vec<String>>,
    /// Allowed users; any if absent.
    users: Option<Vec<String>>,
    /// Whether lines for `/bin/sh` are allowed; if absent, only without `allow`.
    shell_lines: Option<bool>,
    /// Environment variables that may be set; if absent, any without `allow`, and none with it.
    env: Option<Vec<String>>,
}

/// Rules for interactive shells. Absent fields are as strict as the rules for programs: without the
/// permission to run any line, a shell must not give it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ShellRules {
    /// Whether shells are allowed; if absent, only if all programs and lines are.
    enabled: Option<bool>,
    /// Allowed users; those of `[exec]` if absent.
    users: Option<Vec<String>>,
}

/// Rules for files. Absent fields are as strict as the rules for programs, because a written file
/// can be a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileRules {
    /// Whether file access is allowed; if absent, only with `roots`, or if all programs and lines
    /// are allowed.
    enabled: Option<bool>,
    /// Accessible folders, with all their contents; all if absent.
    roots: Option<Vec<PathBuf>>,
    /// Whether the folders are writable; yes if absent.
    write: Option<bool>,
}

/// Rules for ports that users may reach through the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PortRules {
    /// Allowed ports; any if absent.
    allow: Option<Vec<PortRule>>,
}

/// Rules for restarts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PowerRules {
    reboot: bool,
    restart: bool,
}

/// Rules for the agent itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AgentRules {
    diagnostics: bool,
    log_level: bool,
}

impl Default for ExecRules {
    fn default() -> Self {
        Self { enabled: true, allow: None, users: None, shell_lines: None, env: None }
    }
}

impl Default for PowerRules {
    fn default() -> Self {
        Self { reboot: true, restart: true }
    }
}

impl Default for AgentRules {
    fn default() -> Self {
        Self { diagnostics: true, log_level: true }
    }
}

impl Policy {
    /// Reads the current policy.
    ///
    /// # Errors
    /// When the file exists and cannot be read or parsed: then nothing is allowed.
    pub fn load(file: &Path) -> Result<Self, PolicyError> {
        let invalid =
            |location, reason| PolicyError::Invalid { file: file.into(), location, reason };
        let text = match read(file) {
            Ok(text) => text,
            // A dangling link exists, and cannot be read.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && file.symlink_metadata().is_err() =>
            {
                return Ok(Self::default());
            }
            Err(error) => {
                let reason = error.to_string();
                return Err(PolicyError::Unreadable { file: file.into(), reason });
            }
        };
        let policy: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].lines().count().max(1));
            let location = line.map_or_else(String::new, |line| format!(", line {line}"));
            invalid(location, error.message().to_owned())
        })?;
        let roots = policy.files.roots.iter().flatten();
        if let Some(root) = roots.into_iter().find(|root| !root.is_absolute()) {
            let root = root.display();
            let reason = format!("[files] roots: '{root}' is not an absolute path");
            return Err(invalid(String::new(), reason));
        }
        Ok(Self { file: file.to_owned(), ..policy })
    }

    /// Checks whether an action is allowed as this user. `user` is the one that a program would run
    /// as.
    ///
    /// # Errors
    /// The rule that forbids it and the file that contains it.
    pub fn allows(&self, action: &Action, user: &str) -> Result<(), PolicyError> {
        match action {
            Action::Exec(exec) => self.allows_exec(exec, user),
            Action::Reboot => self.switch(self.power.reboot, "[power] reboot = false"),
            Action::RestartAgent => self.switch(self.power.restart, "[power] restart = false"),
            Action::Diagnostics => {
                self.switch(self.agent.diagnostics, "[agent] diagnostics = false")
            }
            Action::Upload(upload) => self.allows_files(user, upload.remove_source).map(drop),
            Action::LogLevel { .. } => {
                self.switch(self.agent.log_level, "[agent] log_level = false")
            }
        }
    }

    /// Checks whether users may open a shell as this user.
    ///
    /// # Errors
    /// As [`Self::allows`].
    pub fn allows_shell(&self, user: &str) -> Result<(), PolicyError> {
        let (rules, exec) = (&self.shell, &self.exec);
        match rules.enabled {
            Some(is_on) => self.switch(is_on, "[shell] enabled = false")?,
            None => self.check_unrestricted("[shell] enabled = true")?,
        }
        let (users, section) = match (&rules.users, &exec.users) {
            (Some(users), _) => (users, "shell"),
            (None, Some(users)) => (users, "exec"),
            (None, None) => return Ok(()),
        };
        let is_named = users.iter().any(|allowed| allowed == user);
        self.switch(is_named, &format!("[{section}] users does not include '{user}'"))
    }

    /// Checks whether files may be read, and with `write` also written. Returns the accessible
    /// folders; `None` means all. `user` is the one that the agent runs as.
    ///
    /// # Errors
    /// As [`Self::allows`].
    pub fn allows_files(&self, user: &str, write: bool) -> Result<Option<&[PathBuf]>, PolicyError> {
        let rules = &self.files;
        match rules.enabled {
            Some(is_on) => self.switch(is_on, "[files] enabled = false")?,
            None if rules.roots.is_some() => {}
            None => {
                self.check_unrestricted("[files] enabled = true")?;
                if let Some(users) = &self.exec.users {
                    let rule = format!(
                        "[exec] users does not include '{user}', and [files] enabled = true is \
                         not set"
                    );
                    self.switch(users.iter().any(|allowed| allowed == user), &rule)?;
                }
            }
        }
        self.switch(!write || rules.write != Some(false), "[files] write = false")?;
        Ok(rules.roots.as_deref())
    }

    /// Checks whether all programs and lines are allowed. `unless` is the setting that would allow
    /// the access anyway.
    fn check_unrestricted(&self, unless: &str) -> Result<(), PolicyError> {
        let exec = &self.exec;
        let unless = |rule| format!("{rule}, and {unless} is not set");
        self.switch(exec.enabled, &unless("[exec] enabled = false"))?;
        self.switch(exec.shell_lines != Some(false), &unless("[exec] shell_lines = false"))?;
        let is_free = exec.allow.is_none() || exec.shell_lines == Some(true);
        self.switch(is_free, &unless("[exec] allow is set"))
    }

    /// Returns the error for a path that is in none of the roots.
    pub(crate) fn out_of_roots(&self, path: &Path) -> PolicyError {
        self.refusal(&format!("[files] roots includes no folder that contains {}", path.display()))
    }

    /// Checks whether users may reach this port through the device.
    ///
    /// # Errors
    /// As [`Self::allows`].
    pub fn allows_port(&self, host: &str, port: u16) -> Result<(), PolicyError> {
        let Some(allow) = &self.ports.allow else { return Ok(()) };
        let is_named = allow.iter().any(|rule| rule.matches(host, port));
        self.switch(is_named, &format!("[ports] allow does not include '{host}:{port}'"))
    }

    fn allows_exec(&self, exec: &Exec, user: &str) -> Result<(), PolicyError> {
        let rules = &self.exec;
        self.switch(rules.enabled, "[exec] enabled = false")?;
        if let Some(users) = &rules.users
            && !users.iter().any(|allowed| allowed == user)
        {
            return Err(self.refusal(&format!("[exec] users does not include '{user}'")));
        }
        match &exec.program {
            Program::Shell(_) if rules.shell_lines == Some(false) => {
                return Err(self.refusal("[exec] shell_lines = false"));
            }
            Program::Shell(_) if rules.shell_lines.is_none() && rules.allow.is_some() => {
                return Err(self.refusal("[exec] allow is set, and shell_lines = true is not set"));
            }
            Program::Argv(argv) => {
                let climbs = argv.first().is_some_and(|program| {
                    Path::new(program).components().any(|part| part == Component::ParentDir)
                });
                if let Some(allow) = &rules.allow
                    && (climbs || !allow.iter().any(|pattern| matches_argv(pattern, argv)))
                {
                    let shown = display_command(argv);
                    return Err(self.refusal(&format!("[exec] allow does not include '{shown}'")));
                }
            }
            Program::Shell(_) => {}
        }
        // A variable such as LD_PRELOAD or PATH could turn an allowed program into another one.
        let none = Vec::new();
        let names = rules.env.as_ref().or_else(|| rules.allow.is_some().then_some(&none));
        if let Some(names) = names
            && let Some(name) = exec.env.iter().find(|name| !names.iter().any(|p| matches(p, name)))
        {
            return Err(self.refusal(&format!("[exec] env does not include '{name}'")));
        }
        Ok(())
    }

    fn switch(&self, is_on: bool, rule: &str) -> Result<(), PolicyError> {
        if is_on { Ok(()) } else { Err(self.refusal(rule)) }
    }

    fn refusal(&self, rule: &str) -> PolicyError {
        PolicyError::Forbidden { file: self.file.clone(), rule: rule.to_owned() }
    }
}

/// Returns the user that an action names.
fn requested_user(action: &Action) -> Option<&str> {
    match action {
        Action::Exec(exec) => exec.user.as_deref(),
        Action::RestartAgent
        | Action::Reboot
        | Action::Diagnostics
        | Action::LogLevel { .. }
        | Action::Upload(_) => None,
    }
}

/// Checks whether the device's current policy allows the action.
///
/// # Errors
/// The rule that forbids it.
pub(crate) fn check_policy(file: &Path, action: &Action) -> Result<(), PolicyError> {
    let policy = Policy::load(file)?;
    let requested = requested_user(action);
    // A missing user is reported later, and only to those whom the policy allows the action.
    match run_as(requested) {
        Ok(user) => policy.allows(action, &user.name),
        Err(_) => policy.allows(action, requested.unwrap_or_default()),
    }
}

/// Returns the command, truncated for an event.
fn display_command(argv: &[String]) -> String {
    let text = argv.join(" ");
    if text.chars().count() <= 200 {
        return text;
    }
    let mut short: String = text.chars().take(200).collect();
    short.push('…');
    short
}

fn read(file: &Path) -> io::Result<String> {
    let opened = std::fs::File::open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    opened.take(MAX_POLICY_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_POLICY_BYTES {
        return Err(io::Error::other("it is larger than 256 KiB"));
    }
    Ok(text)
}
