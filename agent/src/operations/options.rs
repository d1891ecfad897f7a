//! Options of operations on a device: fixed when the agent starts; tests shorten the timeouts.

use std::path::PathBuf;
use std::time::Duration;

use crate::policy::POLICY_FILE;

/// Options of operations.
#[derive(Clone, Debug)]
pub struct OperationOptions {
    /// Policy file of the device's owner.
    pub policy: PathBuf,
    /// Delay between SIGTERM and SIGKILL.
    pub kill_after: Duration,
    /// Maximum time to wait, after a program has ended, for children that hold its outputs open.
    pub grace: Duration,
    /// Maximum size of the stored outputs of all runs, in bytes.
    pub spool_bytes: u64,
    /// Commands that restart the machine: tried in order until one succeeds.
    pub reboot: Vec<Vec<String>>,
}

impl Default for OperationOptions {
    /// `/etc/muster/policy.toml`, 10 s, 2 s, 64 MiB, `systemctl reboot` or `reboot`.
    fn default() -> Self {
        let argv = |argv: &[&str]| argv.iter().map(|&word| word.to_owned()).collect();
        Self {
            policy: PathBuf::from(POLICY_FILE),
            kill_after: Duration::from_secs(10),
            grace: Duration::from_secs(2),
            spool_bytes: 64 << 20,
            reboot: vec![argv(&["systemctl", "reboot"]), argv(&["reboot"])],
        }
    }
}
