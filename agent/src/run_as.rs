//! The user that a program runs as.

use std::path::PathBuf;

use muster_schemas::events::Action;
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

/// Resolves the user that a program would run as.
///
/// # Errors
/// When the user does not exist, or this agent cannot run programs as this user.
pub(crate) fn run_as(requested: Option<&str>) -> Result<RunAs, String> {
    let own = geteuid();
    let of = |user: User| {
        let is_other = user.uid != own;
        let ids = is_other.then(|| (user.uid.as_raw(), user.gid.as_raw()));
        RunAs { name: user.name, home: user.dir, shell: user.shell, ids }
    };
    let Some(name) = requested else {
        let found = User::from_uid(own).ok().flatten();
        return Ok(found.map_or_else(|| nameless(own), of));
    };
    // A NUL would terminate the name in the lookup.
    if name.is_empty() || name.contains('\0') {
        return Err("the user name is empty or contains NUL".to_owned());
    }
    let found = User::from_name(name)
        .map_err(|error| format!("failed to look up the user '{name}': {error}"))?;
    let user = found.ok_or_else(|| format!("user '{name}' does not exist on this device"))?;
    if user.uid != own && !own.is_root() {
        let own = run_as(None)?.name;
        return Err(format!(
            "this agent runs as '{own}', and only root can run programs as another user ('{name}')"
        ));
    }
    Ok(of(user))
}

fn nameless(uid: Uid) -> RunAs {
    RunAs { name: uid.to_string(), home: "/".into(), shell: SHELL.into(), ids: None }
}

/// Returns the user that an action names.
pub(crate) fn requested_user(action: &Action) -> Option<&str> {
    match action {
        Action::Exec(exec) => exec.user.as_deref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_user_is_refused_and_the_agent_s_own_user_is_not_switched() {
        assert!(run_as(Some("no-such-user")).unwrap_err().contains("'no-such-user'"));
        assert!(run_as(Some("a\0b")).unwrap_err().contains("NUL"));
        let user = run_as(None).unwrap();
        let same = run_as(Some(&user.name)).unwrap();
        assert!(user.ids.is_none() && same.ids.is_none());
    }
}
