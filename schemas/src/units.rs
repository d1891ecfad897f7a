//! Durations with units, as people write them.

use std::time::Duration;

/// Parses a duration of whole seconds, such as `90s`, `5m`, `1h30m`, `1.5h`, `7d` or `2w`. A number
/// without a unit is not a duration; neither are zero and a fraction of a second.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let duration = humantime::parse_duration(text).ok()?;
    (duration.as_secs() > 0 && duration.subsec_nanos() == 0).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, seconds) in [
            ("90s", 90),
            ("5m", 300),
            ("2h", 7200),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("7d", 604_800),
            ("2w", 1_209_600),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "90", "0s", "-1s", "500ms", "0.5s", "s", "5x", "99999999999999999999s"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }
}
