//! The user that a program runs as.

use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::{Uid, User, geteuid};

/// The shell of a user id without an account.
const SHELL: &str = "/bin/sh";

/// The user that a program runs as.
#[derive(Clone, Debug)]
pub(crate) struct RunAs {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
    /// User and group id, if the user is not the agent's own.
    pub(crate) ids: Option<(u32, u32)>,
}

impl RunAs {
    /// Returns what a helper needs to become this user; `None` if the user is the agent's own.
    pub(crate) fn identity(&self) -> Option<(String, u32, u32)> {
        self.ids.map(|(uid, gid)| (self.name.clone(), uid, gid))
    }
}

/// The reason why no program can run as a user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RunAsError {
    #[error("the user name is empty or contains NUL")]
    InvalidName,
    /// The user database could not be read.
    #[error("failed to look up the user '{name}': {source}")]
    Lookup { name: String, source: Errno },
    #[error("user '{0}' does not exist on this device")]
    UnknownUser(String),
    /// The agent does not run as root, but as the user `own`.
    #[error(
        "this agent runs as '{own}', and only root can run programs as another user ('{name}')"
    )]
    NotRoot { own: String, name: String },
}

/// Resolves the user that a program would run as.
///
/// # Errors
/// When the user does not exist, or this agent cannot run programs as this user.
pub(crate) fn run_as(requested: Option<&str>) -> Result<RunAs, RunAsError> {
    let Some(name) = requested else { return Ok(agent_user()) };
    // A NUL would terminate the name in the lookup.
    if name.is_empty() || name.contains('\0') {
        return Err(RunAsError::InvalidName);
    }
    let found = User::from_name(name)
        .map_err(|source| RunAsError::Lookup { name: name.to_owned(), source })?;
    let user = found.ok_or_else(|| RunAsError::UnknownUser(name.to_owned()))?;
    check_switch(geteuid(), name, user.uid)?;
    Ok(with_account(user))
}

/// Returns the user that the agent runs as.
pub(crate) fn agent_user() -> RunAs {
    let own = geteuid();
    let found = User::from_uid(own).ok().flatten();
    found.map_or_else(|| nameless(own), with_account)
}

/// Checks whether an agent with the user id `own` can run programs as the user `name`.
fn check_switch(own: Uid, name: &str, uid: Uid) -> Result<(), RunAsError> {
    if uid == own || own.is_root() {
        return Ok(());
    }
    Err(RunAsError::NotRoot { own: agent_user().name, name: name.to_owned() })
}

fn with_account(user: User) -> RunAs {
    let is_other = user.uid != geteuid();
    let ids = is_other.then(|| (user.uid.as_raw(), user.gid.as_raw()));
    RunAs { name: user.name, home: user.dir, shell: user.shell, ids }
}

fn nameless(uid: Uid) -> RunAs {
    RunAs { name: uid.to_string(), home: "/".into(), shell: SHELL.into(), ids: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_user_is_refused_and_the_agent_s_own_user_is_not_switched() {
        let missing = run_as(Some("no-such-user")).unwrap_err();
        assert_eq!(missing.to_string(), "user 'no-such-user' does not exist on this device");
        for name in ["", "a\0b"] {
            assert_eq!(run_as(Some(name)).unwrap_err(), RunAsError::InvalidName);
        }
        let user = run_as(None).unwrap();
        let same = run_as(Some(&user.name)).unwrap();
        assert!(user.ids.is_none() && same.ids.is_none());
    }

    #[test]
    fn only_root_switches_to_another_user() {
        let (root, other) = (Uid::from_raw(0), Uid::from_raw(12_345));
        assert_eq!(check_switch(root, "app", other), Ok(()));
        assert_eq!(check_switch(other, "app", other), Ok(()));
        let refused = check_switch(other, "root", root).unwrap_err();
        let own = agent_user().name;
        assert_eq!(
            refused.to_string(),
            format!(
                "this agent runs as '{own}', and only root can run programs as another user ('root')"
            )
        );
    }
}
