//! Names of the API's own headers.

/// Of a write's response: the position of its last event.
pub const POSITION: &str = "muster-position";
/// Of a read: the position that its response must include.
pub const MIN_POSITION: &str = "muster-min-position";
/// Of a response: what the server cannot write at present, so that the response may be outdated.
pub const DEGRADED: &str = "muster-degraded";
