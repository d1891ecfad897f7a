//! Checks of everything that the agent needs: folder, disk, names, ports, proxy, trust, clock,
//! credentials.
//!
//! The doctor changes nothing; each failed check suggests a fix.

mod check;
mod device;
mod network;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::path::Path;

use muster_schemas::errors::error_chain;

pub use self::check::Check;
use crate::status::Status;

/// Checks a data folder and everything that its device depends on. `status` is from the agent or
/// its folder, or the error of reading it.
pub async fn examine(
    data: &Path,
    status: Result<Status, Box<dyn Error + Send + Sync>>,
) -> Vec<Check> {
    let mut checks = vec![device::folder(data), device::disk(data)];
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            checks.push(Check::bad(
                "identity",
                error_chain(&*error),
                "enroll the device with `muster-agent enroll`; if it is enrolled, fix the \
                 problems above",
            ));
            return checks;
        }
    };
    checks.push(device::running(&status));
    checks.extend(network::server(&status).await);
    checks.extend(network::brokers(&status).await);
    checks.push(device::credentials(&status));
    checks.push(device::outbox(&status));
    checks
}
