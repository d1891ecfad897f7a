//! The local terminal: in raw mode while a shell is open, and restored afterwards.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// A terminal in raw mode; restored on drop.
pub(super) struct RawMode {
    previous: Termios,
}

impl RawMode {
    /// Enables raw mode; `None` when standard input is not a terminal.
    pub(super) fn new() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).ok()?;
        Some(Self { previous: before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let stdin = std::io::stdin();
        let _ = tcsetattr(stdin.as_fd(), OptionalActions::Flush, &self.previous);
    }
}

/// Returns columns and rows; those of a common terminal if there is none.
pub(super) fn size() -> (u16, u16) {
    let found = tcgetwinsize(std::io::stdout().as_fd()).ok();
    let found = found.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    found.map_or((80, 24), |size| (size.ws_col.min(1000), size.ws_row.min(1000)))
}

/// An escape: the key after Enter and the escape character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// Detach; the session is kept.
    Detach,
    /// List the escapes.
    Help,
}

/// A part of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Bytes to send.
    Bytes(Vec<u8>),
    /// An escape to handle locally.
    Escape(Escape),
}

/// Character that starts an escape; `None` disables escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EscapeCharacter(pub(super) Option<u8>);

impl std::str::FromStr for EscapeCharacter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.as_bytes() {
            b"none" => Ok(Self(None)),
            [one] if one.is_ascii_graphic() => Ok(Self(Some(*one))),
            // The syntax of ssh: ^A is control and A.
            [b'^', letter @ (b'@'..=b'_' | b'a'..=b'z')] => Ok(Self(Some(letter & 0x1f))),
            _ => Err(format!("'{text}' is neither a character, such as ~ or ^B, nor 'none'")),
        }
    }
}

impl std::fmt::Display for EscapeCharacter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            None => f.write_str("none"),
            Some(byte) if byte < b' ' => write!(f, "^{}", char::from(byte | 0x40)),
            Some(byte) => write!(f, "{}", char::from(byte)),
        }
    }
}

/// Maximum number of bytes that a user types between two reads: Enter, the escape character, and
/// one more, over a slow line. Longer reads are pasted text.
const MAX_TYPED_BYTES: usize = 3;
/// Maximum time between two reads of a paste.
const MAX_PASTE_GAP: Duration = Duration::from_millis(100);
/// Sequences with which a terminal encloses a paste, if the program has enabled them.
const PASTE_START: &[u8] = b"\x1b[200~";
const PASTE_END: &[u8] = b"\x1b[201~";

/// Recognizes escapes in typed input: only after Enter, and never in pasted text.
#[derive(Debug)]
pub(super) struct Escapes {
    character: u8,
    is_after_enter: bool,
    is_after_escape: bool,
    /// Whether the input is between the sequences of a paste.
    is_in_paste: bool,
    /// Time of the last read that was too long for typed input.
    pasted_at: Option<Instant>,
    /// The newest bytes, which may be the start of a paste sequence.
    tail: Vec<u8>,
}

impl Escapes {
    pub(super) const fn new(character: u8) -> Self {
        Self {
            character,
            is_after_enter: true,
            is_after_escape: false,
            is_in_paste: false,
            pasted_at: None,
            tail: Vec::new(),
        }
    }

    /// Splits the bytes of one read into input to send and escapes.
    pub(super) fn feed(&mut self, bytes: &[u8], now: Instant) -> Vec<Key> {
        let follows = self.pasted_at.is_some_and(|at| now.duration_since(at) < MAX_PASTE_GAP);
        let is_pasted = self.is_in_paste || follows || bytes.len() > MAX_TYPED_BYTES;
        let mut keys = Vec::new();
        let mut sent = Vec::with_capacity(bytes.len() + 1);
        if is_pasted {
            self.pasted_at = Some(now);
            if std::mem::take(&mut self.is_after_escape) {
                sent.push(self.character);
            }
            sent.extend_from_slice(bytes);
            self.is_after_enter = matches!(bytes.last(), Some(b'\r' | b'\n'));
        } else {
            for byte in bytes {
                if let Some(escape) = self.typed(*byte, &mut sent) {
                    if !sent.is_empty() {
                        keys.push(Key::Bytes(std::mem::take(&mut sent)));
                    }
                    keys.push(Key::Escape(escape));
                }
            }
        }
        for byte in bytes {
            self.detect_paste(*byte);
        }
        if !sent.is_empty() {
            keys.push(Key::Bytes(sent));
        }
        keys
    }

    fn typed(&mut self, byte: u8, sent: &mut Vec<u8>) -> Option<Escape> {
        if std::mem::take(&mut self.is_after_escape) {
            match byte {
                b'.' => return Some(Escape::Detach),
                b'?' => {
                    self.is_after_enter = true;
                    return Some(Escape::Help);
                }
                // The escape character twice sends it once.
                _ if byte == self.character => {}
                _ => sent.push(self.character),
            }
        } else if self.is_after_enter && byte == self.character {
            self.is_after_escape = true;
            self.is_after_enter = false;
            return None;
        }
        self.is_after_enter = matches!(byte, b'\r' | b'\n');
        sent.push(byte);
        None
    }

    fn detect_paste(&mut self, byte: u8) {
        self.tail.push(byte);
        if self.tail.ends_with(PASTE_START) {
            self.is_in_paste = true;
        } else if self.tail.ends_with(PASTE_END) {
            self.is_in_paste = false;
        }
        if self.tail.len() >= PASTE_START.len() {
            self.tail.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the sent input and the escapes, for reads at intervals of a second.
    fn fed(reads: &[&str]) -> (String, Vec<Escape>) {
        let mut escapes = Escapes::new(b'~');
        let mut now = Instant::now();
        let (mut sent, mut found) = (Vec::new(), Vec::new());
        for read in reads {
            now += Duration::from_secs(1);
            for key in escapes.feed(read.as_bytes(), now) {
                match key {
                    Key::Bytes(bytes) => sent.extend(bytes),
                    Key::Escape(escape) => found.push(escape),
                }
            }
        }
        (String::from_utf8(sent).unwrap(), found)
    }

    #[test]
    fn escapes_are_recognized_only_after_enter() {
        for (reads, sent, escapes) in [
            (&["l", "s", "\r", "~", "."][..], "ls\r", vec![Escape::Detach]),
            (&["~."], "", vec![Escape::Detach]),
            (&["\r~."], "\r", vec![Escape::Detach]),
            (&["a", "~", "."], "a~.", vec![]),
            (&["a~."], "a~.", vec![]),
            (&["\r", "~", "~", "x"], "\r~x", vec![]),
            (&["\r", "~", "x"], "\r~x", vec![]),
            (&["\r", "~", "?", "l", "s"], "\rls", vec![Escape::Help]),
            // After the help, the line is still empty.
            (&["~", "?", "~", "."], "", vec![Escape::Help, Escape::Detach]),
        ] {
            assert_eq!(fed(reads), (sent.to_owned(), escapes), "{reads:?}");
        }
    }

    #[test]
    fn a_paste_contains_no_escapes_and_is_sent_completely() {
        for reads in [
            &["a paste\r~?and the rest\r~.end"][..],
            &["~.\r\n"],
            // Enclosed by the terminal, in pieces of any length.
            &["\x1b[200~\r~.", "\r~?", "\r", "~.", "\x1b[201~"],
            &["\x1b[2", "00~", "\r", "~", ".", "\x1b[201~"],
            // The escape character before a paste no longer starts an escape.
            &["\r", "~", "pasted.text"],
        ] {
            assert_eq!(fed(reads), (reads.concat(), vec![]), "{reads:?}");
        }
        // After the paste, escapes at the start of a line are recognized again.
        let (sent, escapes) = fed(&["\x1b[200~text\x1b[201~", "~", ".", "\r", "~", "."]);
        assert_eq!((sent.as_str(), escapes), ("\x1b[200~text\x1b[201~~.\r", vec![Escape::Detach]));
        // The last read of a paste may be short.
        let mut escapes = Escapes::new(b'~');
        let now = Instant::now();
        escapes.feed(b"a paste\r", now);
        let soon = now + Duration::from_millis(5);
        assert_eq!(escapes.feed(b"~.", soon), [Key::Bytes(b"~.".to_vec())]);
    }

    #[test]
    fn the_escape_character_has_the_syntax_of_ssh() {
        for (text, expected) in
            [("~", Some(b'~')), ("%", Some(b'%')), ("^B", Some(2)), ("none", None)]
        {
            let character: EscapeCharacter = text.parse().unwrap();
            assert_eq!((character.0, character.to_string().as_str()), (expected, text));
        }
        assert_eq!("^b".parse(), Ok(EscapeCharacter(Some(2))));
        for bad in ["", "ab", "^", "^1", "é", " "] {
            let parsed = bad.parse::<EscapeCharacter>();
            assert!(parsed.is_err() || bad == "^", "{bad:?}");
        }
    }
}
