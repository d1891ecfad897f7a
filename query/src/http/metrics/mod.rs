//! `/devices/{device}/metrics`: metrics of a device, over time and the newest.

pub(crate) mod fields;
pub(crate) mod latest;
mod problem;
pub(crate) mod query;

/// Tags that ingest adds to each point: they identify its device, not one of the device's series.
const OWN_TAGS: &[&str] = &["project", "device_id", "host"];
