//! (u) Outages, only on request (`make soak KIND=outages RUNS=200 LONGEST=60`): a server is
//! stopped, killed or frozen for a random time. Measured is the time from when it is ready again
//! until every device's events are in the log, every hello has a response, and losses are declared.
//!
//! Several fleets run concurrently, each with its own servers, three real agents and a different
//! number of simulated devices in the background.

mod draw;
mod lane;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::report::{Report, Row};
use draw::Component;
use lane::{Lane, Outcome};

/// Limit for the time from a server's return until everything flows again, in seconds.
const MAX_RECOVERY_SECS: f64 = 10.0;
/// One of an outage's times, in seconds.
type Time = fn(&Outcome) -> Option<f64>;

/// Simulated devices in the background of each fleet, in turn.
const BACKGROUND: [usize; 4] = [0, 20, 50, 200];

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Number of outages, over all fleets.
    pub(crate) runs: u64,
    /// Length of an outage, in seconds.
    pub(crate) length: RangeInclusive<f64>,
    /// Number of fleets that run concurrently.
    pub(crate) lanes: usize,
    /// First seed: an outage is drawn from the sum of this and its number.
    pub(crate) seed: u64,
}

impl Options {
    /// Two hundred outages of at most ten minutes, in four fleets.
    pub(crate) const fn new(runs: u64) -> Self {
        Self { runs, length: 1.0..=600.0, lanes: 4, seed: 0 }
    }

    /// Accepts `longest=60`, `shortest=30`, `lanes=8` and `seed=1000`; false for anything else.
    pub(crate) fn take(&mut self, argument: &str) -> bool {
        let Some((name, value)) = argument.split_once('=') else { return false };
        let number = || value.parse::<f64>().unwrap_or_else(|_| panic!("{name}=NUMBER"));
        match name {
            "longest" => self.length = *self.length.start()..=number(),
            "shortest" => self.length = number()..=*self.length.end(),
            "lanes" => self.lanes = value.parse().expect("lanes=NUMBER"),
            "seed" => self.seed = value.parse().expect("seed=NUMBER"),
            _ => return false,
        }
        true
    }
}

pub(crate) async fn measure(report: &mut Report, options: &Options, say: &impl Fn(&str)) {
    let next = Arc::new(AtomicU64::new(0));
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let mut lanes = JoinSet::new();
    for number in 0..options.lanes {
        let background = BACKGROUND[number % BACKGROUND.len()];
        say(&format!("(u) fleet {number} starts, {background} devices in the background"));
        let lane = Lane::start(background).await;
        lanes.spawn(lane.run(options.clone(), Arc::clone(&next), sender.clone()));
    }
    drop(sender);
    let mut all = Vec::new();
    while let Some(outcome) = outcomes.recv().await {
        say(&format!("(u) {outcome}"));
        all.push(outcome);
    }
    let mut wrong = 0;
    while let Some(lane) = lanes.join_next().await {
        wrong += lane.expect("the fleet ran to its end");
    }
    for component in Component::ALL {
        let of: Vec<_> = all.iter().filter(|one| one.outage.component == component).collect();
        add_rows(report, component, &of);
    }
    report.add(Row {
        description: format!("(u) {} outages in {} fleets", all.len(), options.lanes),
        value: format!("{wrong} events lost without a declaration, doubled or out of order"),
        peer: String::new(),
        ratio: None,
        target: "none".to_owned(),
        is_met: Some(wrong == 0),
    });
}

/// One row for each time that was measured for outages of a component.
fn add_rows(report: &mut Report, component: Component, outcomes: &[&Outcome]) {
    let kinds: [(&str, Time); 4] = [
        ("events in the log", |one| Some(one.events)),
        ("response to a hello", |one| one.hello),
        ("losses declared", |one| one.losses),
        ("simulated devices back", |one| one.background),
    ];
    for (what, time) in kinds {
        let mut times: Vec<f64> = outcomes.iter().filter_map(|one| time(one)).collect();
        times.sort_by(f64::total_cmp);
        let Some(longest) = times.last() else { continue };
        let p95 = times[(times.len() * 95 / 100).min(times.len() - 1)];
        let ready = outcomes.iter().map(|one| one.ready).fold(0.0, f64::max);
        let lengths = outcomes.iter().map(|one| one.outage.length.as_secs_f64());
        let (shortest, longest_outage) = lengths
            .fold((f64::MAX, 0.0_f64), |(min, max), length| (min.min(length), max.max(length)));
        report.add(Row {
            description: format!("(u) {component}: {what}"),
            value: format!("p50 {:.1} s, p95 {p95:.1} s, max {longest:.1} s", times[times.len() / 2]),
            peer: format!(
                "{} outages of {shortest:.0} to {longest_outage:.0} s; ready again after at most {ready:.1} s",
                times.len()
            ),
            ratio: None,
            target: format!("max ≤ {MAX_RECOVERY_SECS:.0} s"),
            is_met: Some(*longest <= MAX_RECOVERY_SECS),
        });
    }
}
