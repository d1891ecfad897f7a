//! The retention of a project's metrics.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::names::InvalidName;

/// The text of [`Retention::Default`].
const DEFAULT: &str = "default";
/// Maximum number of days: 27 years.
const MAX_DAYS: u16 = 9_999;
/// Maximum number of weeks.
const MAX_WEEKS: u16 = 999;

/// The retention of a project's metrics. Written as `default`, or as days, `30d`; weeks, `2w`, are
/// accepted, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Retention {
    /// The metric store's own retention.
    #[default]
    Default,
    /// Days, from 1 to 9,999.
    Days(u16),
}

impl Retention {
    /// The rule, as the rest of a sentence that starts with the value.
    pub const RULE: &'static str =
        "is not a retention: use days from 1d to 9999d, weeks from 1w to 999w, or default";

    /// The days; `None` for the store's default.
    #[must_use]
    pub const fn days(self) -> Option<u16> {
        match self {
            Self::Default => None,
            Self::Days(days) => Some(days),
        }
    }
}

impl FromStr for Retention {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let number = |digits: &str, most: u16| {
            let is_plain = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|number| is_plain && *number <= most)
        };
        let days = if text == DEFAULT {
            return Ok(Self::Default);
        } else if let Some(digits) = text.strip_suffix('d') {
            number(digits, MAX_DAYS)
        } else if let Some(digits) = text.strip_suffix('w') {
            number(digits, MAX_WEEKS).map(|weeks| weeks * 7)
        } else {
            None
        };
        let invalid = || InvalidName { value: text.chars().take(80).collect(), rule: Self::RULE };
        days.map(Self::Days).ok_or_else(invalid)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str(DEFAULT),
            Self::Days(days) => write!(f, "{days}d"),
        }
    }
}

impl Serialize for Retention {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retentions_round_trip() {
        for (text, shown) in [
            ("default", "default"),
            ("1d", "1d"),
            ("30d", "30d"),
            ("9999d", "9999d"),
            ("2w", "14d"),
            ("999w", "6993d"),
        ] {
            let read = text.parse::<Retention>().map(|retention| retention.to_string());
            assert_eq!(read.ok().as_deref(), Some(shown), "{text}");
        }
        for wrong in [
            "", "0d", "01d", "1", "d", "w", "-1d", "+1d", "1dd", "2ww", "10000d", "1000w", "1h",
            "30 d", "Default", "default ", "forever", "1.5d", "٣d",
        ] {
            assert!(wrong.parse::<Retention>().is_err(), "{wrong:?} was taken");
        }
    }
}
