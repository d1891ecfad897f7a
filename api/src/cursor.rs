//! Cursors: where a page ended, in text that means nothing to the client.
//!
//! A cursor is not a secret and grants nothing: it holds values of the last item that the client
//! was shown. What a list does with it is the list's own affair.

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// A cursor's text is at most this long.
const LONGEST: usize = 2048;

/// Turns the end of a page into text and back.
#[derive(Clone, Copy, Debug)]
pub struct Cursor;

impl Cursor {
    /// The text for a place.
    #[must_use]
    pub fn encode<T: Serialize>(place: &T) -> String {
        // A place is made of plain fields: writing it cannot fail, and an empty cursor is refused.
        BASE64URL_NOPAD.encode(&serde_json::to_vec(place).unwrap_or_default())
    }

    /// The place that a text names; `None` when there is no cursor.
    ///
    /// # Errors
    /// When the text is no cursor of this list.
    pub fn decode<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, Problem> {
        let Some(text) = text else { return Ok(None) };
        (text.len() <= LONGEST)
            .then(|| BASE64URL_NOPAD.decode(text.as_bytes()).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .map(Some)
            .ok_or_else(|| Self::foreign(text))
    }

    /// The problem of a cursor that this list did not give.
    #[must_use]
    pub fn foreign(text: &str) -> Problem {
        Problem::field(
            "cursor",
            "is not a cursor of this list: give back `next` as it came, with the same parameters",
            Some(text.into()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_a_tampered_one_is_refused() {
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
