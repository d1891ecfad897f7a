//! The result of a check.

use serde::Serialize;

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Name of the check.
    pub name: &'static str,
    /// Finding of the check.
    pub found: String,
    /// Suggested fix, if the check failed.
    pub remedy: Option<String>,
}

impl Check {
    pub(super) fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, found: found.into(), remedy: None }
    }

    pub(super) fn bad(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// Whether the check was successful.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.remedy.is_none()
    }
}
