//! What a session's terminal looks like: fed with all output, so that whoever attaches later sees
//! what was there.

use std::fmt::Write;
use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use muster_schemas::wire::TerminalSize;
use vt100::Parser;
use vt100::capture::{BasicFormattedCaptureRange, BasicFormattedCaptureState};

/// Lines that have left the screen and are kept.
const HISTORY: usize = 500;
/// The most of them that is said to somebody who attaches, in bytes.
const HISTORY_BYTES: usize = 96 * 1024;
/// The most that a screen may take; a frame holds no more than 256 KiB.
const SCREEN_BYTES: usize = 140 * 1024;
/// The largest terminal.
const LARGEST: TerminalSize = TerminalSize { cols: 500, rows: 200 };

/// A size that a terminal can have; without one, 80 × 24.
pub(super) fn sane(size: TerminalSize) -> TerminalSize {
    let one =
        |given: u16, default: u16, most: u16| if given == 0 { default } else { given.min(most) };
    TerminalSize { cols: one(size.cols, 80, LARGEST.cols), rows: one(size.rows, 24, LARGEST.rows) }
}

/// The screen of a session.
pub(super) struct Screen {
    parser: Parser,
    size: TerminalSize,
}

fn parser(size: TerminalSize) -> Parser {
    let of = |length: u16| NonZeroU16::new(length).unwrap_or(NonZeroU16::MIN);
    Parser::new(of(size.rows), of(size.cols), HISTORY)
}

impl Screen {
    pub(super) fn new(size: TerminalSize) -> Self {
        Self { parser: parser(size), size }
    }

    /// The parser is somebody else's, and programs write anything: should it fail, the screen is
    /// empty, and the session goes on.
    fn guarded(&mut self, what: impl FnOnce(&mut Parser)) {
        if catch_unwind(AssertUnwindSafe(|| what(&mut self.parser))).is_err() {
            tracing::warn!("what a program wrote could not be understood; its screen is lost");
            self.parser = parser(self.size);
        }
    }

    /// Takes what the program wrote.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.guarded(|parser| parser.process(bytes));
    }

    pub(super) fn resize(&mut self, size: TerminalSize) {
        self.size = size;
        let of = |length: u16| NonZeroU16::new(length).unwrap_or(NonZeroU16::MIN);
        self.guarded(|parser| parser.set_size(of(size.rows), of(size.cols)));
    }

    /// What makes any terminal of this size look like this one. `with_history`: also what has left
    /// the screen.
    pub(super) fn restored(&mut self, with_history: bool) -> Bytes {
        let mut text = String::new();
        self.guarded(|parser| text = restored(parser.screen(), with_history));
        Bytes::from(text)
    }
}

fn restored(screen: &vt100::Screen, with_history: bool) -> String {
    let mut text = String::new();
    // A full-screen program has its own screen, which has no history.
    let is_alternate = screen.alternate_screen();
    text.push_str(if is_alternate { "\x1b[?1049h" } else { "\x1b[?1049l" });
    text.push_str("\x1b[m\x1b[H\x1b[2J");
    if with_history && !is_alternate {
        text.push_str("\x1b[3J");
        history(screen, &mut text);
    }
    let state = screen.state_formatted();
    if state.len() <= SCREEN_BYTES {
        text.push_str(&state);
    } else {
        // Too colorful: without the colors.
        text.push_str("\x1b[m\x1b[H\x1b[2J");
        text.push_str(&tail(&screen.contents().replace('\n', "\r\n"), SCREEN_BYTES));
        text.push_str(&screen.cursor_state_formatted());
        text.push_str(&screen.input_mode_formatted());
    }
    text
}

/// The lines that have left the screen, and those that are on it, so that the former leave it again.
fn history(screen: &vt100::Screen, text: &mut String) {
    let mut all = String::new();
    let mut state = BasicFormattedCaptureState::new();
    let range = BasicFormattedCaptureRange::Full(&mut state);
    if screen.write_contents_formatted_basic(&mut all, range).is_err() {
        return;
    }
    let mut lines = String::with_capacity(all.len());
    for (at, line) in all.split('\n').enumerate() {
        // Writing to a text cannot fail.
        let _ =
            write!(lines, "{}{}", if at == 0 { "" } else { "\r\n" }, line.trim_end_matches(' '));
    }
    text.push_str(&tail(&lines, HISTORY_BYTES));
    text.push_str("\x1b[m");
}

/// The last whole lines that fit.
fn tail(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut start = text.len() - most;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let rest = text.get(start..).unwrap_or_default();
    rest.split_once('\n').map_or(rest, |(_, lines)| lines).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: TerminalSize = TerminalSize { cols: 20, rows: 5 };

    /// A screen, and one that was made to look like it.
    fn pair(output: &[u8]) -> (Screen, Screen) {
        let (mut one, mut other) = (Screen::new(SIZE), Screen::new(SIZE));
        one.feed(output);
        other.feed(b"\x1b[?1049hsomething else\x1b[31m");
        let restored = one.restored(true);
        other.feed(&restored);
        (one, other)
    }

    #[test]
    fn a_restored_screen_looks_the_same() {
        for output in [
            &b"$ echo one\r\none\r\n$ "[..],
            b"\x1b[1;31mred\x1b[m \xc3\xa9\xe2\x82\xac\r\n\x1b[3;5Hhere\x1b[?2004h\x1b[?1h\x1b[?25l",
            b"before\r\n\x1b[?1049h\x1b[2J\x1b[Hfull screen\x1b[5;1H:",
            b"1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7\r\n8\r\n9",
            b"a line that is longer than the screen is wide, by far\r\n$ ",
        ] {
            let (one, other) = pair(output);
            let (one, other) = (one.parser.screen(), other.parser.screen());
            assert_eq!(one.contents_formatted(), other.contents_formatted());
            assert_eq!(one.cursor_position(), other.cursor_position());
            assert_eq!(one.alternate_screen(), other.alternate_screen());
            assert_eq!(one.input_mode_formatted(), other.input_mode_formatted());
        }
    }

    #[test]
    fn what_left_the_screen_is_restored_too() {
        let (_, mut other) = pair(b"1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7\r\n8\r\n9");
        other.parser.screen_mut().set_scrollback(4);
        assert_eq!(other.parser.screen().contents(), "1\n2\n3\n4\n5");
    }

    #[test]
    fn whatever_is_written_and_however_large_a_screen_fits_a_frame() {
        let mut screen = Screen::new(sane(TerminalSize { cols: u16::MAX, rows: u16::MAX }));
        let mut bytes = Vec::new();
        for at in 0..200_000_u32 {
            let color = at % 255;
            bytes.extend_from_slice(format!("\x1b[38;2;{color};1;2mé").as_bytes());
        }
        screen.feed(&bytes);
        let restored = screen.restored(true);
        assert!(restored.len() < 256 * 1024, "{}", restored.len());
        assert!(std::str::from_utf8(&restored).unwrap().contains('é'));
        screen.resize(sane(TerminalSize { cols: 1, rows: 1 }));
        screen.feed(b"x\x1b[999;999Hy\x1b[99999999999b\x1b[?47h\x1bM\x1b[2;1r");
        assert!(!screen.restored(true).is_empty());
        assert_eq!(sane(TerminalSize { cols: 0, rows: 0 }), TerminalSize { cols: 80, rows: 24 });
    }
}
