//! Checks of everything that the agent needs: folder, disk, names, ports, proxy, trust, clock,
//! credentials.
//!
//! The doctor changes nothing; each failed check suggests a fix.

mod checks;
mod network;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;

use crate::run::Status;

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
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, found: found.into(), remedy: None }
    }

    fn bad(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// Whether the check was successful.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.remedy.is_none()
    }
}

/// Checks a data folder and everything that its device depends on. `status` is from the agent or
/// its folder.
pub async fn examine(data: &Path, status: Result<Status, String>) -> Vec<Check> {
    let mut checks = vec![checks::folder(data), checks::disk(data)];
    let status = match status {
        Ok(status) => status,
        Err(problem) => {
            checks.push(Check::bad(
                "identity",
                problem.clone(),
                "enroll the device with `muster-agent enroll`; if it is enrolled, fix the \
                 problems above",
            ));
            return checks;
        }
    };
    checks.push(checks::running(&status));
    checks.extend(network::server(&status).await);
    checks.extend(network::brokers(&status).await);
    checks.push(checks::credentials(&status));
    checks.push(checks::outbox(&status));
    checks
}
