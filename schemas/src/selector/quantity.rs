//! Numbers with units: sizes, durations, percent.

use crate::units::parse_duration;

/// Units with their factors; the longer ones first.
const UNITS: [(&str, f64); 27] = [
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
    ("PiB", 1_125_899_906_842_624.0),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("PB", 1e15),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("B", 1.0),
    ("%", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("d", 86_400.0),
    ("w", 604_800.0),
    ("s", 1.0),
];

/// Parses a number for a field. A duration is converted to the unit that the field's name ends
/// with (`_ms`, `_us`, `_ns`), otherwise to seconds.
pub(super) fn parse(text: &str, field: &str) -> Option<f64> {
    let number = if let Some(digits) = text.strip_suffix("ms") {
        plain(digits)? / 1e3 * of_second(field)
    } else if let Some((unit, factor)) = UNITS.iter().find(|(unit, _)| text.ends_with(unit)) {
        let is_duration = ["s", "m", "h", "d", "w"].contains(unit);
        match plain(text.strip_suffix(unit)?) {
            Some(number) if is_duration => number * factor * of_second(field),
            Some(number) => number * factor,
            None if is_duration => parse_duration(text)?.as_secs_f64() * of_second(field),
            None => return None,
        }
    } else {
        plain(text)?
    };
    number.is_finite().then_some(number)
}

/// The number of the field's units in a second.
fn of_second(field: &str) -> f64 {
    match field.rsplit_once('_') {
        Some((_, "ms")) => 1e3,
        Some((_, "us")) => 1e6,
        Some((_, "ns")) => 1e9,
        _ => 1.0,
    }
}

/// Parses a number without a unit; not `inf` or `nan`.
fn plain(digits: &str) -> Option<f64> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || b".-e".contains(&byte));
    digits.parse().ok().filter(|_| is_plain)
}
