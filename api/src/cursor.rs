//! Cursors: where a page ended, as opaque text.
//!
//! A cursor is not a secret and grants nothing: it holds values of the last item that the client
//! received. Each list interprets its own cursors.

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// Maximum length of a cursor, in bytes.
const MAX_CURSOR_BYTES: usize = 2048;

/// Encodes the sort key of a page's last item as text, and decodes it.
#[derive(Clone, Copy, Debug)]
pub struct Cursor;

impl Cursor {
    /// Encodes a sort key.
    #[must_use]
    pub fn encode<T: Serialize>(sort_key: &T) -> String {
        // A sort key has plain fields: writing it cannot fail, and an empty cursor is refused.
        BASE64URL_NOPAD.encode(&serde_json::to_vec(sort_key).unwrap_or_default())
    }

    /// Decodes a sort key; `None` when there is no cursor.
    ///
    /// # Errors
    /// When the text is not a cursor of this list.
    pub fn decode<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, Problem> {
        let Some(text) = text else { return Ok(None) };
        (text.len() <= MAX_CURSOR_BYTES)
            .then(|| BASE64URL_NOPAD.decode(text.as_bytes()).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .map(Some)
            .ok_or_else(|| Self::foreign(text))
    }

    /// Returns the problem of a cursor that this list did not issue.
    #[must_use]
    pub fn foreign(text: &str) -> Problem {
        Problem::parameter(
            "cursor",
            "is not a cursor of this list: send `next` unchanged, with the same parameters",
            Some(text.into()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_round_trips_and_a_tampered_one_is_rejected() {
        let text = Cursor::encode(&("robot-7", 7));
        assert_eq!(
            Cursor::decode::<(String, u64)>(Some(&text)).unwrap(),
            Some(("robot-7".to_owned(), 7))
        );
        assert!(Cursor::decode::<(String, u64)>(None).unwrap().is_none());
        let cut = &text[..text.len() - 2];
        for bad in ["", "a", "%%%", cut, &"a".repeat(5000)] {
            assert!(Cursor::decode::<(String, u64)>(Some(bad)).is_err(), "{bad}");
        }
    }
}
