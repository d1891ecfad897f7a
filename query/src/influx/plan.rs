//! Chooses the step of a query, and refuses results that would be too large. Pure.

use muster_schemas::Timestamp;

/// Maximum number of points in a response.
pub const MAX_POINTS: usize = 11_000;
/// Maximum number of series in a response.
pub const MAX_SERIES: usize = 1_000;
/// Number of points in a response without a requested step.
const DEFAULT_POINTS: i64 = 120;

const SECOND_MICROS: i64 = 1_000_000;
const MINUTE_MICROS: i64 = 60 * SECOND_MICROS;
const HOUR_MICROS: i64 = 60 * MINUTE_MICROS;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;

/// Round steps.
const ROUND_STEPS: &[i64] = &[
    SECOND_MICROS,
    2 * SECOND_MICROS,
    5 * SECOND_MICROS,
    10 * SECOND_MICROS,
    15 * SECOND_MICROS,
    30 * SECOND_MICROS,
    MINUTE_MICROS,
    2 * MINUTE_MICROS,
    5 * MINUTE_MICROS,
    10 * MINUTE_MICROS,
    15 * MINUTE_MICROS,
    30 * MINUTE_MICROS,
    HOUR_MICROS,
    2 * HOUR_MICROS,
    3 * HOUR_MICROS,
    6 * HOUR_MICROS,
    12 * HOUR_MICROS,
    DAY_MICROS,
    2 * DAY_MICROS,
    7 * DAY_MICROS,
    30 * DAY_MICROS,
    365 * DAY_MICROS,
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
        let step = step.unwrap_or_else(|| step_of(span / DEFAULT_POINTS));
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
fn step_of(min: i64) -> i64 {
    let fits = |step: &&i64| **step >= min;
    ROUND_STEPS.iter().find(fits).copied().unwrap_or(min)
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
    let micros = i64::try_from(muster_schemas::units::parse_duration(text)?.as_micros()).ok()?;
    (micros <= 36_500 * DAY_MICROS).then_some(micros)
}

/// Formats a duration such that [`parse_duration`] can parse it; in whole seconds.
#[must_use]
pub fn show_duration(micros: i64) -> String {
    for (unit, name) in [(DAY_MICROS, 'd'), (HOUR_MICROS, 'h'), (MINUTE_MICROS, 'm')] {
        if micros >= unit && micros % unit == 0 {
            return format!("{}{name}", micros / unit);
        }
    }
    format!("{}s", micros.div_euclid(SECOND_MICROS).max(1))
}
