//! The operation that collects the diagnostics archive. Other parts of the agent know its content.

use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use muster_schemas::OperationId;
use muster_schemas::events::RunReport;
use muster_schemas::wire::{OutputStream, RunOrder};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, ReadyRun};
use super::record::{Outcome, Runs, empty_report};
use crate::clock::Moment;

/// Collects the diagnostics archive.
pub(crate) type CollectDiagnostics =
    Box<dyn Fn() -> BoxFuture<'static, io::Result<Vec<u8>>> + Send + Sync>;

/// Collects the archive and writes it to the run's standard output.
pub(super) async fn run(
    runs: &Runs,
    collect: &CollectDiagnostics,
    id: OperationId,
    entry: Entry<ReadyRun>,
    order: &RunOrder,
    cancel: &CancellationToken,
) {
    let entry = match runs.journal_start(id, entry) {
        Ok(entry) => entry,
        Err(error) => {
            tracing::warn!(%error, operation = %id, "failed to start a run; retrying");
            return runs.queue.requeue(id);
        }
    };
    runs.record_started_now(id, &entry, None);
    let record = entry.state.record;
    let limit = Duration::from_millis(order.timeout_ms).min(Duration::from_secs(3600));
    let (outcome, problem) = tokio::select! {
        archive = collect() => match archive {
            Ok(archive) => {
                let spool = runs.spools.create(id, &record.salts);
                runs.spools.write(&spool, OutputStream::Stdout, &archive);
                (Outcome::Succeeded, None)
            }
            Err(error) => (Outcome::Failed, Some(format!("failed to create the archive: {error}"))),
        },
        () = sleep(limit) => (Outcome::TimedOut, None),
        () = cancel.cancelled() => (Outcome::Canceled, None),
    };
    let spool = runs.spools.get(id);
    let [stdout, stderr] = spool.map(|spool| spool.summaries()).unwrap_or_default();
    let report = RunReport {
        problem,
        started_at: Some(record.start.at),
        ended_at: Some(Moment::now().wall),
        stdout,
        stderr,
        ..empty_report(id)
    };
    runs.record_end(id, entry, outcome.event(report));
}
