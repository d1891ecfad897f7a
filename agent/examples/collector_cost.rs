//! Measures the cost of each group of metrics on this machine: CPU microseconds per round. Prints a
//! table.
//!
//! `cargo run --release --example collector_cost [PROCESSES]` starts this number of sleeping
//! processes first, to measure `processes` on a machine with more load.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for a person to run")]

use std::path::Path;
use std::process::{Child, Command};

use muster_agent::metrics::{AgentCounters, Collectors, Group, GroupSet};
use muster_schemas::Timestamp;
use muster_schemas::metrics::MetricBatch;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const ROUNDS: u32 = 300;

fn main() {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut others: Vec<Child> =
        (0..count).map(|_| Command::new("sleep").arg("600").spawn().unwrap()).collect();
    let sets = Group::ALL.into_iter().map(|group| (group.to_string(), GroupSet::NONE.with(group)));
    let sets = sets.chain([("all".to_owned(), GroupSet::ALL)]);
    println!("{:<13} {:>8} {:>7} {:>7} {:>6}", "group", "us CPU", "user", "points", "bytes");
    for (name, groups) in sets {
        let mut collectors = Collectors::new(Path::new("/"));
        let agent = AgentCounters::default();
        collectors.sample(groups, &agent);
        let (user, system) = cpu();
        let mut points = Vec::new();
        for _ in 0..ROUNDS {
            points = collectors.sample(groups, &agent);
        }
        let (user_after, system_after) = cpu();
        let mean = |micros: i64| micros as f64 / f64::from(ROUNDS);
        let user = mean(user_after - user);
        let batch = MetricBatch { time: Timestamp(1_795_420_800_000_000), points };
        println!(
            "{name:<13} {:>8.1} {user:>7.1} {:>7} {:>6}",
            user + mean(system_after - system),
            batch.points.len(),
            batch.encode().len()
        );
    }
    for child in &mut others {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn cpu() -> (i64, i64) {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    (usage.user_time().num_microseconds(), usage.system_time().num_microseconds())
}
