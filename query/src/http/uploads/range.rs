//! `Range: bytes=…`: the requested part of a file (RFC 9110 §14). Pure.

/// A part of a file, of at least one byte: from the first byte (inclusive) to the second
/// (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What a request selects of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selected {
    /// The whole file.
    Whole,
    /// A part of it.
    Part(Part),
    /// A part that the file does not have.
    Nothing,
}

/// Returns what `Range` selects of `total` bytes. A header that is invalid or requests several parts
/// is ignored, as a server may, and so is one whose `If-Range` is not the tag of the file.
pub(super) fn selected(
    range: Option<&str>,
    if_range: Option<&str>,
    tag: &str,
    total: u64,
) -> Selected {
    if if_range.is_some_and(|expected| expected != tag) {
        return Selected::Whole;
    }
    match part(range, total) {
        None => Selected::Whole,
        Some(part) if part.from < part.to => Selected::Part(part),
        Some(_) => Selected::Nothing,
    }
}

/// Returns the requested part; it is empty if the file does not have it.
fn part(header: Option<&str>, total: u64) -> Option<Part> {
    let (first, last) = header?.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (from, to) = match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, true) => return None,
        (true, false) => (total.saturating_sub(number(last)?), total),
        (false, true) => (number(first)?, total),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            // Not a range at all.
            if last < first {
                return None;
            }
            (first, last.saturating_add(1).min(total))
        }
    };
    Some(Part { from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_valid_range_is_used_and_others_are_ignored() {
        let part = |from, to| Selected::Part(Part { from, to });
        for (header, expected) in [
            ("bytes=0-", part(0, 100)),
            ("bytes=10-19", part(10, 20)),
            ("bytes=90-500", part(90, 100)),
            ("bytes=99-99", part(99, 100)),
            ("bytes=-10", part(90, 100)),
            ("bytes=-500", part(0, 100)),
            ("bytes=100-", Selected::Nothing),
            ("bytes=100-200", Selected::Nothing),
            ("bytes=-0", Selected::Nothing),
            ("bytes=20-10", Selected::Whole),
            ("bytes=0-1,5-6", Selected::Whole),
            ("bytes=-", Selected::Whole),
            ("bytes=a-b", Selected::Whole),
            ("lines=1-2", Selected::Whole),
            ("", Selected::Whole),
        ] {
            assert_eq!(selected(Some(header), None, "\"a\"", 100), expected, "{header}");
        }
        assert_eq!(selected(None, None, "\"a\"", 100), Selected::Whole);
        assert_eq!(selected(Some("bytes=0-"), None, "\"a\"", 0), Selected::Nothing);
    }

    #[test]
    fn if_range_selects_a_part_of_the_same_file_only() {
        let range = Some("bytes=10-19");
        let part = Selected::Part(Part { from: 10, to: 20 });
        assert_eq!(selected(range, Some("\"a\""), "\"a\"", 100), part);
        for other in ["\"b\"", "W/\"a\"", "Sat, 29 Oct 1994 19:43:31 GMT"] {
            assert_eq!(selected(range, Some(other), "\"a\"", 100), Selected::Whole, "{other}");
        }
    }
}
