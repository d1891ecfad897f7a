//! Stores the output of programs in files until the server has it: the first bytes of each output,
//! up to a limit for each and a limit for all. Output beyond its own limit is streamed to a reader
//! that follows it (`super::live`), or counted and dropped.
//!
//! `super::send` sends the output.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use muster_schemas::events::OutputSummary;
use muster_schemas::wire::{MAX_OUTPUT_BYTES, MAX_PIECE_BYTES, OutputStream};
use muster_schemas::{Hash, OperationId};
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::entry::Salts;
use super::live::Live;

/// Interval between checks whether a reader is still connected.
const READER_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Both outputs.
pub(super) const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

/// A piece to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) stream: OutputStream,
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
    pub(super) is_last: bool,
    pub(super) salt: Option<[u8; 16]>,
    /// Whether the piece is streamed and not stored.
    pub(super) is_live: bool,
}

/// When to read a program's output again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPace {
    /// Immediately.
    Continue,
    /// After a delay: the output is dropped.
    Delay,
    /// When there is room again.
    Wait,
}

/// One output of one run.
#[derive(Debug)]
struct Output {
    salt: [u8; 16],
    hasher: Sha256,
    file: Option<File>,
    /// Number of bytes that the program has written.
    bytes: u64,
    /// Number of stored bytes.
    stored_bytes: u64,
    is_truncated: bool,
    /// Number of bytes that the server has.
    acked_bytes: u64,
    is_last_acked: bool,
    live: Live,
}

impl Output {
    fn new(salt: [u8; 16]) -> Self {
        Self {
            salt,
            hasher: Sha256::new_with_prefix(salt),
            file: None,
            bytes: 0,
            stored_bytes: 0,
            is_truncated: false,
            acked_bytes: 0,
            is_last_acked: false,
            live: Live::new(Instant::now()),
        }
    }

    fn summary(&self) -> OutputSummary {
        let hash = (self.stored_bytes > 0).then(|| Hash(self.hasher.clone().finalize().into()));
        OutputSummary { bytes: self.bytes, kept: self.stored_bytes, hash }
    }
}

#[derive(Debug)]
struct Outputs {
    streams: [Output; 2],
    is_ended: bool,
}

/// The outputs of one run.
#[derive(Debug)]
pub(super) struct Spool {
    pub(super) operation: OperationId,
    outputs: Mutex<Outputs>,
    /// Notified when there is more to send, or the output has ended.
    pub(super) changed: Notify,
    /// Notified when the buffer of a streamed output has room again.
    drained: Notify,
}

/// The outputs of all runs.
#[derive(Debug)]
pub(crate) struct Spools {
    folder: PathBuf,
    limit: u64,
    used: AtomicU64,
    all: Mutex<BTreeMap<OperationId, Arc<Spool>>>,
    /// Notified when a spool was added.
    pub(super) added: Notify,
}

impl Spool {
    fn outputs(&self) -> MutexGuard<'_, Outputs> {
        self.outputs.lock()
    }

    /// Returns the summaries of stdout and stderr.
    pub(super) fn summaries(&self) -> [OutputSummary; 2] {
        let outputs = self.outputs();
        [outputs.streams[0].summary(), outputs.streams[1].summary()]
    }

    /// Ends the outputs; everything stored is on disk.
    pub(super) fn end(&self) {
        let mut outputs = self.outputs();
        outputs.is_ended = true;
        for output in &mut outputs.streams {
            if let Some(file) = output.file.take()
                && let Err(error) = file.sync_data()
            {
                tracing::warn!(
                    %error,
                    operation = %self.operation,
                    "failed to sync the output of a run to the disk"
                );
            }
        }
        self.changed.notify_one();
    }

    /// Whether the outputs have ended.
    pub(super) fn is_ended(&self) -> bool {
        self.outputs().is_ended
    }

    /// Whether the server has everything, and the outputs have ended.
    pub(super) fn is_done(&self) -> bool {
        let outputs = self.outputs();
        let is_done =
            |it: &Output| (it.stored_bytes == 0 || it.is_last_acked) && it.live.unsent_bytes() == 0;
        outputs.is_ended && outputs.streams.iter().all(is_done)
    }

    /// Returns the number of bytes that wait to be sent.
    pub(super) fn unsent_bytes(&self) -> u64 {
        self.outputs()
            .streams
            .iter()
            .map(|it| it.stored_bytes - it.acked_bytes + it.live.unsent_bytes())
            .sum()
    }

    /// Waits until a streamed output has room.
    pub(super) async fn wait_for_room(&self, stream: OutputStream) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if !self.outputs().streams[stream as usize].live.is_blocked(Instant::now()) {
                return;
            }
            // A reader's disconnection is detected by time, not by a notification.
            let _ = timeout(READER_CHECK_INTERVAL, drained).await;
        }
    }

    /// Whether a program waits for a reader of its output.
    pub(super) fn is_blocked(&self) -> bool {
        let now = Instant::now();
        self.outputs().streams.iter_mut().any(|output| output.live.is_blocked(now))
    }

    /// Ends streaming.
    pub(super) fn end_live(&self) {
        self.outputs().streams.iter_mut().for_each(|output| output.live.end());
        self.drained.notify_waiters();
    }

    /// Handles the response to a streamed piece.
    pub(super) fn acknowledge_live(
        &self,
        stream: OutputStream,
        next: u64,
        has_reader: Option<bool>,
    ) {
        let live = &mut self.outputs().streams[stream as usize].live;
        live.acknowledge(next, has_reader, Instant::now());
        self.drained.notify_waiters();
    }

    /// Records whether an output is followed, as far as a server knows.
    pub(super) fn set_reader(&self, stream: OutputStream, has_reader: Option<bool>) {
        self.outputs().streams[stream as usize].live.set_reader(has_reader, Instant::now());
    }

    /// Records how much of an output the server has.
    pub(super) fn acknowledge(&self, stream: OutputStream, next: u64, is_last: bool) {
        let mut outputs = self.outputs();
        let output = &mut outputs.streams[stream as usize];
        output.acked_bytes = next.min(output.stored_bytes);
        output.is_last_acked = is_last && output.acked_bytes == output.stored_bytes;
    }
}

impl Spools {
    /// Creates the collection of spools in a data folder.
    pub(super) fn new(data: &Path, limit: u64) -> Self {
        let folder = data.join("runs");
        let used = AtomicU64::new(0);
        Self { folder, limit, used, all: Mutex::default(), added: Notify::new() }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<OperationId, Arc<Spool>>> {
        self.all.lock()
    }

    /// Returns all spools.
    pub(super) fn list(&self) -> Vec<Arc<Spool>> {
        self.all().values().cloned().collect()
    }

    pub(super) fn get(&self, operation: OperationId) -> Option<Arc<Spool>> {
        self.all().get(&operation).cloned()
    }

    pub(super) fn path(&self, operation: OperationId, stream: OutputStream) -> PathBuf {
        self.folder.join(format!("{operation}.{}", stream.as_str()))
    }

    /// Returns the folder; creates it if it is missing.
    pub(super) fn folder(&self) -> io::Result<&Path> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        Ok(&self.folder)
    }

    fn add(&self, operation: OperationId, streams: [Output; 2], is_ended: bool) -> Arc<Spool> {
        let outputs = Mutex::new(Outputs { streams, is_ended });
        let (grew, drained) = (Notify::new(), Notify::new());
        let spool = Arc::new(Spool { operation, outputs, changed: grew, drained });
        self.all().insert(operation, Arc::clone(&spool));
        self.added.notify_one();
        spool
    }

    /// Creates a spool for a run that starts.
    pub(super) fn create(&self, operation: OperationId, salts: &Salts) -> Arc<Spool> {
        let each = [*salts.stdout, *salts.stderr].map(Output::new);
        self.add(operation, each, false)
    }

    /// Restores the spool of a run of an earlier agent process; `None` if nothing is stored.
    pub(super) fn restore(&self, operation: OperationId, salts: &Salts) -> Option<Arc<Spool>> {
        let mut each = [*salts.stdout, *salts.stderr].map(Output::new);
        for (stream, output) in STREAMS.into_iter().zip(&mut each) {
            if let Err(error) = restore_output(&self.path(operation, stream), output)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, %operation, "failed to read the output of a previous run");
            }
        }
        let kept: u64 = each.iter().map(|output| output.stored_bytes).sum();
        if kept == 0 {
            self.delete(operation);
            return None;
        }
        self.used.fetch_add(kept, Ordering::Relaxed);
        Some(self.add(operation, each, true))
    }

    /// Stores a program's output as far as there is room; streams the output beyond the limit.
    pub(super) fn write(&self, spool: &Spool, stream: OutputStream, bytes: &[u8]) -> ReadPace {
        let mut outputs = spool.outputs();
        let output = &mut outputs.streams[stream as usize];
        output.bytes += bytes.len() as u64;
        let mut beyond = bytes;
        if !output.is_truncated {
            let room = (MAX_OUTPUT_BYTES - output.stored_bytes)
                .min(self.limit.saturating_sub(self.used.load(Ordering::Relaxed)));
            let fitting = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let written = self.append(spool.operation, stream, output, &bytes[..fitting]);
            output.is_truncated = written < bytes.len();
            beyond = &bytes[written..];
            spool.changed.notify_one();
        }
        // Output that was not stored before it, because this device had no room, leaves a gap.
        if output.stored_bytes == MAX_OUTPUT_BYTES && !beyond.is_empty() {
            let offset = output.bytes - beyond.len() as u64;
            output.live.push(offset, beyond);
            spool.changed.notify_one();
        }
        if output.live.is_blocked(Instant::now()) {
            ReadPace::Wait
        } else if output.is_truncated && output.live.unsent_bytes() == 0 {
            ReadPace::Delay
        } else {
            ReadPace::Continue
        }
    }

    /// Appends to the file; returns the number of bytes written.
    fn append(
        &self,
        operation: OperationId,
        stream: OutputStream,
        output: &mut Output,
        bytes: &[u8],
    ) -> usize {
        let mut written = 0;
        let outcome = self.file(operation, stream, &mut output.file).and_then(|file| {
            // Not `write_all`: if a write fails half way, as on a full disk, the first half is
            // stored.
            while written < bytes.len() {
                match file.write(&bytes[written..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        if let Err(error) = outcome {
            tracing::warn!(
                %error,
                %operation,
                "the output of a run is truncated: failed to write it"
            );
        }
        output.hasher.update(&bytes[..written]);
        output.stored_bytes += written as u64;
        self.used.fetch_add(written as u64, Ordering::Relaxed);
        written
    }

    fn file<'a>(
        &self,
        operation: OperationId,
        stream: OutputStream,
        file: &'a mut Option<File>,
    ) -> io::Result<&'a mut File> {
        let opened = match file.take() {
            Some(opened) => opened,
            None => {
                self.folder()?;
                let path = self.path(operation, stream);
                OpenOptions::new().create(true).append(true).mode(0o600).open(path)?
            }
        };
        Ok(file.insert(opened))
    }

    /// Returns the next piece to send, if any. The output after `before` has priority.
    pub(super) fn next_piece(
        &self,
        spool: &Spool,
        before: Option<OutputStream>,
    ) -> io::Result<Option<Piece>> {
        let outputs = spool.outputs();
        let mut order = STREAMS;
        if before == Some(OutputStream::Stdout) {
            order.reverse();
        }
        for stream in order {
            let output = &outputs.streams[stream as usize];
            let waiting = output.stored_bytes - output.acked_bytes;
            if waiting == 0
                && let Some((offset, data)) = output.live.piece(MAX_PIECE_BYTES)
            {
                let (is_last, salt, is_live) = (false, None, true);
                return Ok(Some(Piece { stream, offset, data, is_last, salt, is_live }));
            }
            let wants_last = outputs.is_ended && output.stored_bytes > 0 && !output.is_last_acked;
            if waiting == 0 && !wants_last {
                continue;
            }
            let length = usize::try_from(waiting).unwrap_or(usize::MAX).min(MAX_PIECE_BYTES);
            let mut data = vec![0; length];
            if length > 0 {
                File::open(self.path(spool.operation, stream))?
                    .read_exact_at(&mut data, output.acked_bytes)?;
            }
            return Ok(Some(Piece {
                stream,
                offset: output.acked_bytes,
                data,
                is_last: outputs.is_ended
                    && length as u64 == waiting
                    && output.live.unsent_bytes() == 0,
                salt: (output.acked_bytes == 0).then_some(output.salt),
                is_live: false,
            }));
        }
        Ok(None)
    }

    /// Deletes the outputs of a run.
    pub(super) fn remove(&self, spool: &Spool) {
        let kept: u64 = spool.outputs().streams.iter().map(|output| output.stored_bytes).sum();
        self.used.fetch_sub(kept, Ordering::Relaxed);
        self.all().remove(&spool.operation);
        self.delete(spool.operation);
    }

    fn delete(&self, operation: OperationId) {
        for stream in STREAMS {
            let path = self.path(operation, stream);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(
                    %error,
                    path = %path.display(),
                    "failed to delete the output of a run"
                );
            }
        }
    }

    /// Deletes the archive of a folder that was uploaded.
    pub(super) fn delete_archive(&self, operation: OperationId) {
        let path = self.path(operation, OutputStream::File);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "failed to delete an archive");
        }
    }

    /// Deletes files that belong to no known run.
    pub(super) fn sweep(&self, is_known: impl Fn(OperationId) -> bool) {
        let Ok(files) = std::fs::read_dir(&self.folder) else { return };
        for file in files.flatten() {
            let name = file.file_name();
            let stem = name.to_str().and_then(|name| name.split('.').next());
            let is_ours = stem.and_then(|stem| stem.parse().ok()).is_some_and(&is_known);
            if !is_ours {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

fn restore_output(path: &Path, output: &mut Output) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        output.hasher.update(&buffer[..count]);
        output.stored_bytes += count as u64;
        output.bytes = output.stored_bytes;
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
