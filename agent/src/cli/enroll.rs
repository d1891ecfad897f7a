//! `muster-agent enroll`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use muster_agent::enroll::{EnrollOptions, enroll as join};
use muster_schemas::names::{DeviceName, InvalidName, LabelKey, LabelValue};
use url::Url;

/// Arguments of `muster-agent enroll`.
#[derive(Debug, Args)]
pub(super) struct EnrollArgs {
    /// Address of the servers
    #[arg(long, env = "MUSTER_URL", value_name = "https://HOST:PORT")]
    url: Url,
    /// Refused, because other users of this machine can read arguments: use --token-file or
    /// MUSTER_ENROLL_TOKEN
    #[arg(hide = true)]
    token: Option<String>,
    /// File with the enrollment token (mse_…); alternatively, set MUSTER_ENROLL_TOKEN to the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name of the device; derived from the host name by default
    #[arg(long)]
    name: Option<DeviceName>,
    /// Label of the device; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(LabelKey, LabelValue)>,
    /// Enroll even if this device is already enrolled
    ///
    /// The previous state is kept as a backup. If the server knows the previous signing key, the
    /// machine remains the same device.
    #[arg(long)]
    force: bool,
}

/// The reason why an argument is not a label.
#[derive(Debug, thiserror::Error)]
enum InvalidLabel {
    #[error("write it as KEY=VALUE")]
    NoValue,
    #[error(transparent)]
    Name(#[from] InvalidName),
}

fn label(text: &str) -> Result<(LabelKey, LabelValue), InvalidLabel> {
    let (key, value) = text.split_once('=').ok_or(InvalidLabel::NoValue)?;
    Ok((key.parse()?, value.parse()?))
}

pub(super) fn fingerprint(data: &Path) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stdout(), "{}", muster_agent::enroll::fingerprint(data)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn enroll(data: PathBuf, args: EnrollArgs) -> anyhow::Result<ExitCode> {
    if args.token.is_some() {
        bail!(
            "an argument would show the token to every user of this machine; use --token-file FILE, \
             or MUSTER_ENROLL_TOKEN"
        );
    }
    let token = match (args.token_file, std::env::var("MUSTER_ENROLL_TOKEN")) {
        (Some(file), _) => std::fs::read_to_string(&file)
            .with_context(|| format!("failed to read the token file {}", file.display()))?,
        (None, Ok(token)) if !token.is_empty() => token,
        (None, _) => {
            bail!("an enrollment token is needed: --token-file FILE, or MUSTER_ENROLL_TOKEN")
        }
    };
    let options = EnrollOptions {
        data: data.clone(),
        url: args.url,
        token: token.trim().parse()?,
        name: args.name,
        labels: args.labels.into_iter().collect(),
        force: args.force,
    };
    let enrolled = join(options).await?;
    let identity = enrolled.identity;
    let mut out = std::io::stdout().lock();
    if let Some(backup) = enrolled.backup {
        writeln!(out, "The previous state is kept in {}", backup.display())?;
    }
    writeln!(
        out,
        "Enrolled as {} ({}) in project {}.\nKey fingerprint: {}\nNext: muster-agent run --data {}",
        identity.name,
        identity.device,
        identity.project,
        identity.keys.signing().thumbprint(),
        data.display()
    )?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_key_and_a_value() {
        let (key, value) = label("site=north:1").unwrap();
        assert_eq!((key.as_str(), value.as_str()), ("site", "north:1"));
        assert!(matches!(label("site=north=1"), Err(InvalidLabel::Name(_))));
        assert_eq!(label("site").unwrap_err().to_string(), "write it as KEY=VALUE");
        assert!(matches!(label("=north"), Err(InvalidLabel::Name(_))));
    }
}
