//! Secrets from files: `MUSTER_X_FILE=PATH` sets `MUSTER_X` to the content of the file, for every
//! variable, and for the keys of an S3 bucket. Container and service managers thus pass secrets
//! that the process list does not show.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::exit::UsageError;

const PREFIX: &str = "MUSTER_";
const SUFFIX: &str = "_FILE";
/// Secrets without the prefix `MUSTER_`.
const UNPREFIXED_SECRETS: &[&str] = &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

/// Restarts this program with the files' contents in its environment, if there are any: a process
/// cannot safely change its own environment.
pub(crate) fn read_files() -> Result<()> {
    let files: Vec<(String, OsString)> = std::env::vars_os()
        .filter_map(|(name, path)| Some((variable(&name)?, path)))
        .filter(|(_, path)| !path.is_empty())
        .collect();
    if files.is_empty() {
        return Ok(());
    }
    let program = std::env::current_exe().context("failed to find this program")?;
    let mut again = Command::new(program);
    again.args(std::env::args_os().skip(1));
    for (name, path) in files {
        if std::env::var_os(&name).is_some() {
            let message = format!("{name} and {name}{SUFFIX} are both set; unset one of them");
            return Err(UsageError(message).into());
        }
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("failed to read {}, which {name}{SUFFIX} names", path.display())
        })?;
        again.env(&name, text.trim()).env_remove(format!("{name}{SUFFIX}"));
    }
    Err(again.exec()).context("failed to restart with the values of the *_FILE variables")
}

/// Converts `MUSTER_TOKEN_FILE` to `MUSTER_TOKEN`.
fn variable(name: &OsStr) -> Option<String> {
    let name = name.to_str()?.strip_suffix(SUFFIX)?;
    let is_ours = name.len() > PREFIX.len() && name.starts_with(PREFIX);
    (is_ours || UNPREFIXED_SECRETS.contains(&name)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn muster_variables_and_bucket_keys_are_read_from_files() {
        for (name, expected) in [
            ("MUSTER_TOKEN_FILE", Some("MUSTER_TOKEN")),
            ("MUSTER_TOKEN", None),
            ("MUSTER__FILE", None),
            ("SSL_CERT_FILE", None),
            ("AWS_SECRET_ACCESS_KEY_FILE", Some("AWS_SECRET_ACCESS_KEY")),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", None),
        ] {
            assert_eq!(variable(OsStr::new(name)).as_deref(), expected, "{name}");
        }
    }
}
