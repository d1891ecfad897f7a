//! Quotes names and values for InfluxQL. Pure.

/// Quotes a name with double quotes.
#[must_use]
pub fn identifier(name: &str) -> String {
    quoted(name, '"')
}

/// Quotes a value with single quotes.
#[must_use]
pub fn string(value: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_backslashes_and_line_ends_are_escaped() {
        assert_eq!(string("a'b\\c\"\n"), r#"'a\'b\\c"\n'"#);
        assert_eq!(identifier("a'b\\c\"\n"), r#""a'b\\c\"\n""#);
    }
}
