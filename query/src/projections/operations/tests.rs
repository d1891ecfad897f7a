//! The fold: a device's report takes precedence in any order of events, and every state has an
//! explanation.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use muster_api_types::devices::Status;
use muster_eventlog::StoredEvent;
use muster_schemas::events::{
    Action, ClosedState, EraseCause, FileSummary, OperationRequested, RefusalCause,
    RequestedTarget, RunAccepted, RunClosed, RunDispatched, RunFailed, RunInterrupted, RunRejected,
    RunReport, RunRequested, RunStarted, RunSucceeded, Upload, UploadErased, UploadStalled,
};
use muster_schemas::{
    DeviceId, Epoch, Event, Hash, OperationId, Position, RunState, StreamName, StreamVersion,
    Timestamp,
};
use uuid::Uuid;

use super::*;

const NOW: Timestamp = Timestamp(1_795_420_800_000_000);

fn ids() -> (OperationId, DeviceId) {
    (OperationId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)))
}

fn report() -> RunReport {
    RunReport {
        operation: ids().0,
        exit_code: Some(3),
        signal: None,
        problem: None,
        started_at: Some(NOW),
        ended_at: Some(NOW.plus_micros(2_000_000)),
        user_us: 1,
        system_us: 2,
        peak_memory: 3,
        stdout: Default::default(),
        stderr: Default::default(),
        file: None,
    }
}

fn stored(event: &Event, position: u64) -> StoredEvent {
    let (operation, device) = ids();
    StoredEvent {
        position: Position(position),
        stream: StreamName::Run(operation, device),
        stream_version: StreamVersion(position),
        kind: event.kind().into(),
        schema_version: event.version(),
        occurred_at: NOW,
        recorded_at: NOW.plus_micros(i64::try_from(position).unwrap()),
        actor: "test".into(),
        correlation: None,
        causation: None,
        record: Bytes::from(event.encode()),
        salt: Bytes::new(),
        authority: None,
    }
}

fn fold(events: &[Event]) -> Run {
    let mut run = Run::default();
    for (position, event) in (1..).zip(events) {
        run.evolve(&stored(event, position), event);
    }
    run
}

fn requested() -> Event {
    RunRequested {}.into()
}

fn dispatched() -> Event {
    RunDispatched { epoch: Epoch(1), order: vec![1] }.into()
}

fn accepted() -> Event {
    RunAccepted { operation: ids().0, order: Hash::ZERO }.into()
}

fn started() -> Event {
    RunStarted { operation: ids().0, pid: Some(7), user: Some("robot".into()) }.into()
}

fn closed(state: ClosedState) -> Event {
    RunClosed { state, reason: "no device took it in time".into() }.into()
}

#[test]
fn a_run_passes_through_its_states() {
    let mut events = vec![requested()];
    assert_eq!(fold(&events).state, RunState::Requested);
    for (event, state) in [
        (dispatched(), RunState::Dispatched),
        (accepted(), RunState::Accepted),
        (started(), RunState::Running),
        (RunFailed(report()).into(), RunState::Failed),
    ] {
        events.push(event);
        assert_eq!(fold(&events).state, state);
    }
    let run = fold(&events);
    assert_eq!((run.pid, run.user.as_deref(), run.late), (Some(7), Some("robot"), false));
    assert_eq!(run.duration(), Some(Duration::from_secs(2)));
    assert!(run.failure().is_some_and(|reason| reason.contains('3')), "{:?}", run.failure());
}

#[test]
fn an_order_that_is_signed_again_does_not_revert_the_state() {
    assert_eq!(
        fold(&[requested(), dispatched(), accepted(), dispatched()]).state,
        RunState::Accepted
    );
    let over = [requested(), dispatched(), RunSucceeded(report()).into(), dispatched()];
    assert_eq!(fold(&over).state, RunState::Succeeded);
}

#[test]
fn a_device_s_late_report_replaces_the_assumed_result() {
    let assumed = [requested(), dispatched(), closed(ClosedState::Expired)];
    assert_eq!((fold(&assumed).state, fold(&assumed).late), (RunState::Expired, false));
    let mut late = assumed.to_vec();
    late.push(accepted());
    assert_eq!(fold(&late).state, RunState::Expired, "it is not over for the device");
    late.push(RunSucceeded(report()).into());
    let run = fold(&late);
    assert_eq!((run.state, run.late, run.failure()), (RunState::Succeeded, true, None));
    // In the opposite order, the device's report stays.
    let early = [requested(), RunSucceeded(report()).into(), closed(ClosedState::TimedOut)];
    assert_eq!((fold(&early).state, fold(&early).late), (RunState::Succeeded, false));
}

#[test]
fn every_state_has_its_own_explanation() {
    let operation = Operation {
        requested: Some(OperationRequested {
            action: Action::Reboot,
            target: RequestedTarget::Selector("robot".into()),
            devices: 1,
            private: None,
            timeout_ms: 1,
            expires_at: NOW.plus_micros(1_000_000),
            at_once: 1,
            stop_after: None,
        }),
        ..Operation::default()
    };
    let rejected = |cause| {
        let reason = "exec.allow of /etc/muster/policy.toml".to_owned();
        Event::from(RunRejected { operation: ids().0, cause, reason })
    };
    let interrupted = RunReport { problem: Some("the agent was killed".into()), ..report() };
    let expires = NOW.plus_micros(1_000_000).to_string();
    let expires = expires.as_str();
    let mut all = BTreeSet::new();
    for (events, device, fact) in [
        (vec![requested()], Some(Status::Offline), expires),
        (vec![requested()], Some(Status::Online), "at_once"),
        (vec![requested()], Some(Status::Revoked), "revoked"),
        (vec![requested()], Some(Status::Registered), expires),
        (vec![requested()], None, "deleted"),
        (vec![requested(), dispatched()], Some(Status::Online), "muster-agent status"),
        (vec![requested(), dispatched()], Some(Status::Offline), expires),
        (vec![requested(), accepted()], None, "runs.at_once"),
        (vec![requested(), started()], None, ""),
        (vec![requested(), closed(ClosedState::Expired)], None, "no device took it in time"),
        (vec![requested(), rejected(RefusalCause::Policy)], None, "policy.toml"),
        (vec![requested(), rejected(RefusalCause::Busy)], None, "policy.toml"),
        (vec![requested(), RunFailed(report()).into()], None, "3"),
        (vec![requested(), RunInterrupted(interrupted).into()], None, "the agent was killed"),
    ] {
        let found = explain(&operation, &fold(&events), device, NOW);
        assert!(found.contains(fact), "{fact:?} is not in {found:?}");
        assert!(all.insert(found.clone()), "{found:?} explains another state, too");
    }
    let paused = Operation { paused: true, ..operation.clone() };
    let paused = explain(&paused, &fold(&[requested()]), None, NOW);
    assert!(paused.contains("muster operation resume"), "{paused}");
    assert!(all.insert(paused));
    assert!(all.insert(explain(
        &operation,
        &fold(&[requested()]),
        None,
        NOW.plus_micros(2_000_000)
    )));
}

#[test]
fn the_explanation_of_an_upload_names_it_as_an_upload() {
    let upload = Upload {
        path: "/var/log/app.log".into(),
        remove_source: false,
        replace: false,
        keep_seconds: None,
        max_bytes: None,
        bytes_per_second: None,
    };
    let operation = Operation {
        requested: Some(OperationRequested {
            action: Action::Upload(upload),
            target: RequestedTarget::Selector("robot".into()),
            devices: 1,
            private: None,
            timeout_ms: 1,
            expires_at: NOW.plus_micros(1_000_000),
            at_once: 1,
            stop_after: None,
        }),
        ..Operation::default()
    };
    let file = FileSummary { name: "app.log".into(), bytes: 9, hash: Hash::ZERO, is_folder: false };
    let problem = Some("it was changed".to_owned());
    let failed = RunReport { problem, exit_code: None, ..report() };
    let stored = RunReport { file: Some(file), exit_code: None, ..report() };
    let erased = |cause| Event::from(UploadErased { cause });
    let stalled = UploadStalled { bytes: 7, reason: "the disk is full".into() };
    let done =
        |more: Vec<Event>| [vec![requested(), RunSucceeded(stored.clone()).into()], more].concat();
    let mut all = BTreeSet::new();
    for (events, fact) in [
        (vec![requested(), started()], ""),
        (vec![requested(), started(), stalled.into()], "the disk is full"),
        (vec![requested(), RunFailed(failed).into()], "it was changed"),
        (done(vec![]), ""),
        (done(vec![erased(EraseCause::Asked)]), ""),
        (done(vec![erased(EraseCause::Kept)]), "keep_seconds"),
        (done(vec![erased(EraseCause::Replaced), erased(EraseCause::Kept)]), ""),
    ] {
        let found = explain(&operation, &fold(&events), Some(Status::Online), NOW);
        assert!(found.contains(fact), "{fact:?} is not in {found:?}");
        assert!(all.insert(found.clone()), "{found:?} explains another state, too");
    }
}
