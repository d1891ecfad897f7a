//! A pure encoder of metric batches as InfluxDB line protocol.
//!
//! The grammar is InfluxDB's reference, "Line protocol". It cannot represent some texts: a line
//! end anywhere, a backslash at the end of a name or before a character that needs escaping, `#`
//! at the start of a line. Each of those characters is replaced by one other, so that every point
//! within the limits of [`muster_schemas::metrics`] becomes exactly one line. Sending is not part
//! of this module.

use std::fmt::Write as _;

use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::{DeviceId, ProjectId};

/// The tags that the server adds; a device cannot set them.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The tag `project`.
    pub project: &'a ProjectId,
    /// The tag `device_id`.
    pub device: DeviceId,
    /// The tag `host`, which Telegraf's dashboards filter by: the device's current name.
    pub name: &'a str,
}

/// Lines of line protocol, each ended by `\n`; timestamps are in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    text: String,
    count: usize,
}

impl Lines {
    /// Wraps encoded lines. A missing final `\n` is added; empty lines are kept and not counted.
    #[must_use]
    pub fn from_text(mut text: String) -> Self {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let count = text.lines().filter(|line| !line.is_empty()).count();
        Self { text, count }
    }

    /// The lines.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The number of lines.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Their size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// Encodes a batch, one line for each point.
///
/// Tags are sorted by name, as InfluxDB recommends. A device's tag with the name of one of
/// [`Origin`]'s is dropped: the server's tags take precedence. A point without a field that can be
/// written (a float that is not finite cannot) makes no line. Times saturate at the limits of
/// `i64`; the store refuses those that it cannot represent.
#[must_use]
pub fn encode(batch: &MetricBatch, origin: &Origin<'_>) -> Lines {
    let device = origin.device.to_string();
    // Sorted by name, as `encode_point` needs them.
    let ours = [
        ("device_id", device.as_str()),
        ("host", origin.name),
        ("project", origin.project.as_str()),
    ];
    // Measured: a line of Telegraf's measurements has 250 bytes on average with these tags.
    let mut lines = Lines { text: String::with_capacity(batch.points.len() * 256), count: 0 };
    for point in &batch.points {
        let start = lines.text.len();
        let time = batch.time.plus_micros(point.offset).micros();
        if encode_point(&mut lines.text, point, &ours, time) {
            lines.count += 1;
        } else {
            lines.text.truncate(start);
        }
    }
    lines
}

/// Writes one line; returns `false` if the point has no field to write.
fn encode_point(out: &mut String, point: &Point, server_tags: &[(&str, &str)], time: i64) -> bool {
    escape(out, point.measurement.as_str(), TextPosition::Measurement);

    let mut ours = server_tags.iter().peekable();
    for (name, value) in &point.tags {
        while let Some((our_name, our_value)) = ours.next_if(|(our, _)| *our < name.as_str()) {
            push_tag(out, our_name, our_value);
        }
        if ours.peek().is_none_or(|(our, _)| *our != name.as_str()) {
            push_tag(out, name.as_str(), value);
        }
    }
    for (name, value) in ours {
        push_tag(out, name, value);
    }

    let mut separator = ' ';
    for (name, value) in &point.fields {
        if matches!(value, FieldValue::Float(number) if !number.is_finite()) {
            continue;
        }
        out.push(separator);
        separator = ',';
        escape(out, name.as_str(), TextPosition::Key);
        out.push('=');
        push_value(out, value);
    }
    // Writing into a String cannot fail.
    let _ = writeln!(out, " {time}");
    separator == ','
}

fn push_tag(out: &mut String, name: &str, value: &str) {
    // The protocol has no empty tag values.
    if !value.is_empty() {
        out.push(',');
        escape(out, name, TextPosition::Key);
        out.push('=');
        escape(out, value, TextPosition::Key);
    }
}

fn push_value(out: &mut String, value: &FieldValue) {
    // Writing into a String cannot fail.
    let _ = match value {
        // Both write the shortest text that parses as the same number.
        FieldValue::Float(number) if is_plain(*number) => write!(out, "{number}"),
        FieldValue::Float(number) => write!(out, "{number:e}"),
        FieldValue::Int(number) => write!(out, "{number}i"),
        FieldValue::Bool(truth) => write!(out, "{truth}"),
        FieldValue::Text(text) => {
            push_text(out, text);
            Ok(())
        }
    };
}

/// Whether the number is short without an exponent.
fn is_plain(number: f64) -> bool {
    number == 0.0 || (1e-5..1e16).contains(&number.abs())
}

/// Writes a quoted text: quotes and backslashes are escaped, line ends become spaces.
fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' | '\r' => out.push(' '),
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// Position of an unquoted text; it determines which characters are escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TextPosition {
    /// The start of the line, where `=` is an ordinary character.
    Measurement,
    /// Tag names, tag values and field names.
    Key,
}

fn escape(out: &mut String, text: &str, position: TextPosition) {
    let is_special =
        |c: char| matches!(c, ',' | ' ') || (c == '=' && position == TextPosition::Key);
    // Nearly all names and values need no escaping.
    if !text.bytes().any(|b| matches!(b, b',' | b' ' | b'=' | b'\\' | b'#') || b.is_ascii_control())
    {
        out.push_str(text);
        return;
    }
    let mut characters = text.chars().peekable();
    let mut is_first = true;
    while let Some(c) = characters.next() {
        match c {
            // A line that starts with # is a comment.
            '#' if is_first && position == TextPosition::Measurement => out.push('_'),
            // A backslash is literal, except before a character that it could escape, where the
            // protocol cannot represent it.
            '\\' if characters.peek().is_none_or(|next| {
                matches!(next, ',' | ' ' | '=' | '\\' | '"') || next.is_control()
            }) =>
            {
                out.push('/');
            }
            _ if c.is_ascii_control() => out.push('_'),
            _ if is_special(c) => out.extend(['\\', c]),
            _ => out.push(c),
        }
        is_first = false;
    }
}

#[cfg(test)]
#[path = "line_protocol_tests.rs"]
mod tests;
