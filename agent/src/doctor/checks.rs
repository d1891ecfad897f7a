//! Checks of the device itself: folder, disk, agent, credentials, outbox.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::Check;
use crate::clock::Moment;
use crate::run::Status;
use crate::store::free_bytes;

/// Minimum free disk space, in bytes: the size of a full outbox and a full backlog.
const ENOUGH: u64 = 160 << 20;

pub(super) fn folder(data: &Path) -> Check {
    let name = "data folder";
    let shown = data.display();
    let metadata = match std::fs::metadata(data) {
        Ok(metadata) => metadata,
        Err(error) => {
            let remedy = "run as the agent's own user, or name another folder with --data";
            return Check::bad(name, format!("{shown} cannot be read: {error}"), remedy);
        }
    };
    let mode = metadata.permissions().mode() & 0o777;
    // Others may traverse the folder, for the sockets to which applications write metrics.
    if mode & 0o066 != 0 {
        let found = format!("{shown} can be read by others (mode {mode:o})");
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
            if free < ENOUGH {
                let remedy = format!(
                    "make room ({} MiB): metrics, then events, are dropped when the disk is full",
                    ENOUGH >> 20
                );
                Check::bad(name, found, remedy)
            } else {
                Check::good(name, found)
            }
        }
        None => Check::bad(name, "cannot be asked for its free space", "check the mount"),
    }
}

pub(super) fn running(status: &Status) -> Check {
    let name = "agent";
    match (status.is_running, &status.broker) {
        (true, Some(broker)) => Check::good(name, format!("runs, connected to {broker}")),
        (true, None) => {
            let last = status.last_error.as_ref().map_or("nothing failed yet", |(_, e)| e);
            let remedy = if last.contains("refuses (401)") {
                "the server does not know this device's key: ask an operator whether it was deleted or revoked (muster device show), or whether this is an old copy of its folder; enroll again with a token for it"
            } else {
                "see the checks below"
            };
            Check::bad(name, format!("runs, not connected: {last}"), remedy)
        }
        (false, _) => Check::bad(name, "does not run", "start it: muster-agent run"),
    }
}

pub(super) fn credentials(status: &Status) -> Check {
    let name = "credentials";
    let now = Moment::now().wall.plus_micros(-status.clock_skew_us.unwrap_or(0));
    match status.credentials_until {
        Some(until) if until > now => Check::good(name, format!("good until {until}")),
        Some(until) => Check::bad(
            name,
            format!("expired {until}"),
            "a running agent renews them by itself; look at `muster-agent status` for why not",
        ),
        None => Check::bad(name, "none yet", "a running agent gets them by itself"),
    }
}

pub(super) fn outbox(status: &Status) -> Check {
    let (name, outbox) = ("outbox", &status.outbox);
    let found = format!("{} events wait, {} were dropped", outbox.unconfirmed, outbox.dropped);
    if outbox.dropped > 0 {
        Check::bad(name, found, "bring the device online: the outbox is full")
    } else {
        Check::good(name, found)
    }
}
