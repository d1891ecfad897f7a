//! Errors as text.

use std::error::Error;

/// Formats an error with its causes, in one line. A cause whose text is already contained is left
/// out.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// Formats an error's innermost cause. For an HTTP client's error, this is the important part, such
/// as a rejected certificate or an unknown host.
#[must_use]
pub fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_are_named_once() {
        let disk = Layer { text: "disk full", source: None };
        let write = Layer { text: "failed to write: disk full", source: Some(disk.into()) };
        let top = Layer { text: "an append failed", source: Some(write.into()) };
        assert_eq!(error_chain(&top), "an append failed: failed to write: disk full");
        assert_eq!(root_cause(&top), "disk full");
    }
}
