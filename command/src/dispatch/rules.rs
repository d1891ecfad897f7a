//! Decisions about an operation and its runs: pure functions of the work queue and the time.

use std::time::Duration;

use muster_schemas::events::{AbortCause, ClosedState};
use muster_schemas::{RunState, Timestamp};

use super::work_queue::{OpenOperation, OpenRun};

/// Delay, by which a device's report may be late before its run is closed: clock
/// skew, transmission, the last attempt to end the program.
const REPORT_GRACE: Duration = Duration::from_secs(60);

/// Timeout of a device's response to an order; then the order is sent again.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The next step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sign an order for the device's current epoch, and send it.
    Dispatch,
    /// Send its order again.
    SendOrder,
    /// Send the device a cancel.
    SendCancel,
    /// Close the run without a report of the device.
    Close(ClosedState, &'static str),
}

/// Whether, and why, an operation must be aborted automatically.
#[must_use]
pub(crate) fn abort(operation: &OpenOperation) -> Option<AbortCause> {
    let limit = operation.requested.stop_after?;
    (!operation.is_aborted && operation.failures >= limit).then_some(AbortCause::Failures)
}

/// Whether it is too late to start a run of the operation.
#[must_use]
pub(crate) fn is_expired(operation: &OpenOperation, now: Timestamp) -> bool {
    now >= operation.requested.expires_at
}

/// Number of further runs that may start now, when `active` runs have started and not ended.
#[must_use]
pub(crate) fn free_slots(operation: &OpenOperation, active: u32, now: Timestamp) -> u32 {
    if operation.is_paused || operation.is_aborted || is_expired(operation, now) {
        return 0;
    }
    operation.requested.at_once.saturating_sub(active)
}

/// Returns the runs that start now: of those that can, the first ones, as many as there are free
/// slots.
pub(crate) fn runs_to_start<'a>(
    operation: &OpenOperation,
    active: u32,
    runs: &'a [OpenRun],
    now: Timestamp,
) -> impl Iterator<Item = &'a OpenRun> {
    let slots = free_slots(operation, active, now) as usize;
    runs.iter().filter(|run| can_start(run)).take(slots)
}

fn can_start(run: &OpenRun) -> bool {
    run.state == RunState::Requested && !run.is_canceled && run.is_online && !run.is_device_removed
}

/// Returns the time before which a run must have entered its state to be overdue.
#[must_use]
pub(crate) fn overdue_before(operation: &OpenOperation, now: Timestamp) -> Timestamp {
    if now > operation.requested.expires_at + REPORT_GRACE {
        return now;
    }
    now - close_after(operation)
}

/// Returns the time after which a run without a report is closed.
fn close_after(operation: &OpenOperation) -> Duration {
    Duration::from_millis(operation.requested.timeout_ms) + REPORT_GRACE
}

/// Returns the next step of a dispatched run.
#[must_use]
pub(crate) fn next_step(operation: &OpenOperation, run: &OpenRun, now: Timestamp) -> Option<Step> {
    if run.is_device_removed {
        return Some(Step::Close(ClosedState::Unknown, "the device was revoked or deleted"));
    }
    let expires = operation.requested.expires_at;
    let since = match run.state {
        RunState::Dispatched => {
            if now > expires + REPORT_GRACE {
                return Some(if run.is_canceled {
                    Step::Close(
                        ClosedState::Canceled,
                        "it was canceled, and the device did not accept it",
                    )
                } else {
                    Step::Close(ClosedState::Expired, "the device did not accept it in time")
                });
            }
            if !run.is_online {
                return None;
            }
            return Some(match run.is_canceled {
                true => Step::SendCancel,
                false if run.device_epoch > run.epoch => Step::Dispatch,
                // The process that appended the dispatch has sent it.
                false if (run.since..run.since + RESPONSE_TIMEOUT).contains(&now) => return None,
                false => Step::SendOrder,
            });
        }
        // The device may delay the start until the operation expires.
        RunState::Accepted => run.since.max(expires),
        RunState::Running => run.since,
        // It waits for a slot; or it has ended, and is not in the work queue.
        RunState::Requested
        | RunState::Succeeded
        | RunState::Failed
        | RunState::TimedOut
        | RunState::Canceled
        | RunState::Expired
        | RunState::Rejected
        | RunState::Unknown => return None,
    };
    if now > since + close_after(operation) {
        let reason = "the device accepted it, but did not report its end in time";
        return Some(Step::Close(ClosedState::TimedOut, reason));
    }
    (run.is_canceled && run.is_online).then_some(Step::SendCancel)
}

#[cfg(test)]
mod tests {
    use muster_schemas::events::{Action, OperationRequested, RequestedTarget};
    use muster_schemas::{DeviceId, OperationId};
    use muster_schemas::{Epoch, StreamVersion};
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_420_800_000_000);
    const SECOND_MICROS: i64 = 1_000_000;

    fn operation() -> OpenOperation {
        OpenOperation {
            id: OperationId(Uuid::from_u128(1)),
            actor: "token:x".into(),
            requested: OperationRequested {
                action: Action::Reboot,
                target: RequestedTarget::Selector("all".into()),
                devices: 10,
                private: None,
                timeout_ms: 10_000,
                expires_at: NOW.plus_micros(3600 * SECOND_MICROS),
                at_once: 4,
                stop_after: Some(2),
            },
            is_paused: false,
            is_aborted: false,
            failures: 0,
            active: 1,
        }
    }

    fn run(state: RunState) -> OpenRun {
        OpenRun {
            operation: OperationId(Uuid::from_u128(1)),
            device: DeviceId(Uuid::from_u128(2)),
            state,
            version: StreamVersion(2),
            epoch: Epoch::FIRST,
            order: Some(vec![1]),
            is_canceled: false,
            since: NOW,
            device_epoch: Epoch::FIRST,
            is_online: true,
            is_device_removed: false,
        }
    }

    fn after(seconds: i64) -> Timestamp {
        NOW.plus_micros(seconds * SECOND_MICROS)
    }

    #[test]
    fn concurrency_is_limited_and_no_run_starts_when_paused_aborted_or_expired() {
        let open = operation();
        assert_eq!(free_slots(&open, 1, NOW), 3);
        assert_eq!(free_slots(&open, 9, NOW), 0);
        assert_eq!(free_slots(&OpenOperation { is_paused: true, ..open.clone() }, 1, NOW), 0);
        assert_eq!(free_slots(&OpenOperation { is_aborted: true, ..open.clone() }, 1, NOW), 0);
        assert_eq!(free_slots(&open, 1, after(3600)), 0);
    }

    #[test]
    fn the_first_runs_that_can_start_fill_the_free_slots() {
        let waits = |device: u128| OpenRun {
            device: DeviceId(Uuid::from_u128(device)),
            ..run(RunState::Requested)
        };
        let runs = [
            OpenRun { is_canceled: true, ..waits(1) },
            waits(2),
            OpenRun { is_online: false, ..waits(3) },
            OpenRun { is_device_removed: true, ..waits(4) },
            OpenRun { state: RunState::Running, ..waits(5) },
            waits(6),
            waits(7),
        ];
        let open = operation();
        let paused = OpenOperation { is_paused: true, ..open.clone() };
        let aborted = OpenOperation { is_aborted: true, ..open.clone() };
        for (operation, active, now, expected) in [
            (&open, 0, NOW, &[2, 6, 7][..]),
            (&open, 1, NOW, &[2, 6, 7]),
            (&open, 2, NOW, &[2, 6]),
            (&open, 3, NOW, &[2]),
            (&open, 4, NOW, &[]),
            (&open, u32::MAX, NOW, &[]),
            (&open, 0, after(3600), &[]),
            (&paused, 0, NOW, &[]),
            (&aborted, 0, NOW, &[]),
        ] {
            let started: Vec<u128> = runs_to_start(operation, active, &runs, now)
                .map(|run| run.device.0.as_u128())
                .collect();
            assert_eq!(started, expected, "with {active} active runs");
        }
    }

    #[test]
    fn reaching_the_failure_limit_aborts_the_operation_once() {
        let open = operation();
        assert_eq!(abort(&OpenOperation { failures: 1, ..open.clone() }), None);
        let failed = OpenOperation { failures: 2, ..open };
        assert_eq!(abort(&failed), Some(AbortCause::Failures));
        assert_eq!(abort(&OpenOperation { is_aborted: true, ..failed }), None);
    }

    #[test]
    fn an_order_is_resent_until_it_expires_and_signed_again_for_a_new_epoch() {
        let (open, waits) = (operation(), run(RunState::Dispatched));
        assert_eq!(next_step(&open, &waits, NOW), None, "it was sent just now");
        assert_eq!(next_step(&open, &waits, after(5)), Some(Step::SendOrder));
        assert_eq!(next_step(&open, &waits, after(-1)), Some(Step::SendOrder), "by another clock");
        let away = OpenRun { is_online: false, ..waits.clone() };
        assert_eq!(next_step(&open, &away, after(3599)), None);
        assert_eq!(
            next_step(&open, &away, after(3661)),
            Some(Step::Close(ClosedState::Expired, "the device did not accept it in time"))
        );
        let elsewhere = OpenRun { device_epoch: Epoch(2), ..waits.clone() };
        assert_eq!(next_step(&open, &elsewhere, NOW), Some(Step::Dispatch));
        let canceled = OpenRun { is_canceled: true, ..elsewhere };
        assert_eq!(next_step(&open, &canceled, NOW), Some(Step::SendCancel));
    }

    #[test]
    fn every_state_is_closed_eventually() {
        let open = operation();
        let closed = |state: RunState, at: i64| match next_step(&open, &run(state), after(at)) {
            Some(Step::Close(state, _)) => Some(state),
            _ => None,
        };
        assert_eq!(closed(RunState::Running, 70), None);
        assert_eq!(closed(RunState::Running, 71), Some(ClosedState::TimedOut));
        assert_eq!(closed(RunState::Accepted, 3670), None);
        assert_eq!(closed(RunState::Accepted, 3671), Some(ClosedState::TimedOut));
        assert_eq!(closed(RunState::Dispatched, 3661), Some(ClosedState::Expired));
        for state in [RunState::Dispatched, RunState::Accepted, RunState::Running] {
            let removed = OpenRun { is_device_removed: true, ..run(state) };
            assert!(matches!(
                next_step(&open, &removed, NOW),
                Some(Step::Close(ClosedState::Unknown, _))
            ));
        }
    }

    #[test]
    fn every_overdue_run_is_checked() {
        let open = operation();
        for (state, late) in
            [(RunState::Running, 71), (RunState::Accepted, 3671), (RunState::Dispatched, 3661)]
        {
            let now = after(late);
            assert!(run(state).since < overdue_before(&open, now), "{state:?}");
        }
        assert!(overdue_before(&open, after(60)) < NOW);
    }
}
