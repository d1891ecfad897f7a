//! Output of programs, and files of uploads: accepted from devices in pieces, and stored as blobs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_api::blobs::key::Piece;
use muster_api::blobs::{BlobError, key};
use muster_channel::open_by;
use muster_schemas::wire::internal::output_subject;
use muster_schemas::wire::{
    MAX_FILE_PIECE_BYTES, MAX_OUTPUT_BYTES, MAX_PIECE_BYTES, OutputPiece, OutputStream,
    OutputTaken, output_context,
};
use muster_schemas::{DeviceId, OperationId, ProjectId, StreamName, codec, compress};

use super::{Service, ServiceError};

/// Maximum number of outputs in the cache; beyond it, the cache is cleared.
const MAX_CACHED_OUTPUTS: usize = 20_000;
/// Lifetime of a file's cached state: another process may have erased the file.
const CACHE_TTL: Duration = Duration::from_secs(60);

/// Sizes, in bytes: a piece smaller than the first is merged with the previous one, while that is
/// smaller than the second. A program that prints a word each second, or a malicious device, then
/// creates few blobs.
const SMALL_PIECE_BYTES: u64 = 16 * 1024;
const FULL_PIECE_BYTES: u64 = 64 * 1024;

/// One output of one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OutputId {
    pub(super) project: ProjectId,
    pub(super) operation: OperationId,
    pub(super) device: DeviceId,
    pub(super) stream: OutputStream,
}

impl OutputId {
    pub(super) fn folder(&self) -> String {
        key::output(&self.project, self.operation, self.device, self.stream)
    }

    /// Returns the folder of output that is passed on and not stored permanently.
    pub(super) fn live_folder(&self) -> String {
        key::live_output(&self.project, self.operation, self.device, self.stream)
    }
}

/// The cached state of an output.
#[derive(Clone, Copy, Debug)]
struct CachedOutput {
    /// The last stored piece.
    tail: Option<Piece>,
    /// Maximum size of the output.
    limit: u64,
    /// Time at which it was read.
    read_at: Instant,
}

impl CachedOutput {
    /// Returns the offset of the next piece.
    fn next(self) -> u64 {
        self.tail.map_or(0, Piece::end)
    }
}

/// Cached states of outputs: how much of each is stored, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct OutputCache(Mutex<HashMap<OutputId, CachedOutput>>);

impl OutputCache {
    fn get(&self, output: &OutputId) -> Option<CachedOutput> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(output).copied();
        cached.filter(|cached| {
            output.stream != OutputStream::File || cached.read_at.elapsed() < CACHE_TTL
        })
    }

    fn set(&self, output: OutputId, value: CachedOutput) {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= MAX_CACHED_OUTPUTS {
            cached.clear();
        }
        cached.insert(output, value);
    }

    /// Removes a run's file from the cache.
    pub(super) fn remove(&self, project: &ProjectId, operation: OperationId, device: DeviceId) {
        let stream = OutputStream::File;
        let output = OutputId { project: project.clone(), operation, device, stream };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&output);
    }
}

impl Service {
    /// Accepts a piece of a run's output, or of its file; returns the offset of the next one.
    ///
    /// # Errors
    /// When the piece is invalid, or the log or the blob store cannot be used: the device sends it
    /// again.
    pub(crate) async fn accept_output(
        &self,
        project: &ProjectId,
        device: DeviceId,
        payload: &[u8],
    ) -> Result<Vec<u8>, ServiceError> {
        let not_proven = |what: String| ServiceError::IdentityNotProven(what);
        let mut piece: OutputPiece =
            codec::decode(payload).map_err(|error| not_proven(error.to_string()))?;
        let is_file = piece.stream == OutputStream::File;
        // The response acknowledges an unwanted piece, so that the device does not send it again.
        let refuse = |piece: &OutputPiece, why: String| {
            tracing::warn!(
                %project, %device, operation = %piece.operation, reason = why,
                "output was rejected"
            );
            let next = piece.offset.saturating_add(u64::from(piece.bytes));
            let refusal = is_file.then_some(why);
            Ok(codec::encode(&OutputTaken { next, reader: None, refused: refusal, receipt: None }))
        };
        if piece.sealed {
            let key = self.keys.operation_key(project)?;
            let context = output_context(project, device, &piece);
            match open_by(&key, &context, &piece.data) {
                Ok(data) => piece.data = data,
                // Encrypted to another operation key: the device keeps the data, and sends it
                // again.
                Err(error) => return Err(not_proven(error.to_string())),
            }
        }
        if let Err(why) = check(&piece) {
            return refuse(&piece, why);
        }
        let output = OutputId {
            project: project.clone(),
            operation: piece.operation,
            device,
            stream: piece.stream,
        };
        let folder = output.folder();
        let cached = match self.outputs.get(&output) {
            Some(cached) => cached,
            None => match self.requested_limit(project, device, &piece).await? {
                Ok(limit) => {
                    CachedOutput { tail: self.tail(&folder).await?, limit, read_at: Instant::now() }
                }
                Err(why) => return refuse(&piece, why.to_owned()),
            },
        };
        self.outputs.set(output.clone(), cached);
        if !is_file && piece.offset >= cached.limit {
            if piece.bytes > 0 {
                return Ok(codec::encode(&self.accept_live_piece(&output, &piece).await?));
            }
            if piece.last {
                self.end_live(&output).await?;
            }
        }
        let reader = (!is_file).then(|| self.live_outputs.is_followed(&output, Instant::now()));
        if piece.offset.saturating_add(u64::from(piece.bytes)) > cached.limit
            || piece.total.is_some_and(|total| total > cached.limit)
        {
            return refuse(&piece, format!("more than {} bytes", cached.limit));
        }
        // Another process may have accepted the pieces in between.
        let is_behind = piece.offset > cached.next();
        let tail = if is_behind { self.tail(&folder).await? } else { cached.tail };
        let cached = CachedOutput { tail, ..cached };
        let next = cached.next();
        let is_end = is_file && piece.last && piece.bytes == 0;
        if piece.offset != next || (piece.bytes == 0 && !is_end) {
            self.outputs.set(output, cached);
            return Ok(codec::encode(&OutputTaken {
                next,
                reader: None,
                refused: None,
                receipt: None,
            }));
        }
        let tail = match self.store_piece(&folder, &piece, cached.tail).await {
            Ok(tail) => tail,
            Err(error) => {
                if is_file {
                    self.record_stall(project, piece.operation, device, next, &error).await;
                }
                return Err(error.into());
            }
        };
        let cached = CachedOutput { tail, ..cached };
        let next = cached.next();
        self.outputs.set(output, cached);
        let subject = output_subject(project, piece.operation, device);
        if let Err(error) = self.nats.publish(subject, Bytes::new()).await {
            tracing::debug!(%error, "failed to notify followers of output; they poll");
        }
        let receipt = match is_end {
            true => Some(self.file_receipt(project, piece.operation, device, next)?),
            false => None,
        };
        Ok(codec::encode(&OutputTaken { next, reader, refused: None, receipt }))
    }

    /// Returns the maximum size of an output that was requested from the device, or why it is
    /// refused.
    async fn requested_limit(
        &self,
        project: &ProjectId,
        device: DeviceId,
        piece: &OutputPiece,
    ) -> Result<Result<u64, &'static str>, ServiceError> {
        if piece.stream == OutputStream::File {
            return self.requested_file_limit(project, piece.operation, device).await;
        }
        let stream = StreamName::Run(piece.operation, device);
        Ok(match self.log.stream_version(project, &stream).await? {
            0 => Err("it was never requested from this device"),
            _ => Ok(MAX_OUTPUT_BYTES),
        })
    }

    /// Stores a piece that follows the stored ones; returns the last piece.
    async fn store_piece(
        &self,
        folder: &str,
        piece: &OutputPiece,
        tail: Option<Piece>,
    ) -> Result<Option<Piece>, BlobError> {
        if let Some(salt) = &piece.salt {
            let name = format!("{folder}/{}", key::SALT);
            self.blobs.put(&name, Bytes::from(salt.clone())).await?;
            if let Some(total) = piece.total {
                let name = format!("{folder}/{}", key::size(total));
                self.blobs.put(&name, Bytes::new()).await?;
            }
        }
        if piece.bytes == 0 {
            self.blobs.flush().await?;
            return Ok(tail);
        }
        // Pieces of a file are not merged: a file is read from disk in pieces of one size.
        if let Some(tail) = tail
            && piece.stream != OutputStream::File
            && u64::from(piece.bytes) < SMALL_PIECE_BYTES
            && tail.bytes < FULL_PIECE_BYTES
            && let Some((longer, data)) = self.merge_pieces(folder, tail, piece).await?
        {
            // The merged piece is durable before the previous one, which it contains, is erased.
            self.blobs.put_durably(&format!("{folder}/{}", longer.name()), data.into()).await?;
            if let Err(error) = self.blobs.erase(&format!("{folder}/{}", tail.name())).await {
                tracing::debug!(
                    folder, %error,
                    "failed to erase a piece that is part of a larger one"
                );
            }
            return Ok(Some(longer));
        }
        let stored = Piece {
            offset: piece.offset,
            bytes: u64::from(piece.bytes),
            is_compressed: piece.compressed,
        };
        let name = format!("{folder}/{}", stored.name());
        self.blobs.put(&name, Bytes::from(piece.data.clone())).await?;
        Ok(Some(stored))
    }

    /// Merges the last piece with the next one; `None` when the last one cannot be read.
    async fn merge_pieces(
        &self,
        folder: &str,
        tail: Piece,
        piece: &OutputPiece,
    ) -> Result<Option<(Piece, Vec<u8>)>, BlobError> {
        let Some(kept) = self.blobs.get(&format!("{folder}/{}", tail.name())).await? else {
            return Ok(None);
        };
        let plain = |bytes: &[u8], is_compressed| match is_compressed {
            true => compress::decompress(bytes, MAX_PIECE_BYTES),
            false => Some(bytes.to_vec()),
        };
        let both = plain(&kept, tail.is_compressed).zip(plain(&piece.data, piece.compressed));
        let Some((mut all, more)) = both else { return Ok(None) };
        all.extend(more);
        let bytes = all.len() as u64;
        let data = compress::compress(all);
        let compressed = (data.len() as u64) < bytes;
        Ok(Some((Piece { offset: tail.offset, bytes, is_compressed: compressed }, data)))
    }

    /// Returns the last of the pieces that are stored without a gap.
    async fn tail(&self, folder: &str) -> Result<Option<Piece>, ServiceError> {
        let found = self.blobs.list(folder).await?;
        Ok(key::contiguous(&found).last().copied())
    }
}

/// Checks that a piece can be stored.
fn check(piece: &OutputPiece) -> Result<(), String> {
    let most = match piece.stream {
        OutputStream::File => MAX_FILE_PIECE_BYTES,
        OutputStream::Stdout | OutputStream::Stderr => MAX_PIECE_BYTES,
    };
    let bytes = piece.bytes as usize;
    if bytes > most {
        return Err(format!("a piece of {bytes} bytes; at most {most} are accepted"));
    }
    if piece.salt.as_ref().is_some_and(|salt| salt.len() > 64) {
        return Err("a salt of more than 64 bytes".to_owned());
    }
    let length = if piece.compressed {
        let whole = compress::decompress(&piece.data, most);
        whole.ok_or_else(|| "a piece that cannot be decompressed".to_owned())?.len()
    } else {
        piece.data.len()
    };
    if length == bytes {
        Ok(())
    } else {
        Err(format!("a piece of {length} bytes declares {bytes}"))
    }
}
