//! Tests of the decider of runs.

use muster_schemas::events::{
    ClosedState, DownloadLinkMade, EraseCause, RunCancelRequested, RunClosed, RunDispatched,
    RunRequested, UploadErased, UploadStalled,
};
use muster_schemas::{Epoch, Timestamp};

use super::super::run::{Run, RunCommand};
use super::*;

fn requested() -> Event {
    RunRequested {}.into()
}

fn dispatch(epoch: Epoch) -> RunCommand {
    RunCommand::Dispatch { epoch, order: vec![1] }
}

fn dispatched(epoch: Epoch) -> Event {
    RunDispatched { epoch, order: vec![1] }.into()
}

fn canceling() -> Event {
    RunCancelRequested {}.into()
}

fn closed(state: ClosedState, reason: &str) -> Event {
    RunClosed { state, reason: reason.to_owned() }.into()
}

#[test]
fn nothing_happens_to_a_run_that_was_never_requested() {
    let close = RunCommand::Close { state: ClosedState::Unknown, reason: String::new() };
    for command in
        [dispatch(Epoch(1)), RunCommand::Cancel, RunCommand::Erase(EraseCause::Asked), close]
    {
        assert_eq!(when::<Run>([], command.clone()), not_found("run"), "{command:?}");
    }
    assert_decides_once::<Run>(&[], &RunCommand::Request, &[requested()]);
}

#[test]
fn each_epoch_of_a_device_gets_one_order() {
    assert_decides_once::<Run>(&[requested()], &dispatch(Epoch(2)), &[dispatched(Epoch(2))]);
    let sent = vec![requested(), dispatched(Epoch(2))];
    assert_eq!(when::<Run>(sent.clone(), dispatch(Epoch(1))), Ok(vec![]));
    assert_eq!(when::<Run>(sent.clone(), dispatch(Epoch(3))), Ok(vec![dispatched(Epoch(3))]));
    let canceled = [sent, vec![canceling()]].concat();
    assert_eq!(when::<Run>(canceled, dispatch(Epoch(3))), Ok(vec![]));
}

#[test]
fn a_run_is_canceled_immediately_unless_a_device_has_it() {
    let ended = [canceling(), closed(ClosedState::Canceled, "it was canceled before it was sent")];
    assert_decides_once::<Run>(&[requested()], &RunCommand::Cancel, &ended);
    let sent = [requested(), dispatched(Epoch(1))];
    assert_decides_once::<Run>(&sent, &RunCommand::Cancel, &[canceling()]);
}

#[test]
fn a_closed_run_is_not_dispatched_canceled_or_closed_again() {
    let close = RunCommand::Close { state: ClosedState::Expired, reason: "late".into() };
    let end = [closed(ClosedState::Expired, "late")];
    let sent = [requested(), dispatched(Epoch(1))];
    assert_decides_once::<Run>(&sent, &close, &end);
    let history = [&sent[..], &end].concat();
    for command in [dispatch(Epoch(2)), RunCommand::Cancel] {
        assert_eq!(when::<Run>(history.clone(), command.clone()), Ok(vec![]), "{command:?}");
    }
}

#[test]
fn a_file_is_erased_once_and_gets_no_link_afterwards() {
    let link = || RunCommand::CreateLink { secret: hash(3), expires_at: Timestamp(1) };
    let linked = DownloadLinkMade { secret: hash(3), expires_at: Timestamp(1) };
    let stall = |bytes| RunCommand::Stall { bytes, reason: "full".into() };
    let stalled = |bytes| Event::from(UploadStalled { bytes, reason: "full".into() });
    let erase = RunCommand::Erase(EraseCause::Asked);
    let erased = [UploadErased { cause: EraseCause::Asked }.into()];
    // Also after the end of the run.
    for run in [vec![requested()], vec![requested(), closed(ClosedState::TimedOut, "late")]] {
        assert_eq!(when::<Run>(run.clone(), link()), Ok(vec![linked.clone().into()]));
        assert_decides_once::<Run>(&run, &stall(7), &[stalled(7)]);
        let again = [&run[..], &[stalled(7)]].concat();
        assert_eq!(when::<Run>(again, stall(9)), Ok(vec![stalled(9)]));
        assert_decides_once::<Run>(&run, &erase, &erased);
        let gone = [&run[..], &erased].concat();
        assert_eq!(when::<Run>(gone.clone(), link()), conflict(Conflict::FileErased));
        assert_eq!(when::<Run>(gone, stall(9)), Ok(vec![]));
    }
}
