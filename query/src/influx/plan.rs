//! Chooses the step of a query, and refuses results that would be too large. Pure.

use muster_schemas::Timestamp;

/// Maximum number of points in a response.
pub const MAX_POINTS: usize = 11_000;
/// Maximum number of series in a response.
pub const MAX_SERIES: usize = 1_000;
/// Number of points in a response without a requested step.
const USUAL_POINTS: i64 = 120;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Round steps.
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

/// A range of time, divided into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Start of the range.
    pub from: Timestamp,
    /// End of the range, exclusive.
    pub to: Timestamp,
    /// Interval between points, in microseconds.
    pub step: i64,
}

impl Range {
    /// Creates a range with a step; without one, with a step that gives about 120 points.
    #[must_use]
    pub fn new(from: Timestamp, to: Timestamp, step: Option<i64>) -> Self {
        let span = to.micros().saturating_sub(from.micros()).max(1);
        let step = step.unwrap_or_else(|| step_of(span / USUAL_POINTS));
        Self { from, to, step }
    }

    /// Returns the maximum number of points of one series.
    #[must_use]
    pub fn points(&self) -> usize {
        let span = self.to.micros().saturating_sub(self.from.micros()).max(1);
        usize::try_from(span / self.step.max(1) + 2).unwrap_or(usize::MAX)
    }
}

/// Returns the next round step.
fn step_of(least: i64) -> i64 {
    let fits = |step: &&i64| **step >= least;
    STEPS.iter().find(fits).copied().unwrap_or(least)
}

/// Returns a step that fits when a response with this number of points would be too large.
#[must_use]
pub fn too_many_points(range: &Range, points: usize) -> Option<i64> {
    if points <= MAX_POINTS {
        return None;
    }
    let times = i64::try_from(points.div_ceil(MAX_POINTS)).unwrap_or(i64::MAX);
    // One tenth more, because the ends of the range are additional steps.
    let least = range.step.saturating_mul(times);
    Some(step_of(least.saturating_add(least / 10)))
}

/// Parses a duration such as `90s`, `5m`, `1h`, `7d`, `2w`; returns microseconds.
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

/// Formats a duration such that [`parse_duration`] can parse it; in whole seconds.
#[must_use]
pub fn show_duration(micros: i64) -> String {
    for (unit, name) in [(DAY, 'd'), (HOUR, 'h'), (MINUTE, 'm')] {
        if micros >= unit && micros % unit == 0 {
            return format!("{}{name}", micros / unit);
        }
    }
    format!("{}s", micros.div_euclid(SECOND).max(1))
}
