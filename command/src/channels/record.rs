//! Recordings of shells: asciicast v2 in chunks, each a blob with its hash in the log.
//!
//! The first line of the first chunk is the header; then follow lines `[seconds, "o", text]`,
//! `[seconds, "r", "COLSxROWS"]` and, only if requested because it contains passwords,
//! `[seconds, "i", text]` for input.

use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_blobs::key;
use muster_schemas::Event;
use muster_schemas::events::{SessionKind, SessionRecorded};
use muster_schemas::wire::{TerminalSize, output_hash};
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::session::Session;
use crate::clock::now;
use crate::domain::Rejection;
use crate::error::CommandError;

/// Size at which a chunk is written, in bytes.
const MAX_CHUNK_BYTES: usize = 64 * 1024;
/// Age of its first line at which a chunk is written.
const MAX_CHUNK_AGE: Duration = Duration::from_secs(5);
/// Retry budget of a chunk that cannot be written; meanwhile the shell's output is held back.
const RETRY_BUDGET: Duration = Duration::from_secs(45);
/// Retry budget of the first chunk of a shell that is being opened, and of the last ones at
/// shutdown.
const SHORT_RETRY_BUDGET: Duration = Duration::from_secs(4);
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// What of a session is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordedStreams {
    /// Whether output is recorded.
    pub output: bool,
    /// Whether input is recorded.
    pub input: bool,
}

impl RecordedStreams {
    /// Reads from the log what of a session is recorded.
    ///
    /// # Errors
    /// When the session does not exist, or is not a shell.
    pub(crate) async fn read(session: &Session) -> Result<Self, CommandError> {
        let log = &session.channels().executor.log;
        let stored = log.read_stream(&session.project, &session.stream()).await?;
        let stored = log.authentic(&session.project, stored).await;
        let first = stored.first().ok_or(Rejection::NotFound("session"))?;
        match first.event()? {
            Event::SessionRequested(request)
                if matches!(request.session, SessionKind::Shell { .. }) =>
            {
                Ok(Self { output: request.recorded, input: request.input_recorded })
            }
            _ => Err(Rejection::NotFound("session").into()),
        }
    }

    /// Starts a recording, if one is required.
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
    started_at: Instant,
    lines: Vec<u8>,
    oldest_at: Option<Instant>,
    chunk: u32,
    /// A chunk that is being written.
    writing: Option<JoinHandle<Result<(), CommandError>>>,
    /// Output, and input if it is recorded.
    output_text: TextDecoder,
    input_text: Option<TextDecoder>,
}

/// Converts bytes to text.
#[derive(Debug, Default)]
struct TextDecoder {
    /// First bytes of a character that is incomplete.
    partial: Vec<u8>,
}

impl TextDecoder {
    /// Returns the characters that are complete now.
    fn decode(&mut self, bytes: &[u8]) -> String {
        self.partial.extend_from_slice(bytes);
        let whole = complete_characters(&self.partial);
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
            "timestamp": now().seconds(),
            "env": {"TERM": term},
        });
        let mut lines = header.to_string().into_bytes();
        lines.push(b'\n');
        let (started_at, output_text) = (Instant::now(), TextDecoder::default());
        let input_text = with_input.then(TextDecoder::default);
        Self {
            session,
            recording,
            started_at,
            lines,
            oldest_at: None,
            chunk: 0,
            writing: None,
            output_text,
            input_text,
        }
    }

    fn line(&mut self, kind: &str, text: &str) {
        let seconds = (self.started_at.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        let line = json!([seconds, kind, text]).to_string();
        self.lines.extend_from_slice(line.as_bytes());
        self.lines.push(b'\n');
        self.oldest_at.get_or_insert_with(Instant::now);
    }

    /// Adds output of the shell.
    ///
    /// # Errors
    /// When a chunk is full and cannot be written.
    pub async fn output(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        let text = self.output_text.decode(bytes);
        if !text.is_empty() {
            self.line("o", &text);
        }
        if self.lines.len() >= MAX_CHUNK_BYTES { self.write().await } else { Ok(()) }
    }

    /// Whether input is recorded.
    #[must_use]
    pub const fn has_input(&self) -> bool {
        self.input_text.is_some()
    }

    /// Adds input, if it is recorded.
    ///
    /// # Errors
    /// When a chunk is full and cannot be written.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        let text = self.input_text.as_mut().map(|typed| typed.decode(bytes)).unwrap_or_default();
        if !text.is_empty() {
            self.line("i", &text);
        }
        if self.lines.len() >= MAX_CHUNK_BYTES { self.write().await } else { Ok(()) }
    }

    /// Adds a new size of the terminal.
    pub fn resized(&mut self, size: TerminalSize) {
        self.line("r", &format!("{}x{}", size.cols, size.rows));
    }

    /// The time at which the chunk must be written, regardless of its size.
    #[must_use]
    pub fn due_at(&self) -> Option<Instant> {
        self.oldest_at.map(|oldest| oldest + MAX_CHUNK_AGE)
    }

    /// Writes the pending lines. If the future is dropped, the write continues in the background
    /// and the next call waits for it: no chunk is written twice or lost.
    ///
    /// # Errors
    /// When the chunk cannot be written.
    pub async fn write(&mut self) -> Result<(), CommandError> {
        self.wait_until_written().await?;
        if self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        let chunk = write(self.session.clone(), self.recording, self.chunk, lines);
        self.writing = Some(tokio::spawn(chunk));
        self.chunk += 1;
        self.oldest_at = None;
        self.wait_until_written().await
    }

    /// Waits for the chunk that is being written.
    async fn wait_until_written(&mut self) -> Result<(), CommandError> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let written = writing.await;
        self.writing = None;
        // The task fails only by a panic.
        written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// Writes a chunk: first the blob, then its hash to the log.
async fn write(
    session: Session,
    recording: u32,
    chunk: u32,
    lines: Vec<u8>,
) -> Result<(), CommandError> {
    let salt: [u8; 16] = rand::random();
    let hash = output_hash(&salt, &lines);
    let event = SessionRecorded { recording, chunk, bytes: lines.len() as u64, hash };
    let name = key::recording(&session.project, session.id, recording, chunk);
    let blob = Bytes::from([&salt[..], &lines].concat());
    let (started_at, append_id) = (Instant::now(), Uuid::new_v4());
    let stop = &session.relays().stop;
    loop {
        let written = async {
            session.channels().blobs.put(&name, blob.clone()).await?;
            session.record_once(append_id, event.clone()).await
        };
        let Err(error) = written.await else { return Ok(()) };
        let is_brief = chunk == 0 || stop.is_cancelled();
        let is_final = matches!(error, CommandError::Rejected(_));
        if is_final
            || started_at.elapsed() > if is_brief { SHORT_RETRY_BUDGET } else { RETRY_BUDGET }
        {
            return Err(error);
        }
        tracing::debug!(
            session = %session.id, %error,
            "failed to store a piece of a recording; trying again"
        );
        tokio::select! {
            () = tokio::time::sleep(RETRY_DELAY) => {}
            // Retried once, immediately.
            () = stop.cancelled(), if !stop.is_cancelled() => {}
        }
    }
}

/// Returns the number of bytes before an incomplete character at the end.
fn complete_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => {
            // The bytes contain invalid UTF-8: only a possible incomplete character at the end
            // waits.
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
    fn an_incomplete_character_is_held_until_its_remaining_bytes_arrive() {
        for (bytes, whole) in [
            (b"abc".as_slice(), 3),
            ("aü".as_bytes(), 3),
            (&"aü".as_bytes()[..2], 1),
            (&"a€".as_bytes()[..3], 1),
            (b"\xff\xfe", 2),
            (b"\xffa\xe2\x82", 2),
            (b"", 0),
        ] {
            assert_eq!(complete_characters(bytes), whole, "{bytes:?}");
        }
    }
}
