//! Text that every store accepts as a name or a tag value: its length, and its characters.

use std::borrow::Cow;

/// Maximum length of a name or a text value, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Replaces each control character (including line ends, tabs and escapes) by `_`, and truncates to
/// [`MAX_TEXT_BYTES`] bytes: stores refuse other names and tag values.
#[must_use]
pub fn clean_text(text: &str) -> Cow<'_, str> {
    let cut = text.get(..text.floor_char_boundary(MAX_TEXT_BYTES)).unwrap_or_default();
    if cut.chars().any(char::is_control) {
        Cow::Owned(cut.chars().map(|c| if c.is_control() { '_' } else { c }).collect())
    } else {
        Cow::Borrowed(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(clean_text("/mnt/a\nb\u{1b}[2J\u{85}"), "/mnt/a_b_[2J_");
        assert!(matches!(clean_text("/mnt/ä"), Cow::Borrowed("/mnt/ä")));
        assert_eq!(clean_text(&"ä".repeat(600)).len(), MAX_TEXT_BYTES);
        assert_eq!(clean_text(&format!("x{}", "ä".repeat(600))).len(), MAX_TEXT_BYTES - 1);
    }
}
