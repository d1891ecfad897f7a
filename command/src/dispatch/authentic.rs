//! Verification of the work queue against the log before an order is signed: the queue is a table,
//! and write access to a table must not be enough to command devices. Nothing is sent or appended
//! here.

use std::collections::{HashMap, HashSet};

use muster_eventlog::EventLog;
use muster_schemas::events::{OperationRequested, RunRequested};
use muster_schemas::{DeviceId, Event, OperationId, ProjectId, StreamName};

use super::work_queue::{OpenOperation, OpenRun};
use crate::error::CommandError;

/// Operations whose request was found in the log, as the work queue has it.
#[derive(Default)]
pub(super) struct AuthenticOperations {
    verified: HashMap<(ProjectId, OperationId), OpenOperation>,
    /// Operations for which it was logged that they, or some of their runs, are not in the event
    /// log.
    refused: HashSet<OperationId>,
}

impl AuthenticOperations {
    /// Forgets operations that have ended.
    pub(super) fn retain_open(&mut self, is_open: impl Fn(OperationId) -> bool) {
        self.verified.retain(|(_, operation), _| is_open(*operation));
        self.refused.retain(|operation| is_open(*operation));
    }

    /// Returns the devices of those runs that command itself recorded; none when the operation
    /// differs from the log or is missing there.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) async fn devices(
        &mut self,
        log: &EventLog,
        project: &ProjectId,
        operation: &OpenOperation,
        runs: &[OpenRun],
    ) -> Result<HashSet<DeviceId>, CommandError> {
        if runs.is_empty() || !self.is_requested(log, project, operation).await? {
            return Ok(HashSet::new());
        }
        let streams: Vec<StreamName> =
            runs.iter().map(|run| StreamName::Run(operation.id, run.device)).collect();
        let stored = log.read_streams(project, &streams, &[RunRequested::TYPE]).await?;
        let requested: HashSet<DeviceId> = log
            .authentic(project, stored)
            .await
            .iter()
            .filter_map(|stored| stored.stream.device())
            .collect();
        let missing = runs.iter().filter(|run| !requested.contains(&run.device)).count();
        if missing > 0 && self.refused.insert(operation.id) {
            tracing::error!(
                %project, operation = %operation.id, runs = missing,
                "runs are not dispatched: no valid event in the log requests them"
            );
        }
        Ok(requested)
    }

    async fn is_requested(
        &mut self,
        log: &EventLog,
        project: &ProjectId,
        operation: &OpenOperation,
    ) -> Result<bool, CommandError> {
        let same = |cached: &OpenOperation| {
            cached.requested == operation.requested && cached.actor == operation.actor
        };
        let key = (project.clone(), operation.id);
        if self.verified.get(&key).is_some_and(same) {
            return Ok(true);
        }
        let stream = StreamName::Operation(operation.id);
        let stored = log.read_streams(project, &[stream], &[OperationRequested::TYPE]).await?;
        for stored in log.authentic(project, stored).await {
            if let Event::OperationRequested(requested) = stored.event()? {
                let is_same = requested == operation.requested && stored.actor == operation.actor;
                if is_same {
                    self.verified.insert(key, operation.clone());
                    return Ok(true);
                }
            }
        }
        if self.refused.insert(operation.id) {
            tracing::error!(
                %project, operation = %operation.id,
                "an operation is not dispatched: no valid event in the log requests it"
            );
        }
        Ok(false)
    }
}
