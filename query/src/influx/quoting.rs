//! Quotes names and values for InfluxQL. Pure.

/// Quotes a name with double quotes.
pub(super) fn identifier(name: &str) -> String {
    quoted(name, '"')
}

/// Quotes a value with single quotes.
pub(super) fn string(value: &str) -> String {
    quoted(value, '\'')
}

fn quoted(text: &str, quote: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c == quote => {
                quoted.push('\\');
                quoted.push(c);
            }
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}
