//! Measures the cost of the released agent with a real broker: memory, CPU time, bytes on the wire.
//!
//! `cargo build --release -p muster-agent && cargo run -p muster-agent --example agent_cost -- 120`
//! runs it for 120 s at the default interval (10 s). A benchmark without assertions.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark by hand")]

#[path = "../tests/agent/support/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use muster_agent::enroll::enroll;
use muster_agent::status::query_status;

fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_ascii_whitespace().find_map(|word| word.parse().ok()).unwrap()
}

/// Returns user and system time in clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(60);
    let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/muster-agent");
    let server = support::Server::start().await;
    let data = server.path("device");
    enroll(server.enroll_options(&data)).await.unwrap();
    let mut agent = Command::new(&binary)
        .args(["run", "--data"])
        .arg(&data)
        .env("MUSTER_LOG", "warn")
        .spawn()
        .unwrap();
    let pid = agent.id();
    server.until("the agent is up", |state| state.hellos > 0 && !state.events.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (before, wire) = (ticks(pid), server.state.lock().unwrap().live.len());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = ticks(pid) - before;
    println!("resident {} kB (peak {} kB)", status(pid, "VmRSS:"), status(pid, "VmHWM:"));
    println!("anonymous {} kB, threads {}", status(pid, "RssAnon:"), status(pid, "Threads:"));
    println!("CPU {:.3} % of a core", used as f64 / seconds as f64);
    let batches = server.state.lock().unwrap().live.len() - wire;
    let bytes: usize = {
        let state = server.state.lock().unwrap();
        state.live.iter().map(|batch| batch.encode().len()).sum::<usize>() / state.live.len()
    };
    println!("{batches} batches in {seconds} s, {bytes} bytes each");
    let shown = query_status(&data).await.unwrap().unwrap();
    println!("outbox {:?}", shown.outbox);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let requested_at = std::time::Instant::now();
    agent.wait().unwrap();
    println!(
        "stopped in {:?}; binary {} bytes",
        requested_at.elapsed(),
        binary.metadata().unwrap().len()
    );
}
