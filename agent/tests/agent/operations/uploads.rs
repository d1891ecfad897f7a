//! Tests of uploads: complete, once, and only permitted files.

use muster_schemas::events::{RefusalCause, Upload};
use muster_schemas::wire::{OutputStream, output_hash};

use super::*;
use crate::process::Process;
use crate::support::ReceivedOutput;

const DONE: [&str; 3] = ["RunAccepted", "RunStarted", "RunSucceeded"];

fn upload(path: impl AsRef<Path>) -> Upload {
    Upload {
        path: path.as_ref().display().to_string(),
        remove_source: false,
        replace: false,
        keep_seconds: None,
        max_bytes: None,
        bytes_per_second: None,
    }
}

fn send(operation: OperationId, upload: Upload) -> RunOrder {
    order(operation, Action::Upload(upload))
}

/// Returns incompressible bytes.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn received(state: &ServerState, operation: OperationId) -> ReceivedOutput {
    state.outputs.get(&(operation, OutputStream::File)).cloned().unwrap_or_default()
}

async fn wait_for_data(server: &Server, operation: OperationId) {
    server.until("some of it is there", |state| !received(state, operation).bytes.is_empty()).await;
}

fn check(server: &Server, operation: OperationId, report: &RunReport, bytes: &[u8]) {
    let taken = received(&server.state.lock().unwrap(), operation);
    assert!(taken.is_complete && taken.bytes == bytes, "{} bytes", taken.bytes.len());
    let file = report.file.clone().unwrap();
    assert_eq!((file.bytes, file.hash), (bytes.len() as u64, output_hash(&taken.salt, bytes)));
}

#[tokio::test]
async fn files_arrive_unchanged_and_the_source_is_deleted_on_request() {
    let (server, running) = greeted().await;
    for (number, bytes, removed) in
        [(1, noise(1_500_000), false), (2, vec![b'a'; 900_000], true), (3, Vec::new(), true)]
    {
        let file = server.path(&format!("file-{number}"));
        std::fs::write(&file, &bytes).unwrap();
        let request = Upload { remove_source: removed, ..upload(&file) };
        deliver(&server, &send(id(number), request), None).await;
        let report = end(&server, id(number)).await;
        wait_for_events(&server, id(number), &DONE).await;
        check(&server, id(number), &report, &bytes);
        let name = report.file.as_ref().map(|file| file.name.clone());
        assert_eq!((name, report.problem), (Some(format!("file-{number}")), None));
        assert_eq!(file.exists(), !removed);
    }
    assert!(received(&server.state.lock().unwrap(), id(2)).compressed > 0);
    running.stop().await;
}

#[tokio::test]
async fn a_folder_is_packed_without_following_links_out_of_it() {
    let (server, running) = greeted().await;
    let folder = server.path("logs");
    std::fs::create_dir_all(folder.join("old")).unwrap();
    std::fs::write(folder.join("old/a.log"), "aaa").unwrap();
    std::fs::write(server.path("secret"), "hush").unwrap();
    std::os::unix::fs::symlink(server.path("secret"), folder.join("out")).unwrap();
    nix::unistd::mkfifo(&folder.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    deliver(&server, &send(id(1), upload(&folder)), None).await;
    let report = end(&server, id(1)).await;
    let file = report.file.clone().unwrap();
    assert_eq!((file.name.as_str(), file.is_folder), ("logs.tar.gz", true));
    let bytes = received(&server.state.lock().unwrap(), id(1)).bytes;
    check(&server, id(1), &report, &bytes);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        let link = entry.link_name().unwrap().map(|link| link.display().to_string());
        found.push((entry.path().unwrap().display().to_string(), text, link));
    }
    let out = server.path("secret").display().to_string();
    let plain = |name: &str, text: &str| (name.to_owned(), text.to_owned(), None);
    assert_eq!(
        found,
        [
            plain("logs", ""),
            plain("logs/old", ""),
            plain("logs/old/a.log", "aaa"),
            ("logs/out".to_owned(), String::new(), Some(out)),
        ]
    );
    assert!(!server.path("device").join("runs").join(format!("{}.file", id(1))).exists());

    let much = Upload { max_bytes: Some(50), ..upload(&folder) };
    deliver(&server, &send(id(2), much), None).await;
    let problem = end(&server, id(2)).await.problem.unwrap();
    assert!(problem.contains("50 bytes"), "{problem}");
    let request = Upload { remove_source: true, ..upload(&folder) };
    deliver(&server, &send(id(3), request), None).await;
    let problem = end(&server, id(3)).await.problem.unwrap();
    assert!(problem.contains(folder.to_str().unwrap()), "{problem}");
    running.stop().await;
}

#[tokio::test]
async fn a_forbidden_or_missing_file_is_reported() {
    let (server, running) = greeted().await;
    let inside = server.path("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(server.path("secret"), "hush").unwrap();
    std::os::unix::fs::symlink(server.path("secret"), inside.join("link")).unwrap();
    std::fs::write(inside.join("large"), [0; 100]).unwrap();
    let rules = format!("[files]\nroots = ['{}']\nwrite = false\n", inside.display());
    std::fs::write(server.path("policy.toml"), rules).unwrap();
    for (number, request, rule) in [
        (1, upload(server.path("secret")), "[files] roots"),
        (2, upload(inside.join("link")), "[files] roots"),
        (3, Upload { remove_source: true, ..upload(inside.join("large")) }, "write = false"),
    ] {
        deliver(&server, &send(id(number), request), None).await;
        // A path is checked after the run is in the journal.
        let expected: &[&str] = match number {
            3 => &["RunRejected"],
            _ => &["RunAccepted", "RunRejected"],
        };
        wait_for_events(&server, id(number), expected).await;
        let state = server.state.lock().unwrap();
        let rejected = state.events.iter().rev().find_map(|event| match event {
            Event::RunRejected(event) if event.operation == id(number) => Some(event.clone()),
            _ => None,
        });
        let rejected = rejected.unwrap();
        assert_eq!(rejected.cause, RefusalCause::Policy);
        assert!(rejected.reason.contains(rule), "{}", rejected.reason);
    }
    for (number, request, named) in [
        (4, upload(inside.join("none")), "No such file"),
        (5, Upload { max_bytes: Some(99), ..upload(inside.join("large")) }, "99"),
    ] {
        deliver(&server, &send(id(number), request), None).await;
        let problem = end(&server, id(number)).await.problem.unwrap();
        assert!(problem.contains(named), "{problem}");
    }
    server.state.lock().unwrap().exaggerates_by = 1;
    deliver(&server, &send(id(7), upload(inside.join("large"))), None).await;
    let report = end(&server, id(7)).await;
    assert!(report.problem.is_some() && report.file.is_none(), "{report:?}");
    server.state.lock().unwrap().file_refusal = Some("it was erased".to_owned());
    deliver(&server, &send(id(6), upload(inside.join("large"))), None).await;
    let problem = end(&server, id(6)).await.problem.unwrap();
    assert!(problem.contains("it was erased"), "{problem}");
    running.stop().await;
}

#[tokio::test]
async fn a_file_that_changes_during_its_upload_is_not_stored() {
    let (server, running) = greeted().await;
    let file = server.path("log");
    std::fs::write(&file, noise(3_000_000)).unwrap();
    server.state.lock().unwrap().max_output_bytes = Some(200_000);
    deliver(&server, &send(id(1), upload(&file)), None).await;
    wait_for_data(&server, id(1)).await;
    std::fs::write(&file, noise(2_999_999)).unwrap();
    server.state.lock().unwrap().max_output_bytes = None;
    let report = end(&server, id(1)).await;
    assert!(report.problem.is_some());
    assert_eq!(report.file, None);
    running.stop().await;
}

#[tokio::test]
async fn uploads_can_be_canceled_time_out_and_do_not_block_programs() {
    let (server, running) = greeted().await;
    let file = server.path("large");
    std::fs::write(&file, noise(400_000)).unwrap();
    let slow = |number| send(id(number), Upload { bytes_per_second: Some(4_096), ..upload(&file) });
    for number in 1..=6 {
        deliver(&server, &slow(number), None).await;
    }
    wait_for_data(&server, id(1)).await;
    deliver(&server, &run(id(10), line("echo quick")), None).await;
    let key = (id(10), OutputStream::Stdout);
    server
        .until("a program's output is there", |state| {
            state.outputs.get(&key).is_some_and(|it| it.is_complete)
        })
        .await;
    cancel(&server, id(1)).await;
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted", "RunCanceled"]).await;
    let hurried = RunOrder { timeout_ms: 500, ..slow(7) };
    for number in 2..=6 {
        cancel(&server, id(number)).await;
        end(&server, id(number)).await;
    }
    deliver(&server, &hurried, None).await;
    wait_for_events(&server, id(7), &["RunAccepted", "RunStarted", "RunTimedOut"]).await;
    running.stop().await;
}

#[tokio::test]
async fn an_upload_survives_restarts_of_the_broker_and_the_agent() {
    let server = Server::start().await;
    let agent = Process::start(&server).await;
    server.until("the device is up", |state| state.hellos > 0 && !state.live.is_empty()).await;
    let (file, bytes) = (server.path("large"), noise(4_000_000));
    std::fs::write(&file, &bytes).unwrap();
    server.state.lock().unwrap().max_output_bytes = Some(1_000_000);
    let order = RunOrder { timeout_ms: 120_000, ..send(id(1), upload(&file)) };
    deliver(&server, &order, None).await;
    wait_for_data(&server, id(1)).await;
    agent.kill();
    let before = received(&server.state.lock().unwrap(), id(1)).pieces;
    let hellos = server.state.lock().unwrap().hellos;
    let agent = Process::start(&server).await;
    server.until("it is back", |state| state.hellos > hellos).await;
    server.nats.child().stop().await.unwrap();
    server.nats.child().restart().await.unwrap();
    server.state.lock().unwrap().max_output_bytes = None;
    let report = end(&server, id(1)).await;
    wait_for_events(&server, id(1), &DONE).await;
    check(&server, id(1), &report, &bytes);
    assert!(before > 0, "some of it was there before");
    drop(agent);
}
