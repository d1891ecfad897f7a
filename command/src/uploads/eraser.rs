//! Erases expired and replaced files, in one process at a time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use muster_schemas::errors::error_chain;
use muster_schemas::events::EraseCause;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::list::{File, FileSelection, files};
use crate::clock::now;
use crate::error::CommandError;
use crate::service::Uploads;

/// Name of the lease that allows a process to erase.
const LEASE: &str = "files";
/// Duration of the lease without renewal.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// Interval between checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Erases files while this process holds the lease, until `stop`.
pub(super) async fn run(uploads: Uploads, stop: CancellationToken) {
    let holder = Uuid::new_v4();
    let mut has_lease = false;
    // Files that this process has erased already.
    let mut erased: BTreeSet<File> = BTreeSet::new();
    while !stop.is_cancelled() {
        let held = if has_lease {
            let held = uploads.log().renew_leases(holder, &[LEASE.to_owned()], LEASE_TTL).await;
            held.map(|held| !held.is_empty())
        } else {
            uploads.log().acquire_lease(LEASE, holder, LEASE_TTL).await.map(|lease| lease.is_some())
        };
        has_lease = held.unwrap_or(false);
        if has_lease && let Err(error) = round(&uploads, &mut erased).await {
            let error = error_chain(&error);
            tracing::warn!(error, "failed to erase expired files; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
    }
    if let Err(error) = uploads.log().release_lease(LEASE, holder).await {
        tracing::debug!(%error, "failed to release the lease on files");
    }
}

/// Erases files that are due. A failure is retried in the next round, and does not delay other
/// files.
async fn round(uploads: &Uploads, erased: &mut BTreeSet<File>) -> Result<(), CommandError> {
    let mut failed = None;
    for (which, cause) in [
        (FileSelection::Expired, EraseCause::Kept),
        (FileSelection::Replaced, EraseCause::Replaced),
    ] {
        for (project, operation, device) in files(uploads.log(), which, now()).await? {
            match uploads.erase_automatically(&project, operation, device, cause).await {
                Ok(()) => {
                    tracing::info!(
                        %project, %operation, %device, ?cause,
                        "a stored file was erased"
                    );
                }
                Err(error) => failed = Some(error),
            }
        }
    }
    let expected: BTreeSet<File> =
        files(uploads.log(), FileSelection::Erased, now()).await?.into_iter().collect();
    erased.retain(|file| expected.contains(file));
    let left: Vec<File> = expected.difference(erased).cloned().collect();
    let started_at = Instant::now();
    for file in left {
        // After a start these can be the files of several weeks; the lease must be renewed
        // meanwhile.
        if started_at.elapsed() > LEASE_TTL / 2 {
            break;
        }
        match uploads.erase_file(&file.0, file.1, file.2).await {
            Ok(()) => drop(erased.insert(file)),
            Err(error) => failed = Some(error.into()),
        }
    }
    failed.map_or(Ok(()), Err)
}
