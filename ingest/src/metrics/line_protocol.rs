//! Metric batches as InfluxDB line protocol: a pure encoder.
//!
//! The grammar is InfluxDB's reference, "Line protocol". It has texts that it cannot write: a line
//! end anywhere, a backslash at the end of a name or before a character that needs escaping, `#`
//! at the start of a line. Those characters are replaced, one for one, so that every point that
//! holds to the limits of [`muster_schemas::metrics`] becomes exactly one line. Sending is not
//! done here.

use std::fmt::Write as _;

use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::{DeviceId, ProjectId};

/// Whose metrics they are: the tags that the server adds. A device cannot set them.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The tag `project`.
    pub project: &'a ProjectId,
    /// The tag `device_id`.
    pub device: DeviceId,
    /// The tag `host`, by which Telegraf's dashboards choose: the device's name at this time.
    pub name: &'a str,
}

/// Some lines of line protocol, each ended by `\n`; timestamps are in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    text: String,
    count: usize,
}

impl Lines {
    /// Takes ready lines. A last line without `\n` gets one; empty lines stay and do not count.
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

    /// How many lines there are.
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

/// Writes a batch as lines, one a point.
///
/// Tags are sorted by name, as InfluxDB likes them best. A tag of the device that has the name of
/// one of [`Origin`]'s is left out: the server's win. A point without a field that can be written
/// (a float that is not finite cannot) gives no line. Times saturate at the ends of `i64`; the
/// store refuses what it cannot hold.
#[must_use]
pub fn encode(batch: &MetricBatch, origin: &Origin<'_>) -> Lines {
    let device = origin.device.to_string();
    // Sorted by name, as `encode_point` needs them.
    let ours = [
        ("device_id", device.as_str()),
        ("host", origin.name),
        ("project", origin.project.as_str()),
    ];
    // Measured: a line of Telegraf's measurements is 250 bytes on average with these tags.
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

/// Writes one line; `false` when the point has nothing to write.
fn encode_point(out: &mut String, point: &Point, ours: &[(&str, &str)], time: i64) -> bool {
    escape(out, point.measurement.as_str(), Place::Measurement);

    let mut ours = ours.iter().peekable();
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
        escape(out, name.as_str(), Place::Key);
        out.push('=');
        push_value(out, value);
    }
    // Writing into a String cannot fail.
    let _ = writeln!(out, " {time}");
    separator == ','
}

fn push_tag(out: &mut String, name: &str, value: &str) {
    // The protocol has no empty tag value.
    if !value.is_empty() {
        out.push(',');
        escape(out, name, Place::Key);
        out.push('=');
        escape(out, value, Place::Key);
    }
}

fn push_value(out: &mut String, value: &FieldValue) {
    // Writing into a String cannot fail.
    let _ = match value {
        // Both are the shortest text that reads back as the same number.
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

/// Is the number short without an exponent?
fn is_plain(number: f64) -> bool {
    number == 0.0 || (1e-5..1e16).contains(&number.abs())
}

/// A text in quotes: quotes and backslashes are escaped, line ends become spaces.
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

/// Where a bare text stands; it decides what must be escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The first word of the line, where `=` is an ordinary character.
    Measurement,
    /// Tag names, tag values and field names.
    Key,
}

fn escape(out: &mut String, text: &str, place: Place) {
    let is_special = |c: char| matches!(c, ',' | ' ') || (c == '=' && place == Place::Key);
    // Nearly all names and values need nothing.
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
            '#' if is_first && place == Place::Measurement => out.push('_'),
            // A backslash is literal, but not before what it could escape, and the protocol has
            // no way to write it there.
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
