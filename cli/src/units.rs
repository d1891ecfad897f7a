//! Durations and sizes with units, in arguments.

/// Parses a duration, in seconds: `90`, `90s`, `10m`, `2h`, `7d`.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let wrong = || format!("'{text}' is not a duration; write for example 90s, 10m, 2h or 7d");
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

/// Parses a number of bytes: `4096`, `512KiB`, `1MiB`, `2G`, `1.5GB`: 1 KiB is 1024, as are `K`,
/// `M` and `G`; 1 kB is 1000.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a number of bytes; write for example 512KiB or 1GiB");
    let is_digit = |c: char| c.is_ascii_digit() || c == '.';
    let (digits, unit) = text.split_at(text.find(|c| !is_digit(c)).unwrap_or(text.len()));
    let factor: u64 = match unit {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    if let Ok(number) = digits.parse::<u64>() {
        return number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(wrong);
    }
    let number = digits.parse::<f64>().map_err(|_| wrong())? * factor as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 2^53")]
    let bytes = number as u64;
    if (1.0..9e15).contains(&number) { Ok(bytes) } else { Err(wrong()) }
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
            ("1M", 1 << 20),
            ("64GiB", 64 << 30),
            ("1.5GB", 1_500_000_000),
            ("2kB", 2_000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "0", "x", "1TB", "-1", "1.2.3M", "99999999999999999999", "0.1"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_parsed() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604_800)]
        {
            assert_eq!(seconds(text), Ok(expected));
        }
        for bad in ["", "m", "-1", "1w", "0", "99999999d", "1.5h"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
    }
}
