//! Explanations of a run's state for people, with the possible actions. Pure.

use muster_api_types::devices::Status;
use muster_schemas::events::{AbortCause, EraseCause, RefusalCause};
use muster_schemas::{RunState, Timestamp};

use super::fold::{Operation, Run};

/// Explains why the program did not run on the device, or not yet. `device` is the device's current
/// status.
#[must_use]
#[expect(clippy::too_many_lines, reason = "one text for each state")]
pub fn explain(operation: &Operation, run: &Run, device: Option<Status>, now: Timestamp) -> String {
    let expires =
        operation.requested.as_ref().map_or(Timestamp(0), |requested| requested.expires_at);
    let late = if run.late {
        " The device reported this after the server had stopped waiting for it."
    } else {
        ""
    };
    let is_upload = operation.upload().is_some();
    let text = match run.state {
        RunState::Requested => waits(operation, device, expires, now),
        RunState::Dispatched => match device {
            Some(Status::Online) => {
                "The order was signed and is sent again every few seconds, but the device has not \
                 responded yet. If this persists, check that its agent supports operations: \
                 `muster-agent status` on the device shows its version."
                    .to_owned()
            }
            _ => format!(
                "The order was signed while the device was online; it has not responded and is \
                 offline now. It receives the order if it reconnects before {expires}."
            ),
        },
        RunState::Accepted => {
            "The device has the order in its journal and starts it when its turn comes: it is busy \
             with other runs (`runs.at_once` limits how many run concurrently), or waits for its \
             next hello."
                .to_owned()
        }
        RunState::Running if is_upload => match &run.stalled {
            Some(stalled) => format!(
                "The device is sending its file. The upload stalled at {} bytes: {}.",
                stalled.bytes, stalled.reason
            ),
            None => "The device is sending its file.".to_owned(),
        },
        RunState::Running => "Its program is running.".to_owned(),
        RunState::Succeeded if is_upload => stored(run),
        RunState::Succeeded => "It succeeded.".to_owned(),
        RunState::Failed if is_upload => {
            let problem = run.report.as_ref().and_then(|report| report.problem.as_deref());
            format!(
                "The file is not stored: {}.",
                problem.unwrap_or("the device reported no reason")
            )
        }
        RunState::Failed => failed(run),
        RunState::TimedOut => match &run.report {
            Some(_) => {
                "It exceeded its time limit (timeout_seconds), and the device ended it.".to_owned()
            }
            None => closed(run),
        },
        RunState::Canceled => match &run.report {
            Some(report) if report.started_at.is_some() && is_upload => {
                "It was canceled; the device has stopped sending.".to_owned()
            }
            Some(report) if report.started_at.is_some() => {
                "It was canceled; the device has ended its processes.".to_owned()
            }
            Some(_) => "It was canceled before the device started it.".to_owned(),
            None => closed(run),
        },
        RunState::Expired => match &run.closed {
            Some(_) => format!(
                "{} Start it again, with a longer expiry if the device is often offline.",
                closed(run)
            ),
            None => {
                "The order reached the device after it had expired; nothing was done.".to_owned()
            }
        },
        RunState::Rejected => refused(run),
        RunState::Unknown => match &run.report {
            Some(report) => format!(
                "The agent stopped while the program was running; whether the program finished is \
                 not known.{}",
                report.problem.as_ref().map(|problem| format!(" {problem}.")).unwrap_or_default()
            ),
            None => closed(run),
        },
    };
    text + late
}

fn waits(
    operation: &Operation,
    device: Option<Status>,
    expires: Timestamp,
    now: Timestamp,
) -> String {
    let held = match (operation.aborted, operation.paused) {
        (Some(AbortCause::Asked), _) => {
            Some("The operation was aborted; this run is being closed.")
        }
        (Some(AbortCause::Failures), _) => {
            Some("The operation was aborted because too many runs did not succeed (stop_after).")
        }
        (None, true) => Some("The operation is paused; `muster operation resume` resumes it."),
        (None, false) => None,
    };
    if let Some(held) = held {
        return held.to_owned();
    }
    if now > expires {
        return "It has expired, and is being closed.".to_owned();
    }
    match device {
        Some(Status::Online) => {
            "It waits for its turn: the operation runs on its maximum number of devices (at_once)."
                .to_owned()
        }
        Some(Status::Revoked) => {
            "The device was revoked; it receives nothing until it enrolls again.".to_owned()
        }
        Some(Status::Registered | Status::Pending) => {
            format!(
                "The device has never been enrolled. It receives the order if it enrolls before \
                 {expires}."
            )
        }
        Some(Status::Deleted) | None => "The device was deleted.".to_owned(),
        Some(Status::Offline) => {
            format!(
                "The device is offline. It receives the order if it reconnects before {expires}."
            )
        }
    }
}

fn stored(run: &Run) -> String {
    let problem = run.report.as_ref().and_then(|report| report.problem.as_deref());
    let problem = problem.map(|problem| format!(" Problem: {problem}.")).unwrap_or_default();
    let text = match run.erased.map(|erased| erased.cause) {
        None => "The server has the file.",
        Some(EraseCause::Asked) => "The server had the file; it was erased on request.",
        Some(EraseCause::Kept) => {
            "The server had the file, and erased it after the requested time (keep_seconds)."
        }
        Some(EraseCause::Replaced) => {
            "The server had the file; a later upload of the same path has replaced it."
        }
    };
    format!("{text}{problem}")
}

fn failed(run: &Run) -> String {
    let Some(report) = &run.report else { return "It failed.".to_owned() };
    match (&report.problem, report.signal, report.exit_code) {
        (Some(problem), None, None) => format!("Its program could not be started: {problem}."),
        (_, Some(signal), _) => format!("Its program was ended by signal {signal}."),
        (_, None, Some(code)) => {
            format!("Its program ended with exit code {code}; see its standard error.")
        }
        (None, None, None) => "It failed.".to_owned(),
    }
}

fn closed(run: &Run) -> String {
    match &run.closed {
        Some(closed) => format!("The server stopped waiting: {}.", closed.reason),
        None => "It has ended.".to_owned(),
    }
}

fn refused(run: &Run) -> String {
    let Some((cause, reason)) = &run.refused else { return "The device rejected it.".to_owned() };
    match cause {
        RefusalCause::Policy => {
            format!("The policy on the device forbids it, and cannot be overridden: {reason}.")
        }
        RefusalCause::Invalid => format!("The device cannot run it as requested: {reason}."),
        RefusalCause::PrivatePart => format!(
            "Its private input (variables, standard input) did not reach the device: {reason}."
        ),
        RefusalCause::Busy => {
            format!("The device's queue of runs is full: {reason}. Try again later.")
        }
        RefusalCause::Unsupported => {
            format!("The agent on the device does not support it: {reason}. Update the agent.")
        }
    }
}
