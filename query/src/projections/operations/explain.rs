//! Explanations of a run's state for people, with the possible actions. Pure.

use muster_schemas::Timestamp;
use muster_schemas::events::{AbortCause, EraseCause, RefusalCause};

use super::fold::{Operation, Run, RunState};
use crate::projections::devices::Status;

/// Explains why the program did not run on the device, or not yet. `device` is the device's current
/// status.
#[must_use]
pub fn explain(operation: &Operation, run: &Run, device: Option<Status>, now: Timestamp) -> String {
    let expires = operation.requested.as_ref().map_or(Timestamp(0), |asked| asked.expires_at);
    let late = if run.late {
        " The device said so after the server had stopped waiting for it."
    } else {
        ""
    };
    let is_upload = operation.upload().is_some();
    let words = match run.state {
        RunState::Requested => waits(operation, device, expires, now),
        RunState::Dispatched => match device {
            Some(Status::Online) => {
                "The order was signed and is sent again every few seconds, but the device has not \
                 answered yet. If this lasts: is its agent too old for operations? `muster-agent \
                 status` on the device tells."
                    .to_owned()
            }
            _ => format!(
                "The order was signed while the device was online; it has not answered and is not \
                 online now. It gets the order when it comes back before {expires}."
            ),
        },
        RunState::Accepted => {
            "The device has it in its journal and will begin it when its turn comes: it is busy \
             with others (`runs.at_once` is how many it works at), or waits for its next hello."
                .to_owned()
        }
        RunState::Running if is_upload => match &run.stalled {
            Some(stalled) => format!(
                "The device sends its file. At {} bytes it had to wait: {}.",
                stalled.bytes, stalled.reason
            ),
            None => "The device sends its file.".to_owned(),
        },
        RunState::Running => "Its program runs.".to_owned(),
        RunState::Succeeded if is_upload => stored(run),
        RunState::Succeeded => "It did what was asked.".to_owned(),
        RunState::Failed if is_upload => {
            let problem = run.report.as_ref().and_then(|report| report.problem.as_deref());
            format!("The file is not here: {}.", problem.unwrap_or("the device does not say why"))
        }
        RunState::Failed => failed(run),
        RunState::TimedOut => match &run.report {
            Some(_) => {
                "It took longer than it may (timeout_seconds), and the device ended it.".to_owned()
            }
            None => closed(run),
        },
        RunState::Canceled => match &run.report {
            Some(report) if report.started_at.is_some() && is_upload => {
                "Somebody canceled it; the device has stopped sending.".to_owned()
            }
            Some(report) if report.started_at.is_some() => {
                "Somebody canceled it; the device has ended its processes.".to_owned()
            }
            Some(_) => "Somebody canceled it before the device had begun it.".to_owned(),
            None => closed(run),
        },
        RunState::Expired => match &run.closed {
            Some(_) => format!(
                "{} Ask again, with a longer expiry if the device is often away.",
                closed(run)
            ),
            None => {
                "The order reached the device after it had expired; nothing was done.".to_owned()
            }
        },
        RunState::Rejected => refused(run),
        RunState::Unknown => match &run.report {
            Some(report) => format!(
                "The agent was gone while it was at work; whether its program came to an end is not \
                 known.{}",
                report.problem.as_ref().map(|problem| format!(" {problem}.")).unwrap_or_default()
            ),
            None => closed(run),
        },
    };
    words + late
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
        (None, true) => Some("The operation is paused: `muster operation resume` goes on."),
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
            "It waits for its turn: as many devices are at work as the operation lets (at_once)."
                .to_owned()
        }
        Some(Status::Revoked) => {
            "The device was revoked; it gets nothing until it enrolls again.".to_owned()
        }
        Some(Status::Registered | Status::Pending) => {
            format!(
                "The device has never been enrolled. It gets the order if it is before {expires}."
            )
        }
        Some(Status::Deleted) | None => "The device was deleted.".to_owned(),
        Some(Status::Offline) => {
            format!("The device is offline. It gets the order when it comes back before {expires}.")
        }
    }
}

fn stored(run: &Run) -> String {
    let problem = run.report.as_ref().and_then(|report| report.problem.as_deref());
    let problem = problem.map(|problem| format!(" But: {problem}.")).unwrap_or_default();
    let words = match run.erased.map(|erased| erased.cause) {
        None => "The server has the file.",
        Some(EraseCause::Asked) => "The server had the file; somebody erased it.",
        Some(EraseCause::Kept) => {
            "The server had the file, and kept it for as long as was asked (keep_seconds)."
        }
        Some(EraseCause::Replaced) => {
            "The server had the file; a later one of the same path has replaced it."
        }
    };
    format!("{words}{problem}")
}

fn failed(run: &Run) -> String {
    let Some(report) = &run.report else { return "It failed.".to_owned() };
    match (&report.problem, report.signal, report.exit_code) {
        (Some(problem), None, None) => format!("Its program could not be started: {problem}."),
        (_, Some(signal), _) => format!("Its program was ended by signal {signal}."),
        (_, None, Some(code)) => {
            format!("Its program ended with exit code {code}; look at its standard error.")
        }
        (None, None, None) => "It failed.".to_owned(),
    }
}

fn closed(run: &Run) -> String {
    match &run.closed {
        Some(closed) => format!("The server waits no longer: {}.", closed.reason),
        None => "It is over.".to_owned(),
    }
}

fn refused(run: &Run) -> String {
    let Some((cause, reason)) = &run.refused else { return "The device refuses it.".to_owned() };
    match cause {
        RefusalCause::Policy => {
            format!("The policy on the device forbids it, and has the last word: {reason}.")
        }
        RefusalCause::Invalid => format!("The device cannot do it as asked: {reason}."),
        RefusalCause::PrivatePart => format!(
            "What is private of it (variables, standard input) did not reach the device: {reason}."
        ),
        RefusalCause::Busy => {
            format!("The device has as many runs waiting as it takes: {reason}. Try again later.")
        }
        RefusalCause::Unsupported => {
            format!("The agent on the device does not know how: {reason}. Update the agent.")
        }
    }
}
