//! The newest value of each series of one device: a pure fold over its batches, in any order of
//! receipt.
//!
//! A series is a measurement, its tags and one field. Fields that were reported together are one
//! row, encoded: thousands of devices are in memory, and a row is decoded only for a request.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use muster_schemas::metrics::{FieldValue, MetricBatch, MetricName, Point};
use muster_schemas::{Timestamp, codec};

/// Maximum number of series that are kept of one device; an agent reports about 500.
pub(super) const MAX_DEVICE_SERIES: usize = 5_000;
/// Maximum memory of the rows of one device, in bytes; those of an agent need 10 KB.
pub(super) const MAX_DEVICE_BYTES: usize = 128 * 1024;
/// Memory of a row besides its encoded content, in bytes, with that of its allocation.
const ROW_BYTES: usize = 88;
/// Maximum time by which a point counts as newer than its receipt: a clock that was once ahead must
/// not block newer points after it was corrected.
const MAX_AHEAD: Duration = Duration::from_secs(300);
/// Time after which a series that is no longer reported, such as that of a removed disk, is
/// forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Number of intervals after which a value is stale.
const STALE_INTERVALS: u32 = 3;
/// Interval of a series that was received once.
const ASSUMED_INTERVAL: Duration = Duration::from_secs(300);
/// Shortest interval that counts: a batch can be that late.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// Longest interval that counts, the longest one of an agent: the time that a device was offline is
/// not an interval.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

/// The newest values of a device.
#[derive(Clone, Debug, Default)]
pub(super) struct DeviceSeries {
    /// Rows, ordered by their series.
    rows: Vec<Row>,
    bytes: usize,
    series: usize,
    /// Number of values that were not kept because of the limits.
    pub(super) dropped: u64,
}

/// Fields of one measurement and set of tags that were reported together.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Measurement and tags, then the fields, encoded.
    content: Box<[u8]>,
    /// Length of the first part.
    series_bytes: u32,
    fields: u32,
    /// Hash of the fields' names.
    shape: u64,
    /// Time of the point by the device, at most [`MAX_AHEAD`] after its receipt.
    time: Timestamp,
    /// Time of the point by the server.
    measured_at: Timestamp,
    /// Observed interval; zero if the series was received once.
    interval: Duration,
}

/// Values of one measurement and set of tags, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct LatestPoint {
    /// The measurement.
    pub measurement: MetricName,
    /// The tags.
    pub tags: BTreeMap<MetricName, String>,
    /// The values.
    pub fields: BTreeMap<MetricName, FieldValue>,
    /// Time of the values, as the device has reported it.
    pub time: Timestamp,
    /// Time since then, by the server's clock.
    pub age: Duration,
    /// Observed interval between two reports; `None` if there was only one.
    pub interval: Option<Duration>,
    /// Whether the values are older than three intervals.
    pub is_stale: bool,
}

/// Which series were removed for the current batch: each batch does so once, because it reads all
/// series.
#[derive(Debug, Default)]
struct Cleaned {
    of_forgotten: bool,
    of_stale: bool,
}

/// A batch, encoded for the fold.
#[derive(Debug)]
pub(super) struct Rows(Vec<Row>);

impl Rows {
    /// Encodes the points of a received batch.
    pub(super) fn of(batch: &MetricBatch, received_at: Timestamp) -> Self {
        Self(batch.points.iter().map(|point| Row::of(point, batch.time, received_at)).collect())
    }
}

impl Row {
    fn of(point: &Point, batch_time: Timestamp, received_at: Timestamp) -> Self {
        let time = batch_time.plus_micros(point.offset).min(received_at + MAX_AHEAD);
        let measured_at = received_at.plus_micros(point.offset.min(0));
        let series = codec::encode(&(&point.measurement, &point.tags));
        Self::new(series, &point.fields, (time, measured_at), Duration::ZERO)
    }

    fn new(
        mut series: Vec<u8>,
        fields: &BTreeMap<MetricName, FieldValue>,
        (time, measured_at): (Timestamp, Timestamp),
        interval: Duration,
    ) -> Self {
        let series_bytes = series.len();
        series.extend(codec::encode(fields));
        let mut shape = DefaultHasher::new();
        fields.keys().for_each(|name| name.hash(&mut shape));
        Self {
            // A copy of the exact size: shrunk allocations of this number would fragment the memory.
            content: Box::from(series.as_slice()),
            series_bytes: u32::try_from(series_bytes).unwrap_or(u32::MAX),
            fields: u32::try_from(fields.len()).unwrap_or(u32::MAX),
            shape: shape.finish(),
            time,
            measured_at,
            interval,
        }
    }

    fn split(&self) -> (&[u8], &[u8]) {
        self.content.split_at_checked(self.series_bytes as usize).unwrap_or((&self.content, &[]))
    }

    fn series(&self) -> &[u8] {
        self.split().0
    }

    fn fields(&self) -> BTreeMap<MetricName, FieldValue> {
        codec::decode(self.split().1).unwrap_or_default()
    }

    fn bytes(&self) -> usize {
        self.content.len() + ROW_BYTES
    }

    fn age(&self, now: Timestamp) -> Duration {
        now.since(self.measured_at)
    }

    fn is_stale(&self, now: Timestamp) -> bool {
        let interval = if self.interval.is_zero() { ASSUMED_INTERVAL } else { self.interval };
        self.age(now) > interval.max(MIN_INTERVAL) * STALE_INTERVALS
    }

    /// Without the fields of another row; `None` if there are no others.
    fn without(&self, other: &BTreeMap<MetricName, FieldValue>) -> Option<Self> {
        let mut fields = self.fields();
        fields.retain(|name, _| !other.contains_key(name));
        let times = (self.time, self.measured_at);
        let row = || Self::new(self.series().to_vec(), &fields, times, self.interval);
        (!fields.is_empty()).then(row)
    }

    pub(super) fn decode(&self, now: Timestamp) -> Option<LatestPoint> {
        let (measurement, tags) = codec::decode(self.series()).ok()?;
        Some(LatestPoint {
            measurement,
            tags,
            fields: self.fields(),
            time: self.time,
            age: self.age(now),
            interval: (!self.interval.is_zero()).then_some(self.interval),
            is_stale: self.is_stale(now),
        })
    }
}

/// Returns the interval after a newer value. A shorter distance halves it at most, so that a burst
/// does not make values stale that come regularly.
fn next_interval(before: Duration, distance: Duration) -> Duration {
    distance.min(MAX_INTERVAL).max(before / 2)
}

/// Returns the interval after an older value, as at the start, when the newest one is read first.
fn earlier_interval(before: Duration, distance: Duration) -> Duration {
    if before.is_zero() { distance.min(MAX_INTERVAL) } else { before.min(distance) }
}

impl DeviceSeries {
    /// Takes the values of a batch that are newer than the kept ones.
    pub(super) fn apply(&mut self, Rows(rows): Rows) {
        let mut cleaned = Cleaned::default();
        for row in rows {
            self.take(row, &mut cleaned);
        }
        if self.rows.capacity() > self.rows.len() + self.rows.len() / 4 {
            self.rows.shrink_to_fit();
        }
    }

    fn take(&mut self, mut new: Row, cleaned: &mut Cleaned) {
        let start = self.rows.partition_point(|row| row.series() < new.series());
        let same = self.rows[start..].iter().take_while(|row| row.series() == new.series()).count();
        let others = match &self.rows[start..start + same] {
            [one] if one.shape == new.shape => {
                if new.time < one.time {
                    let distance = one.time.since(new.time);
                    self.rows[start].interval = earlier_interval(one.interval, distance);
                    return;
                }
                new.interval = if new.time == one.time {
                    one.interval
                } else {
                    next_interval(one.interval, new.time.since(one.time))
                };
                Vec::new()
            }
            existing => match merge(existing, new) {
                (others, Some(row)) => {
                    new = row;
                    others
                }
                (_, None) => return,
            },
        };
        for old in self.rows.splice(start..start + same, others).collect::<Vec<_>>() {
            self.bytes -= old.bytes();
            self.series -= old.fields as usize;
        }
        let kept = self.rows[start..].iter().take_while(|row| row.series() == new.series());
        let (bytes, series) =
            kept.fold((0, 0), |sum, row| (sum.0 + row.bytes(), sum.1 + row.fields as usize));
        self.bytes += bytes;
        self.series += series;
        self.insert(new, same == 0, cleaned);
    }

    /// Inserts a row if the limits allow it; `is_new` if its series is.
    fn insert(&mut self, new: Row, is_new: bool, cleaned: &mut Cleaned) {
        let now = new.measured_at;
        if is_new && !std::mem::replace(&mut cleaned.of_forgotten, true) {
            self.retain(|row| row.age(now) <= FORGET_AFTER);
        }
        // Series that are no longer reported make room.
        if !self.has_room(&new) && !std::mem::replace(&mut cleaned.of_stale, true) {
            self.retain(|row| !row.is_stale(now));
        }
        if !self.has_room(&new) {
            self.dropped += u64::from(new.fields);
            return;
        }
        self.bytes += new.bytes();
        self.series += new.fields as usize;
        let place = self.rows.partition_point(|row| row.series() < new.series());
        self.rows.insert(place, new);
    }

    fn has_room(&self, new: &Row) -> bool {
        self.bytes + new.bytes() <= MAX_DEVICE_BYTES
            && self.series + new.fields as usize <= MAX_DEVICE_SERIES
    }

    fn retain(&mut self, is_kept: impl Fn(&Row) -> bool) {
        self.rows.retain(is_kept);
        self.bytes = self.rows.iter().map(Row::bytes).sum();
        self.series = self.rows.iter().map(|row| row.fields as usize).sum();
    }

    /// Returns the values of all series.
    pub(super) fn points(&self, now: Timestamp) -> impl Iterator<Item = LatestPoint> {
        self.rows.iter().filter_map(move |row| row.decode(now))
    }

    /// Returns the values of a measurement's series; `measurement` is from [`encoded_name`].
    pub(super) fn points_of(
        &self,
        measurement: &[u8],
        now: Timestamp,
    ) -> impl Iterator<Item = LatestPoint> {
        self.rows_of(measurement).filter_map(move |row| row.decode(now))
    }

    /// Returns the fresh rows of a measurement, to decode them without the lock.
    pub(super) fn fresh_rows_of(&self, measurement: &[u8], now: Timestamp) -> Vec<Row> {
        self.rows_of(measurement).filter(|row| !row.is_stale(now)).cloned().collect()
    }

    fn rows_of(&self, measurement: &[u8]) -> impl Iterator<Item = &Row> {
        let start = self.rows.partition_point(|row| row.series() < measurement);
        self.rows.iter().skip(start).take_while(move |row| row.series().starts_with(measurement))
    }

    /// Memory of the rows, in bytes.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.rows.iter().map(Row::bytes).sum()
    }

    /// Number of series.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.rows.iter().map(|row| row.fields().len()).sum()
    }
}

/// Merges a row with those of the same measurement and tags that have other fields: each field is
/// kept once, with its newest value. Returns the remaining rows, and what remains of the new one.
fn merge(existing: &[Row], new: Row) -> (Vec<Row>, Option<Row>) {
    let mut new = Some(new);
    let mut others = Vec::with_capacity(existing.len());
    for row in existing {
        let Some(fresh) = new.take() else {
            others.push(row.clone());
            continue;
        };
        if row.time <= fresh.time {
            others.extend(row.without(&fresh.fields()));
            let interval = next_interval(row.interval, fresh.time.since(row.time));
            let interval = if row.shape == fresh.shape { interval } else { fresh.interval };
            new = Some(Row { interval, ..fresh });
        } else {
            new = fresh.without(&row.fields());
            others.push(row.clone());
        }
    }
    (others, new)
}

/// Returns the start of the encoded series of a measurement.
pub(super) fn encoded_name(measurement: &str) -> Vec<u8> {
    // An array of two items: the measurement, and the tags.
    let mut bytes = vec![0x82];
    bytes.extend(codec::encode(&MetricName::from(measurement.to_owned())));
    bytes
}
