//! Tests of programs' output: unchanged, up to the limit, despite failures in transit.

use muster_schemas::wire::{MAX_OUTPUT_BYTES, OutputStream, output_hash};

use super::*;
use crate::process::Process;
use crate::support::ReceivedOutput;

async fn complete_output(server: &Server, operation: OperationId) -> ReceivedOutput {
    let key = (operation, OutputStream::Stdout);
    server
        .until("its output is there", |state| {
            state.outputs.get(&key).is_some_and(|it| it.is_complete)
        })
        .await;
    server.state.lock().unwrap().outputs[&key].clone()
}

/// Waits until the device has deleted the stored output.
async fn wait_until_deleted(server: &Server) {
    let folder = server.path("device").join("runs");
    for _ in 0..200 {
        if std::fs::read_dir(&folder).is_ok_and(|files| files.count() == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("something is left in {}", folder.display());
}

#[tokio::test]
async fn any_bytes_arrive_unchanged_and_are_then_deleted() {
    let (server, running) = greeted().await;
    let copy = server.path("copy");
    let text = format!("head -c 700000 /dev/urandom | tee {}", copy.display());
    deliver(&server, &run(id(1), line(&text)), None).await;
    let report = end(&server, id(1)).await;
    let taken = complete_output(&server, id(1)).await;
    assert!(taken.bytes == std::fs::read(copy).unwrap());
    assert_eq!((report.stdout.bytes, report.stdout.kept), (700_000, 700_000));
    assert_eq!(report.stdout.hash, Some(output_hash(&taken.salt, &taken.bytes)));
    assert_eq!((taken.salt.len(), taken.compressed), (16, 0));
    assert_eq!((report.stderr.bytes, report.stderr.hash), (0, None));
    assert!(!server.state.lock().unwrap().outputs.contains_key(&(id(1), OutputStream::Stderr)));
    deliver(&server, &run(id(2), line("seq 100000")), None).await;
    assert!(complete_output(&server, id(2)).await.compressed > 0);
    wait_until_deleted(&server).await;
    running.stop().await;
}

#[tokio::test]
async fn output_arrives_while_the_program_runs() {
    let (server, running) = greeted().await;
    let file = server.path("go").display().to_string();
    let text = format!("echo one; while [ ! -e {file} ]; do sleep 0.05; done; echo two");
    deliver(&server, &run(id(1), line(&text)), None).await;
    let key = (id(1), OutputStream::Stdout);
    server
        .until("the first line is there", |state| {
            state.outputs.get(&key).is_some_and(|it| it.bytes == b"one\n")
        })
        .await;
    std::fs::write(file, "").unwrap();
    assert_eq!(complete_output(&server, id(1)).await.bytes, b"one\ntwo\n");
    running.stop().await;
}

#[tokio::test]
async fn endless_output_is_truncated_without_increasing_memory() {
    let server = Server::start().await;
    let agent = Process::start(&server).await;
    server.until("the device is up", |state| state.hellos > 0 && !state.live.is_empty()).await;
    deliver(&server, &run(id(1), argv(&["true"])), None).await;
    end(&server, id(1)).await;
    let before = agent.memory();
    let order = RunOrder { timeout_ms: 4_000, ..run(id(2), argv(&["yes"])) };
    deliver(&server, &order, None).await;
    let mut most = 0;
    while event_types(&server.state.lock().unwrap(), id(2)).len() < 3 {
        most = most.max(agent.memory());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let report = end(&server, id(2)).await;
    eprintln!("{before} bytes before, {most} at most, {} written", report.stdout.bytes);
    assert_eq!(report.stdout.kept, MAX_OUTPUT_BYTES);
    assert!(report.stdout.bytes > 2 * MAX_OUTPUT_BYTES, "{report:?}");
    assert!(most < before + (8 << 20), "{before} grew to {most}");
    let taken = complete_output(&server, id(2)).await;
    assert_eq!(taken.bytes.len() as u64, MAX_OUTPUT_BYTES);
    assert_eq!(report.stdout.hash, Some(output_hash(&taken.salt, &taken.bytes)));
    wait_for_events(&server, id(2), &["RunAccepted", "RunStarted", "RunTimedOut"]).await;
}

#[tokio::test]
async fn output_continues_at_its_offset_after_a_broker_outage() {
    let (server, running) = greeted().await;
    let (go, wrote) = (server.path("go"), server.path("wrote"));
    let text = format!(
        "seq 20000; while [ ! -e {} ]; do sleep 0.05; done; seq 20001 40000; touch {}",
        go.display(),
        wrote.display()
    );
    deliver(&server, &run(id(1), line(&text)), None).await;
    let key = (id(1), OutputStream::Stdout);
    server.until("some is there", |state| state.outputs.contains_key(&key)).await;
    server.nats.child().stop().await.unwrap();
    std::fs::write(go, "").unwrap();
    until_there(&wrote).await;
    server.nats.child().restart().await.unwrap();
    let expected: String = (1..=40_000).map(|number| format!("{number}\n")).collect();
    assert!(complete_output(&server, id(1)).await.bytes == expected.as_bytes());
    assert_eq!(end(&server, id(1)).await.stdout.bytes, expected.len() as u64);
    running.stop().await;
}

#[tokio::test]
async fn unsent_output_is_sent_after_an_agent_restart() {
    let (server, running) = greeted().await;
    server.state.lock().unwrap().rejects_output = true;
    deliver(&server, &run(id(1), line("seq 1000")), None).await;
    let report = end(&server, id(1)).await;
    running.stop().await;
    server.state.lock().unwrap().rejects_output = false;
    let running = greet(&server).await;
    let taken = complete_output(&server, id(1)).await;
    assert_eq!(report.stdout.hash, Some(output_hash(&taken.salt, &taken.bytes)));
    wait_until_deleted(&server).await;
    running.stop().await;
}
