//! Tests of the decider of operations.

use muster_schemas::Timestamp;
use muster_schemas::events::{
    AbortCause, Action, Exec, OperationAborted, OperationPaused, OperationRequested,
    OperationResumed, Program, RequestedTarget, Upload,
};

use super::super::kinds::{self, MAX_ARGUMENTS};
use super::super::operation::{Operation, OperationCommand};
use super::*;

fn requested() -> OperationRequested {
    OperationRequested {
        action: Action::Reboot,
        target: RequestedTarget::Selector("all".into()),
        devices: 10,
        private: None,
        timeout_ms: 1_000,
        expires_at: Timestamp(1),
        at_once: 4,
        stop_after: Some(2),
    }
}

fn request(requested: OperationRequested) -> OperationCommand {
    OperationCommand::Request(Box::new(requested))
}

#[test]
fn an_operation_is_requested_once_and_then_paused_resumed_or_aborted() {
    let open = [Event::from(requested())];
    let (paused, resumed) = ([OperationPaused {}.into()], [OperationResumed {}.into()]);
    let abort = OperationCommand::Abort(AbortCause::Asked);
    let aborted = [OperationAborted { cause: AbortCause::Asked }.into()];
    for command in [OperationCommand::Pause, OperationCommand::Resume, abort.clone()] {
        assert_eq!(when::<Operation>([], command.clone()), not_found("operation"), "{command:?}");
    }
    assert_eq!(when::<Operation>([], request(requested())), Ok(open.to_vec()));
    let again = when::<Operation>(open.clone(), request(requested()));
    assert_eq!(again, conflict(Conflict::OperationExists));
    assert_decides_once::<Operation>(&open, &OperationCommand::Pause, &paused);
    assert_eq!(when::<Operation>(open.clone(), OperationCommand::Resume), Ok(vec![]));
    let held = [&open[..], &paused].concat();
    assert_decides_once::<Operation>(&held, &OperationCommand::Resume, &resumed);
    assert_decides_once::<Operation>(&held, &abort, &aborted);
    let ended = [&open[..], &aborted].concat();
    for command in [OperationCommand::Pause, OperationCommand::Resume] {
        let decision = when::<Operation>(ended.clone(), command);
        assert_eq!(decision, conflict(Conflict::OperationAborted));
    }
}

#[test]
fn an_invalid_request_names_its_field() {
    let field = |requested| invalid(when::<Operation>([], request(requested))).0;
    assert_eq!(field(OperationRequested { devices: 0, ..requested() }), "target");
    let longest = kinds::of(&Action::Reboot).timeouts().max_ms();
    for timeout_ms in [0, longest + 1, 30 * longest] {
        assert_eq!(field(OperationRequested { timeout_ms, ..requested() }), "timeout_seconds");
    }
    assert_eq!(field(OperationRequested { at_once: 0, ..requested() }), "max_concurrent_devices");
    assert_eq!(field(OperationRequested { stop_after: Some(0), ..requested() }), "max_failures");
    let level = Action::LogLevel { level: "loud".into(), seconds: None };
    assert_eq!(field(OperationRequested { action: level, ..requested() }), "action.level");
    let exec = |argv: Vec<String>| {
        Action::Exec(Exec {
            program: Program::Argv(argv),
            user: None,
            cwd: None,
            env: Vec::new(),
            background: false,
        })
    };
    for argv in [Vec::new(), vec![String::new()], vec!["x".into(); MAX_ARGUMENTS + 1]] {
        let action = exec(argv);
        assert!(field(OperationRequested { action, ..requested() }).starts_with("action"));
    }
}

#[test]
fn an_upload_may_take_longer_than_other_operations() {
    let upload = Action::Upload(Upload {
        path: "/var/log/x".into(),
        remove_source: false,
        replace: false,
        keep_seconds: None,
        max_bytes: None,
        bytes_per_second: None,
    });
    let longest = kinds::of(&upload).timeouts().max_ms();
    assert!(longest > kinds::of(&Action::Reboot).timeouts().max_ms());
    let with =
        |timeout_ms| OperationRequested { action: upload.clone(), timeout_ms, ..requested() };
    assert!(Operation::default().decide(request(with(longest))).is_ok());
    assert!(Operation::default().decide(request(with(longest + 1))).is_err());
}
