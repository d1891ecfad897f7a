//! An examination of everything that the agent needs: folder, disk, names, ports, proxy, trust,
//! clock, credentials.
//!
//! Mends nothing; each check that fails says what to do.

mod checks;
mod network;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;

use crate::run::Status;

/// What was looked at, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// What to do, when it is not as it should be.
    pub remedy: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, found: found.into(), remedy: None }
    }

    fn bad(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// Is it as it should be?
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.remedy.is_none()
    }
}

/// Examines a data folder and what its device depends on. `status` is what the agent, or its
/// folder, says of itself.
pub async fn examine(data: &Path, status: Result<Status, String>) -> Vec<Check> {
    let mut checks = vec![checks::folder(data), checks::disk(data)];
    let status = match status {
        Ok(status) => status,
        Err(problem) => {
            checks.push(Check::bad(
                "identity",
                problem.clone(),
                "a device that is not enrolled joins with `muster-agent enroll`; otherwise mend what is said above",
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
