//! From what was asked to a command: is it possible at all, as whom, where, with which
//! environment?

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_schemas::OperationId;
use muster_schemas::events::{Exec, Program};
use nix::unistd::{Uid, User, geteuid};
use uuid::Uuid;

use super::group::MARK_VARIABLE;

/// Where programs are looked for unless the order says otherwise.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
pub(crate) const SHELL: &str = "/bin/sh";

/// The user that a program runs as.
#[derive(Clone, Debug)]
pub(crate) struct RunAs {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
    /// When it is not the agent's own.
    pub(crate) ids: Option<(u32, u32)>,
}

/// The user that a program would run as.
///
/// # Errors
/// When there is no such user, or this agent cannot run programs as it.
pub(crate) fn run_as(wanted: Option<&str>) -> Result<RunAs, String> {
    let own = geteuid();
    let of = |user: User| {
        let is_other = user.uid != own;
        let ids = is_other.then(|| (user.uid.as_raw(), user.gid.as_raw()));
        RunAs { name: user.name, home: user.dir, shell: user.shell, ids }
    };
    let Some(name) = wanted else {
        let known = User::from_uid(own).ok().flatten();
        return Ok(known.map_or_else(|| nameless(own), of));
    };
    // A NUL would end the name where it is looked up.
    if name.is_empty() || name.contains('\0') {
        return Err("the user's name is empty or holds a NUL".to_owned());
    }
    let known = User::from_name(name)
        .map_err(|error| format!("the user '{name}' cannot be looked up: {error}"))?;
    let user = known.ok_or_else(|| format!("there is no user '{name}' on this device"))?;
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

fn nul(what: &str) -> String {
    format!("{what} holds a NUL, which no program can be given")
}

/// Can it be done at all?
///
/// # Errors
/// What is wrong with the order, in words.
pub(super) fn check(exec: &Exec, env: &BTreeMap<String, String>) -> Result<(), String> {
    match &exec.program {
        Program::Argv(argv) => {
            if argv.first().is_none_or(String::is_empty) {
                return Err("no program is named".to_owned());
            }
            if let Some(at) = argv.iter().position(|argument| argument.contains('\0')) {
                return Err(nul(&format!("argument {at}")));
            }
        }
        Program::Shell(line) if line.contains('\0') => return Err(nul("the line")),
        Program::Shell(_) => {}
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let shown: String = name.chars().take(80).collect();
            return Err(format!("'{}' is no name of a variable", shown.escape_debug()));
        }
        if value.contains('\0') {
            return Err(nul(&format!("the variable {name}")));
        }
    }
    if let Some(cwd) = &exec.cwd {
        if cwd.contains('\0') {
            return Err(nul("the folder"));
        }
        if !cwd.starts_with('/') {
            return Err(format!("the folder '{cwd}' does not begin with /"));
        }
        if !Path::new(cwd).is_dir() {
            return Err(format!("there is no folder '{cwd}' on this device"));
        }
    }
    Ok(())
}

/// The command for what was asked; its inputs and outputs are the caller's.
///
/// # Errors
/// When the program is not there.
pub(super) fn command(
    exec: &Exec,
    user: &RunAs,
    env: &BTreeMap<String, String>,
    operation: OperationId,
    mark: Uuid,
) -> Result<Command, String> {
    let cwd = match &exec.cwd {
        Some(cwd) => PathBuf::from(cwd),
        None if user.home.is_dir() => user.home.clone(),
        None => PathBuf::from("/"),
    };
    let path = env.get("PATH").map_or(PATH, String::as_str);
    let (program, arguments): (PathBuf, Vec<&str>) = match &exec.program {
        Program::Shell(line) => (SHELL.into(), vec!["-c", line]),
        Program::Argv(argv) => {
            let name = argv.first().map_or("", String::as_str);
            (find(name, path, &cwd)?, argv.iter().skip(1).map(String::as_str).collect())
        }
    };
    let mut command = become_user(&program, user);
    command
        .args(arguments)
        .current_dir(&cwd)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", &user.home)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .env("SHELL", &user.shell)
        .env("LANG", std::env::var_os("LANG").as_deref().unwrap_or(OsStr::new("C.UTF-8")))
        .envs(env)
        .env("MUSTER_OPERATION", operation.to_string())
        .env(MARK_VARIABLE, mark.to_string())
        .process_group(0);
    Ok(command)
}

/// The program, started as the user: by util-linux's setpriv, which also takes on the user's
/// groups; where that is missing, with the user's own group alone.
fn become_user(program: &Path, user: &RunAs) -> Command {
    let Some((uid, gid)) = user.ids else { return Command::new(program) };
    if let Some(setpriv) = setpriv() {
        let mut command = Command::new(setpriv);
        command
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .args(["--init-groups", "--"])
            .arg(program);
        return command;
    }
    let mut command = Command::new(program);
    command.uid(uid).gid(gid);
    command
}

/// util-linux's setpriv; busybox has one too, which cannot change users.
pub(crate) fn setpriv() -> Option<PathBuf> {
    use std::sync::OnceLock;
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let path = find("setpriv", PATH, Path::new("/")).ok()?;
        let output = Command::new(&path).arg("--version").output().ok()?;
        String::from_utf8_lossy(&output.stdout).contains("util-linux").then_some(path)
    };
    FOUND.get_or_init(find).clone()
}

/// Where a program is, as a shell would find it.
fn find(name: &str, path: &str, cwd: &Path) -> Result<PathBuf, String> {
    if name.contains('/') {
        let file = cwd.join(name);
        return match std::fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => Ok(file),
            Ok(_) => Err(format!("'{name}' is no program")),
            Err(error) => Err(format!("there is no program '{name}': {error}")),
        };
    }
    let is_program = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path)
        .map(|folder| cwd.join(folder).join(name))
        .find(is_program)
        .ok_or_else(|| format!("there is no program '{name}' in {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(program: Program) -> Exec {
        Exec { program, cwd: None, user: None, env: Vec::new(), background: false }
    }

    fn argv(words: &[&str]) -> Exec {
        exec(Program::Argv(words.iter().map(|&word| word.to_owned()).collect()))
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words() {
        let none = BTreeMap::new();
        let with = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let cwd = |cwd: &str| Exec { cwd: Some(cwd.to_owned()), ..argv(&["true"]) };
        for (exec, env, words) in [
            (argv(&[]), &none, "no program"),
            (argv(&[""]), &none, "no program"),
            (argv(&["a", "b\0c"]), &none, "argument 1 holds a NUL"),
            (exec(Program::Shell("a\0".into())), &none, "the line holds a NUL"),
            (argv(&["a"]), &with("A=B", "x"), "no name of a variable"),
            (argv(&["a"]), &with("", "x"), "no name of a variable"),
            (argv(&["a"]), &with("A", "secret\0"), "the variable A holds a NUL"),
            (cwd("/no/such/folder"), &none, "no folder '/no/such/folder'"),
            (cwd("here"), &none, "does not begin with /"),
            (cwd("/\0"), &none, "the folder holds a NUL"),
        ] {
            let refusal = check(&exec, env).unwrap_err();
            assert!(refusal.contains(words) && !refusal.contains("secret"), "{refusal}");
        }
        assert_eq!(check(&argv(&["true"]), &with("A", "x")), Ok(()));
        assert!(run_as(Some("no-such-user")).unwrap_err().contains("no user 'no-such-user'"));
        assert!(run_as(Some("a\0b")).unwrap_err().contains("NUL"));
    }

    #[test]
    fn the_agents_own_user_needs_no_help_and_the_environment_is_small() {
        let user = run_as(None).unwrap();
        let same = run_as(Some(&user.name)).unwrap();
        assert!(user.ids.is_none() && same.ids.is_none());
        let operation = OperationId(Uuid::from_u128(1));
        let env = BTreeMap::from([("APP".to_owned(), "1".to_owned())]);
        let command =
            command(&argv(&["sh", "-c", "true"]), &user, &env, operation, Uuid::nil()).unwrap();
        assert!(command.get_program().to_string_lossy().ends_with("/sh"));
        let names: Vec<_> =
            command.get_envs().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
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

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        let search = dir.path().to_string_lossy().into_owned();
        assert!(find("tool", &search, Path::new("/")).is_err(), "it cannot be executed");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("tool", &search, Path::new("/")).unwrap(), path);
        assert_eq!(find("./tool", "", dir.path()).unwrap(), dir.path().join("./tool"));
        assert!(find("/no/such", "", Path::new("/")).unwrap_err().contains("/no/such"));
        assert!(find("/", "", Path::new("/")).unwrap_err().contains("no program"));
        assert!(find("no-such", &search, Path::new("/")).unwrap_err().contains("no-such"));
    }
}
