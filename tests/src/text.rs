//! Facts in texts and logs for people: numbers, dates, log levels. Tests do not depend on wording.

use serde_json::Value;

/// Whether a text contains this number, without further digits next to it.
#[must_use]
pub fn has_number(text: &str, number: u64) -> bool {
    text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.parse() == Ok(number))
}

/// Whether a text contains a date, as in RFC 3339.
#[must_use]
pub fn has_date(text: &str) -> bool {
    text.as_bytes().windows(10).any(|part| {
        part.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
    })
}

/// Whether a log of JSON lines has a line with this level, from this module or one below it, with
/// fields that the function accepts.
#[must_use]
pub fn has_line(log: &str, level: &str, module: &str, accepts: impl Fn(&Value) -> bool) -> bool {
    log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(|line| {
        line["level"] == level
            && line["target"].as_str().is_some_and(|target| target.starts_with(module))
            && accepts(&line["fields"])
    })
}
