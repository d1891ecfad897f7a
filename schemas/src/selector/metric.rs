//! Metrics in selectors: `measurement.field`, and the tags of its series.

use super::pattern::Pattern;
use crate::metric_names;

/// A field of a measurement, in the series that have the tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The measurement; may contain dots.
    pub measurement: String,
    /// Tests that the tags of a series must all satisfy.
    pub tags: Vec<TagTest>,
    /// The field.
    pub field: String,
    /// Whether it was written as `metric.NAME`, which is never taken for a misspelt one.
    pub is_explicit: bool,
}

/// A test of a series' tags: `path=/data`, or `/data` for a tag of any name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagTest {
    /// Name of the tag; `None` for any.
    pub name: Option<String>,
    /// Pattern of its value.
    pub value: Pattern,
}

impl TagTest {
    /// Whether the tag satisfies the test.
    #[must_use]
    pub fn holds(&self, name: &str, value: &str) -> bool {
        self.name.as_ref().is_none_or(|own| own == name) && self.value.matches(value)
    }
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
}

impl Comparison {
    /// All comparisons, the longer operators first.
    pub(super) const ALL: [(&'static str, Self); 7] = [
        ("<=", Self::AtMost),
        (">=", Self::AtLeast),
        ("!=", Self::NotEqual),
        ("==", Self::Equal),
        ("<", Self::Below),
        (">", Self::Above),
        ("=", Self::Equal),
    ];

    /// Whether it holds.
    #[must_use]
    pub fn holds<T: PartialOrd + Copy>(self, value: T, limit: T) -> bool {
        match self {
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
            Self::Equal => value == limit,
            Self::NotEqual => value != limit,
        }
    }

    /// The operator, as in SQL too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Equal => "=",
            Self::NotEqual => "!=",
        }
    }

    pub(super) const fn is_equality(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual)
    }
}

/// The agent's measurements, with the first and the last of their fields in the table of names.
const OWN: [(&str, &str, &str); 12] = [
    ("cpu", "usage_user", "usage_active"),
    ("mem", "total", "used_percent"),
    ("swap", "total", "out"),
    ("system", "load1", "uptime_format"),
    ("processes", "running", "total_threads"),
    ("disk", "total", "inodes_used_percent"),
    ("diskio", "reads", "merged_writes"),
    ("net", "bytes_sent", "speed"),
    ("wireless", "status", "missed_beacon"),
    ("temp", "temp_high", "temp_crit"),
    ("battery", "percent", "model"),
    ("muster_agent", "rss", "sample_us"),
];

/// The agent's measurements.
pub(super) fn own_measurements() -> impl Iterator<Item = &'static str> {
    OWN.into_iter().map(|(measurement, ..)| measurement)
}

/// The fields that the agent reports of a measurement; none for one that is not the agent's.
pub(super) fn own_fields(measurement: &str) -> impl Iterator<Item = &'static str> {
    let found = OWN.into_iter().find(|(own, ..)| *own == measurement);
    let numbers = found.and_then(|(_, first, last)| {
        Some(metric_names::number(first)?..=metric_names::number(last)?)
    });
    let temp = (measurement == "temp").then_some("temp");
    numbers.into_iter().flatten().filter_map(|number| metric_names::name(number.into())).chain(temp)
}

/// Splits `measurement.field` at the last dot, if it is a metric that the agent reports.
pub(super) fn own_metric(name: &str) -> Option<(&str, &str)> {
    let (measurement, field) = name.rsplit_once('.')?;
    own_fields(measurement).any(|own| own == field).then_some((measurement, field))
}
