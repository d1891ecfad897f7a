//! What programs write, kept in files until the server has it: the first bytes of each output, up
//! to a limit each and one for all of them. What is beyond the limit of an output is passed on to a
//! reader that follows it (`super::live`), or counted and dropped.
//!
//! Sends nothing: `super::send` does.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_schemas::events::OutputSummary;
use muster_schemas::wire::{MAX_OUTPUT_BYTES, MAX_PIECE_BYTES, OutputStream};
use muster_schemas::{Hash, OperationId};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::journal::Salts;
use super::live::Live;

/// Interval between checks whether a reader is still there.
const READER_CHECK: Duration = Duration::from_secs(1);
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
    /// It is passed on, not kept.
    pub(super) is_live: bool,
}

/// How the reading of a program's output goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Immediately.
    Go,
    /// After a moment: what comes is dropped.
    Brake,
    /// When there is room again.
    Wait,
}

/// One output of one run.
#[derive(Debug)]
struct Output {
    salt: [u8; 16],
    hasher: Sha256,
    file: Option<File>,
    /// Written by the program.
    bytes: u64,
    /// Kept of it.
    kept: u64,
    is_cut: bool,
    /// What the server has.
    taken: u64,
    is_last_taken: bool,
    live: Live,
}

impl Output {
    fn new(salt: [u8; 16]) -> Self {
        Self {
            salt,
            hasher: Sha256::new_with_prefix(salt),
            file: None,
            bytes: 0,
            kept: 0,
            is_cut: false,
            taken: 0,
            is_last_taken: false,
            live: Live::new(Instant::now()),
        }
    }

    fn summary(&self) -> OutputSummary {
        let hash = (self.kept > 0).then(|| Hash(self.hasher.clone().finalize().into()));
        OutputSummary { bytes: self.bytes, kept: self.kept, hash }
    }
}

#[derive(Debug)]
struct Outputs {
    each: [Output; 2],
    is_ended: bool,
}

/// What one run wrote.
#[derive(Debug)]
pub(super) struct Spool {
    pub(super) operation: OperationId,
    outputs: Mutex<Outputs>,
    /// There is more to send, or nothing more will come.
    pub(super) grew: Notify,
    /// There is room again in the buffer of an output that is passed on.
    drained: Notify,
}

/// What all runs wrote.
#[derive(Debug)]
pub(crate) struct Spools {
    folder: PathBuf,
    limit: u64,
    used: AtomicU64,
    all: Mutex<BTreeMap<OperationId, Arc<Spool>>>,
    /// There is a new one.
    pub(super) added: Notify,
}

impl Spool {
    fn outputs(&self) -> MutexGuard<'_, Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was written to stdout and to stderr.
    pub(super) fn summaries(&self) -> [OutputSummary; 2] {
        let outputs = self.outputs();
        [outputs.each[0].summary(), outputs.each[1].summary()]
    }

    /// Nothing more is written; what is kept is on the disk.
    pub(super) fn end(&self) {
        let mut outputs = self.outputs();
        outputs.is_ended = true;
        for output in &mut outputs.each {
            if let Some(file) = output.file.take()
                && let Err(error) = file.sync_data()
            {
                tracing::warn!(%error, operation = %self.operation, "an output may not be on the disk");
            }
        }
        self.grew.notify_one();
    }

    /// Will nothing more be written?
    pub(super) fn is_ended(&self) -> bool {
        self.outputs().is_ended
    }

    /// Has the server all that there will ever be?
    pub(super) fn is_done(&self) -> bool {
        let outputs = self.outputs();
        let is_done = |it: &Output| (it.kept == 0 || it.is_last_taken) && it.live.waiting() == 0;
        outputs.is_ended && outputs.each.iter().all(is_done)
    }

    /// How much waits to be sent.
    pub(super) fn waiting(&self) -> u64 {
        self.outputs().each.iter().map(|it| it.kept - it.taken + it.live.waiting()).sum()
    }

    /// Waits until an output that is passed on has room.
    pub(super) async fn room(&self, stream: OutputStream) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if !self.outputs().each[stream as usize].live.is_blocked(Instant::now()) {
                return;
            }
            // That the reader is gone is noticed without a word from anyone.
            let _ = timeout(READER_CHECK, drained).await;
        }
    }

    /// Whether a program waits for a reader of its output.
    pub(super) fn is_blocked(&self) -> bool {
        let now = Instant::now();
        self.outputs().each.iter_mut().any(|output| output.live.is_blocked(now))
    }

    /// Passes on nothing more.
    pub(super) fn end_live(&self) {
        self.outputs().each.iter_mut().for_each(|output| output.live.end());
        self.drained.notify_waiters();
    }

    /// The answer to a piece that is passed on.
    pub(super) fn passed_on(&self, stream: OutputStream, next: u64, has_reader: Option<bool>) {
        let live = &mut self.outputs().each[stream as usize].live;
        live.answered(next, has_reader, Instant::now());
        self.drained.notify_waiters();
    }

    /// Whether anyone follows an output, as far as a server knows.
    pub(super) fn note_reader(&self, stream: OutputStream, has_reader: Option<bool>) {
        self.outputs().each[stream as usize].live.note_reader(has_reader, Instant::now());
    }

    /// The server has this much of an output.
    pub(super) fn taken(&self, stream: OutputStream, next: u64, is_last: bool) {
        let mut outputs = self.outputs();
        let output = &mut outputs.each[stream as usize];
        output.taken = next.min(output.kept);
        output.is_last_taken = is_last && output.taken == output.kept;
    }
}

impl Spools {
    /// The spools in a data folder.
    pub(super) fn new(data: &Path, limit: u64) -> Self {
        let folder = data.join("runs");
        let used = AtomicU64::new(0);
        Self { folder, limit, used, all: Mutex::default(), added: Notify::new() }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<OperationId, Arc<Spool>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spools that there are.
    pub(super) fn list(&self) -> Vec<Arc<Spool>> {
        self.all().values().cloned().collect()
    }

    pub(super) fn get(&self, operation: OperationId) -> Option<Arc<Spool>> {
        self.all().get(&operation).cloned()
    }

    pub(super) fn path(&self, operation: OperationId, stream: OutputStream) -> PathBuf {
        self.folder.join(format!("{operation}.{}", stream.as_str()))
    }

    /// The folder; it is made when it is missing.
    pub(super) fn folder(&self) -> io::Result<&Path> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        Ok(&self.folder)
    }

    fn add(&self, operation: OperationId, each: [Output; 2], is_ended: bool) -> Arc<Spool> {
        let outputs = Mutex::new(Outputs { each, is_ended });
        let (grew, drained) = (Notify::new(), Notify::new());
        let spool = Arc::new(Spool { operation, outputs, grew, drained });
        self.all().insert(operation, Arc::clone(&spool));
        self.added.notify_one();
        spool
    }

    /// A spool for a run that begins.
    pub(super) fn begin(&self, operation: OperationId, salts: &Salts) -> Arc<Spool> {
        let each = [*salts.stdout, *salts.stderr].map(Output::new);
        self.add(operation, each, false)
    }

    /// The spool of a run that an agent before this one had at work; `None` when nothing is kept.
    pub(super) fn restore(&self, operation: OperationId, salts: &Salts) -> Option<Arc<Spool>> {
        let mut each = [*salts.stdout, *salts.stderr].map(Output::new);
        for (stream, output) in STREAMS.into_iter().zip(&mut each) {
            if let Err(error) = reread(&self.path(operation, stream), output)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, %operation, "an output of before cannot be read");
            }
        }
        let kept: u64 = each.iter().map(|output| output.kept).sum();
        if kept == 0 {
            self.delete(operation);
            return None;
        }
        self.used.fetch_add(kept, Ordering::Relaxed);
        Some(self.add(operation, each, true))
    }

    /// Keeps what a program wrote, as far as there is room; passes on what is beyond.
    pub(super) fn write(&self, spool: &Spool, stream: OutputStream, bytes: &[u8]) -> Pace {
        let mut outputs = spool.outputs();
        let output = &mut outputs.each[stream as usize];
        output.bytes += bytes.len() as u64;
        let mut beyond = bytes;
        if !output.is_cut {
            let room = (MAX_OUTPUT_BYTES - output.kept)
                .min(self.limit.saturating_sub(self.used.load(Ordering::Relaxed)));
            let fitting = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let written = self.append(spool.operation, stream, output, &bytes[..fitting]);
            output.is_cut = written < bytes.len();
            beyond = &bytes[written..];
            spool.grew.notify_one();
        }
        // What is missing before it, for want of room on this device, leaves a gap.
        if output.kept == MAX_OUTPUT_BYTES && !beyond.is_empty() {
            let offset = output.bytes - beyond.len() as u64;
            output.live.push(offset, beyond);
            spool.grew.notify_one();
        }
        if output.live.is_blocked(Instant::now()) {
            Pace::Wait
        } else if output.is_cut && output.live.waiting() == 0 {
            Pace::Brake
        } else {
            Pace::Go
        }
    }

    /// Appends to the file; how much of it went in.
    fn append(
        &self,
        operation: OperationId,
        stream: OutputStream,
        output: &mut Output,
        bytes: &[u8],
    ) -> usize {
        let mut written = 0;
        let outcome = self.file(operation, stream, &mut output.file).and_then(|file| {
            // By hand: of a write that fails half way, as on a full disk, the first half is there.
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
            tracing::warn!(%error, %operation, "an output is cut: it cannot be written");
        }
        output.hasher.update(&bytes[..written]);
        output.kept += written as u64;
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

    /// The next piece to send, if there is one. After `before` the other output comes first.
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
            let output = &outputs.each[stream as usize];
            let waiting = output.kept - output.taken;
            if waiting == 0
                && let Some((offset, data)) = output.live.piece(MAX_PIECE_BYTES)
            {
                let (is_last, salt, is_live) = (false, None, true);
                return Ok(Some(Piece { stream, offset, data, is_last, salt, is_live }));
            }
            let wants_last = outputs.is_ended && output.kept > 0 && !output.is_last_taken;
            if waiting == 0 && !wants_last {
                continue;
            }
            let length = usize::try_from(waiting).unwrap_or(usize::MAX).min(MAX_PIECE_BYTES);
            let mut data = vec![0; length];
            if length > 0 {
                File::open(self.path(spool.operation, stream))?
                    .read_exact_at(&mut data, output.taken)?;
            }
            return Ok(Some(Piece {
                stream,
                offset: output.taken,
                data,
                is_last: outputs.is_ended && length as u64 == waiting && output.live.waiting() == 0,
                salt: (output.taken == 0).then_some(output.salt),
                is_live: false,
            }));
        }
        Ok(None)
    }

    /// Lets go of what a run wrote.
    pub(super) fn remove(&self, spool: &Spool) {
        let kept: u64 = spool.outputs().each.iter().map(|output| output.kept).sum();
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
                tracing::warn!(%error, path = %path.display(), "an output could not be let go");
            }
        }
    }

    /// Lets go of the archive of a folder that an upload sent.
    pub(super) fn delete_archive(&self, operation: OperationId) {
        let path = self.path(operation, OutputStream::File);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "an archive could not be let go");
        }
    }

    /// Removes files that belong to no run that is known.
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

fn reread(path: &Path, output: &mut Output) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        output.hasher.update(&buffer[..count]);
        output.kept += count as u64;
        output.bytes = output.kept;
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
