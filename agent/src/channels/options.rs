//! Options of channels on a device: fixed when the agent starts; tests shorten the timeouts.

use std::time::Duration;

/// Maximum number of sessions.
pub(super) const MAX_SESSIONS: usize = 32;
/// Maximum number of channels.
pub(super) const MAX_CHANNELS: usize = muster_schemas::wire::MAX_DEVICE_CHANNELS;

/// Options of channels.
#[derive(Clone, Copy, Debug)]
pub struct ChannelOptions {
    /// Delay between SIGHUP and SIGKILL at the end of a session.
    pub kill_after: Duration,
    /// Maximum time for which a client with input may accept no output before it is detached.
    pub stall_timeout: Duration,
    /// Timeout of connecting to a TCP port.
    pub connect_timeout: Duration,
}

impl Default for ChannelOptions {
    /// 5 s, 10 s, 10 s.
    fn default() -> Self {
        Self {
            kill_after: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
        }
    }
}
