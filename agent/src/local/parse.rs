//! Parses the data of applications, line protocol or JSON, into points that are not validated yet.
//!
//! InfluxData's own parser reads line protocol. JSON is an object, or an array of objects:
//! `{"measurement": "queue", "tags": {"name": "a"}, "fields": {"len": 3}, "time": …}`. `time` is
//! RFC 3339 text, or a number of seconds, milliseconds, microseconds or nanoseconds since 1970.
//!
//! The unit of a number is `"unit": "s" | "ms" | "us" | "ns"`, or else is derived from its size:
//! only times near now are accepted, and no two units overlap there. All numbers of JSON fields are
//! floats, because most writers write 1.0 as 1, and a field must not change its type.

use influxdb_line_protocol::{FieldValue as LineValue, ParsedLine, parse_lines, split_lines};
use muster_schemas::Timestamp;
use muster_schemas::metrics::FieldValue;
use serde_json::{Map, Value};

use super::point::{self, Cause, MAX_LINE_BYTES, WrittenPoint};

/// Format of an application's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// InfluxDB's line protocol.
    Lines,
    /// JSON.
    Json,
}

/// Parses one piece of data. `may_read` is called before each point is parsed, with its bytes;
/// `each` gets every point, or the cause of its rejection.
pub fn read(
    format: Format,
    bytes: &[u8],
    mut may_read: impl FnMut(usize) -> bool,
    mut each: impl FnMut(Result<WrittenPoint, Cause>),
) {
    match format {
        Format::Lines => match std::str::from_utf8(bytes) {
            Ok(text) => {
                for line in split_lines(text) {
                    read_line(line, &mut may_read, &mut each);
                }
            }
            // An invalid line does not affect the others.
            Err(_) => {
                for line in bytes.split(|byte| *byte == b'\n') {
                    match std::str::from_utf8(line) {
                        Ok(line) => read_line(line, &mut may_read, &mut each),
                        Err(_) if may_read(line.len()) => each(Err(Cause::Malformed)),
                        Err(_) => each(Err(Cause::Rate)),
                    }
                }
            }
        },
        Format::Json => read_json(bytes, &mut may_read, &mut each),
    }
}

fn read_line(
    line: &str,
    may_read: &mut impl FnMut(usize) -> bool,
    each: &mut impl FnMut(Result<WrittenPoint, Cause>),
) {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return;
    }
    if !may_read(line.len().min(MAX_LINE_BYTES)) {
        return each(Err(Cause::Rate));
    }
    if line.len() > MAX_LINE_BYTES {
        return each(Err(Cause::TooLong));
    }
    for parsed in parse_lines(line) {
        each(parsed.map_err(|_| Cause::Malformed).and_then(|line| from_line(&line)));
    }
}

fn from_line(line: &ParsedLine<'_>) -> Result<WrittenPoint, Cause> {
    let mut building = point::PointBuilder::new(line.series.measurement.as_str())?;
    for (name, value) in line.series.tag_set.iter().flatten() {
        building.tag(name.as_str(), value.as_str())?;
    }
    for (name, value) in &line.field_set {
        let value = match value {
            LineValue::I64(number) => FieldValue::Int(*number),
            LineValue::U64(number) => (*number).into(),
            LineValue::F64(number) => FieldValue::Float(*number),
            LineValue::Boolean(is) => FieldValue::Bool(*is),
            LineValue::String(text) => FieldValue::Text(text.as_str().to_owned()),
        };
        building.field(name.as_str(), value)?;
    }
    let time = line.timestamp.map(|number| from_number(number.into(), None)).transpose()?;
    building.finish(time)
}

fn read_json(
    bytes: &[u8],
    may_read: &mut impl FnMut(usize) -> bool,
    each: &mut impl FnMut(Result<WrittenPoint, Cause>),
) {
    if bytes.trim_ascii().is_empty() {
        return;
    }
    if !may_read(bytes.len()) {
        return each(Err(Cause::Rate));
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(object)) => each(from_json(object)),
        Ok(Value::Array(objects)) => {
            for (index, object) in objects.into_iter().enumerate() {
                // The check of the bytes above covers the first object.
                each(match object {
                    _ if index > 0 && !may_read(0) => Err(Cause::Rate),
                    Value::Object(object) => from_json(object),
                    _ => Err(Cause::Malformed),
                });
            }
        }
        _ => each(Err(Cause::Malformed)),
    }
}

fn from_json(mut object: Map<String, Value>) -> Result<WrittenPoint, Cause> {
    let mut part = |name: &str| match object.remove(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(part)) => Ok(part),
        Some(_) => Err(Cause::Malformed),
    };
    let (tags, fields) = (part("tags")?, part("fields")?);
    let Some(Value::String(measurement)) = object.remove("measurement") else {
        return Err(Cause::Malformed);
    };
    let mut building = point::PointBuilder::new(&measurement)?;
    for (name, value) in tags {
        match value {
            Value::String(text) => building.tag(&name, &text)?,
            Value::Number(number) => building.tag(&name, &number.to_string())?,
            Value::Bool(is) => building.tag(&name, &is.to_string())?,
            Value::Null => {}
            _ => return Err(Cause::Malformed),
        }
    }
    for (name, value) in fields {
        let value = match value {
            Value::Number(number) => FieldValue::Float(number.as_f64().ok_or(Cause::Malformed)?),
            Value::Bool(is) => FieldValue::Bool(is),
            Value::String(text) => FieldValue::Text(text),
            Value::Null => continue,
            _ => return Err(Cause::Malformed),
        };
        building.field(&name, value)?;
    }
    let unit = match object.remove("unit") {
        None | Some(Value::Null) => None,
        Some(Value::String(unit)) => Some(unit),
        Some(_) => return Err(Cause::Malformed),
    };
    let time = match object.remove("time") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.parse().map_err(|_| Cause::Time)?),
        Some(Value::Number(number)) => Some(match number.as_i64() {
            Some(number) => from_number(number.into(), unit.as_deref())?,
            None => from_fraction(number.as_f64().ok_or(Cause::Time)?, unit.as_deref())?,
        }),
        Some(_) => return Err(Cause::Malformed),
    };
    // An unknown key is more likely a mistake than data to be ignored.
    if object.is_empty() { building.finish(time) } else { Err(Cause::Malformed) }
}

/// Returns the number of nanoseconds of a unit. Without a unit, it is derived from the size: values
/// below a bound belong to the unit before it, for any time from 1973 to 5138.
fn nanos_of(size: u128, unit: Option<&str>) -> Result<i128, Cause> {
    Ok(match unit {
        Some("s") => 1_000_000_000,
        Some("ms") => 1_000_000,
        Some("us") => 1_000,
        Some("ns") => 1,
        Some(_) => return Err(Cause::Time),
        None if size < 100_000_000_000 => 1_000_000_000,
        None if size < 100_000_000_000_000 => 1_000_000,
        None if size < 100_000_000_000_000_000 => 1_000,
        None => 1,
    })
}

fn from_number(number: i128, unit: Option<&str>) -> Result<Timestamp, Cause> {
    let nanos = number * nanos_of(number.unsigned_abs(), unit)?;
    i64::try_from(nanos.div_euclid(1000)).map(Timestamp).map_err(|_| Cause::Time)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the first is a size and may saturate, and the second is below 9e18"
)]
fn from_fraction(number: f64, unit: Option<&str>) -> Result<Timestamp, Cause> {
    // The conversion saturates; an absurd time is rejected later.
    let micros = number * nanos_of(number.abs() as u128, unit)? as f64 / 1000.0;
    if micros.abs() < 9e18 { Ok(Timestamp(micros as i64)) } else { Err(Cause::Time) }
}
