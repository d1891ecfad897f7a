//! The contents of a session's terminal: it processes all output, so that a client that attaches
//! later sees the current screen.

use std::fmt::Write;
use std::num::NonZeroU16;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use muster_schemas::wire::TerminalSize;
use vt100::Parser;
use vt100::capture::{BasicFormattedCaptureRange, BasicFormattedCaptureState};

/// Maximum number of kept lines that have scrolled off the screen.
const MAX_HISTORY_LINES: usize = 500;
/// Maximum size of these lines in what a client receives when it attaches, in bytes.
const MAX_HISTORY_BYTES: usize = 96 * 1024;
/// Maximum size of a screen, in bytes; a frame holds no more than 256 KiB.
const MAX_SCREEN_BYTES: usize = 140 * 1024;
/// Maximum size of a terminal.
const MAX_TERMINAL_SIZE: TerminalSize = TerminalSize { cols: 500, rows: 200 };

/// Limits a terminal's size to valid values; without a size, 80 × 24.
pub(super) fn clamp_size(size: TerminalSize) -> TerminalSize {
    let one =
        |given: u16, default: u16, most: u16| if given == 0 { default } else { given.min(most) };
    TerminalSize {
        cols: one(size.cols, 80, MAX_TERMINAL_SIZE.cols),
        rows: one(size.rows, 24, MAX_TERMINAL_SIZE.rows),
    }
}

/// Minimum size of a piece of output that is buffered and parsed later, together with the following
/// output: of a long text, only the end is ever displayed again.
const MIN_BUFFERED_BYTES: usize = 2 * 1024;
/// Maximum size of the buffered output, in bytes.
const MAX_BUFFERED_BYTES: usize = 1 << 20;

/// The screen of a session.
pub(super) struct Screen {
    parser: Parser,
    size: TerminalSize,
    buffered: Vec<u8>,
    margins: Margins,
}

/// Whether a program has set the scrolling region. Then text may change the rows outside it in any
/// way. Only a reset clears this, because the two screens have separate regions.
#[derive(Debug, Default)]
struct Margins {
    are_set: bool,
    state: Sequence,
}

/// Position in an escape sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    Escape,
    Control,
}

impl Margins {
    fn scan(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state = match (self.state, byte) {
                (_, b'\x1b') => Sequence::Escape,
                (Sequence::Escape, b'[') => Sequence::Control,
                (Sequence::Escape, b'c') => {
                    self.are_set = false;
                    Sequence::None
                }
                // Cancel, substitute.
                (Sequence::None, _) | (_, 0x18 | 0x1a) => Sequence::None,
                (Sequence::Control, b'@'..=b'~') => {
                    self.are_set |= *byte == b'r';
                    Sequence::None
                }
                // Parameters, or controls that are executed inside the sequence.
                (Sequence::Control, _) | (Sequence::Escape, 0..b'0') => self.state,
                (Sequence::Escape, _) => Sequence::None,
            };
        }
    }
}

/// Bytes that only print or move to a line start. 0xc2 starts control characters of two bytes.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let is_control = byte < 0x20 || byte == 0x7f || byte == 0xc2;
        plain[byte] = !is_control || byte == 9 || byte == 10 || byte == 13;
        byte += 1;
    }
    plain
};

/// Returns the start of the plain text at the end.
fn plain_from(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| !PLAIN[usize::from(*byte)]).map_or(0, |at| at + 1)
}

/// Returns the part of a plain text that leaves no trace, because this many lines follow it.
fn overwritten(text: &[u8], lines: usize) -> Range<usize> {
    let ends = |at: &usize| *at > 0 && text.get(at - 1..=*at) == Some(b"\r\n");
    let start = (0..text.len()).find(ends);
    let end = (0..text.len()).rev().filter(ends).nth(lines);
    match (start, end) {
        (Some(start), Some(end)) if start < end => start + 1..end + 1,
        _ => 0..0,
    }
}

fn parser(size: TerminalSize) -> Parser {
    let of = |length: u16| NonZeroU16::new(length).unwrap_or(NonZeroU16::MIN);
    Parser::new(of(size.rows), of(size.cols), MAX_HISTORY_LINES)
}

impl Screen {
    pub(super) fn new(size: TerminalSize) -> Self {
        Self { parser: parser(size), size, buffered: Vec::new(), margins: Margins::default() }
    }

    /// Protects against panics of the third-party parser, which processes arbitrary output: after
    /// one, the screen is empty and the session continues.
    fn catch_panic(&mut self, work: impl FnOnce(&mut Parser)) {
        if catch_unwind(AssertUnwindSafe(|| work(&mut self.parser))).is_err() {
            tracing::warn!("failed to interpret a program's output; its screen is lost");
            self.parser = parser(self.size);
        }
    }

    /// Processes the program's output.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffered.extend_from_slice(bytes);
        if bytes.len() < MIN_BUFFERED_BYTES || self.buffered.len() >= MAX_BUFFERED_BYTES {
            self.flush();
        }
    }

    /// Parses the buffered output.
    fn flush(&mut self) {
        let waiting = std::mem::take(&mut self.buffered);
        let (others, text) = waiting.split_at(plain_from(&waiting));
        self.margins.scan(others);
        // The first lines may overwrite what is on the screen.
        let lines = MAX_HISTORY_LINES + 2 * usize::from(self.size.rows) + 1;
        let skipped = match &self.margins {
            Margins { are_set: false, state: Sequence::None } => overwritten(text, lines),
            _ => {
                self.margins.scan(text);
                0..0
            }
        };
        let (before, after) = (text.get(..skipped.start), text.get(skipped.end..));
        for part in [Some(others), before, after].into_iter().flatten() {
            self.catch_panic(|parser| parser.process(part));
        }
    }

    pub(super) fn resize(&mut self, size: TerminalSize) {
        self.flush();
        self.size = size;
        let of = |length: u16| NonZeroU16::new(length).unwrap_or(NonZeroU16::MIN);
        self.catch_panic(|parser| parser.set_size(of(size.rows), of(size.cols)));
    }

    /// Returns the output that makes any terminal of this size show this screen. `with_history`:
    /// includes lines that have scrolled off the screen.
    pub(super) fn render(&mut self, with_history: bool) -> Bytes {
        self.flush();
        let mut text = String::new();
        self.catch_panic(|parser| text = render(parser.screen(), with_history));
        Bytes::from(text)
    }
}

fn render(screen: &vt100::Screen, with_history: bool) -> String {
    let mut text = String::new();
    // A full-screen program uses the alternate screen, which has no history.
    let is_alternate = screen.alternate_screen();
    text.push_str(if is_alternate { "\x1b[?1049h" } else { "\x1b[?1049l" });
    text.push_str("\x1b[m\x1b[H\x1b[2J");
    if with_history && !is_alternate {
        text.push_str("\x1b[3J");
        history(screen, &mut text);
    }
    let state = screen.state_formatted();
    if state.len() <= MAX_SCREEN_BYTES {
        text.push_str(&state);
    } else {
        // The colors take too much space: send the text only.
        text.push_str("\x1b[m\x1b[H\x1b[2J");
        text.push_str(&tail(&screen.contents().replace('\n', "\r\n"), MAX_SCREEN_BYTES));
        text.push_str(&screen.cursor_state_formatted());
        text.push_str(&screen.input_mode_formatted());
    }
    text
}

/// Writes the lines that have scrolled off the screen, and those on the screen, so that the former
/// scroll off again.
fn history(screen: &vt100::Screen, text: &mut String) {
    let mut all = String::new();
    let mut state = BasicFormattedCaptureState::new();
    let range = BasicFormattedCaptureRange::Full(&mut state);
    if screen.write_contents_formatted_basic(&mut all, range).is_err() {
        return;
    }
    let mut lines = String::with_capacity(all.len());
    for (at, line) in all.split('\n').enumerate() {
        // Writing to a string cannot fail.
        let _ =
            write!(lines, "{}{}", if at == 0 { "" } else { "\r\n" }, line.trim_end_matches(' '));
    }
    text.push_str(&tail(&lines, MAX_HISTORY_BYTES));
    text.push_str("\x1b[m");
}

/// Returns the last whole lines that fit.
fn tail(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut start = text.len() - max;
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

    /// Returns a screen, and another one that was restored from it.
    fn pair(output: &[u8]) -> (Screen, Screen) {
        let (mut one, mut other) = (Screen::new(SIZE), Screen::new(SIZE));
        one.feed(output);
        one.flush();
        other.feed(b"\x1b[?1049hsomething else\x1b[31m");
        let restored = one.render(true);
        other.feed(&restored);
        (one, other)
    }

    #[test]
    fn a_restored_screen_is_identical() {
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
    fn skipped_output_does_not_change_the_screen() {
        let parts = [
            "a line",
            "\x1b[31mred",
            "\x1b[m",
            "\x1b[2",
            "m",
            "\ttab",
            "é€",
            "\u{9b}4m",
            "\x1b[2;4r",
            "\x1b[5;1H",
            "\x1b[H",
            "\x1b7",
            "\x1b[?1049h",
            "\x1b[?1049l",
            "\x1bc",
            "\r",
            "\n",
            "\x08",
            "\x1b]0;title",
        ];
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % below
        };
        let mut is_skipped = false;
        for _ in 0..20 {
            let (mut whole, mut screen) = (Screen::new(SIZE), Screen::new(SIZE));
            for _ in 0..6 {
                let mut output = String::new();
                for _ in 0..random(12) {
                    output.push_str(parts[random(parts.len())]);
                }
                // A long text, in the middle of the preceding output.
                for at in 0..random(4) * 1500 {
                    output.push_str(&format!("{at}{}\r\n", "x".repeat(random(30))));
                }
                for _ in 0..random(3) {
                    output.push_str(parts[random(parts.len())]);
                }
                let text = output.as_bytes().split_at(plain_from(output.as_bytes())).1;
                is_skipped |= !overwritten(text, MAX_HISTORY_LINES + 11).is_empty();
                whole.parser.process(output.as_bytes());
                for piece in output.as_bytes().chunks(random(MIN_BUFFERED_BYTES * 3) + 1) {
                    screen.feed(piece);
                }
                screen.flush();
                let (one, other) = (whole.parser.screen(), screen.parser.screen());
                assert_eq!(one.state_formatted(), other.state_formatted());
                assert_eq!(render(one, true), render(other, true));
            }
        }
        assert!(is_skipped);
    }

    #[test]
    fn scrolled_off_lines_are_restored() {
        let (_, mut other) = pair(b"1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7\r\n8\r\n9");
        other.parser.screen_mut().set_scrollback(4);
        assert_eq!(other.parser.screen().contents(), "1\n2\n3\n4\n5");
    }

    #[test]
    fn any_screen_fits_into_one_frame() {
        let mut screen = Screen::new(clamp_size(TerminalSize { cols: u16::MAX, rows: u16::MAX }));
        let mut bytes = Vec::new();
        for at in 0..200_000_u32 {
            let color = at % 255;
            bytes.extend_from_slice(format!("\x1b[38;2;{color};1;2mé").as_bytes());
        }
        screen.feed(&bytes);
        let restored = screen.render(true);
        assert!(restored.len() < 256 * 1024, "{}", restored.len());
        assert!(std::str::from_utf8(&restored).unwrap().contains('é'));
        screen.resize(clamp_size(TerminalSize { cols: 1, rows: 1 }));
        screen.feed(b"x\x1b[999;999Hy\x1b[99999999999b\x1b[?47h\x1bM\x1b[2;1r");
        assert!(!screen.render(true).is_empty());
        assert_eq!(
            clamp_size(TerminalSize { cols: 0, rows: 0 }),
            TerminalSize { cols: 80, rows: 24 }
        );
    }
}
