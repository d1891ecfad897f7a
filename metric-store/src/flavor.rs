//! The InfluxDB generation of a binary.

use std::fmt;

/// The generations of InfluxDB, which differ in configuration, authentication and API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// 1.x: databases, users with passwords, InfluxQL, the v1 API.
    V1,
    /// 2.x: buckets, tokens, Flux in addition to InfluxQL, the v2 API.
    V2,
    /// 3.x: databases, tokens; not started by muster.
    V3,
}

impl Flavor {
    /// Parses the output of `influxd version` or `influxdb3 --version`.
    #[must_use]
    pub fn parse(printed: &str) -> Option<Self> {
        printed.split_whitespace().find_map(|word| {
            let version = word.trim_start_matches('v').trim_end_matches(',');
            match version.split_once('.')? {
                ("1", rest) if starts_with_digit(rest) => Some(Self::V1),
                ("2", rest) if starts_with_digit(rest) => Some(Self::V2),
                ("3", rest) if starts_with_digit(rest) => Some(Self::V3),
                _ => None,
            }
        })
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "InfluxDB 1.x",
            Self::V2 => "InfluxDB 2.x",
            Self::V3 => "InfluxDB 3.x",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_versions_are_parsed() {
        assert_eq!(Flavor::parse("InfluxDB v1.6.7~rc0 (git: unknown unknown)"), Some(Flavor::V1));
        assert_eq!(Flavor::parse("InfluxDB v1.11.8 (git: HEAD 1.1)"), Some(Flavor::V1));
        assert_eq!(
            Flavor::parse("InfluxDB v2.7.11 (git: fbf5d4ab5e) build_date: 2024-12-02T17:48:15Z"),
            Some(Flavor::V2)
        );
        assert_eq!(
            Flavor::parse("influxdb3 InfluxDB 3 Core, version: 3.2.1, revision abc"),
            Some(Flavor::V3)
        );
        assert_eq!(Flavor::parse("InfluxDB nightly"), None);
    }
}
