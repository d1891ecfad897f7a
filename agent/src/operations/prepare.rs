//! Converts an order into a helper's launch message: checks that it is possible, and builds the
//! environment.
//!
//! This module accesses no path of the order: the helper does.

use std::collections::BTreeMap;
use std::fmt;

use muster_schemas::OperationId;
use muster_schemas::events::{Exec, Program};
use uuid::Uuid;

use crate::run_as::RunAs;
use crate::subprocess::{self, Launch, PATH, RUN_TAG_VARIABLE};

/// Maximum length of an invalid variable name in an error message, in characters.
const MAX_NAME_CHARS: usize = 80;

/// The reason why an order to run a program cannot be executed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidExec {
    #[error("the program is missing")]
    NoProgram,
    #[error("{0} contains NUL, which cannot be passed to a program")]
    ContainsNul(ExecPart),
    /// The name, truncated.
    #[error("'{}' is not a valid variable name", .0.escape_debug())]
    VariableName(String),
    #[error("the folder '{0}' is not an absolute path")]
    RelativeFolder(String),
}

/// A part of an order to run a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExecPart {
    /// The argument at this index.
    Argument(usize),
    Line,
    /// The value of the variable with this name.
    Variable(String),
    Folder,
}

impl fmt::Display for ExecPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(index) => write!(f, "argument {index}"),
            Self::Line => f.write_str("the line"),
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Folder => f.write_str("the folder"),
        }
    }
}

/// Checks whether the order can be executed.
pub(super) fn check(exec: &Exec, env: &BTreeMap<String, String>) -> Result<(), InvalidExec> {
    match &exec.program {
        Program::Argv(argv) => {
            if argv.first().is_none_or(String::is_empty) {
                return Err(InvalidExec::NoProgram);
            }
            if let Some(at) = argv.iter().position(|argument| argument.contains('\0')) {
                return Err(InvalidExec::ContainsNul(ExecPart::Argument(at)));
            }
        }
        Program::Shell(line) if line.contains('\0') => {
            return Err(InvalidExec::ContainsNul(ExecPart::Line));
        }
        Program::Shell(_) => {}
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(InvalidExec::VariableName(name.chars().take(MAX_NAME_CHARS).collect()));
        }
        if value.contains('\0') {
            return Err(InvalidExec::ContainsNul(ExecPart::Variable(name.clone())));
        }
    }
    if let Some(cwd) = &exec.cwd {
        if cwd.contains('\0') {
            return Err(InvalidExec::ContainsNul(ExecPart::Folder));
        }
        if !cwd.starts_with('/') {
            return Err(InvalidExec::RelativeFolder(cwd.clone()));
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
        Program::Shell(line) => subprocess::Program::Line(line.clone()),
        Program::Argv(argv) => subprocess::Program::Argv(argv.clone()),
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
    use crate::run_as::agent_user;

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
        let nul = |part: &str| format!("{part} contains NUL, which cannot be passed to a program");
        for (exec, env, expected) in [
            (argv(&[]), &none, "the program is missing"),
            (argv(&[""]), &none, "the program is missing"),
            (argv(&["a", "b\0c"]), &none, &nul("argument 1")),
            (exec(Program::Shell("a\0".into())), &none, &nul("the line")),
            (argv(&["a"]), &with("A=B", "x"), "'A=B' is not a valid variable name"),
            (argv(&["a"]), &with("a\0", "x"), "'a\\0' is not a valid variable name"),
            (argv(&["a"]), &with("", "x"), "'' is not a valid variable name"),
            (argv(&["a"]), &with("A", "secret\0"), &nul("the variable A")),
            (cwd("here"), &none, "the folder 'here' is not an absolute path"),
            (cwd("/\0"), &none, &nul("the folder")),
        ] {
            assert_eq!(check(&exec, env).unwrap_err().to_string(), expected);
        }
        assert_eq!(check(&argv(&["true"]), &with("A", "x")), Ok(()));
    }

    #[test]
    fn the_environment_is_minimal() {
        let user = agent_user();
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
