//! Checks of keys, certificates and disk space.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use muster_command::keys::certificate_expiry;
use muster_schemas::Timestamp;
use muster_schemas::errors::error_chain;

use super::check::Check;

/// Minimum free disk space, in bytes: PostgreSQL, the broker and logs need space.
const MIN_FREE_BYTES: u64 = 1 << 30;
const DAY_MICROS: i64 = 86_400 * 1_000_000;
/// Minimum remaining validity of a certificate, in days.
const MIN_VALIDITY_DAYS: i64 = 30;

/// Checks that the key folder exists, and that only its owner has access.
pub(super) fn keys(dir: &Path) -> Vec<Check> {
    let name = "keys";
    let shown = dir.display();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            let remedy = "run as the server's own user; `muster bootstrap` creates a new server's \
                 keys, and a backup restores lost ones";
            return vec![Check::bad(name, format!("{shown} cannot be read: {error}"), remedy)];
        }
    };
    let mode =
        |path: &Path| std::fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
    let mut open = Vec::new();
    // Files in a folder that only the owner can enter are safe with any mode.
    if mode(dir).is_ok_and(|mode| mode & 0o077 != 0) {
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_secret =
                path.extension().is_none_or(|ending| ending != "pem" && ending != "pub");
            if path.is_file() && is_secret && mode(&path).is_ok_and(|mode| mode & 0o077 != 0) {
                open.push(path.display().to_string());
            }
        }
        if open.is_empty() && mode(dir).is_ok_and(|mode| mode & 0o022 != 0) {
            open.push(shown.to_string());
        }
    }
    if open.is_empty() {
        return vec![Check::good(name, format!("{shown}, accessible only to its owner"))];
    }
    let found = format!("others can read {}", open.join(", "));
    let remedy = format!(
        "chmod -R go= {shown}; if other users may have read them, this server's devices are no \
         longer safe"
    );
    vec![Check::bad(name, found, remedy)]
}

/// Checks the validity of the certificates.
pub(super) fn certificates(dir: &Path) -> Vec<Check> {
    let now = Timestamp::from(SystemTime::now());
    [("certificate", "server.pem"), ("CA", "ca.pem")]
        .into_iter()
        .map(|(name, file)| match certificate_expiry(&dir.join(file)) {
            Ok(expiry) => certificate(name, expiry, now),
            Err(error) => Check::bad(
                name,
                error_chain(&error),
                "`muster bootstrap` creates it again; `muster up` does so at each start",
            ),
        })
        .collect()
}

pub(super) fn certificate(name: &'static str, expiry: Timestamp, now: Timestamp) -> Check {
    let days = expiry.micros_since(now).div_euclid(DAY_MICROS);
    let remedy = "run `muster bootstrap` again and restart the roles (`muster up`: start it again; \
         containers: docker compose up -d --force-recreate)";
    match days {
        ..0 => Check::bad(name, format!("expired {} days ago", -days), remedy),
        0..MIN_VALIDITY_DAYS => Check::bad(name, format!("expires in {days} days"), remedy),
        _ => Check::good(name, format!("valid for {days} days")),
    }
}

/// Checks the free space of the data's disk.
pub(super) fn disk(path: &Path) -> Check {
    let name = "disk";
    let Ok(stat) = nix::sys::statvfs::statvfs(path) else {
        let found = format!("failed to read the free space of {}", path.display());
        return Check::bad(name, found, "check the mount");
    };
    #[allow(clippy::useless_conversion, reason = "both are 32 bits wide on some machines")]
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    let found = format!("{} MiB free at {}", free >> 20, path.display());
    if free < MIN_FREE_BYTES {
        return Check::bad(
            name,
            found,
            "free up space: PostgreSQL and the broker stop on a full disk",
        );
    }
    Check::good(name, found)
}
