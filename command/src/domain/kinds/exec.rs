//! Programs.

use muster_schemas::events::{Exec, Program};

use super::rules::{Kind, invalid};
use crate::domain::Rejection;

/// Maximum number of arguments of a program.
pub(in crate::domain) const MAX_ARGUMENTS: usize = 1_000;
/// Maximum size of a program's arguments, or of a shell command line, in bytes.
const MAX_ARGUMENT_BYTES: usize = 16 * 1024;
/// Maximum number of environment variables.
const MAX_VARIABLES: usize = 256;

impl Kind for &Exec {
    fn takes_private_input(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), Rejection> {
        check_exec(self)
    }
}

fn check_exec(exec: &Exec) -> Result<(), Rejection> {
    let shown = |text: &str| text.chars().take(80).collect::<String>();
    let field = match &exec.program {
        Program::Argv(_) => "action.argv",
        Program::Shell(_) => "action.command",
    };
    let parts: Vec<(&'static str, &str)> = match &exec.program {
        Program::Argv(argv) => argv.iter().map(|word| (field, &**word)).collect(),
        Program::Shell(line) => vec![(field, line)],
    };
    if parts.first().is_none_or(|(_, word)| word.trim().is_empty()) {
        return Err(invalid(field, "must name a program", ""));
    }
    if parts.len() > MAX_ARGUMENTS {
        let rule = format!("has more than {MAX_ARGUMENTS} arguments");
        return Err(invalid("action.argv", rule, parts.len().to_string()));
    }
    let bytes: usize = parts.iter().map(|(_, word)| word.len()).sum();
    if bytes > MAX_ARGUMENT_BYTES {
        let rule =
            format!("is longer than {MAX_ARGUMENT_BYTES} bytes; send long input as standard input");
        return Err(invalid(field, rule, bytes.to_string()));
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
        return Err(invalid("action.env", rule, names.len().to_string()));
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
                "action.env",
                "a name is letters, digits and '_', not starting with a digit",
                shown,
            ))
        }
        None => Ok(()),
    }
}
