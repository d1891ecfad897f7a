//! CBOR as people read it: diagnostic notation (RFC 8949, section 8).
//!
//! A byte string that holds a whole CBOR map or array is shown as `<< … >>`.

use std::fmt::Write as _;

use ciborium::Value;
use muster_schemas::codec;

/// The bytes in diagnostic notation, one entry a line.
pub(crate) fn diagnostic(bytes: &[u8]) -> String {
    let mut text = match codec::decode(bytes) {
        Ok(value) => show(&value, 0),
        Err(error) => format!("/ {error} /"),
    };
    text.push('\n');
    text
}

fn show(value: &Value, depth: usize) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => i128::from(*value).to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::Text(text) => format!("{text:?}"),
        Value::Bytes(bytes) => match codec::decode::<Value>(bytes) {
            Ok(inner @ (Value::Map(_) | Value::Array(_) | Value::Tag(..))) => {
                format!("<< {} >>", show(&inner, depth))
            }
            _ => {
                bytes.iter().fold("h'".to_owned(), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}");
                    text
                }) + "'"
            }
        },
        Value::Tag(tag, inner) => format!("{tag}({})", show(inner, depth)),
        Value::Array(items) => {
            block('[', ']', depth, items.iter().map(|item| show(item, depth + 1)))
        }
        Value::Map(entries) => block(
            '{',
            '}',
            depth,
            entries
                .iter()
                .map(|(key, value)| format!("{}: {}", show(key, depth), show(value, depth + 1))),
        ),
        other => format!("/ {other:?} /"),
    }
}

fn block(open: char, close: char, depth: usize, items: impl Iterator<Item = String>) -> String {
    let indent = "  ".repeat(depth + 1);
    let lines: Vec<_> = items.map(|item| format!("{indent}{item}")).collect();
    if lines.is_empty() {
        return format!("{open}{close}");
    }
    format!("{open}\n{}\n{}{close}", lines.join(",\n"), "  ".repeat(depth))
}
