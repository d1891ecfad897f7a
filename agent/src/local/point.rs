//! An application's point, and its limits: sizes, names, and reserved tags.

use muster_schemas::Timestamp;
use muster_schemas::metrics::{FieldValue, MAX_TEXT_BYTES, MetricName, Point, clean_text};

/// Maximum length of a line, in bytes.
pub(super) const MAX_LINE_BYTES: usize = 8 * 1024;
/// Maximum number of tags of a point.
const MAX_TAGS: usize = 32;
/// Maximum number of fields of a point.
const MAX_FIELDS: usize = 64;
/// Maximum length of a name of a measurement, tag or field, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Maximum length of a tag's value, in bytes: each distinct value is a series.
const MAX_TAG_VALUE_BYTES: usize = 256;

/// Tags that the servers set on every point; those of an application are removed.
const SERVER_TAGS: [&str; 4] = ["host", "device", "device_id", "project"];

/// The reason why a point was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// It cannot be parsed.
    Malformed,
    /// A line of over 8 KiB, a name of over 128 bytes, a tag of over 256, a text of over 1,024.
    TooLong,
    /// Over 32 tags or 64 fields.
    TooMany,
    /// A name that no store accepts, or a measurement of the agent itself.
    Name,
    /// A time that is not near now.
    Time,
    /// The maximum number of series is reached.
    Series,
    /// The rate limit is exceeded.
    Rate,
    /// The queue of waiting points is full.
    Full,
    /// A field of a built-in measurement with a type other than the fixed one.
    Type,
    /// The maximum number of open streams is reached; counts streams.
    Streams,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::TooLong,
        Self::TooMany,
        Self::Name,
        Self::Time,
        Self::Series,
        Self::Rate,
        Self::Full,
        Self::Type,
        Self::Streams,
    ];

    /// Returns its name, as in the status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::TooMany => "too_many",
            Self::Name => "name",
            Self::Time => "time",
            Self::Series => "series",
            Self::Rate => "rate",
            Self::Full => "full",
            Self::Type => "type",
            Self::Streams => "streams",
        }
    }

    /// Returns the name of the field that counts it.
    pub(super) const fn as_field(self) -> &'static str {
        match self {
            Self::Malformed => "dropped_malformed",
            Self::TooLong => "dropped_too_long",
            Self::TooMany => "dropped_too_many",
            Self::Name => "dropped_name",
            Self::Time => "dropped_time",
            Self::Series => "dropped_series",
            Self::Rate => "dropped_rate",
            Self::Full => "dropped_full",
            Self::Type => "dropped_type",
            Self::Streams => "dropped_streams",
        }
    }
}

/// A point as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenPoint {
    /// The point, within the limits on sizes and names.
    pub point: Point,
    /// Time of the measurement, by the device's clock; `None` means now.
    pub time: Option<Timestamp>,
    /// Number of tags and fields that were removed because the servers set them.
    pub removed_entries: u64,
}

/// A point that is being parsed.
pub(super) struct PointBuilder {
    point: Point,
    removed_entries: u64,
}

impl PointBuilder {
    pub(super) fn new(measurement: &str) -> Result<Self, Cause> {
        check_name(measurement)?;
        let measurement = intern_name(&clean_text(measurement));
        Ok(Self { point: Point { measurement, ..Point::new("") }, removed_entries: 0 })
    }

    pub(super) fn tag(&mut self, name: &str, value: &str) -> Result<(), Cause> {
        check_name(name)?;
        if SERVER_TAGS.contains(&name) {
            self.removed_entries += 1;
            return Ok(());
        }
        if value.len() > MAX_TAG_VALUE_BYTES {
            return Err(Cause::TooLong);
        }
        // The store cannot hold an empty tag.
        if !value.is_empty() {
            let name = intern_name(&clean_text(name));
            self.point.tags.insert(name, clean_text(value).into_owned());
        }
        if self.point.tags.len() > MAX_TAGS { Err(Cause::TooMany) } else { Ok(()) }
    }

    pub(super) fn field(&mut self, name: &str, value: FieldValue) -> Result<(), Cause> {
        check_name(name)?;
        // A field with the name of a tag could not be queried.
        if SERVER_TAGS.contains(&name) {
            self.removed_entries += 1;
            return Ok(());
        }
        match &value {
            FieldValue::Float(number) if !number.is_finite() => return Err(Cause::Malformed),
            FieldValue::Text(text) if text.len() > MAX_TEXT_BYTES => return Err(Cause::TooLong),
            _ => {}
        }
        self.point.fields.insert(intern_name(&clean_text(name)), value);
        if self.point.fields.len() > MAX_FIELDS { Err(Cause::TooMany) } else { Ok(()) }
    }

    pub(super) fn finish(self, time: Option<Timestamp>) -> Result<WrittenPoint, Cause> {
        let Self { mut point, removed_entries: left_out } = self;
        if point.fields.is_empty() {
            return Err(Cause::Malformed);
        }
        point.fix_types().map_err(|_| Cause::Type)?;
        Ok(WrittenPoint { point, time, removed_entries: left_out })
    }
}

/// Returns a name that may be long-lived: names of the vocabulary are not allocated again.
fn intern_name(text: &str) -> MetricName {
    match muster_schemas::metric_names::well_known(text) {
        Some(existing) => existing.into(),
        None => text.to_owned().into(),
    }
}

fn check_name(name: &str) -> Result<(), Cause> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Cause::TooLong);
    }
    // InfluxDB reserves `time` and names that start with an underscore.
    let is_fit = !name.is_empty()
        && name != "time"
        && !name.starts_with('_')
        && !name.starts_with(char::is_control);
    if is_fit { Ok(()) } else { Err(Cause::Name) }
}

/// Returns the maximum encoded size of a point, in bytes.
pub(super) fn size_of(point: &Point) -> usize {
    let tags = point.tags.iter().map(|(name, value)| name.as_str().len() + value.len() + 6);
    let fields = point.fields.iter().map(|(name, value)| {
        let value = match value {
            FieldValue::Text(text) => text.len() + 3,
            _ => 9,
        };
        name.as_str().len() + 3 + value
    });
    point.measurement.as_str().len() + 20 + tags.sum::<usize>() + fields.sum::<usize>()
}
