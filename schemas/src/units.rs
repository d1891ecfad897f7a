//! Durations with units, as people write them.

use std::time::Duration;

/// Maximum length of a duration's text, in bytes.
const MAX_TEXT_BYTES: usize = 16;

/// Parses a duration of whole seconds, such as `90s`, `5m`, `1h30m`, `1.5h`, `7d` or `2w`. A number
/// without a unit is not a duration; neither are zero and a fraction of a second.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    // Only units that cannot be confused: for the library, `M` is a month. Its sum of very long
    // numbers can overflow.
    let is_plain = |c: char| c.is_ascii_digit() || ".smhdw".contains(c);
    if text.len() > MAX_TEXT_BYTES || !text.chars().all(is_plain) || text.contains("ms") {
        return None;
    }
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
        for bad in [
            "",
            "90",
            "0s",
            "-1s",
            "500ms",
            "999ms1ms",
            "0.5s",
            "15M",
            "1y",
            "5 m",
            "18446744073709551615s1000ms",
            "s",
            "5x",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }
}
