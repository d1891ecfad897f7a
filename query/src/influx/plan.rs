//! Chooses the step of a query, and refuses results that would be too large. Pure.

use std::time::Duration;

use muster_schemas::Timestamp;

/// Maximum number of points in a response.
pub const MAX_POINTS: usize = 11_000;
/// Maximum number of series in a response.
pub const MAX_SERIES: usize = 1_000;
/// Number of points in a response without a requested step.
const DEFAULT_POINTS: u32 = 120;

const SECOND: u64 = 1;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Round steps, in seconds.
const ROUND_STEPS: &[u64] = &[
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
    /// Interval between points; at least a microsecond.
    pub step: Duration,
}

impl Range {
    /// Creates a range with a step; without one, with a step that gives about 120 points.
    #[must_use]
    pub fn new(from: Timestamp, to: Timestamp, step: Option<Duration>) -> Self {
        let step = step.unwrap_or_else(|| step_of(to.since(from) / DEFAULT_POINTS));
        Self { from, to, step: step.max(Duration::from_micros(1)) }
    }

    /// Returns the maximum number of points of one series.
    #[must_use]
    pub fn points(&self) -> usize {
        let steps = self.to.since(self.from).as_micros() / self.step.as_micros().max(1);
        usize::try_from(steps + 2).unwrap_or(usize::MAX)
    }
}

/// Returns the next round step.
fn step_of(min: Duration) -> Duration {
    let mut steps = ROUND_STEPS.iter().copied().map(Duration::from_secs);
    steps.find(|step| *step >= min).unwrap_or(min)
}

/// Returns a step that fits when a response with this number of points would be too large.
#[must_use]
pub fn too_many_points(range: &Range, points: usize) -> Option<Duration> {
    if points <= MAX_POINTS {
        return None;
    }
    let times = u32::try_from(points.div_ceil(MAX_POINTS)).unwrap_or(u32::MAX);
    // One tenth more, because the ends of the range are additional steps.
    let least = range.step.saturating_mul(times);
    Some(step_of(least.saturating_add(least / 10)))
}

/// Parses a duration such as `90s`, `5m`, `1h`, `7d`, `2w`, of at most 100 years.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let duration = muster_schemas::units::parse_duration(text)?;
    (duration <= Duration::from_secs(36_500 * DAY)).then_some(duration)
}

/// Formats a duration such that [`parse_duration`] can parse it; in whole seconds.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs().max(1);
    for (unit, name) in [(DAY, 'd'), (HOUR, 'h'), (MINUTE, 'm')] {
        if duration.subsec_nanos() == 0 && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}
