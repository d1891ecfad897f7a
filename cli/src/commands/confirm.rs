//! Confirmation before a command destroys or interrupts something: asked on a terminal, demanded as
//! `--yes` elsewhere, in the same way everywhere.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Result, bail};
use clap::Args;

use super::target::Target;
use crate::client::Client;
use crate::exit::Misused;
use crate::output::note;

/// Maximum number of things that a question names.
const MAX_NAMED: usize = 10;
/// Maximum number of devices that a selector may match without a question, for what harms none.
const MAX_UNASKED: usize = 10;

/// The flag of every command that asks.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Confirm {
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

/// What a command is about to do.
#[derive(Debug)]
pub(crate) struct Action<'a> {
    /// What is done, such as `revoke`.
    pub(crate) verb: &'a str,
    /// What one of the things is called, such as `device`; `s` is added for several.
    pub(crate) noun: &'a str,
    /// The things by name.
    pub(crate) names: &'a [String],
}

impl Confirm {
    pub(crate) const fn is_given(self) -> bool {
        self.yes
    }

    /// Returns when the action is confirmed.
    ///
    /// # Errors
    /// When it is not: the user declined, or there is no terminal to ask on.
    pub(crate) fn ask(self, action: &Action<'_>) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            let words = format!("this would {}; add --yes to do it", action.on_one_line());
            return Err(Misused(words).into());
        }
        note(action.question());
        std::io::stderr().flush()?;
        if is_yes(&mut std::io::stdin().lock())? {
            return Ok(());
        }
        bail!("nothing was done")
    }

    /// As [`Self::ask`], about one thing.
    pub(crate) fn ask_one(self, verb: &str, noun: &str, name: impl Into<String>) -> Result<()> {
        self.ask(&Action { verb, noun, names: &[name.into()] })
    }

    /// As [`Self::ask`], only when a selector matches more devices than its author may believe. For
    /// what neither destroys nor interrupts.
    pub(crate) async fn ask_before_many(
        self,
        client: &Client,
        verb: &str,
        target: &Target,
    ) -> Result<()> {
        if self.yes || matches!(target, Target::One(_)) {
            return Ok(());
        }
        let names = target.names(client).await?;
        if names.len() <= MAX_UNASKED {
            return Ok(());
        }
        self.ask(&Action { verb, noun: "device", names: &names })
    }
}

impl Action<'_> {
    fn count(&self) -> String {
        format!("{} {}s", self.names.len(), self.noun)
    }

    /// The names that are shown, and how many are not.
    fn named(&self) -> (&[String], usize) {
        let shown = self.names.len().min(MAX_NAMED);
        (&self.names[..shown], self.names.len() - shown)
    }

    fn on_one_line(&self) -> String {
        if let [one] = self.names {
            return format!("{} {} {one}", self.verb, self.noun);
        }
        let (shown, more) = self.named();
        let mut words = format!("{} {} ({}", self.verb, self.count(), shown.join(", "));
        if more > 0 {
            words.push_str(&format!(", and {more} more"));
        }
        words + ")"
    }

    fn question(&self) -> String {
        if let [one] = self.names {
            return format!("This will {} {} {one}. Go on? [y/N]", self.verb, self.noun);
        }
        let (shown, more) = self.named();
        let mut words = format!("This will {} {}:\n", self.verb, self.count());
        for name in shown {
            words.push_str(&format!("  {name}\n"));
        }
        if more > 0 {
            words.push_str(&format!("  and {more} more\n"));
        }
        words + "Go on? [y/N]"
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
