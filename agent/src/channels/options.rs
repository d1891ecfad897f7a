//! What channels work by on a device: fixed when the agent starts; tests shorten the waits.

use std::time::Duration;

/// The most sessions at a time.
pub(super) const MOST_SESSIONS: usize = 32;
/// The most channels at a time.
pub(super) const MOST_CHANNELS: usize = muster_schemas::wire::MAX_DEVICE_CHANNELS;

/// How channels are carried.
#[derive(Clone, Copy, Debug)]
pub struct ChannelOptions {
    /// What is left of a session this long after SIGHUP gets SIGKILL.
    pub kill_after: Duration,
    /// Who types, and takes no output for this long, is detached.
    pub patience: Duration,
    /// A TCP connection that takes longer to make has failed.
    pub connect: Duration,
}

impl Default for ChannelOptions {
    /// 5 s, 10 s, 10 s.
    fn default() -> Self {
        Self {
            kill_after: Duration::from_secs(5),
            patience: Duration::from_secs(10),
            connect: Duration::from_secs(10),
        }
    }
}
