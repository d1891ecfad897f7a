//! Finds refused lines by the store's messages. Pure.
//!
//! A suspicion only saves requests: suspected lines are sent again separately from the others, and
//! only the store's responses decide which lines are rejected. A quoted line is such a response.

use std::collections::HashMap;

/// The lines that a store's message refers to.
#[derive(Debug, PartialEq, Eq)]
pub enum BadLines {
    /// No specific lines.
    Unknown,
    /// These lines, by index, have the field that is in conflict.
    Suspects(Vec<usize>),
    /// These lines, by index, are quoted as bad, each with the store's reason.
    Quoted(Vec<(usize, String)>),
}

/// Determines which of these lines the message refers to.
#[must_use]
pub fn find_bad_lines(message: &str, lines: &[&str]) -> BadLines {
    if let Some(conflict) = Conflict::parse(message) {
        let suspects: Vec<usize> =
            (0..lines.len()).filter(|at| conflict.matches(lines[*at])).collect();
        return if suspects.is_empty() { BadLines::Unknown } else { BadLines::Suspects(suspects) };
    }
    // InfluxDB quotes each bad line in full: unable to parse 'LINE': reason. LINE and reason may
    // contain `':` themselves. Only the last and the first one are tried as the end of LINE: trying
    // all of them would take time quadratic in the length of a line. A missed line costs a few
    // requests.
    let at: HashMap<&str, usize> =
        lines.iter().enumerate().map(|(index, line)| (*line, index)).collect();
    let mut reasons = HashMap::new();
    for quote in message.split(QUOTE).skip(1) {
        let ends = [quote.rfind(QUOTE_END), quote.find(QUOTE_END)];
        let found = ends.into_iter().flatten().find_map(|end| {
            let index = at.get(&quote[..end])?;
            Some((*index, quote[end + QUOTE_END.len()..].trim()))
        });
        if let Some((index, reason)) = found {
            reasons.entry(lines[index]).or_insert(reason);
        }
    }
    let quoted: Vec<(usize, String)> = lines
        .iter()
        .enumerate()
        .filter_map(|(index, line)| {
            Some((index, format!("unable to parse: {}", reasons.get(line)?)))
        })
        .collect();
    if quoted.is_empty() { BadLines::Unknown } else { BadLines::Quoted(quoted) }
}

/// The text before a line that is quoted as bad.
const QUOTE: &str = "unable to parse '";
/// The text between a quoted line and the reason.
const QUOTE_END: &str = "':";

/// The number of points that the store dropped from this body; it has accepted the others.
#[must_use]
pub fn dropped_points(message: &str) -> Option<usize> {
    message.rsplit_once("dropped=").and_then(|(_, number)| number.trim().parse().ok())
}

/// Whether a store reports points older than its retention. It has accepted the others then.
#[must_use]
pub fn is_past_retention(message: &str) -> bool {
    message.contains("beyond retention policy") || message.contains("outside retention policy")
}

/// `input field "F" on measurement "M" is type T, already exists as type U` (InfluxDB 1.x and 2.x).
struct Conflict<'a> {
    field: &'a str,
    measurement: &'a str,
}

impl<'a> Conflict<'a> {
    fn parse(message: &'a str) -> Option<Self> {
        let (_, rest) = message.split_once("input field \"")?;
        let (field, rest) = rest.split_once("\" on measurement \"")?;
        let (measurement, _) = rest.split_once("\" is type")?;
        Some(Self { field, measurement })
    }

    fn matches(&self, line: &str) -> bool {
        // Escapes are removed on both sides: a false suspect only costs a request.
        let line = line.replace('\\', "");
        line.strip_prefix(self.measurement).is_some_and(|rest| {
            rest.starts_with([',', ' '])
                && rest.match_indices(self.field).any(|(at, _)| {
                    rest[..at].ends_with([',', ' '])
                        && rest[at + self.field.len()..].starts_with('=')
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn influxdb_error_messages_identify_lines() {
        let lines = [
            "a,host=x b=1i 1",
            "a,host=x bb=1i,c=2 1",
            "ab b=1i 1",
            "a c=3,b=1i 2",
            "m\\ x,t=1 b=1 1",
        ];
        let quoted =
            |reason: &str| BadLines::Quoted(vec![(2, format!("unable to parse: {reason}"))]);
        let cases = [
            (
                r#"partial write: field type conflict: input field "b" on measurement "a" is type integer, already exists as type float dropped=2"#,
                BadLines::Suspects(vec![0, 3]),
            ),
            (
                r#"partial write: field type conflict: input field "b" on measurement "m x" is type float, already exists as type integer dropped=1"#,
                BadLines::Suspects(vec![4]),
            ),
            ("unable to parse 'ab b=1i 1': invalid number", quoted("invalid number")),
            ("unable to parse 'x': y\nunable to parse 'ab b=1i 1': ':", quoted("':")),
            ("field type conflict", BadLines::Unknown),
            (r#"input field "z" on measurement "a" is type"#, BadLines::Unknown),
            ("", BadLines::Unknown),
        ];
        for (message, expected) in cases {
            assert_eq!(find_bad_lines(message, &lines), expected, "{message}");
        }
    }

    #[test]
    fn a_line_that_contains_the_end_of_a_quote_is_found() {
        let lines = ["a t=\"':\" 9", "a t=\"x\" 1"];
        let message = "unable to parse 'a t=\"':\" 9': time outside range";
        let expected = vec![(0, "unable to parse: time outside range".to_owned())];
        assert_eq!(find_bad_lines(message, &lines), BadLines::Quoted(expected));
    }

    /// Regression: 252 KB of `':` took 5.9 s when each of them was tried as the end of the line.
    #[test]
    fn finding_bad_lines_takes_linear_time() {
        let line = format!("a t=\"{}\" 9", "':".repeat(126_000));
        let text = format!("unable to parse '{line}': time outside range");
        let started_at = std::time::Instant::now();
        assert!(
            matches!(find_bad_lines(&text, &[&line]), BadLines::Quoted(quoted) if quoted.len() == 1)
        );
        assert!(
            started_at.elapsed() < std::time::Duration::from_millis(500),
            "{:?}",
            started_at.elapsed()
        );
    }

    #[test]
    fn dropped_points_are_counted() {
        for (message, expected) in [
            ("partial write: x dropped=12", Some(12)),
            ("dropped=x", None),
            ("field type conflict", None),
        ] {
            assert_eq!(dropped_points(message), expected);
        }
    }
}
