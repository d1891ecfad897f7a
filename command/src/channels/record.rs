//! Recordings of shells: asciicast v2 in chunks, each a blob with its hash in the log.
//!
//! The first line of the first chunk is the header; then come lines `[seconds, "o", text]`,
//! `[seconds, "r", "COLSxROWS"]` and, only when it is asked for, since it holds passwords,
//! `[seconds, "i", text]`: what is typed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_api::blobs::key;
use muster_schemas::events::SessionRecorded;
use muster_schemas::wire::{TerminalSize, output_hash};
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::audit::Session;
use crate::service::ServiceError;

/// A chunk is written when it holds so many bytes …
const CHUNK: usize = 64 * 1024;
/// … or when its first line is so old.
const AGE: Duration = Duration::from_secs(5);
/// A chunk that cannot be written is tried again for so long; meanwhile the shell shows nothing new.
const PATIENCE: Duration = Duration::from_secs(45);
/// The first chunk of a shell that is not open yet, and the last ones of a process that stops.
const SHORT: Duration = Duration::from_secs(4);
const AGAIN: Duration = Duration::from_millis(500);

/// What of a session is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// What it shows.
    pub output: bool,
    /// What is typed.
    pub input: bool,
}

impl Recorded {
    /// Begins a recording, if there is to be one.
    #[must_use]
    pub fn recorder(
        self,
        session: &Session,
        recording: u32,
        size: TerminalSize,
        term: &str,
    ) -> Option<Recorder> {
        let begin = || Recorder::new(session.clone(), recording, size, term, self.input);
        self.output.then(begin)
    }
}

/// Writes one recording.
#[derive(Debug)]
pub struct Recorder {
    session: Session,
    recording: u32,
    began: Instant,
    lines: Vec<u8>,
    oldest: Option<Instant>,
    chunk: u32,
    /// A chunk that is being written.
    writing: Option<JoinHandle<Result<(), ServiceError>>>,
    /// Of what is shown, and of what is typed where that is recorded.
    shown: Text,
    typed: Option<Text>,
}

/// Bytes that become text.
#[derive(Debug, Default)]
struct Text {
    /// The beginning of a character whose rest has not come yet.
    partial: Vec<u8>,
}

impl Text {
    /// The characters that are whole now.
    fn take(&mut self, bytes: &[u8]) -> String {
        self.partial.extend_from_slice(bytes);
        let whole = whole_characters(&self.partial);
        let rest = self.partial.split_off(whole);
        String::from_utf8_lossy(&std::mem::replace(&mut self.partial, rest)).into_owned()
    }
}

impl Recorder {
    fn new(
        session: Session,
        recording: u32,
        size: TerminalSize,
        term: &str,
        with_input: bool,
    ) -> Self {
        let header = json!({
            "version": 2,
            "width": size.cols,
            "height": size.rows,
            "timestamp": crate::service::now().micros().div_euclid(1_000_000),
            "env": {"TERM": term},
        });
        let mut lines = header.to_string().into_bytes();
        lines.push(b'\n');
        let (began, shown) = (Instant::now(), Text::default());
        let typed = with_input.then(Text::default);
        Self {
            session,
            recording,
            began,
            lines,
            oldest: None,
            chunk: 0,
            writing: None,
            shown,
            typed,
        }
    }

    fn line(&mut self, kind: &str, text: &str) {
        let seconds = (self.began.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        let line = json!([seconds, kind, text]).to_string();
        self.lines.extend_from_slice(line.as_bytes());
        self.lines.push(b'\n');
        self.oldest.get_or_insert_with(Instant::now);
    }

    /// What the shell shows.
    ///
    /// # Errors
    /// When a chunk is full and cannot be written.
    pub async fn output(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        let text = self.shown.take(bytes);
        if !text.is_empty() {
            self.line("o", &text);
        }
        if self.lines.len() >= CHUNK { self.write().await } else { Ok(()) }
    }

    /// Is what is typed recorded?
    #[must_use]
    pub const fn hears(&self) -> bool {
        self.typed.is_some()
    }

    /// What is typed; nothing, unless it is recorded.
    ///
    /// # Errors
    /// When a chunk is full and cannot be written.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<(), ServiceError> {
        let text = self.typed.as_mut().map(|typed| typed.take(bytes)).unwrap_or_default();
        if !text.is_empty() {
            self.line("i", &text);
        }
        if self.lines.len() >= CHUNK { self.write().await } else { Ok(()) }
    }

    /// The terminal has another size.
    pub fn resized(&mut self, size: TerminalSize) {
        self.line("r", &format!("{}x{}", size.cols, size.rows));
    }

    /// When the chunk is to be written, however few bytes it holds.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.oldest.map(|oldest| oldest + AGE)
    }

    /// Writes what there is. Left in the middle, it goes on by itself, and the next one waits for it:
    /// no chunk is written twice or lost.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn write(&mut self) -> Result<(), ServiceError> {
        self.written().await?;
        if self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        let chunk = write(self.session.clone(), self.recording, self.chunk, lines);
        self.writing = Some(tokio::spawn(chunk));
        self.chunk += 1;
        self.oldest = None;
        self.written().await
    }

    /// What is being written is written.
    async fn written(&mut self) -> Result<(), ServiceError> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let written = writing.await;
        self.writing = None;
        // Only a panic ends it otherwise.
        written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// Writes a chunk: first the blob, then its hash into the log.
async fn write(
    session: Session,
    recording: u32,
    chunk: u32,
    lines: Vec<u8>,
) -> Result<(), ServiceError> {
    let salt: [u8; 16] = rand::random();
    let hash = output_hash(&salt, &lines);
    let event = SessionRecorded { recording, chunk, bytes: lines.len() as u64, hash };
    let name = key::recording(&session.project, session.id, recording, chunk);
    let blob = Bytes::from([&salt[..], &lines].concat());
    let (began, append_id) = (Instant::now(), Uuid::new_v4());
    let stop = &session.bridges().stop;
    loop {
        let written = async {
            session.service().blobs.put(&name, blob.clone()).await?;
            session.record_once(append_id, event.clone()).await
        };
        let error = match written.await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let is_brief = chunk == 0 || stop.is_cancelled();
        let is_final = matches!(error, ServiceError::Rejected(_));
        if is_final || began.elapsed() > if is_brief { SHORT } else { PATIENCE } {
            return Err(error);
        }
        tracing::debug!(session = %session.id, %error, "a recording waits");
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            // Tried once more, at once.
            () = stop.cancelled(), if !stop.is_cancelled() => {}
        }
    }
}

/// How many bytes are not the beginning of a character that is not there whole.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => {
            // Something in it is no text at all: only what may still become a character waits.
            let tail = bytes.len().saturating_sub(3);
            let begins = |byte: &u8| byte & 0xc0 == 0xc0;
            let start = bytes.iter().skip(tail).position(begins).map(|at| tail + at);
            match start {
                Some(start) if matches!(std::str::from_utf8(&bytes[start..]), Err(e) if e.error_len().is_none()) => {
                    start
                }
                _ => bytes.len(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_is_cut_waits_for_its_rest() {
        for (bytes, whole) in [
            (b"abc".as_slice(), 3),
            ("aü".as_bytes(), 3),
            (&"aü".as_bytes()[..2], 1),
            (&"a€".as_bytes()[..3], 1),
            (b"\xff\xfe", 2),
            (b"\xffa\xe2\x82", 2),
            (b"", 0),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }
}
