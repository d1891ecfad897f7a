//! Converts an order into a helper's launch message: checks that it is possible, resolves the user,
//! and builds the environment.
//!
//! This module accesses no path of the order: the helper does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use muster_schemas::OperationId;
use muster_schemas::events::{Exec, Program};
use nix::unistd::{Uid, User, geteuid};
use uuid::Uuid;

use super::group::RUN_TAG_VARIABLE;
use crate::subprocess::{Launch, Program as launch};

/// Search path of programs, unless the order sets another one.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
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

fn nul_error(what: &str) -> String {
    format!("{what} contains NUL, which cannot be passed to a program")
}

/// Checks whether the order can be executed.
///
/// # Errors
/// A message that describes the problem of the order.
pub(super) fn check(exec: &Exec, env: &BTreeMap<String, String>) -> Result<(), String> {
    match &exec.program {
        Program::Argv(argv) => {
            if argv.first().is_none_or(String::is_empty) {
                return Err("the program is missing".to_owned());
            }
            if let Some(at) = argv.iter().position(|argument| argument.contains('\0')) {
                return Err(nul_error(&format!("argument {at}")));
            }
        }
        Program::Shell(line) if line.contains('\0') => return Err(nul_error("the line")),
        Program::Shell(_) => {}
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let shown: String = name.chars().take(80).collect();
            return Err(format!("'{}' is not a valid variable name", shown.escape_debug()));
        }
        if value.contains('\0') {
            return Err(nul_error(&format!("the variable {name}")));
        }
    }
    if let Some(cwd) = &exec.cwd {
        if cwd.contains('\0') {
            return Err(nul_error("the folder"));
        }
        if !cwd.starts_with('/') {
            return Err(format!("the folder '{cwd}' is not an absolute path"));
        }
    }
    Ok(())
}

/// Builds the launch message from which a helper starts the program.
pub(super) fn launch(
    exec: &Exec,
    user: &RunAs,
    env: BTreeMap<String, String>,
    operation: OperationId,
    run_tag: Uuid,
) -> Launch {
    let path = env.get("PATH").cloned().unwrap_or_else(|| PATH.to_owned());
    let program = match &exec.program {
        Program::Shell(line) => launch::Line(line.clone()),
        Program::Argv(argv) => launch::Argv(argv.clone()),
    };
    let home = user.home.to_string_lossy().into_owned();
    let lang = std::env::var("LANG").unwrap_or_else(|_| "C.UTF-8".to_owned());
    let fixed = [
        ("PATH", PATH.to_owned()),
        ("HOME", home.clone()),
        ("USER", user.name.clone()),
        ("LOGNAME", user.name.clone()),
        ("SHELL", user.shell.to_string_lossy().into_owned()),
        ("LANG", lang),
    ];
    let mut all: BTreeMap<String, String> =
        fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(env);
    all.insert("MUSTER_OPERATION".to_owned(), operation.to_string());
    all.insert(RUN_TAG_VARIABLE.to_owned(), run_tag.to_string());
    Launch {
        program,
        path,
        cwd: exec.cwd.clone(),
        home,
        user: user.identity(),
        env: all,
        has_terminal: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(program: Program) -> Exec {
        Exec { program, cwd: None, user: None, env: Vec::new(), background: false }
    }

    fn argv(arguments: &[&str]) -> Exec {
        exec(Program::Argv(arguments.iter().map(|&word| word.to_owned()).collect()))
    }

    #[test]
    fn an_impossible_order_is_refused_with_its_problem() {
        let none = BTreeMap::new();
        let with = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let cwd = |cwd: &str| Exec { cwd: Some(cwd.to_owned()), ..argv(&["true"]) };
        for (exec, env, named) in [
            (argv(&[]), &none, "program"),
            (argv(&[""]), &none, "program"),
            (argv(&["a", "b\0c"]), &none, "argument 1"),
            (exec(Program::Shell("a\0".into())), &none, "NUL"),
            (argv(&["a"]), &with("A=B", "x"), "'A=B'"),
            (argv(&["a"]), &with("", "x"), "''"),
            (argv(&["a"]), &with("A", "secret\0"), "variable A"),
            (cwd("here"), &none, "'here'"),
            (cwd("/\0"), &none, "NUL"),
        ] {
            let refusal = check(&exec, env).unwrap_err();
            assert!(refusal.contains(named) && !refusal.contains("secret"), "{refusal}");
        }
        assert_eq!(check(&argv(&["true"]), &with("A", "x")), Ok(()));
        assert!(run_as(Some("no-such-user")).unwrap_err().contains("'no-such-user'"));
        assert!(run_as(Some("a\0b")).unwrap_err().contains("NUL"));
    }

    #[test]
    fn the_agent_s_own_user_is_not_switched_and_the_environment_is_minimal() {
        let user = run_as(None).unwrap();
        let same = run_as(Some(&user.name)).unwrap();
        assert!(user.ids.is_none() && same.ids.is_none());
        let operation = OperationId(Uuid::from_u128(1));
        let env = BTreeMap::from([("APP".to_owned(), "1".to_owned())]);
        let launch = launch(&argv(&["sh", "-c", "true"]), &user, env, operation, Uuid::nil());
        assert_eq!(launch.user, None);
        let names: Vec<_> = launch.env.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "APP",
                "HOME",
                "LANG",
                "LOGNAME",
                "MUSTER_OPERATION",
                "MUSTER_RUN",
                "PATH",
                "SHELL",
                "USER"
            ]
        );
    }
}
