//! `Range: bytes=…`: the requested part of a file (RFC 9110 §14). Pure.

/// A part of a file, of at least one byte: from the first byte (inclusive) to the second
/// (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Returns the part of `total` bytes that a header requests. `None` selects the whole file, also
/// when the header is invalid or requests several parts, which a server may ignore.
pub(super) fn part(header: Option<&str>, total: u64) -> Option<Part> {
    let (first, last) = header?.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (from, to) = match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, true) => return None,
        (true, false) => (total.saturating_sub(number(last)?), total),
        (false, true) => (number(first)?, total),
        (false, false) => (number(first)?, number(last)?.saturating_add(1).min(total)),
    };
    (from < to).then_some(Part { from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_valid_range_is_used_and_others_are_ignored() {
        for (header, expected) in [
            ("bytes=0-", Some((0, 100))),
            ("bytes=10-19", Some((10, 20))),
            ("bytes=90-500", Some((90, 100))),
            ("bytes=99-99", Some((99, 100))),
            ("bytes=-10", Some((90, 100))),
            ("bytes=-500", Some((0, 100))),
            ("bytes=100-", None),
            ("bytes=20-10", None),
            ("bytes=0-1,5-6", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("lines=1-2", None),
            ("", None),
        ] {
            let found = part(Some(header), 100).map(|part| (part.from, part.to));
            assert_eq!(found, expected, "{header}");
        }
        assert_eq!(part(None, 100), None);
        assert_eq!(part(Some("bytes=0-"), 0), None);
    }
}
