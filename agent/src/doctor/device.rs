//! Checks of the device itself: folder, disk, agent, credentials, outbox.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::check::Check;
use crate::clock::Moment;
use crate::status::Status;
use crate::store::free_bytes;

/// Minimum free disk space, in bytes: the size of a full outbox and a full backlog.
const MIN_FREE_BYTES: u64 = 160 << 20;

pub(super) fn folder(data: &Path) -> Check {
    let name = "data folder";
    let shown = data.display();
    let metadata = match std::fs::metadata(data) {
        Ok(metadata) => metadata,
        Err(error) => {
            let remedy = "run as the agent's own user, or name another folder with --data";
            return Check::bad(name, format!("failed to read {shown}: {error}"), remedy);
        }
    };
    let mode = metadata.permissions().mode() & 0o777;
    // Others may traverse the folder, for the sockets to which applications write metrics.
    if mode & 0o066 != 0 {
        let found = format!("{shown} is readable by other users (mode {mode:o})");
        return Check::bad(name, found, format!("chmod 700 {shown}"));
    }
    let user = nix::unistd::geteuid();
    if metadata.uid() != user.as_raw() && !user.is_root() {
        let found = format!("{shown} belongs to user {}", metadata.uid());
        return Check::bad(name, found, "run as that user");
    }
    Check::good(name, format!("{shown}, mode {mode:o}"))
}

pub(super) fn disk(data: &Path) -> Check {
    let name = "disk";
    match free_bytes(data) {
        Some(free) => {
            let found = format!("{} MiB free", free >> 20);
            if free < MIN_FREE_BYTES {
                let remedy = format!(
                    "free at least {} MiB: when the disk is full, metrics and then events are \
                     dropped",
                    MIN_FREE_BYTES >> 20
                );
                Check::bad(name, found, remedy)
            } else {
                Check::good(name, found)
            }
        }
        None => Check::bad(name, "failed to read the free space", "check the mount"),
    }
}

pub(super) fn running(status: &Status) -> Check {
    let name = "agent";
    match (status.is_running, &status.broker) {
        (true, Some(broker)) => Check::good(name, format!("running, connected to {broker}")),
        (true, None) => {
            let last = status.last_error.as_ref().map_or("no error so far", |(_, e)| e);
            let remedy = if last.contains("(401)") {
                "the server rejects this device's key: ask an operator whether the device was \
                 deleted or revoked (muster device show), or whether this is an old copy of its \
                 folder; enroll again with a token for the device"
            } else {
                "see the checks below"
            };
            Check::bad(name, format!("running, not connected: {last}"), remedy)
        }
        (false, _) => Check::bad(name, "not running", "start it: muster-agent run"),
    }
}

pub(super) fn credentials(status: &Status) -> Check {
    let name = "credentials";
    let now = Moment::now().wall.plus_micros(-status.clock_skew_us.unwrap_or(0));
    match status.credentials_until {
        Some(until) if until > now => Check::good(name, format!("valid until {until}")),
        Some(until) => Check::bad(
            name,
            format!("expired at {until}"),
            "a running agent renews them automatically; see `muster-agent status` for the error",
        ),
        None => Check::bad(name, "none yet", "a running agent requests them automatically"),
    }
}

pub(super) fn outbox(status: &Status) -> Check {
    let (name, outbox) = ("outbox", &status.outbox);
    let found = format!("{} events pending, {} dropped", outbox.unconfirmed, outbox.dropped);
    if outbox.dropped > 0 {
        Check::bad(name, found, "bring the device online: the outbox is full")
    } else {
        Check::good(name, found)
    }
}
