//! Tests with kill -9 of the agent: before a run starts, while it is running, and after its end.

use muster_agent::operations::{INTERRUPTED, LEFTOVERS_ENDED, STOPPED};
use muster_schemas::ConfigVersion;
use muster_schemas::names::ConfigValue;
use muster_schemas::wire::{OutputStream, output_hash};

use super::*;
use crate::process::Process;

#[tokio::test]
async fn a_killed_agent_interrupts_running_runs_and_starts_waiting_ones_once() {
    let server = Server::start().await;
    let one = ("runs.at_once".parse().unwrap(), ConfigValue::Int(1));
    server.state.lock().unwrap().config = (ConfigVersion(1), [one].into());
    let agent = Process::start(&server).await;
    server
        .until("the config is applied", |state| {
            state.events.iter().any(|event| matches!(event, Event::DeviceConfigApplied(_)))
        })
        .await;
    deliver(&server, &run(id(1), argv(&["true"])), None).await;
    end(&server, id(1)).await;
    let file = server.path("marks");
    let echo = |what: &str| format!("echo {what} >> {}", file.display());
    // The program must be killed: the server has its output before its end is known.
    let hung = format!("trap '' TERM; echo said; {}; sleep 7401", echo("two"));
    deliver(&server, &run(id(2), line(&hung)), None).await;
    let key = (id(2), OutputStream::Stdout);
    server.until("two runs", |state| state.outputs.contains_key(&key)).await;
    let waits = run(id(3), line(&echo("three")));
    deliver(&server, &waits, None).await;
    wait_for_events(&server, id(3), &["RunAccepted"]).await;
    agent.kill();
    assert!(is_running("7401"));

    // The new process does not know the server's time: the waiting run still waits.
    server.state.lock().unwrap().is_silent = true;
    let agent = Process::start(&server).await;
    let interrupted = ["RunAccepted", "RunStarted", "RunInterrupted"];
    wait_for_events(&server, id(2), &interrupted).await;
    assert!(!is_running("7401"), "what was left of it was ended");
    let report = end(&server, id(2)).await;
    let problem = report.problem.unwrap();
    assert!(problem.contains(INTERRUPTED) && problem.contains(LEFTOVERS_ENDED), "{problem}");
    assert!(report.started_at.is_some());
    let output = server.state.lock().unwrap().outputs[&key].clone();
    assert_eq!(report.stdout.hash, Some(output_hash(&output.salt, b"said\n")));
    wait_for_events(&server, id(3), &["RunAccepted"]).await;
    server.state.lock().unwrap().is_silent = false;
    end(&server, id(3)).await;
    agent.kill();

    // All runs have ended: no further event is recorded, despite restarts and repeated orders.
    let mut agent = Process::start(&server).await;
    let hellos = server.state.lock().unwrap().hellos;
    server.until("it is greeted", |state| state.hellos > hellos).await;
    deliver(&server, &waits, None).await;
    // A server repeats orders until an event reports their receipt.
    for _ in 0..100 {
        deliver(&server, &run(id(4), argv(&["true"])), None).await;
        if !event_types(&server.state.lock().unwrap(), id(4)).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    end(&server, id(4)).await;
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted", "RunSucceeded"]).await;
    wait_for_events(&server, id(2), &interrupted).await;
    wait_for_events(&server, id(3), &["RunAccepted", "RunStarted", "RunSucceeded"]).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "two\nthree\n");
    assert!(agent.is_alive());
}

#[tokio::test]
async fn a_stopping_agent_ends_its_runs_and_reports_them() {
    let (server, running) = greeted().await;
    deliver(&server, &run(id(1), line("sleep 7501")), None).await;
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted"]).await;
    running.stop().await;
    wait_until_gone("7501").await;
    let running = greet(&server).await;
    let problem = end(&server, id(1)).await.problem.unwrap();
    assert_eq!(problem, STOPPED);
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted", "RunInterrupted"]).await;
    running.stop().await;
}
