//! The output of programs: taken from devices piece by piece, and kept as blobs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use muster_api::blobs::key;
use muster_api::blobs::key::Piece;
use muster_schemas::wire::internal::output_subject;
use muster_schemas::wire::{
    MAX_OUTPUT_BYTES, MAX_PIECE_BYTES, OutputPiece, OutputStream, OutputTaken,
};
use muster_schemas::{DeviceId, OperationId, ProjectId, StreamName, codec, compress};

use super::{Service, ServiceError};

/// Outputs that are remembered at most; beyond it, all are forgotten and looked up again.
const REMEMBERED: usize = 20_000;

type Place = (ProjectId, OperationId, DeviceId, OutputStream);

/// How much of each output is there already, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct Outputs(Mutex<HashMap<Place, u64>>);

impl Outputs {
    fn known(&self, place: &Place) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(place).copied()
    }

    fn set(&self, place: Place, next: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(place, next);
    }
}

impl Service {
    /// Takes a piece of a run's output; answers where the next one begins.
    ///
    /// # Errors
    /// When it is no piece, of a run that this device does not have, or larger than may be; when
    /// the log or the blob store cannot be used.
    pub(crate) async fn take_output(
        &self,
        project: &ProjectId,
        device: DeviceId,
        payload: &[u8],
    ) -> Result<Vec<u8>, ServiceError> {
        let refused = |what: String| ServiceError::Unproved(what);
        let piece: OutputPiece =
            codec::decode(payload).map_err(|error| refused(error.to_string()))?;
        // What is not wanted is not asked for again: a device lets go of what it was answered.
        let not_wanted = |why: String| {
            tracing::warn!(%project, %device, operation = %piece.operation, why, "output is not kept");
            Ok(codec::encode(&OutputTaken {
                next: piece.offset.saturating_add(u64::from(piece.bytes)),
            }))
        };
        if let Err(why) = check(&piece) {
            return not_wanted(why);
        }
        let place = (project.clone(), piece.operation, device, piece.stream);
        let folder = key::output(project, piece.operation, device, piece.stream);
        let known = match self.outputs.known(&place) {
            Some(next) => next,
            None => {
                let stream = StreamName::Run(piece.operation, device);
                if self.log.stream_version(project, &stream).await? == 0 {
                    return not_wanted("this device was never asked for it".to_owned());
                }
                self.output_end(&folder).await?
            }
        };
        // Another process may have taken what came in between.
        let next = if piece.offset > known { self.output_end(&folder).await? } else { known };
        if piece.offset != next || piece.bytes == 0 {
            self.outputs.set(place, next);
            return Ok(codec::encode(&OutputTaken { next }));
        }
        if let Some(salt) = &piece.salt {
            let name = format!("{folder}/{}", key::SALT);
            self.blobs.put(&name, Bytes::from(salt.clone())).await?;
        }
        let stored = Piece {
            offset: piece.offset,
            bytes: u64::from(piece.bytes),
            compressed: piece.compressed,
        };
        let name = format!("{folder}/{}", stored.name());
        self.blobs.put(&name, Bytes::from(piece.data)).await?;
        self.outputs.set(place, stored.end());
        let subject = output_subject(project, piece.operation, device);
        if let Err(error) = self.nats.publish(subject, Bytes::new()).await {
            tracing::debug!(%error, "who waits for output is not told; it looks by itself");
        }
        Ok(codec::encode(&OutputTaken { next: stored.end() }))
    }

    async fn output_end(&self, folder: &str) -> Result<u64, ServiceError> {
        let found = self.blobs.list(folder).await?;
        Ok(key::whole(&found).last().map_or(0, |piece| piece.end()))
    }
}

/// Is it a piece that can be kept?
fn check(piece: &OutputPiece) -> Result<(), String> {
    let bytes = piece.bytes as usize;
    if bytes > MAX_PIECE_BYTES {
        return Err(format!("a piece of {bytes} bytes; at most {MAX_PIECE_BYTES} are taken"));
    }
    if piece.offset.saturating_add(bytes as u64) > MAX_OUTPUT_BYTES {
        return Err(format!("output beyond {MAX_OUTPUT_BYTES} bytes"));
    }
    if piece.salt.as_ref().is_some_and(|salt| salt.len() > 64) {
        return Err("a salt of more than 64 bytes".to_owned());
    }
    let length = if piece.compressed {
        let whole = compress::decompress(&piece.data, MAX_PIECE_BYTES);
        whole.ok_or_else(|| "a piece that cannot be decompressed".to_owned())?.len()
    } else {
        piece.data.len()
    };
    if length == bytes { Ok(()) } else { Err(format!("a piece of {length} bytes says {bytes}")) }
}
