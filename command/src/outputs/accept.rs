//! Output of programs, and files of uploads: accepted from devices in pieces, and stored as blobs.

use std::sync::Arc;
use std::time::Instant;

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use muster_blobs::key::Piece;
use muster_blobs::{BlobError, Blobs, key};
use muster_channel::open_by;
use muster_eventlog::EventLog;
use muster_schemas::wire::internal::output_subject;
use muster_schemas::wire::{
    MAX_FILE_PIECE_BYTES, MAX_OUTPUT_BYTES, MAX_PIECE_BYTES, OutputPiece, OutputStream,
    OutputTaken, output_context,
};
use muster_schemas::{
    DeviceId, OperationId, ProjectId, StreamName, StreamVersion, codec, compress,
};
use tokio_util::sync::CancellationToken;

use super::cache::{CachedOutput, OutputCache};
use super::files::RequestedFiles;
use super::id::OutputId;
use super::live::LiveOutputs;
use crate::error::CommandError;
use crate::executor::Executor;
use crate::keys::KeyStore;

/// Sizes, in bytes: a piece smaller than the first is merged with the previous one, while that is
/// smaller than the second. A program that prints a word each second, or a malicious device, then
/// creates few blobs.
const SMALL_PIECE_BYTES: u64 = 16 * 1024;
const FULL_PIECE_BYTES: u64 = 64 * 1024;

/// Accepts output and files of devices; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outputs {
    log: EventLog,
    keys: Arc<KeyStore>,
    /// Connection to the servers' account.
    nats: async_nats::Client,
    blobs: Blobs,
    /// How much of each output is stored.
    cache: Arc<OutputCache>,
    /// Outputs that are followed.
    live: LiveOutputs,
    files: RequestedFiles,
}

impl Outputs {
    pub(crate) fn new(
        executor: Executor,
        keys: Arc<KeyStore>,
        nats: async_nats::Client,
        blobs: Blobs,
    ) -> Self {
        Self {
            log: executor.log.clone(),
            live: LiveOutputs::new(nats.clone(), blobs.clone()),
            files: RequestedFiles::new(executor, keys.clone()),
            cache: Arc::default(),
            keys,
            nats,
            blobs,
        }
    }

    /// Returns the files that operations request.
    pub(crate) const fn files(&self) -> &RequestedFiles {
        &self.files
    }

    /// Forgets how much of a run's file is stored: it is erased.
    pub(crate) fn forget_file(
        &self,
        project: &ProjectId,
        operation: OperationId,
        device: DeviceId,
    ) {
        self.cache.remove(project, operation, device);
    }

    /// Receives the reports of followers until `stop`.
    #[boxed]
    pub async fn receive_reports(&self, stop: CancellationToken) {
        self.live.receive_reports(stop).await;
    }

    /// Decodes a piece, and decrypts its data.
    fn open(
        &self,
        project: &ProjectId,
        device: DeviceId,
        payload: &[u8],
    ) -> Result<OutputPiece, CommandError> {
        let not_proven = |what: String| CommandError::IdentityNotProven(what);
        let mut piece: OutputPiece =
            codec::decode(payload).map_err(|error| not_proven(error.to_string()))?;
        if piece.sealed {
            let key = self.keys.operation_key(project)?;
            let context = output_context(project, device, &piece);
            // Encrypted to another operation key: the device keeps the data, and sends it again.
            piece.data = open_by(&key, &context, &piece.data)
                .map_err(|error| not_proven(error.to_string()))?;
        }
        Ok(piece)
    }

    /// Accepts a piece of a run's output, or of its file; returns the offset of the next one.
    ///
    /// # Errors
    /// When the piece is invalid, or the log or the blob store cannot be used: the device sends it
    /// again.
    #[boxed]
    pub(crate) async fn accept(
        &self,
        project: &ProjectId,
        device: DeviceId,
        payload: &[u8],
    ) -> Result<Vec<u8>, CommandError> {
        let piece = self.open(project, device, payload)?;
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
        let cached = match self.cache.get(&output) {
            Some(cached) => cached,
            None => match self.requested_limit(project, device, &piece).await? {
                Ok(limit) => {
                    CachedOutput { tail: self.tail(&folder).await?, limit, read_at: Instant::now() }
                }
                Err(why) => return refuse(&piece, why.to_owned()),
            },
        };
        self.cache.set(output.clone(), cached);
        if !is_file && piece.offset >= cached.limit {
            if piece.bytes > 0 {
                return Ok(codec::encode(&self.live.accept(&output, &piece).await?));
            }
            if piece.last {
                self.live.end(&output).await?;
            }
        }
        let reader = (!is_file).then(|| self.live.is_followed(&output));
        if piece.offset.saturating_add(u64::from(piece.bytes)) > cached.limit
            || piece.total.is_some_and(|total| total > cached.limit)
        {
            return refuse(&piece, format!("more than {} bytes", cached.limit));
        }
        let taken = self.keep(output, &piece, cached, reader).await?;
        Ok(codec::encode(&taken))
    }

    /// Stores a piece, if it is the next one.
    async fn keep(
        &self,
        output: OutputId,
        piece: &OutputPiece,
        cached: CachedOutput,
        reader: Option<bool>,
    ) -> Result<OutputTaken, CommandError> {
        let OutputId { project, operation, device, stream } = output.clone();
        let folder = output.folder();
        let is_file = stream == OutputStream::File;
        // Another process may have accepted the pieces in between.
        let is_behind = piece.offset > cached.next();
        let tail = if is_behind { self.tail(&folder).await? } else { cached.tail };
        let cached = CachedOutput { tail, ..cached };
        let next = cached.next();
        let is_end = is_file && piece.last && piece.bytes == 0;
        if piece.offset != next || (piece.bytes == 0 && !is_end) {
            self.cache.set(output, cached);
            return Ok(OutputTaken { next, reader: None, refused: None, receipt: None });
        }
        let stored = self.store_piece(&folder, piece, cached.tail).await;
        if let Err(error) = &stored
            && is_file
        {
            self.files.record_stall(&project, operation, device, next, error).await;
        }
        let cached = CachedOutput { tail: stored?, ..cached };
        let next = cached.next();
        self.cache.set(output, cached);
        let subject = output_subject(&project, operation, device);
        if let Err(error) = self.nats.publish(subject, Bytes::new()).await {
            tracing::debug!(%error, "failed to notify followers of output; they poll");
        }
        let receipt = match is_end {
            true => Some(self.files.receipt(&project, operation, device, next)?),
            false => None,
        };
        Ok(OutputTaken { next, reader, refused: None, receipt })
    }

    /// Returns the maximum size of an output that was requested from the device, or why it is
    /// refused.
    async fn requested_limit(
        &self,
        project: &ProjectId,
        device: DeviceId,
        piece: &OutputPiece,
    ) -> Result<Result<u64, &'static str>, CommandError> {
        if piece.stream == OutputStream::File {
            return self.files.requested_limit(project, piece.operation, device).await;
        }
        let stream = StreamName::Run(piece.operation, device);
        Ok(match self.log.stream_version(project, &stream).await? {
            StreamVersion::ZERO => Err("it was never requested from this device"),
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
    async fn tail(&self, folder: &str) -> Result<Option<Piece>, CommandError> {
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
