//! Metric batches: measurements of a device for the time-series store.
//!
//! A batch is positional CBOR, `[1, time, [* point]]`, and a point is
//! `[measurement, tags, fields]` or, if it was sampled at another time than its batch,
//! `[measurement, tags, fields, offset]`. Names of Telegraf's vocabulary are encoded as small integers
//! ([`crate::metric_names`]), any other name as text, so a batch needs no state on either side. A
//! batch can be compressed ([`crate::compress`]), as those of the backlog are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeTuple};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Timestamp;
use crate::codec::{self, DecodeError};
use crate::compress;
use crate::metric_names;

mod messages;
mod text;

pub use messages::MAX_BATCH_BYTES;
pub use text::{MAX_TEXT_BYTES, clean_text};

/// The version of the batch's shape that this code writes.
pub const BATCH_VERSION: u8 = 1;
/// Maximum number of points in a batch.
pub const MAX_POINTS: usize = 10_000;
/// Maximum number of tags, and of fields, in a point.
pub const MAX_ENTRIES: usize = 256;
/// Maximum size of a compressed batch when it is decompressed, in bytes.
pub const MAX_DECOMPRESSED_BYTES: usize = 4 << 20;

/// A measurement's, tag's or field's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricName(Cow<'static, str>);

impl MetricName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&'static str> for MetricName {
    fn from(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }
}

impl From<String> for MetricName {
    fn from(name: String) -> Self {
        Self(Cow::Owned(name))
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// A number with a fraction; finite.
    Float(f64),
    /// An integer. Values above `i64::MAX` are clamped when they are sampled.
    Int(i64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
}

impl From<f64> for FieldValue {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<i64> for FieldValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for FieldValue {
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<bool> for FieldValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// Values of one series at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The measurement: `cpu`, `mem`, `disk` …
    pub measurement: MetricName,
    /// The tags: `cpu=cpu0`, `path=/`. The device itself is not a tag here: ingest adds it.
    pub tags: BTreeMap<MetricName, String>,
    /// The values; never empty.
    pub fields: BTreeMap<MetricName, FieldValue>,
    /// Microseconds between the batch's time and the point's own; 0 for most.
    pub offset: i64,
}

/// The points of one sampling round.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricBatch {
    /// The time, by the server's clock as far as the device knows it (clock skew is corrected once,
    /// before a batch is queued).
    pub time: Timestamp,
    /// The points.
    pub points: Vec<Point>,
}

/// A batch cannot be decoded, or exceeds a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    /// The bytes are not a batch.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A limit is exceeded.
    #[error("{what} in point {point}")]
    Limit {
        /// The limit, with its value.
        what: &'static str,
        /// The index of the point.
        point: usize,
    },
    /// Too many points.
    #[error("{0} points in one batch; the limit is {MAX_POINTS}")]
    TooManyPoints(usize),
}

/// Points that were dropped from a batch because they exceed a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedPoints {
    /// Their number.
    pub points: usize,
    /// The limit that the first of them exceeds.
    pub reason: Option<&'static str>,
}

impl MetricBatch {
    /// Encodes the batch.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Encodes the batch, compressed if that is smaller.
    #[must_use]
    pub fn encode_compressed(&self) -> Vec<u8> {
        compress::compress(self.encode())
    }

    /// Decodes a batch, compressed or not, and enforces the limits of this module.
    ///
    /// # Errors
    /// When the bytes are not a batch, or a limit is exceeded.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidBatch> {
        let batch = Self::decode_unchecked(bytes)?;
        for (index, point) in batch.points.iter().enumerate() {
            point.check().map_err(|what| InvalidBatch::Limit { what, point: index })?;
        }
        Ok(batch)
    }

    /// Decodes a batch like [`Self::decode`], and drops the points that exceed a limit. Also returns
    /// their number, and the reason of the first.
    ///
    /// # Errors
    /// When the bytes are not a batch, or have too many points.
    pub fn decode_valid_points(bytes: &[u8]) -> Result<(Self, DroppedPoints), InvalidBatch> {
        let mut batch = Self::decode_unchecked(bytes)?;
        let mut dropped = DroppedPoints::default();
        batch.points.retain(|point| match point.check() {
            Ok(()) => true,
            Err(what) => {
                dropped.points += 1;
                dropped.reason.get_or_insert(what);
                false
            }
        });
        Ok((batch, dropped))
    }

    fn decode_unchecked(bytes: &[u8]) -> Result<Self, InvalidBatch> {
        let batch: Self = if compress::is_compressed(bytes) {
            let whole = compress::decompress(bytes, MAX_DECOMPRESSED_BYTES).ok_or_else(|| {
                let problem = "neither a batch nor a compressed one of at most 4 MiB";
                DecodeError::Malformed(problem.to_owned())
            })?;
            codec::decode(&whole)?
        } else {
            codec::decode(bytes)?
        };
        if batch.points.len() > MAX_POINTS {
            return Err(InvalidBatch::TooManyPoints(batch.points.len()));
        }
        Ok(batch)
    }
}

impl Point {
    /// A point without tags or fields yet, at its batch's time.
    #[must_use]
    pub fn new(measurement: &'static str) -> Self {
        Self {
            measurement: measurement.into(),
            tags: BTreeMap::new(),
            fields: BTreeMap::new(),
            offset: 0,
        }
    }

    /// Adds a tag; an empty value adds nothing (a store cannot hold an empty tag). Control characters
    /// are replaced: see [`clean_text`].
    #[must_use]
    pub fn tag(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.is_empty() {
            let clean = match clean_text(&value) {
                Cow::Borrowed(same) if same.len() == value.len() => value,
                clean => clean.into_owned(),
            };
            self.tags.insert(name.into(), clean);
        }
        self
    }

    /// Adds a field; a float that is not finite adds nothing.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl Into<FieldValue>) -> Self {
        let value = value.into();
        if !matches!(value, FieldValue::Float(number) if !number.is_finite()) {
            self.fields.insert(name.into(), value);
        }
        self
    }

    fn check(&self) -> Result<(), &'static str> {
        let name_fits = |name: &MetricName| {
            !name.as_str().is_empty()
                && name.as_str().len() <= MAX_TEXT_BYTES
                && !name.as_str().chars().any(char::is_control)
        };
        let text_fits = |text: &str| text.len() <= MAX_TEXT_BYTES;
        if !name_fits(&self.measurement) {
            return Err("an empty, too long (over 1024 bytes) or unprintable measurement");
        }
        if self.fields.is_empty() {
            return Err("no field");
        }
        if self.tags.len() > MAX_ENTRIES || self.fields.len() > MAX_ENTRIES {
            return Err("more than 256 tags or fields");
        }
        if !self.tags.keys().chain(self.fields.keys()).all(name_fits) {
            return Err("an empty, too long (over 1024 bytes) or unprintable name");
        }
        if !self
            .tags
            .values()
            .all(|text| text_fits(text) && !text.is_empty() && !text.chars().any(char::is_control))
        {
            return Err("an empty, too long (over 1024 bytes) or unprintable tag value");
        }
        let value_fits = |value: &FieldValue| match value {
            FieldValue::Float(number) => number.is_finite(),
            FieldValue::Text(text) => text_fits(text),
            FieldValue::Int(_) | FieldValue::Bool(_) => true,
        };
        if !self.fields.values().all(value_fits) {
            return Err("a field that is not finite or longer than 1024 bytes");
        }
        Ok(())
    }
}

impl Serialize for MetricName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match metric_names::number(&self.0) {
            Some(number) => serializer.serialize_u16(number),
            None => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for MetricName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = MetricName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a metric name: text, or a number of the table of names")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<MetricName, E> {
                metric_names::name(number)
                    .map(MetricName::from)
                    .ok_or_else(|| E::custom(format!("no metric name has the number {number}")))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MetricName, E> {
                Ok(match metric_names::well_known(text) {
                    Some(name) => name.into(),
                    None => text.to_owned().into(),
                })
            }
        }
        deserializer.deserialize_any(Name)
    }
}

impl Serialize for FieldValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Text(value) => serializer.serialize_str(value),
        }
    }
}

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Field;
        impl Visitor<'_> for Field {
            type Value = FieldValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a boolean or text")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<FieldValue, E> {
                Ok(FieldValue::Float(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<FieldValue, E> {
                Ok(FieldValue::Int(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<FieldValue, E> {
                Ok(value.into())
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<FieldValue, E> {
                Ok(FieldValue::Bool(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<FieldValue, E> {
                Ok(FieldValue::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Field)
    }
}

/// Writes a map by hand: `BTreeMap`'s own order is by name, so that a batch's bytes depend only on
/// its content.
struct AsMap<'a, V>(&'a BTreeMap<MetricName, V>);

impl<V: Serialize> Serialize for AsMap<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Reads a map without duplicate names, in either form (number or text).
struct FromMap<V>(BTreeMap<MetricName, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for FromMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        codec::unique_map(deserializer).map(Self)
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(if self.offset == 0 { 3 } else { 4 })?;
        tuple.serialize_element(&self.measurement)?;
        tuple.serialize_element(&AsMap(&self.tags))?;
        tuple.serialize_element(&AsMap(&self.fields))?;
        if self.offset != 0 {
            tuple.serialize_element(&self.offset)?;
        }
        tuple.end()
    }
}

/// The next element of a positional array, or an error that names what is missing.
fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(
    access: &mut A,
    element: &'static str,
) -> Result<T, A::Error> {
    access.next_element()?.ok_or_else(|| de::Error::custom(format!("{element} is missing")))
}

/// A positional array must end here.
fn end<'de, A: SeqAccess<'de>>(access: &mut A) -> Result<(), A::Error> {
    match access.next_element::<de::IgnoredAny>()? {
        None => Ok(()),
        Some(_) => Err(de::Error::custom("the array has too many elements")),
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PointVisitor;
        impl<'de> Visitor<'de> for PointVisitor {
            type Value = Point;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a point: [measurement, tags, fields, ? offset]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Point, A::Error> {
                let measurement = next(&mut access, "the measurement")?;
                let tags: FromMap<String> = next(&mut access, "the tags")?;
                let fields: FromMap<FieldValue> = next(&mut access, "the fields")?;
                let offset = access.next_element()?;
                if offset.is_some() {
                    end(&mut access)?;
                }
                Ok(Point {
                    measurement,
                    tags: tags.0,
                    fields: fields.0,
                    offset: offset.unwrap_or(0),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Point, A::Error> {
                Err(de::Error::custom("a point is an array, not a map"))
            }
        }
        deserializer.deserialize_seq(PointVisitor)
    }
}

impl Serialize for MetricBatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (BATCH_VERSION, self.time, &self.points).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MetricBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BatchVisitor;
        impl<'de> Visitor<'de> for BatchVisitor {
            type Value = MetricBatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a metric batch: [1, time, points]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<MetricBatch, A::Error> {
                let version: u8 = next(&mut access, "the version")?;
                if version != BATCH_VERSION {
                    return Err(de::Error::custom(format!(
                        "version {version} of a metric batch is unknown"
                    )));
                }
                let time = next(&mut access, "the time")?;
                let points = next(&mut access, "the list of points")?;
                end(&mut access)?;
                Ok(MetricBatch { time, points })
            }
        }
        deserializer.deserialize_seq(BatchVisitor)
    }
}

#[cfg(test)]
mod tests;
