//! Tracks the modes that a remote program has changed in the local terminal, to restore them.
//!
//! It reads the output and draws nothing. It resets only modes that were changed.

use std::collections::BTreeSet;
use std::io::{self, Write};

/// Maximum length of the parameters of a control sequence; the rest of a longer one is ignored.
const MAX_PARAMETER_BYTES: usize = 64;

/// Private modes (DECSET) that are off in a new terminal, and that stay on after a program's end.
///
/// 1 cursor keys, 5 reverse video, 6 origin, 9 and 1000 to 1003 mouse, 1004 focus, 1005, 1006, 1015
/// and 1016 mouse encodings, 66 keypad, 2004 bracketed paste, 2026 synchronized output, 2031 color
/// scheme and 2048 size reports.
const INITIALLY_OFF: [u16; 18] =
    [1, 5, 6, 9, 66, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026, 2031, 2048];
/// Private modes that are on in a new terminal: 7 wrap at the margin, 25 cursor visible.
const INITIALLY_ON: [u16; 2] = [7, 25];
/// Private modes of the alternate screen.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// State of the parser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    Escape,
    /// After `ESC` and an intermediate such as `(`: one more byte.
    Charset,
    /// In a control sequence, after `ESC [`.
    Control,
    /// In a string that ends with `ESC \`, or `BEL`.
    Text,
    /// In such a string, after `ESC`.
    TextEscape,
}

/// Modes that differ from a new terminal.
#[derive(Clone, Debug, Default)]
pub(crate) struct TerminalModes {
    state: State,
    parameters: Vec<u8>,
    /// Private modes that are on and should be off.
    on: BTreeSet<u16>,
    /// Private modes that are off and should be on.
    off: BTreeSet<u16>,
    /// Mode by which the alternate screen was entered.
    alternate: Option<u16>,
    /// Depth of the stack of keyboard flags (kitty), of the main and the alternate screen.
    keyboard: [u16; 2],
    /// Whether keyboard flags were set without the stack, of the main and the alternate screen.
    has_keyboard_flags: [bool; 2],
    has_modified_keys: bool,
    has_application_keypad: bool,
    has_colors: bool,
    has_margins: bool,
    has_insert: bool,
    has_cursor_style: bool,
    has_charset: bool,
    has_link: bool,
}

impl TerminalModes {
    /// Parses output.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.step(*byte);
        }
    }

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            // Cancel, substitute.
            (_, 0x18 | 0x1a) => State::Ground,
            (State::Text, 0x07) | (State::TextEscape, b'\\') => self.text_ended(),
            (State::Text, 0x1b) => State::TextEscape,
            (State::Text, _) => {
                self.push_parameter(byte);
                State::Text
            }
            (_, 0x1b) => State::Escape,
            (State::Escape | State::TextEscape, _) => self.escape(byte),
            (State::Charset, _) => {
                self.has_charset |= !matches!(byte, b'B');
                State::Ground
            }
            (State::Control, 0x40..=0x7e) => {
                self.control(byte);
                State::Ground
            }
            (State::Control, _) => {
                self.push_parameter(byte);
                State::Control
            }
            (State::Ground, 0x0e) => {
                self.has_charset = true;
                State::Ground
            }
            (State::Ground, _) => State::Ground,
        };
    }

    fn push_parameter(&mut self, byte: u8) {
        if self.parameters.len() < MAX_PARAMETER_BYTES {
            self.parameters.push(byte);
        }
    }

    /// Handles a byte after `ESC`.
    fn escape(&mut self, byte: u8) -> State {
        self.parameters.clear();
        match byte {
            b'[' => return State::Control,
            b']' | b'P' | b'X' | b'^' | b'_' => {
                self.parameters.push(byte);
                return State::Text;
            }
            b'(' | b')' | b'*' | b'+' | b'#' | b' ' | b'%' => return State::Charset,
            b'=' => self.has_application_keypad = true,
            b'>' => self.has_application_keypad = false,
            // A full reset of the terminal.
            b'c' => *self = Self::default(),
            _ => {}
        }
        State::Ground
    }

    /// Handles the end of a string. OSC 8 with an address opens a hyperlink, without one it closes
    /// it.
    fn text_ended(&mut self) -> State {
        if let Some(link) = self.parameters.strip_prefix(b"]8;") {
            let address = link.iter().position(|byte| *byte == b';').map(|at| &link[at + 1..]);
            self.has_link = address.is_some_and(|address| !address.is_empty());
        }
        State::Ground
    }

    /// Handles a control sequence with this final byte.
    fn control(&mut self, last: u8) {
        let parameters = std::mem::take(&mut self.parameters);
        let text = String::from_utf8_lossy(&parameters).into_owned();
        let screen = usize::from(self.alternate.is_some());
        let number = |text: &str| text.parse::<u16>().ok();
        match (text.as_bytes().first(), last) {
            (Some(b'?'), b'h' | b'l') => {
                for mode in text[1..].split(';').filter_map(number) {
                    self.private_mode(mode, last == b'h');
                }
            }
            (Some(b'>'), b'u') => {
                self.keyboard[screen] = self.keyboard[screen].saturating_add(1);
            }
            (Some(b'<'), b'u') => {
                let count = number(&text[1..]).unwrap_or(1);
                self.keyboard[screen] = self.keyboard[screen].saturating_sub(count);
            }
            (Some(b'='), b'u') => {
                let flags = text[1..].split(';').next().unwrap_or_default();
                self.has_keyboard_flags[screen] = !matches!(flags, "" | "0");
            }
            (Some(b'>'), b'm') if text.starts_with(">4") => {
                self.has_modified_keys = !matches!(text.as_str(), ">4" | ">4;" | ">4;0");
            }
            (first, b'm') if first.is_none_or(|byte| byte.is_ascii_digit() || *byte == b';') => {
                self.has_colors = !matches!(text.as_str(), "" | "0" | "00");
            }
            (_, b'r') if text.is_empty() => self.has_margins = false,
            (Some(b'0'..=b'9' | b';'), b'r') => self.has_margins = true,
            (Some(b'4'), b'h') if text == "4" => self.has_insert = true,
            (Some(b'4'), b'l') if text == "4" => self.has_insert = false,
            (_, b'q') if text.ends_with(' ') => {
                self.has_cursor_style = !matches!(text.as_str(), " " | "0 ");
            }
            _ => {}
        }
    }

    fn private_mode(&mut self, mode: u16, is_on: bool) {
        if ALTERNATE.contains(&mode) {
            self.alternate = is_on.then_some(mode);
        } else if INITIALLY_OFF.contains(&mode) {
            if is_on {
                self.on.insert(mode);
            } else {
                self.on.remove(&mode);
            }
        } else if INITIALLY_ON.contains(&mode) {
            if is_on {
                self.off.remove(&mode);
            } else {
                self.off.insert(mode);
            }
        }
    }

    /// Returns the sequences that restore the terminal, empty if no mode was changed, and resets
    /// the tracked state.
    pub(crate) fn restore(&mut self) -> Vec<u8> {
        let was = std::mem::take(self);
        let mut text = String::new();
        // An incomplete sequence would consume the following bytes.
        match was.state {
            State::Ground => {}
            State::Text | State::TextEscape => text.push_str("\x1b\\"),
            State::Escape | State::Charset | State::Control => text.push('\x18'),
        }
        if was.has_link {
            text.push_str("\x1b]8;;\x1b\\");
        }
        let keyboard = |text: &mut String, screen: usize| {
            if was.has_keyboard_flags[screen] {
                text.push_str("\x1b[=0;1u");
            }
            if was.keyboard[screen] > 0 {
                text.push_str(&format!("\x1b[<{}u", was.keyboard[screen]));
            }
        };
        if was.alternate.is_some() {
            keyboard(&mut text, 1);
        }
        if was.has_margins {
            // This moves the cursor, which matters on the main screen.
            let is_main = was.alternate.is_none();
            text.push_str(if is_main { "\x1b7\x1b[r\x1b8" } else { "\x1b[r" });
        }
        if let Some(mode) = was.alternate {
            text.push_str(&format!("\x1b[?{mode}l"));
        }
        keyboard(&mut text, 0);
        for (modes, word) in [(&was.on, 'l'), (&was.off, 'h')] {
            for mode in modes {
                text.push_str(&format!("\x1b[?{mode}{word}"));
            }
        }
        for (is_set, sequence) in [
            (was.has_modified_keys, "\x1b[>4m"),
            (was.has_application_keypad, "\x1b>"),
            (was.has_insert, "\x1b[4l"),
            (was.has_cursor_style, "\x1b[0 q"),
            (was.has_charset, "\x0f\x1b(B"),
            (was.has_colors, "\x1b[0m"),
        ] {
            if is_set {
                text.push_str(sequence);
            }
        }
        text.into_bytes()
    }
}

/// A terminal on which one program's modes and colors end with its output.
#[derive(Debug)]
pub(crate) struct Contained<W: Write> {
    inner: W,
    modes: TerminalModes,
    /// Whether the last byte ended a line.
    is_line_end: bool,
}

impl<W: Write> Contained<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, modes: TerminalModes::default(), is_line_end: true }
    }

    /// Ends the output: restores the terminal, and moves to the start of a line.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.inner.write_all(&self.modes.restore())?;
        if !self.is_line_end {
            self.inner.write_all(b"\n")?;
        }
        self.inner.flush()
    }
}

impl<W: Write> Write for Contained<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        let written = bytes.get(..count).unwrap_or(bytes);
        self.modes.feed(written);
        if let Some(last) = written.last() {
            self.is_line_end = *last == b'\n';
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(shown: &str) -> String {
        // For every split of the output.
        let mut whole = TerminalModes::default();
        whole.feed(shown.as_bytes());
        let whole = whole.restore();
        let mut pieces = TerminalModes::default();
        for byte in shown.as_bytes() {
            pieces.feed(&[*byte]);
        }
        assert_eq!(pieces.restore(), whole, "{shown:?} in pieces");
        assert_eq!(pieces.restore(), b"", "{shown:?} is restored once");
        String::from_utf8(whole).unwrap()
    }

    #[test]
    fn only_modes_that_were_changed_are_restored() {
        for (shown, expected) in [
            ("", ""),
            ("plain\r\n\x1b[2J\x1b[H\x1b[31mred\x1b[0m\x1b[K", ""),
            ("\x1b[31mred", "\x1b[0m"),
            ("\x1b[1;31mred\x1b[m", ""),
            ("\x1b[?1049h", "\x1b[?1049l"),
            ("\x1b[?47h", "\x1b[?47l"),
            ("\x1b[?1049h\x1b[?1049l", ""),
            ("\x1b[?1000;1006h", "\x1b[?1000l\x1b[?1006l"),
            ("\x1b[?1002h\x1b[?1003h\x1b[?1015h", "\x1b[?1002l\x1b[?1003l\x1b[?1015l"),
            ("\x1b[?2004h", "\x1b[?2004l"),
            ("\x1b[?1004h\x1b[?1h\x1b=", "\x1b[?1l\x1b[?1004l\x1b>"),
            ("\x1b[?25l", "\x1b[?25h"),
            ("\x1b[?25l\x1b[?25h\x1b[?7l", "\x1b[?7h"),
            ("\x1b[2;20r", "\x1b7\x1b[r\x1b8"),
            ("\x1b[2;20r\x1b[r", ""),
            ("\x1b[>1u", "\x1b[<1u"),
            ("\x1b[>1u\x1b[>5u\x1b[<u", "\x1b[<1u"),
            ("\x1b[=5;1u", "\x1b[=0;1u"),
            ("\x1b[>4;2m", "\x1b[>4m"),
            ("\x1b[5 q\x1b[4h\x1b(0", "\x1b[4l\x1b[0 q\x0f\x1b(B"),
            ("\x1b]8;;https://example.org\x07text", "\x1b]8;;\x1b\\"),
            ("\x1b]8;;https://example.org\x1b\\text\x1b]8;;\x1b\\", ""),
            // The keyboard stacks of both screens.
            ("\x1b[>1u\x1b[?1049h\x1b[>3u", "\x1b[<1u\x1b[?1049l\x1b[<1u"),
            // A full reset also resets the tracked state.
            ("\x1b[?1049h\x1b[?1000h\x1b[31m\x1bc", ""),
            // A title is not parsed for sequences.
            ("\x1b]0;a[?1049h\x07", ""),
            // An incomplete sequence.
            ("\x1b]0;title", "\x1b\\"),
            ("\x1b[31", "\x18"),
        ] {
            assert_eq!(restored(shown), expected, "{shown:?}");
        }
    }

    #[test]
    fn modes_set_by_an_editor_are_reset() {
        let editor = "\x1b[?1049h\x1b[>4;2m\x1b[?1h\x1b=\x1b[?2004h\x1b[?1004h\x1b[1;24r\x1b[?12h\x1b[?25l\x1b[?1002h\x1b[?1006h\x1b[38;5;12mtext";
        let restored = restored(editor);
        for off in ["1049l", "1l", "2004l", "1004l", "1002l", "1006l"] {
            assert!(restored.contains(&format!("\x1b[?{off}")), "{off}: {restored:?}");
        }
        for part in ["\x1b[?25h", "\x1b>", "\x1b[>4m", "\x1b[r", "\x1b[0m"] {
            assert!(restored.contains(part), "{part:?}: {restored:?}");
        }
    }

    #[test]
    fn the_colors_of_one_output_do_not_affect_the_next() {
        let mut shown = Vec::new();
        for output in ["\x1b[31mred", "plain\n", "\x1b[?25l\n"] {
            let mut contained = Contained::new(&mut shown);
            contained.write_all(output.as_bytes()).unwrap();
            contained.finish().unwrap();
        }
        let shown = String::from_utf8(shown).unwrap();
        assert_eq!(shown, "\x1b[31mred\x1b[0m\nplain\n\x1b[?25l\n\x1b[?25h");
    }
}
