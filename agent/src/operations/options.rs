//! What operations work by on a device: fixed when the agent starts; tests shorten the waits.

use std::path::PathBuf;
use std::time::Duration;

use super::policy::POLICY_FILE;

/// How operations are carried out.
#[derive(Clone, Debug)]
pub struct OperationOptions {
    /// The policy of the device's owner.
    pub policy: PathBuf,
    /// What is left of a run this long after SIGTERM gets SIGKILL.
    pub kill_after: Duration,
    /// Children that hold a program's outputs open are waited for this long after it ended.
    pub grace: Duration,
    /// The most that is kept of the outputs of all runs, in bytes.
    pub spool_bytes: u64,
    /// What restarts the machine: each is tried until one works.
    pub reboot: Vec<Vec<String>>,
}

impl Default for OperationOptions {
    /// `/etc/muster/policy.toml`, 10 s, 2 s, 64 MiB, `systemctl reboot` or `reboot`.
    fn default() -> Self {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            policy: PathBuf::from(POLICY_FILE),
            kill_after: Duration::from_secs(10),
            grace: Duration::from_secs(2),
            spool_bytes: 64 << 20,
            reboot: vec![words(&["systemctl", "reboot"]), words(&["reboot"])],
        }
    }
}
