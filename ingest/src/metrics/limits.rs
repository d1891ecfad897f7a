//! Limits on the metrics of one device: times near the present, few shards, a rate of messages and
//! of bytes, fixed field types. Pure: every call passes the time.
//!
//! What exceeds a limit is dropped and counted, so that no device fills the store or delays others.

use std::collections::HashMap;
use std::time::Duration;

use muster_metric_store::shard_seconds;
use muster_schemas::metrics::MetricBatch;
use muster_schemas::{Retention, Timestamp};

use super::drop_reason::DropReason;
use super::names::ProjectDevice;

const SECOND_MICROS: i64 = 1_000_000;
const DAY_MICROS: i64 = 86_400 * SECOND_MICROS;
/// Seconds of its rate that a device may use in one burst.
const BURST_SECONDS: i64 = 10;
/// Maximum number of remembered devices; above it those of the previous day are forgotten.
const MAX_TRACKED_DEVICES: usize = 200_000;

/// Limits on the metrics of one device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceLimits {
    /// Maximum age of a point. A shorter retention of the project takes precedence.
    pub max_age: Duration,
    /// Maximum time of a point in the future.
    pub max_ahead: Duration,
    /// Maximum number of distinct shards of the store that a device may write to in a day.
    pub max_shards: usize,
    /// Maximum messages per second, with a burst of ten seconds' worth.
    pub messages_per_second: u32,
    /// Maximum bytes of line protocol per second, with the same burst.
    pub bytes_per_second: u32,
}

impl Default for DeviceLimits {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(30 * 86_400),
            max_ahead: Duration::from_secs(600),
            max_shards: 64,
            messages_per_second: 100,
            bytes_per_second: 4 << 20,
        }
    }
}

/// Usage of one device.
#[derive(Debug)]
struct DeviceUsage {
    /// The day that the shards and the reports belong to.
    day: i64,
    shards: Vec<i64>,
    /// One bit for each [`DropReason`] that was reported today.
    reported: u16,
    messages: TokenBucket,
    bytes: TokenBucket,
}

/// A token bucket whose clock is the time at which the broker received a message: the time for
/// which messages waited for this process does not count against the device.
#[derive(Debug)]
struct TokenBucket {
    micros: i64,
    /// Remaining tokens, in units per second times microseconds.
    remaining: i64,
}

impl TokenBucket {
    fn full(rate: u32, now: i64) -> Self {
        Self { micros: now, remaining: i64::from(rate) * SECOND_MICROS * BURST_SECONDS }
    }

    fn refill(&mut self, rate: u32, now: i64) {
        let most = i64::from(rate) * SECOND_MICROS * BURST_SECONDS;
        let passed = now.saturating_sub(self.micros).max(0);
        self.remaining =
            self.remaining.saturating_add(passed.saturating_mul(rate.into())).min(most);
        self.micros = self.micros.max(now);
    }

    /// Takes `amount` if any tokens remain; the excess of a message becomes debt.
    fn take(&mut self, amount: usize) -> bool {
        if self.remaining <= 0 {
            return false;
        }
        let amount = i64::try_from(amount).unwrap_or(i64::MAX).saturating_mul(SECOND_MICROS);
        self.remaining =
            self.remaining.saturating_sub(amount).max(-i64::from(u32::MAX) * SECOND_MICROS);
        true
    }
}

/// Enforces [`DeviceLimits`] on each device.
#[derive(Debug)]
pub(super) struct DeviceGuard {
    limits: DeviceLimits,
    devices: HashMap<ProjectDevice, DeviceUsage>,
}

impl DeviceGuard {
    pub(super) fn new(limits: DeviceLimits) -> Self {
        Self { limits, devices: HashMap::new() }
    }

    fn usage(&mut self, device: &ProjectDevice, now: Timestamp) -> &mut DeviceUsage {
        let now = now.micros();
        let day = now.div_euclid(DAY_MICROS);
        if self.devices.len() >= MAX_TRACKED_DEVICES && !self.devices.contains_key(device) {
            self.devices.retain(|_, used| used.day >= day);
        }
        let limits = self.limits;
        let used = self.devices.entry(device.clone()).or_insert_with(|| DeviceUsage {
            day,
            shards: Vec::new(),
            reported: 0,
            messages: TokenBucket::full(limits.messages_per_second, now),
            bytes: TokenBucket::full(limits.bytes_per_second, now),
        });
        if used.day < day {
            (used.day, used.reported) = (day, 0);
            used.shards.clear();
        }
        used
    }

    /// Whether one more message of this device may be read. `received` is the broker's time of
    /// receipt.
    pub(super) fn admit(
        &mut self,
        device: &ProjectDevice,
        received: Timestamp,
    ) -> Result<(), DropReason> {
        let limits = self.limits;
        let used = self.usage(device, received);
        // Only the broker's time counts: a backlog is charged by its receipt, not by when it is
        // read.
        used.messages.refill(limits.messages_per_second, received.micros());
        used.bytes.refill(limits.bytes_per_second, received.micros());
        if !used.messages.take(1) {
            return Err(DropReason::MessageRate);
        }
        if used.bytes.remaining > 0 { Ok(()) } else { Err(DropReason::ByteRate) }
    }

    /// Charges the lines of a message that was admitted.
    pub(super) fn charge(&mut self, device: &ProjectDevice, received: Timestamp, bytes: usize) {
        // A message that was admitted before another one used the rest is accepted anyway.
        self.usage(device, received).bytes.take(bytes);
    }

    /// Drops the points whose type or time exceeds a limit; returns the number of dropped points by
    /// cause.
    pub(super) fn enforce(
        &mut self,
        device: &ProjectDevice,
        batch: &mut MetricBatch,
        retention: Retention,
        now: Timestamp,
    ) -> Vec<(DropReason, usize)> {
        let limits = self.limits;
        let used = self.usage(device, now);
        let oldest = now - limits.max_age;
        let newest = now + limits.max_ahead;
        let kept = retention.days().map(i64::from);
        let kept_since = kept.map(|days| now.plus_micros(-days * DAY_MICROS));
        let seconds = kept.and_then(|days| u64::try_from(days * DAY_MICROS / SECOND_MICROS).ok());
        let shard = i64::try_from(shard_seconds(seconds.unwrap_or(0))).unwrap_or(1) * SECOND_MICROS;
        let mut dropped: Vec<(DropReason, usize)> = Vec::new();
        let time = batch.time;
        batch.points.retain_mut(|point| {
            let at = time.plus_micros(point.offset);
            let window = at.micros().div_euclid(shard);
            let excess = if kept_since.is_some_and(|since| at < since) {
                DropReason::PastRetention
            } else if at < oldest {
                DropReason::TooOld
            } else if at > newest {
                DropReason::TooNew
            } else if point.fix_types().is_err() {
                DropReason::WrongType
            } else if used.shards.contains(&window) {
                return true;
            } else if used.shards.len() < limits.max_shards {
                used.shards.push(window);
                return true;
            } else {
                DropReason::TooManyShards
            };
            match dropped.iter_mut().find(|(cause, _)| *cause == excess) {
                Some((_, points)) => *points += 1,
                None => dropped.push((excess, 1)),
            }
            false
        });
        dropped
    }

    /// Whether this is the device's first drop for this cause today.
    pub(super) fn is_first_today(
        &mut self,
        device: &ProjectDevice,
        reason: DropReason,
        now: Timestamp,
    ) -> bool {
        let used = self.usage(device, now);
        let bit = 1_u16 << (reason as u8);
        let is_new = used.reported & bit == 0;
        used.reported |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::metrics::{FieldValue, Point};
    use muster_schemas::{DeviceId, ProjectId};
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_420_800_000_000);

    fn device(number: u128) -> ProjectDevice {
        (ProjectId::default_project(), DeviceId(Uuid::from_u128(number)))
    }

    fn batch(offsets: impl IntoIterator<Item = i64>) -> MetricBatch {
        let point = |offset| Point { offset, ..Point::new("app").field("v", 1_i64) };
        MetricBatch { time: NOW, points: offsets.into_iter().map(point).collect() }
    }

    #[test]
    fn only_points_near_the_current_time_are_accepted() {
        let mut guard = DeviceGuard::new(DeviceLimits::default());
        let minute = 60 * SECOND_MICROS;
        let all = [
            -31 * DAY_MICROS,
            -29 * DAY_MICROS,
            -2 * DAY_MICROS,
            0,
            9 * minute,
            11 * minute,
            i64::MAX,
        ];
        let mut points = batch(all);
        let dropped = guard.enforce(&device(1), &mut points, Retention::Default, NOW);
        assert_eq!(dropped, [(DropReason::TooOld, 1), (DropReason::TooNew, 2)]);
        assert_eq!(points, batch([-29 * DAY_MICROS, -2 * DAY_MICROS, 0, 9 * minute]));
        let mut points = batch(all);
        let dropped = guard.enforce(&device(1), &mut points, Retention::Days(1), NOW);
        assert_eq!(dropped, [(DropReason::PastRetention, 3), (DropReason::TooNew, 2)]);
    }

    /// Regression: a batch of points in 1,000 past weeks created 1,000 shards.
    #[test]
    fn a_device_can_write_to_few_shards_per_day() {
        let limits = DeviceLimits {
            max_age: Duration::from_secs(u32::MAX.into()),
            ..DeviceLimits::default()
        };
        let mut guard = DeviceGuard::new(limits);
        let weeks = |weeks: std::ops::Range<i64>| batch(weeks.map(|week| -week * 7 * DAY_MICROS));
        let mut hold = |id, mut batch, now| {
            guard.enforce(&device(id), &mut batch, Retention::Default, now);
            batch.points.len()
        };
        assert_eq!(hold(1, weeks(0..1_000), NOW), 64);
        assert_eq!(hold(1, weeks(0..10), NOW), 10, "known ones go on");
        assert_eq!(hold(1, weeks(500..510), NOW), 0);
        assert_eq!(hold(2, weeks(500..510), NOW), 10, "another device has its own");
        assert_eq!(hold(1, weeks(500..510), NOW.plus_micros(DAY_MICROS)), 10, "and another day");
        // A well-behaved device that was offline for 30 days exceeds no limit.
        let mut guard = DeviceGuard::new(DeviceLimits::default());
        let mut hours = batch((0..30 * 24).map(|hour| -hour * 3_600 * SECOND_MICROS));
        assert_eq!(guard.enforce(&device(3), &mut hours, Retention::Days(90), NOW), []);
    }

    #[test]
    fn built_in_fields_keep_their_types() {
        let mut guard = DeviceGuard::new(DeviceLimits::default());
        let text = Point::new("cpu").field("usage_user", FieldValue::Text("x".to_owned()));
        let whole = Point::new("temp").field("temp", 45_i64);
        let mut batch = MetricBatch { time: NOW, points: vec![text, whole] };
        let dropped = guard.enforce(&device(1), &mut batch, Retention::Default, NOW);
        assert_eq!(dropped, [(DropReason::WrongType, 1)]);
        assert_eq!(batch.points, [Point::new("temp").field("temp", 45.0)]);
        assert!(guard.is_first_today(&device(1), DropReason::WrongType, NOW));
        assert!(!guard.is_first_today(&device(1), DropReason::WrongType, NOW));
        assert!(guard.is_first_today(&device(1), DropReason::TooOld, NOW));
        assert!(guard.is_first_today(
            &device(1),
            DropReason::WrongType,
            NOW.plus_micros(DAY_MICROS)
        ));
    }

    #[test]
    fn each_device_has_its_own_rate_limit() {
        let mut guard = DeviceGuard::new(DeviceLimits::default());
        let taken = (0..20_000).filter(|_| guard.admit(&device(1), NOW).is_ok()).count();
        assert_eq!(taken, 1_000);
        assert_eq!(guard.admit(&device(1), NOW), Err(DropReason::MessageRate));
        assert_eq!(guard.admit(&device(2), NOW), Ok(()));
        let later = NOW.plus_micros(SECOND_MICROS);
        assert_eq!((0..200).filter(|_| guard.admit(&device(1), later).is_ok()).count(), 100);
        // Messages received over a day in which no ingest ran are within the rate.
        let day = (0..8_640).map(|n| NOW.plus_micros(n * 10 * SECOND_MICROS));
        let read_at = NOW.plus_micros(DAY_MICROS);
        let taken = day.filter(|at| {
            let is_taken = guard.admit(&device(3), *at).is_ok();
            guard.enforce(&device(3), &mut batch([0]), Retention::Default, read_at);
            is_taken
        });
        assert_eq!(taken.count(), 8_640);
    }

    #[test]
    fn bytes_are_limited_too() {
        let mut guard = DeviceGuard::new(DeviceLimits::default());
        guard.charge(&device(1), NOW, 41 << 20);
        assert_eq!(guard.admit(&device(1), NOW), Err(DropReason::ByteRate));
        assert_eq!(guard.admit(&device(1), NOW.plus_micros(SECOND_MICROS)), Ok(()));
        guard.charge(&device(1), NOW, usize::MAX);
        assert_eq!(
            guard.admit(&device(1), NOW.plus_micros(5 * SECOND_MICROS)),
            Err(DropReason::ByteRate)
        );
    }
}
