//! `/devices/{device}/metrics`: what a device measured, over time and just now.

pub(crate) mod fields;
pub(crate) mod latest;
mod problem;
pub(crate) mod query;

/// Tags that ingest adds to each point: they say whose it is, not which of the device's series.
const OWN_TAGS: &[&str] = &["project", "device_id", "host"];
