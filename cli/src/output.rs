//! Output of commands: tables for users, JSON for programs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use muster_schemas::Timestamp;

/// Prints a line; a closed pipe (`| head`) ends the program without an error.
pub(crate) fn line(text: impl AsRef<str>) {
    if writeln!(std::io::stdout(), "{}", safe(text.as_ref())).is_err() {
        std::process::exit(0);
    }
}

/// Prints a message for the user on standard error.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{}", safe(text.as_ref()));
}

/// Prints JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    line(json_text(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Whether a terminal interprets this character, or it changes the order of the displayed text.
/// Devices control much of the output: their inventory, file names, reasons, labels.
fn is_unsafe(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders
}

/// Escapes characters that a terminal would interpret, except line ends.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unsafe(c) && c != '\n', |c| c.escape_default().to_string())
}

/// As [`safe`], on one line, so that a value cannot imitate the next row.
pub(crate) fn safe_value(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe, |c| c.escape_default().to_string())
}

/// Escapes unsafe characters inside JSON strings with JSON's own escapes; the result is valid JSON.
fn json_text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unsafe(c) && c != '\n', |c| format!("\\u{:04x}", u32::from(c)))
}

fn escaped(
    text: &str,
    is_meant: impl Fn(char) -> bool,
    escape: impl Fn(char) -> String,
) -> Cow<'_, str> {
    if !text.contains(&is_meant) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_meant(c) {
            safe.push_str(&escape(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Prints a table, or `nothing` when it has no rows.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>, nothing: &str) {
    if rows.is_empty() {
        line(nothing);
        return;
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|value| safe_value(value).into_owned()));
    }
    // Removes the table's margin.
    for text in table.to_string().lines() {
        line(text.strip_prefix(' ').unwrap_or(text).trim_end());
    }
}

/// Prints names and values, one per line; names without a value are omitted.
pub(crate) fn facts(facts: &[(&str, String)]) {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let mut lines = value.lines();
        line(format!("{name:<width$}  {}", lines.next().unwrap_or_default()));
        for more in lines {
            line(format!("{:<width$}  {more}", ""));
        }
    }
}

/// Formats a value of a response as text on one line.
pub(crate) fn text(value: impl Display) -> String {
    safe_value(&value.to_string()).into_owned()
}

/// As [`text`]; a missing value is empty.
pub(crate) fn optional(value: Option<impl Display>) -> String {
    value.map(text).unwrap_or_default()
}

/// Formats labels, or other values with names.
pub(crate) fn pairs<K: Display, V: Display>(values: &BTreeMap<K, V>) -> String {
    let pairs = values.iter().map(|(key, value)| text(format_args!("{key}={value}")));
    pairs.collect::<Vec<_>>().join(",")
}

/// Formats the time that has passed since a time.
pub(crate) fn ago(time: Timestamp) -> String {
    let now = Timestamp::from(std::time::SystemTime::now());
    let seconds = now.micros_since(time).div_euclid(1_000_000);
    match seconds {
        ..=1 => "now".to_owned(),
        2..=119 => format!("{seconds}s ago"),
        120..=7_199 => format!("{}m ago", seconds / 60),
        7_200..=172_799 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// Formats a percentage; a missing one is empty.
pub(crate) fn percent(value: Option<f64>) -> String {
    value.map(|number| format!("{number:.0}%")).unwrap_or_default()
}

/// Draws a sparkline, from the smallest to the largest value; missing values are gaps.
pub(crate) fn sparkline(values: &[Option<f64>]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let finite: Vec<f64> = values.iter().flatten().copied().filter(|v| v.is_finite()).collect();
    let (low, high) = finite
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    values
        .iter()
        .map(|value| match value {
            Some(value) if high > low => {
                // In 0.0 ..= 7.0, so the cast loses nothing relevant.
                let level = ((value - low) / (high - low) * 7.0).round().clamp(0.0, 7.0);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "0 to 7"
                )]
                let level = level as usize;
                BARS.get(level).copied().unwrap_or(' ')
            }
            Some(_) => BARS[0],
            None => ' ',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_line_ends_are_escaped_in_output() {
        let hostile = "a\u{1b}[2J\u{1b}]52;c;eA==\u{7}b\r\nc\u{9b}1m\u{202e}d\u{7f}é🙂";
        let shown = safe(hostile);
        assert_eq!(shown, "a\\u{1b}[2J\\u{1b}]52;c;eA==\\u{7}b\\r\nc\\u{9b}1m\\u{202e}d\\u{7f}é🙂");
        assert!(!safe_value(hostile).contains('\n'));
        assert!(matches!(safe("plain é"), Cow::Borrowed(_)));
        let value = serde_json::json!({"name": hostile});
        let json = serde_json::to_string_pretty(&value).unwrap();
        let printed = json_text(&json).into_owned();
        assert!(!printed.contains(|c| is_unsafe(c) && c != '\n'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), value);
        assert_eq!(text(hostile), safe_value(hostile));
    }

    #[test]
    fn a_sparkline_spans_from_the_smallest_to_the_largest() {
        assert_eq!(sparkline(&[Some(0.0), None, Some(5.0), Some(10.0)]), "▁ ▅█");
        assert_eq!(sparkline(&[Some(3.0), Some(3.0)]), "▁▁");
        assert_eq!(sparkline(&[]), "");
    }

    #[test]
    fn an_age_is_formatted_in_one_unit() {
        let time: Timestamp = "2001-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(ago(time).split('d').next_back(), Some(" ago"));
    }
}
