//! The clock of the write side.

use muster_schemas::Timestamp;

/// Returns the time of the system's clock.
pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}
