//! `make bench`: muster's throughput and latency, compared with programs that do only that work on
//! the same machine. Prints one table; no test depends on it.
//!
//! Arguments: `--markdown` prints the table as docs/performance.md holds it; letters (`a c`) run
//! only those measurements; `soak=60` runs the hour of churn alone, or as many minutes, and
//! `hostile=30` half an hour with hostile devices; `outages=200 longest=60`
//! 200 outages of servers of at most 60 s.

#![allow(clippy::too_many_lines, reason = "a test is a sequence of steps")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark: it prints, and what fails ends it"
)]

mod agent;
mod api;
mod append;
mod device_stream;
mod field;
mod hostile;
mod latency;
mod log_server;
mod machine;
mod metrics;
mod outages;
mod pairs;
mod process;
mod rebuild;
mod remote;
mod report;
mod scale;
mod signed;
mod soak;

use std::time::Instant;

use field::Field;
use report::Report;

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (mut is_markdown, mut requested, mut minutes) = (false, String::new(), 0_u64);
    let mut is_hostile = false;
    let mut outages: Option<outages::Options> = None;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--markdown" => is_markdown = true,
            "--bench" => {}
            soak if soak.starts_with("soak=") => {
                minutes = soak.trim_start_matches("soak=").parse().expect("soak=MINUTES");
            }
            hostile if hostile.starts_with("hostile=") => {
                minutes = hostile.trim_start_matches("hostile=").parse().expect("hostile=MINUTES");
                is_hostile = true;
            }
            runs if runs.starts_with("outages=") => {
                let runs = runs.trim_start_matches("outages=").parse().expect("outages=RUNS");
                outages = Some(outages::Options::new(runs));
            }
            option if outages.as_mut().is_some_and(|outages| outages.take(option)) => {}
            parts => requested.push_str(parts),
        }
    }
    let wants = |part: char| {
        minutes == 0 && outages.is_none() && (requested.is_empty() || requested.contains(part))
    };
    let started_at = Instant::now();
    let mut report = Report::default();
    let say = |what: &str| eprintln!("{:>5.0} s  {what}", started_at.elapsed().as_secs_f64());

    if wants('a') {
        say("(a) appends to the log");
        append::measure(&mut report).await;
    }
    if wants('e') {
        say("(e) rebuilding projections");
        rebuild::measure(&mut report).await;
    }
    if wants('b') || wants('c') || wants('d') {
        say("starting the system, enrolling devices");
        let mut field = Field::start().await;
        let mut rate = None;
        if wants('b') || wants('d') {
            say("(b) signed events");
            rate = Some(signed::measure(&mut field, &mut report).await);
        }
        if wants('c') {
            say("(c) metric points");
            metrics::measure(&mut field, &mut report).await;
        }
        if let Some(rate) = rate.filter(|_| wants('d')) {
            say("(d) latency");
            latency::measure(&mut field, rate, &mut report).await;
            say("(d) presence");
            latency::presence(&field, &mut report).await;
        }
    }
    if wants('f') {
        say("(f) the agent");
        agent::measure(&mut report).await;
    }
    if wants('g') || wants('h') || wants('i') || wants('n') {
        say("(g) (h) (i) (n) ten thousand devices");
        scale::measure(&mut report, &say).await;
    }
    if wants('o') {
        say("(o) the API");
        api::measure(&mut report, &say).await;
    }
    if wants('p') {
        say("(p) live lists of devices");
        device_stream::measure(&mut report, &say).await;
    }
    if wants('k') || wants('l') || wants('m') {
        say("(k) (l) (m) programs, keys and bytes, beside ssh");
        remote::measure(&mut report).await;
    }
    if let Some(outages) = &outages {
        say("(u) outages");
        outages::measure(&mut report, outages, &say).await;
    } else if is_hostile {
        say("(t) hostile devices among honest ones");
        hostile::measure(&mut report, minutes, &say).await;
    } else if minutes > 0 {
        say("(s) churn");
        soak::measure(&mut report, minutes, &say).await;
    }
    say("done");
    if is_markdown {
        println!("{}", report.markdown());
    } else {
        println!("{}", report.text());
    }
}
