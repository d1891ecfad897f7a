//! One kind of time: microseconds since the Unix epoch, UTC.
//!
//! An integer in CBOR, RFC 3339 text in JSON. Callers read the clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Microseconds since 1970-01-01T00:00:00Z; may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// The text is not an RFC 3339 time.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a time; write it as RFC 3339, for example 2026-11-23T08:00:00Z")]
pub struct InvalidTimestamp(String);

impl Timestamp {
    /// The plausible range of a device's clock: a time outside of it is flagged (2020-01-01 to
    /// 2100-01-01), never refused.
    pub const PLAUSIBLE: std::ops::Range<Self> =
        Self(1_577_836_800_000_000)..Self(4_102_444_800_000_000);

    /// Whole microseconds since the Unix epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// A time from whole milliseconds since the Unix epoch; saturates.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The time that has passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.micros_since(earlier)).unwrap_or(0))
    }

    /// Microseconds since `other`, negative if `other` is later; saturates.
    #[must_use]
    pub const fn micros_since(self, other: Self) -> i64 {
        self.0.saturating_sub(other.0)
    }

    /// This time moved by a signed number of microseconds, such as the offset of a point in its
    /// batch; saturates.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Whether a working clock would show this time.
    #[must_use]
    pub fn is_plausible(self) -> bool {
        Self::PLAUSIBLE.contains(&self)
    }

    /// As a calendar time, clamped to the years that RFC 3339 can write.
    #[must_use]
    pub fn to_datetime(self) -> OffsetDateTime {
        const FIRST: i64 = -62_167_219_200_000_000; // 0000-01-01
        const LAST: i64 = 253_402_300_799_999_999; // 9999-12-31
        let nanos = i128::from(self.0.clamp(FIRST, LAST)) * 1000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// Saturates.
impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        self.plus_micros(signed_micros(duration))
    }
}

/// Saturates.
impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        self.plus_micros(-signed_micros(duration))
    }
}

fn signed_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl From<OffsetDateTime> for Timestamp {
    fn from(value: OffsetDateTime) -> Self {
        Self(i64::try_from(value.unix_timestamp_nanos().div_euclid(1000)).unwrap_or(i64::MAX))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(value: std::time::SystemTime) -> Self {
        OffsetDateTime::from(value).into()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_datetime().format(&Rfc3339) {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        OffsetDateTime::parse(text, &Rfc3339)
            .map(Self::from)
            .map_err(|_| InvalidTimestamp(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(de::Error::custom)
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_integer_represent_the_same_instant() -> Result<(), InvalidTimestamp> {
        let time: Timestamp = "2026-11-23T08:00:00.000001Z".parse()?;
        assert_eq!(time.micros(), 1_795_420_800_000_001);
        assert_eq!(time.to_string(), "2026-11-23T08:00:00.000001Z");
        assert!(time.is_plausible());
        Ok(())
    }

    #[test]
    fn durations_move_a_time_within_its_range() {
        let time = Timestamp(5);
        assert_eq!(time + Duration::from_millis(2), Timestamp(2_005));
        assert_eq!(time - Duration::from_micros(7), Timestamp(-2));
        assert_eq!(time + Duration::MAX, Timestamp(i64::MAX));
        assert_eq!(Timestamp(-9) - Duration::MAX, Timestamp(i64::MIN));
        assert_eq!(Timestamp(9).since(time), Duration::from_micros(4));
        assert_eq!(time.since(Timestamp(9)), Duration::ZERO);
        assert_eq!(time.micros_since(Timestamp(9)), -4);
    }

    #[test]
    fn implausible_times_are_displayed_and_flagged_but_accepted() {
        for absurd in [i64::MIN, i64::MAX, 0] {
            let time = Timestamp(absurd);
            assert!(!time.to_string().is_empty());
            assert!(!time.is_plausible());
        }
    }
}
