//! Tests of operations that the agent performs itself.

use std::sync::{Arc, Mutex};

use muster_agent::log_level::LevelError;
use muster_schemas::wire::OutputStream;

use super::*;
use crate::process::Process;

const DONE: [&str; 3] = ["RunAccepted", "RunStarted", "RunSucceeded"];

#[tokio::test]
async fn an_agent_restarts_in_place_after_reporting_it() {
    let server = Server::start().await;
    let mut agent = Process::start(&server).await;
    server.until("the device is up", |state| state.hellos > 0 && !state.live.is_empty()).await;
    let hellos = server.state.lock().unwrap().hellos;
    deliver(&server, &order(id(1), Action::RestartAgent), None).await;
    wait_for_events(&server, id(1), &DONE).await;
    server.until("it says hello again", |state| state.hellos > hellos).await;
    assert!(agent.is_alive(), "the process is the same one");
    wait_for_events(&server, id(1), &DONE).await;
}

#[tokio::test]
async fn a_machine_that_does_not_restart_is_reported() {
    let server = Server::start().await;
    let with = |argv: &'static [&'static str]| {
        let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
        Running::start_with(&server, |options| options.operations.reboot = vec![argv])
    };
    let running = with(&["/bin/sh", "-c", "echo not now; false"]).await;
    until_greeted(&running).await;
    deliver(&server, &order(id(1), Action::Reboot), None).await;
    let problem = end(&server, id(1)).await.problem.unwrap();
    assert!(problem.contains("not now"), "{problem}");
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted", "RunFailed"]).await;
    running.stop().await;

    let running = with(&["true"]).await;
    until_greeted(&running).await;
    let patient = RunOrder { timeout_ms: 6_000, ..order(id(2), Action::Reboot) };
    deliver(&server, &patient, None).await;
    wait_for_events(&server, id(2), &["RunAccepted", "RunStarted"]).await;
    // The agent restarts; that is not a restart of the machine.
    running.stop().await;
    let running = with(&["true"]).await;
    let problem = end(&server, id(2)).await.problem.unwrap();
    assert!(problem.contains("6 s"), "{problem}");
    wait_for_events(&server, id(2), &["RunAccepted", "RunStarted", "RunFailed"]).await;
    running.stop().await;
}

#[tokio::test]
async fn diagnostics_are_an_archive_without_keys() {
    let (server, running) = greeted().await;
    deliver(&server, &order(id(1), Action::Diagnostics), None).await;
    wait_for_events(&server, id(1), &DONE).await;
    let key = (id(1), OutputStream::Stdout);
    server
        .until("it is there", |state| state.outputs.get(&key).is_some_and(|it| it.is_complete))
        .await;
    let bytes = server.state.lock().unwrap().outputs[&key].bytes.clone();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        assert!(!text.contains("PRIVATE KEY") && !text.contains("not.checked.here"), "{name}");
        names.push(name.trim_start_matches("muster-diagnostics/").to_owned());
    }
    for expected in ["status.json", "doctor.json", "config.json", "inventory.json", "uname"] {
        assert!(names.iter().any(|name| name == expected), "{expected} in {names:?}");
    }
    for expected in ["proc/meminfo", "proc/mounts", "proc/net/dev", "proc/loadavg"] {
        assert!(names.iter().any(|name| name == expected), "{expected} in {names:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn the_log_level_is_changed_temporarily() {
    let server = Server::start().await;
    let levels: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&levels);
    let running = Running::start_with(&server, |options| {
        options.set_level = Arc::new(move |level| {
            if level == "loud" {
                return Err(LevelError::Unknown(level.to_owned()));
            }
            seen.lock().unwrap().push(level.to_owned());
            Ok(())
        });
    })
    .await;
    until_greeted(&running).await;
    let level = |level: &str| Action::LogLevel { level: level.to_owned(), seconds: Some(1) };
    deliver(&server, &order(id(1), level("loud")), None).await;
    let problem = end(&server, id(1)).await.problem;
    assert_eq!(problem, Some(LevelError::Unknown("loud".to_owned()).to_string()));
    deliver(&server, &order(id(2), level("debug")), None).await;
    wait_for_events(&server, id(2), &DONE).await;
    assert!(levels.lock().unwrap().iter().any(|level| level == "debug"));
    for _ in 0..200 {
        if levels.lock().unwrap().last().is_some_and(|level| level == "info") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(levels.lock().unwrap().last().unwrap(), "info");
    running.stop().await;
}
