//! The settings of the sink: how lines are gathered, how much is held, and when requests are
//! repeated.

use std::time::Duration;

/// How lines are gathered, and how much is held.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    /// Maximum number of lines in a request (a message is only split if the store refuses it).
    pub max_lines: usize,
    /// Maximum size of a request before compression, in bytes; a larger message is not split
    /// either.
    pub max_bytes: usize,
    /// Maximum time for which a line waits for others.
    pub linger: Duration,
    /// Maximum number of requests in flight.
    pub requests: usize,
    /// Maximum size of the lines that are held, waiting or in flight, in bytes. The body of each
    /// request in flight, uncompressed and compressed, is added to that.
    pub max_held_bytes: usize,
    /// First delay before a request is sent again; it doubles.
    pub first_delay: Duration,
    /// Maximum delay.
    pub max_delay: Duration,
}

impl Default for SinkSettings {
    fn default() -> Self {
        Self {
            max_lines: 5000,
            max_bytes: 1024 * 1024,
            linger: Duration::from_millis(100),
            requests: 3,
            max_held_bytes: 32 * 1024 * 1024,
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
        }
    }
}
