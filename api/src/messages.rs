//! Broken rules as text: the messages of serde name types of Rust.

/// Returns the field that a message of serde names, and the rule as text.
pub(crate) fn rule(message: &str) -> (Option<String>, String) {
    let message = without_position(message);
    let quoted = |start: &str| {
        let rest = message.strip_prefix(start)?.strip_prefix('`')?;
        Some(rest.split('`').next()?.to_owned())
    };
    if let Some(name) = quoted("missing field ") {
        return (Some(name), "is required".to_owned());
    }
    if let Some(name) = quoted("unknown field ") {
        return (Some(name), format!("is unknown{}", expected(message)));
    }
    if let Some(name) = quoted("duplicate field ") {
        return (Some(name), "is given twice".to_owned());
    }
    if message.starts_with("unknown variant ") {
        return (None, format!("is unknown{}", expected(message)));
    }
    if let Some((_, expected)) = message.split_once(", expected ")
        && (message.starts_with("invalid type: ") || message.starts_with("invalid value: "))
    {
        return (None, format!("must be {}", kind(expected)));
    }
    if message.starts_with("data did not match any variant") {
        return (None, "has an unknown shape".to_owned());
    }
    (None, message.to_owned())
}

/// Removes the position that serde_json appends ("at line 1 column 2"): the location is clearer.
fn without_position(message: &str) -> &str {
    message.rfind(" at line ").and_then(|at| message.get(..at)).unwrap_or(message)
}

/// Returns the expected names of a message: "; known are a, b".
fn expected(message: &str) -> String {
    let Some((_, list)) = message.split_once(", expected ") else { return String::new() };
    let list = list.strip_prefix("one of ").unwrap_or(list).replace(['`', '\n'], "");
    format!("; known: {}", list.replace(" or ", ", "))
}

/// Returns the name of a type.
fn kind(name: &str) -> &str {
    match name {
        "u8" | "u16" | "u32" | "u64" | "usize" => {
            "a whole number, at least 0, that is not too large"
        }
        "i8" | "i16" | "i32" | "i64" => "a whole number that is not too large",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        name if name.starts_with("struct ") => "an object",
        name if name.contains("enum ") || name.contains("variant") => "one of the known values",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_serde_do_not_name_types_of_rust() {
        for (message, name, text) in [
            ("missing field `name` at line 1 column 2", Some("name"), "is required"),
            ("unknown field `x`, expected `a` or `b`", Some("x"), "is unknown; known: a, b"),
            ("unknown field `x`, there are no fields", Some("x"), "is unknown"),
            ("unknown variant `x`, expected one of `a`, `b`", None, "is unknown; known: a, b"),
            ("duplicate field `x`", Some("x"), "is given twice"),
            (
                "invalid type: floating point `1.5`, expected u32",
                None,
                "must be a whole number, at least 0, that is not too large",
            ),
            ("invalid type: string \"x\", expected struct X", None, "must be an object"),
            ("is not a label", None, "is not a label"),
        ] {
            assert_eq!(rule(message), (name.map(str::to_owned), text.to_owned()), "{message}");
        }
    }
}
