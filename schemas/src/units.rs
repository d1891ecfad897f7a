//! Durations and sizes with units, as people write them.

use std::time::Duration;

use bytesize::ByteSize;

/// Maximum length of a duration's text, in bytes.
const MAX_TEXT_BYTES: usize = 16;
/// Maximum size, in bytes: 2^53, as in JSON.
const MAX_BYTES: u64 = 1 << 53;

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

/// As [`parse_duration`], in seconds, with an error for a user.
///
/// # Errors
/// When the text is not a duration, or one of more than 136 years.
pub fn parse_seconds(text: &str) -> Result<u32, String> {
    let duration = parse_duration(text).and_then(|duration| duration.as_secs().try_into().ok());
    duration.ok_or_else(|| format!("'{text}' is not a duration, such as 90s, 10m, 2h or 7d"))
}

/// Parses a number of bytes: `4096`, `512KiB`, `1MiB`, `2GiB`, `1.5GB`. 1 KiB is 1024 bytes; 1 kB and
/// 1 K are 1000.
///
/// # Errors
/// When the text is not a size, zero, or larger than 2^53.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>().ok().map(|size| size.as_u64());
    size.filter(|size| (1..=MAX_BYTES).contains(size))
        .ok_or_else(|| format!("'{text}' is not a number of bytes, such as 512KiB or 1GiB"))
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

    #[test]
    fn byte_sizes_are_parsed() {
        for (text, expected) in [
            ("1", 1),
            ("4096", 4096),
            ("512KiB", 512 << 10),
            ("1MB", 1_000_000),
            ("64GiB", 64 << 30),
            ("1.5GB", 1_500_000_000),
            ("2kB", 2_000),
        ] {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "0", "x", "-1", "1.2.3M", "99999999999999999999", "0.1"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_parsed_as_seconds() {
        for (text, expected) in [
            ("90s", 90),
            ("1h30m", 5400),
            ("1w", 604_800),
            ("10m", 600),
            ("2h", 7200),
            ("7d", 604_800),
        ] {
            assert_eq!(parse_seconds(text), Ok(expected));
        }
        for bad in ["", "m", "-1", "90", "0", "99999999d", "1.5s"] {
            assert!(parse_seconds(bad).is_err(), "{bad:?}");
        }
    }
}
