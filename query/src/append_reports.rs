//! Reports of processes with the roles ingest and command that they cannot append to the log. This
//! process does not append, and would not notice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use muster_eventlog::{Cause, Failure};
use muster_schemas::codec;
use muster_schemas::wire::internal::{
    APPEND_REPORT_SUBJECT, AppendFailure, AppendFailureCause, AppendReport,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Lifetime of a report: several of its intervals.
const REPORT_TTL: Duration = Duration::from_secs(15);
/// Maximum number of processes whose reports are kept.
const MAX_PROCESSES: usize = 1_000;
/// Interval between retries of a subscription that ended.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Failures that other processes report; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AppendReports(Arc<Mutex<HashMap<Uuid, (Failure, Instant)>>>);

impl AppendReports {
    /// Returns the failure that has lasted longest; `None` when no process reports one.
    #[must_use]
    pub fn current(&self) -> Option<Failure> {
        self.current_at(Instant::now())
    }

    fn current_at(&self, now: Instant) -> Option<Failure> {
        let mut reports = self.0.lock();
        reports.retain(|_, (_, at)| now.duration_since(*at) < REPORT_TTL);
        reports.values().map(|(failure, _)| *failure).min_by_key(|failure| failure.since)
    }

    fn apply(&self, report: AppendReport, now: Instant) {
        let mut reports = self.0.lock();
        reports.retain(|_, (_, at)| now.duration_since(*at) < REPORT_TTL);
        let has_capacity = reports.len() < MAX_PROCESSES || reports.contains_key(&report.process);
        match report.failure {
            Some(failure) if has_capacity => {
                reports.insert(report.process, (to_failure(failure), now));
            }
            Some(_) => {}
            None => {
                reports.remove(&report.process);
            }
        }
    }
}

const fn to_failure(AppendFailure { since, cause }: AppendFailure) -> Failure {
    let cause = match cause {
        AppendFailureCause::DiskFull => Cause::DiskFull,
        AppendFailureCause::Unreachable => Cause::Unreachable,
        AppendFailureCause::Other => Cause::Other,
    };
    Failure { since, cause }
}

/// Receives reports until `stop`.
pub(crate) async fn run(reports: AppendReports, nats: async_nats::Client, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            received = receive(&reports, &nats) => {
                if let Err(error) = received {
                    tracing::debug!(%error, "failed to subscribe to reports on the log; trying again");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
        }
    }
}

async fn receive(
    reports: &AppendReports,
    nats: &async_nats::Client,
) -> Result<(), async_nats::SubscribeError> {
    let mut messages = nats.subscribe(APPEND_REPORT_SUBJECT).await?;
    while let Some(message) = messages.next().await {
        match codec::decode(&message.payload) {
            Ok(report) => reports.apply(report, Instant::now()),
            Err(error) => tracing::debug!(%error, "failed to decode a report on the log"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use muster_schemas::Timestamp;

    use super::*;

    #[test]
    fn a_failure_lasts_until_its_process_reports_success_or_stops_reporting() {
        let (reports, now) = (AppendReports::default(), Instant::now());
        let failure =
            |since| AppendFailure { since: Timestamp(since), cause: AppendFailureCause::DiskFull };
        let report = |process, failure| AppendReport { process: Uuid::from_u128(process), failure };
        let since = |at| reports.current_at(at).map(|failure| failure.since.0);
        assert_eq!(since(now), None);
        reports.apply(report(1, Some(failure(20))), now);
        reports.apply(report(2, Some(failure(10))), now);
        assert_eq!(since(now), Some(10));
        reports.apply(report(2, None), now);
        assert_eq!(since(now), Some(20));
        reports.apply(report(1, Some(failure(20))), now + REPORT_TTL / 2);
        assert_eq!(since(now + REPORT_TTL), Some(20));
        assert_eq!(since(now + REPORT_TTL * 2), None);
    }
}
