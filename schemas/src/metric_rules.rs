//! Fixed field types of the agent's own measurements, which agents and servers apply.
//!
//! A time-series store fixes the type of a field by its first point. Without a rule, one device that
//! writes text into `cpu.usage_user` would cause the numbers of all others to be refused.

use crate::metrics::{FieldValue, Point};

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// A number with a fraction.
    Float,
    /// An integer.
    Int,
    /// Text.
    Text,
}

use FieldType::{Float, Int, Text};

/// The measurements of agents, with the types of their fields. A name that ends with `*` matches
/// all names with that prefix.
const FIELDS: &[(&str, &[(&str, FieldType)])] = &[
    ("cpu", &[("usage_*", Float)]),
    ("mem", &[("used_percent", Float), ("available_percent", Float), ("*", Int)]),
    ("swap", &[("used_percent", Float), ("*", Int)]),
    (
        "system",
        &[
            ("load1", Float),
            ("load5", Float),
            ("load15", Float),
            ("uptime", Int),
            ("n_*", Int),
            ("uptime_format", Text),
        ],
    ),
    ("processes", &[("*", Int)]),
    ("disk", &[("used_percent", Float), ("inodes_used_percent", Float), ("*", Int)]),
    ("diskio", &[("io_await", Float), ("io_svctm", Float), ("io_util", Float), ("*", Int)]),
    ("net", &[("*", Int)]),
    ("wireless", &[("*", Int)]),
    ("temp", &[("*", Float)]),
    ("battery", &[("cycles", Int), ("time_*", Int), ("state", Text), ("*", Float)]),
    ("muster_agent", &[("cpu_seconds", Float), ("*", Int)]),
    ("muster_agent_local", &[("*", Int)]),
];

/// The fixed type of a field; `None` for fields of applications' own measurements.
#[must_use]
pub fn field_type(measurement: &str, field: &str) -> Option<FieldType> {
    let (_, fields) = FIELDS.iter().find(|(name, _)| *name == measurement)?;
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(beginning) => field.starts_with(beginning),
        None => field == pattern,
    };
    fields.iter().find(|(pattern, _)| fits(pattern)).map(|(_, kind)| *kind)
}

/// A field of an agent's own measurement has another type than the fixed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a field of a built-in measurement has another type than the fixed one")]
pub struct WrongType;

impl Point {
    /// Converts the fields to their fixed types. Numbers are converted if nothing is lost: JSON has one
    /// kind of number, and many writers write 1.0 as 1. Nothing else is converted.
    ///
    /// # Errors
    /// When a field has another type.
    pub fn fix_types(&mut self) -> Result<(), WrongType> {
        if !FIELDS.iter().any(|(name, _)| *name == self.measurement.as_str()) {
            return Ok(());
        }
        for (name, value) in &mut self.fields {
            let Some(kind) = field_type(self.measurement.as_str(), name.as_str()) else { continue };
            match (kind, &*value) {
                (Float, FieldValue::Float(_))
                | (Int, FieldValue::Int(_))
                | (Text, FieldValue::Text(_)) => {}
                #[expect(clippy::cast_precision_loss, reason = "the field is a float everywhere")]
                (Float, FieldValue::Int(number)) => *value = FieldValue::Float(*number as f64),
                (Int, FieldValue::Float(number)) if is_whole(*number) => {
                    #[expect(clippy::cast_possible_truncation, reason = "it is whole and small")]
                    let whole = *number as i64;
                    *value = FieldValue::Int(whole);
                }
                _ => return Err(WrongType),
            }
        }
        Ok(())
    }
}

/// Whether `f64` and `i64` both represent it exactly.
fn is_whole(number: f64) -> bool {
    number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_fields_have_a_fixed_type_and_others_any_type() {
        for (measurement, field, expected) in [
            ("cpu", "usage_user", Some(Float)),
            ("cpu", "custom", None),
            ("mem", "total", Some(Int)),
            ("mem", "used_percent", Some(Float)),
            ("temp", "temp", Some(Float)),
            ("battery", "state", Some(Text)),
            ("battery", "percent", Some(Float)),
            ("muster_agent", "cpu_seconds", Some(Float)),
            ("queue", "usage_user", None),
        ] {
            assert_eq!(field_type(measurement, field), expected, "{measurement}.{field}");
        }
    }

    #[test]
    fn a_whole_number_becomes_a_float_and_text_is_rejected() {
        let mut point = Point::new("temp").field("temp", 45_i64);
        assert_eq!(point.fix_types(), Ok(()));
        assert_eq!(point, Point::new("temp").field("temp", 45.0));
        let text = FieldValue::Text("x".to_owned());
        let mut point = Point::new("cpu").field("usage_user", text.clone());
        assert_eq!(point.fix_types(), Err(WrongType));
        let mut point = Point::new("mem").field("total", 8e9);
        assert_eq!(point.fix_types(), Ok(()));
        assert_eq!(point, Point::new("mem").field("total", 8_000_000_000_i64));
        assert_eq!(Point::new("net").field("speed", 1.5).fix_types(), Err(WrongType));
        assert_eq!(Point::new("queue").field("usage_user", text).fix_types(), Ok(()));
    }
}
