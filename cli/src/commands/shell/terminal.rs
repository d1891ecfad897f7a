//! This command's own terminal: raw while a shell is open, as it was afterwards.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// A terminal in raw mode; put back when this is dropped.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// `None` when standard input is no terminal.
    pub(super) fn new() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let stdin = std::io::stdin();
        let _ = tcsetattr(stdin.as_fd(), OptionalActions::Flush, &self.before);
    }
}

/// Columns and rows; those of a usual terminal where there is none.
pub(super) fn size() -> (u16, u16) {
    let found = tcgetwinsize(std::io::stdout().as_fd()).ok();
    let found = found.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    found.map_or((80, 24), |size| (size.ws_col.min(1000), size.ws_row.min(1000)))
}

/// What is typed after Enter and `~`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// Leave; the session stays.
    Leave,
    /// What can be typed?
    Help,
}

/// Looks for escapes in what is typed.
#[derive(Debug)]
pub(super) struct Escapes {
    after_enter: bool,
    after_tilde: bool,
}

impl Default for Escapes {
    fn default() -> Self {
        Self { after_enter: true, after_tilde: false }
    }
}

impl Escapes {
    /// What is to be sent of these bytes, and the escape that ends them.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, Option<Escape>) {
        let mut sent = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.after_tilde {
                self.after_tilde = false;
                match byte {
                    b'.' => return (sent, Some(Escape::Leave)),
                    b'?' => return (sent, Some(Escape::Help)),
                    b'~' => {
                        sent.push(b'~');
                        continue;
                    }
                    _ => sent.push(b'~'),
                }
            } else if self.after_enter && *byte == b'~' {
                self.after_tilde = true;
                self.after_enter = false;
                continue;
            }
            self.after_enter = matches!(byte, b'\r' | b'\n');
            sent.push(*byte);
        }
        (sent, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_found_after_enter_alone() {
        for (typed, sent, escape) in [
            ("ls\r~.", "ls\r", Some(Escape::Leave)),
            ("~.", "", Some(Escape::Leave)),
            ("a~.", "a~.", None),
            ("\r~~x", "\r~x", None),
            ("\r~x", "\r~x", None),
            ("\r~?", "\r", Some(Escape::Help)),
        ] {
            let found = Escapes::default().feed(typed.as_bytes());
            assert_eq!(found, (sent.as_bytes().to_vec(), escape), "{typed:?}");
        }
        let mut escapes = Escapes::default();
        assert_eq!(escapes.feed(b"~"), (Vec::new(), None));
        assert_eq!(escapes.feed(b"."), (Vec::new(), Some(Escape::Leave)));
    }
}
