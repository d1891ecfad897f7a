//! Confirmation before a destructive or interrupting command: a prompt on a terminal, otherwise the
//! required flag `--yes`; the same for all commands.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Result, bail};
use clap::Args;
use muster_client::Client;

use super::target::Target;
use crate::exit::UsageError;
use crate::output::note;

/// Maximum number of names in a prompt.
const MAX_NAMED: usize = 10;
/// Maximum number of devices that a selector may match without a prompt, for harmless commands.
const MAX_UNCONFIRMED: usize = 10;

/// Flag of every command with a confirmation.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Confirm {
    /// Skip the confirmation
    #[arg(short, long)]
    yes: bool,
}

/// Action to confirm.
#[derive(Debug)]
pub(crate) struct Action<'a> {
    /// Verb of the action, such as `revoke`.
    pub(crate) verb: &'a str,
    /// Singular noun of the targets, such as `device`; `s` is appended for several.
    pub(crate) noun: &'a str,
    /// Names of the targets.
    pub(crate) names: &'a [String],
}

impl Confirm {
    pub(crate) const fn is_given(self) -> bool {
        self.yes
    }

    /// Returns when the action is confirmed.
    ///
    /// # Errors
    /// When the action is not confirmed: the user declined, or there is no terminal for a prompt.
    pub(crate) fn confirm(self, action: &Action<'_>) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            let message = format!("this would {}; add --yes to do it", action.on_one_line());
            return Err(UsageError(message).into());
        }
        note(action.question());
        std::io::stderr().flush()?;
        if is_yes(&mut std::io::stdin().lock())? {
            return Ok(());
        }
        bail!("nothing was done")
    }

    /// As [`Self::ask`], for one target.
    pub(crate) fn confirm_one(self, verb: &str, noun: &str, name: impl Into<String>) -> Result<()> {
        self.confirm(&Action { verb, noun, names: &[name.into()] })
    }

    /// As [`Self::ask`], but only when a selector matches more devices than the user may expect.
    /// For commands that neither destroy nor interrupt.
    pub(crate) async fn confirm_many(
        self,
        client: &Client,
        verb: &str,
        target: &Target,
    ) -> Result<()> {
        if self.yes || matches!(target, Target::One(_) | Target::Named(_)) {
            return Ok(());
        }
        let names = target.names(client).await?;
        if names.len() <= MAX_UNCONFIRMED {
            return Ok(());
        }
        self.confirm(&Action { verb, noun: "device", names: &names })
    }
}

impl Action<'_> {
    fn count(&self) -> String {
        format!("{} {}s", self.names.len(), self.noun)
    }

    /// Returns the names to show, and the number of the others.
    fn named(&self) -> (&[String], usize) {
        let shown = self.names.len().min(MAX_NAMED);
        (&self.names[..shown], self.names.len() - shown)
    }

    fn on_one_line(&self) -> String {
        if let [one] = self.names {
            return format!("{} {} {one}", self.verb, self.noun);
        }
        let (shown, more) = self.named();
        let mut text = format!("{} {} ({}", self.verb, self.count(), shown.join(", "));
        if more > 0 {
            text.push_str(&format!(", and {more} more"));
        }
        text + ")"
    }

    fn question(&self) -> String {
        if let [one] = self.names {
            return format!("This will {} {} {one}. Continue? [y/N]", self.verb, self.noun);
        }
        let (shown, more) = self.named();
        let mut text = format!("This will {} {}:\n", self.verb, self.count());
        for name in shown {
            text.push_str(&format!("  {name}\n"));
        }
        if more > 0 {
            text.push_str(&format!("  and {more} more\n"));
        }
        text + "Continue? [y/N]"
    }
}

fn is_yes(input: &mut impl BufRead) -> Result<bool> {
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

#[cfg(test)]
#[path = "confirm_tests.rs"]
mod tests;
