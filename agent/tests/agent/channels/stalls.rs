//! Tests of clients that do not read their output.

use super::*;
use crate::process::Process;

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_client_is_detached_and_does_not_block_others() {
    let (server, running) = greeted().await;
    let mut stalled = open(&server, shell(1)).await;
    stalled.is_attached(1, 0).await;
    stalled.type_in("yes\n").await;
    // The client reads nothing for longer than the agent's limit.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut other = open(&server, attach(1, false)).await;
    other.until("a screen", |seen| !seen.screens.is_empty()).await;
    other.is_attached(1, 0).await;
    let before = other.text.len();
    other.until("more", |seen| seen.text.len() > before + 1_000_000).await;
    let why = stalled.end().await;
    assert!(why.contains("2 s"), "{why}");
    other.type_in("\x03").await;
    other.type_in("echo ca''lm\n").await;
    other.wait_for_text("calm\r\n").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_read_only_client_skips_output_and_then_gets_the_screen() {
    let (server, running) = greeted().await;
    let mut one = open(&server, shell(1)).await;
    let mut watcher = open(&server, attach(1, true)).await;
    one.is_attached(1, 1).await;
    one.type_in("seq 1 400000; echo the''end\n").await;
    one.wait_for_text("theend\r\n").await;
    // It reads again, and gets the current screen.
    watcher.until("two screens", |seen| seen.screens.len() >= 2).await;
    let is_there = |seen: &ReceivedChannel| {
        seen.screens.last().is_some_and(|screen| screen.contains("400000"))
            || seen.text.contains("theend")
    };
    watcher.until("the end", is_there).await;
    assert!(watcher.text.len() < 2_000_000, "{}", watcher.text.len());
    one.type_in("echo go''on\n").await;
    watcher.wait_for_text("goon").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_does_not_increase_memory_with_or_without_clients() {
    let server = Server::start().await;
    let process = Process::start(&server).await;
    server.until("the device was greeted", |state| state.hellos > 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let idle = process.memory();
    let mut seen = open(&server, shell(1)).await;
    seen.type_in("yes 'a line of some length, so that there is much of it'\n").await;
    seen.until("a flood", |seen| seen.text.len() > 4 << 20).await;
    seen.text.clear();
    let early = process.memory();
    let stalled = open(&server, attach(1, true)).await;
    seen.until("a larger flood", |seen| seen.text.len() > 16 << 20).await;
    seen.text.clear();
    let late = process.memory();
    assert!(late < early + (6 << 20), "from {early} to {late} bytes");
    assert!(early < idle + (16 << 20), "from {idle} to {early} bytes");
    // The program continues without an attached client.
    stalled.channel.sender.close("enough").await;
    drop((seen, stalled));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(process.memory() < late + (4 << 20));
    let mut seen = open(&server, attach(1, false)).await;
    seen.type_in("\x03").await;
    seen.type_in("echo ca''lm\n").await;
    seen.wait_for_text("calm\r\n").await;
    process.kill();
}
