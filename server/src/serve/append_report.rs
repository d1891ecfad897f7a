//! Reports over the broker that this process cannot append to the log, so that a query role in
//! another process notes it in its responses. The database cannot carry the report: it is what
//! fails.

use std::time::Duration;

use muster_eventlog::{Cause, EventLog, Failure};
use muster_schemas::codec;
use muster_schemas::wire::internal::{
    APPEND_REPORT_SUBJECT, AppendFailure, AppendFailureCause, AppendReport,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Interval between checks, and between reports of a persistent failure.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Reports failures until `stop`.
pub(super) async fn run(log: EventLog, nats: async_nats::Client, stop: CancellationToken) {
    let process = Uuid::new_v4();
    let mut has_failed = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
        let failure = log.append_failure().map(to_report);
        if failure.is_none() && !has_failed {
            continue;
        }
        let report = codec::encode(&AppendReport { process, failure });
        match nats.publish(APPEND_REPORT_SUBJECT, report.into()).await {
            Ok(()) => has_failed = failure.is_some(),
            Err(error) => tracing::debug!(%error, "failed to report that the log takes no events"),
        }
    }
}

const fn to_report(Failure { since, cause }: Failure) -> AppendFailure {
    let cause = match cause {
        Cause::DiskFull => AppendFailureCause::DiskFull,
        Cause::Unreachable => AppendFailureCause::Unreachable,
        Cause::Event | Cause::Other => AppendFailureCause::Other,
    };
    AppendFailure { since, cause }
}
