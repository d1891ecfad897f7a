//! Chooses the step of a question, and refuses what would be too much. Pure.

use muster_schemas::Timestamp;

/// Points in one answer at most.
pub const MAX_POINTS: usize = 11_000;
/// Series in one answer at most.
pub const MAX_SERIES: usize = 1_000;
/// Points that an answer has when nobody chose a step.
const USUAL_POINTS: i64 = 120;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Steps that people think in.
const STEPS: &[i64] = &[
    SECOND,
    2 * SECOND,
    5 * SECOND,
    10 * SECOND,
    15 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
    30 * DAY,
    365 * DAY,
];

/// A span of time cut into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// From this time on.
    pub from: Timestamp,
    /// Up to this time, not included.
    pub to: Timestamp,
    /// Microseconds.
    pub step: i64,
}

impl Range {
    /// A span with a step; one that gives about 120 points when none is chosen.
    #[must_use]
    pub fn new(from: Timestamp, to: Timestamp, step: Option<i64>) -> Self {
        let span = to.micros().saturating_sub(from.micros()).max(1);
        let step = step.unwrap_or_else(|| step_of(span / USUAL_POINTS));
        Self { from, to, step }
    }

    /// Points of one series, at most.
    #[must_use]
    pub fn points(&self) -> usize {
        let span = self.to.micros().saturating_sub(self.from.micros()).max(1);
        usize::try_from(span / self.step.max(1) + 2).unwrap_or(usize::MAX)
    }
}

/// The next step that people think in.
fn step_of(least: i64) -> i64 {
    let fits = |step: &&i64| **step >= least;
    STEPS.iter().find(fits).copied().unwrap_or(least)
}

/// When an answer of so many points is too much: the step that would fit.
#[must_use]
pub fn too_many_points(range: &Range, points: usize) -> Option<i64> {
    if points <= MAX_POINTS {
        return None;
    }
    let times = i64::try_from(points.div_ceil(MAX_POINTS)).unwrap_or(i64::MAX);
    // A tenth more, as the ends of the span are steps of their own.
    let least = range.step.saturating_mul(times);
    Some(step_of(least.saturating_add(least / 10)))
}

/// Reads a duration such as `90s`, `5m`, `1h`, `7d`, `2w`, in microseconds.
#[must_use]
pub fn parse_duration(text: &str) -> Option<i64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        "d" => DAY,
        "w" => 7 * DAY,
        _ => return None,
    };
    let micros = number.parse::<i64>().ok()?.checked_mul(unit)?;
    (micros > 0 && micros <= 36_500 * DAY).then_some(micros)
}

/// Writes a duration the way that [`parse_duration`] reads it; whole seconds.
#[must_use]
pub fn show_duration(micros: i64) -> String {
    for (unit, name) in [(DAY, 'd'), (HOUR, 'h'), (MINUTE, 'm')] {
        if micros >= unit && micros % unit == 0 {
            return format!("{}{name}", micros / unit);
        }
    }
    format!("{}s", micros.div_euclid(SECOND).max(1))
}
