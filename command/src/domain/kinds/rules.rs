//! What each kind of operation defines: timeouts, private input, validation.

use crate::domain::Rejection;

/// Timeouts of the runs of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Timeout of a run whose request names none, in seconds.
    pub default_secs: u32,
    /// Maximum timeout, in seconds.
    pub max_secs: u32,
}

impl Timeouts {
    /// Timeouts of most kinds: five minutes, and at most a day.
    pub const SHORT: Self = Self { default_secs: 300, max_secs: 24 * 3600 };

    /// Maximum timeout, in milliseconds.
    #[must_use]
    pub fn max_ms(self) -> u64 {
        u64::from(self.max_secs) * 1_000
    }
}

/// The rules of a kind of operation.
pub trait Kind {
    /// The timeouts of its runs.
    fn timeouts(&self) -> Timeouts {
        Timeouts::SHORT
    }

    /// Whether its runs take environment variables and standard input.
    fn takes_private_input(&self) -> bool {
        false
    }

    /// Checks the action's parameters.
    ///
    /// # Errors
    /// The parameter that breaks a rule.
    fn check(&self) -> Result<(), Rejection> {
        Ok(())
    }
}

pub(in crate::domain) fn invalid(
    field: &'static str,
    rule: impl Into<String>,
    value: impl Into<String>,
) -> Rejection {
    Rejection::Invalid { field, rule: rule.into(), value: value.into() }
}
