//! Converts an order into a helper's launch message: checks that it is possible, and builds the
//! environment.
//!
//! This module accesses no path of the order: the helper does.

use std::collections::BTreeMap;

use muster_schemas::OperationId;
use muster_schemas::events::{Exec, Program};
use uuid::Uuid;

use crate::run_as::RunAs;
use crate::subprocess::{self, Launch, PATH, RUN_TAG_VARIABLE};

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
    use crate::run_as::run_as;

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
    }

    #[test]
    fn the_environment_is_minimal() {
        let user = run_as(None).unwrap();
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
