//! Durations and sizes with units, in arguments.

use bytesize::ByteSize;
use muster_schemas::units::parse_duration;

/// Maximum size, in bytes: 2^53, as in JSON.
const MAX_BYTES: u64 = 1 << 53;

/// Parses a duration, in seconds: `90s`, `10m`, `1h30m`, `7d`.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let duration = parse_duration(text).and_then(|duration| duration.as_secs().try_into().ok());
    duration.ok_or_else(|| format!("'{text}' is not a duration, such as 90s, 10m, 2h or 7d"))
}

/// Parses a number of bytes: `4096`, `512KiB`, `1MiB`, `2GiB`, `1.5GB`. 1 KiB is 1024 bytes; 1 kB and
/// 1 K are 1000.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>().ok().map(|size| size.as_u64());
    size.filter(|size| (1..=MAX_BYTES).contains(size))
        .ok_or_else(|| format!("'{text}' is not a number of bytes, such as 512KiB or 1GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "0", "x", "-1", "1.2.3M", "99999999999999999999", "0.1"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_parsed() {
        for (text, expected) in [
            ("90s", 90),
            ("1h30m", 5400),
            ("1w", 604_800),
            ("10m", 600),
            ("2h", 7200),
            ("7d", 604_800),
        ] {
            assert_eq!(seconds(text), Ok(expected));
        }
        for bad in ["", "m", "-1", "90", "0", "99999999d", "1.5s"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
    }
}
