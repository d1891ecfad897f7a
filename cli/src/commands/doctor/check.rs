//! The result of one check.

use serde::Serialize;

/// Result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// Name of the check.
    pub(super) name: &'static str,
    /// Observed state.
    pub(super) found: String,
    /// Suggested fix, if the check failed.
    pub(super) remedy: Option<String>,
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
}
