//! Output of programs beyond what is kept: passed on to those who follow it, through the blob store.
//!
//! A follower, in the query role, reports how far it has read. The device may be one window ahead of
//! the slowest follower; what all have read is erased. Without a follower nothing is taken.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use muster_api::blobs::BlobError;
use muster_api::blobs::key::Piece;
use muster_schemas::codec;
use muster_schemas::wire::internal::{OUTPUT_READ_SUBJECT, OutputRead, output_subject};
use muster_schemas::wire::{MAX_OUTPUT_BYTES, OutputPiece, OutputTaken};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Service;
use super::output::OutputId;

/// Bytes by which a device may be ahead of the slowest follower.
const WINDOW: u64 = 8 << 20;
/// A follower that was not heard of for this long is gone.
const FOLLOWER_TTL: Duration = Duration::from_secs(5);
/// Pieces are erased this long after the end of the output, when no follower has read them.
const ERASE_AFTER: Duration = Duration::from_secs(60);
/// Outputs that are followed at the same time; more are not taken.
const MAX_FOLLOWED: usize = 10_000;
/// Wait before a subscription that ended is made again.
const RETRY: Duration = Duration::from_millis(500);

/// Outputs that are followed.
#[derive(Debug, Default)]
pub(crate) struct LiveOutputs(Mutex<HashMap<OutputId, Followed>>);

#[derive(Debug, Default)]
struct Followed {
    /// How far each follower has read, and when it said so.
    followers: HashMap<Uuid, (u64, Instant)>,
    /// The pieces that this process has stored and not erased, the oldest first.
    pieces: Vec<Piece>,
}

impl LiveOutputs {
    /// A follower reports where it is.
    fn report(&self, output: OutputId, follower: Uuid, position: u64, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, followed| {
            followed.followers.retain(|_, (_, at)| now.duration_since(*at) < FOLLOWER_TTL);
            !followed.followers.is_empty() || !followed.pieces.is_empty()
        });
        if all.len() < MAX_FOLLOWED || all.contains_key(&output) {
            all.entry(output).or_default().followers.insert(follower, (position, now));
        }
    }

    /// Where the slowest follower is; `None` without one.
    fn slowest(&self, output: &OutputId, now: Instant) -> Option<u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let followers = all.get(output)?.followers.values();
        let live = followers.filter(|(_, at)| now.duration_since(*at) < FOLLOWER_TTL);
        live.map(|(position, _)| *position).min()
    }

    /// Notes a piece that was stored; answers those that all followers have read.
    fn stored(&self, output: &OutputId, piece: Piece, read: u64) -> Vec<Piece> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(followed) = all.get_mut(output) else { return Vec::new() };
        followed.pieces.push(piece);
        let (done, rest) = followed.pieces.iter().partition(|piece| piece.end() <= read);
        followed.pieces = rest;
        done
    }

    /// Where the next piece begins, as far as this process knows.
    fn end(&self, output: &OutputId) -> Option<u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(output)?.pieces.last().map(|piece| piece.end())
    }

    fn forget(&self, output: &OutputId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(output);
    }
}

impl Service {
    /// Takes a piece of output that is not kept, if anyone follows it and has room for it.
    pub(super) async fn pass_on(
        &self,
        output: &OutputId,
        piece: &OutputPiece,
    ) -> Result<OutputTaken, BlobError> {
        let answer =
            |next, reader| OutputTaken { next, reader: Some(reader), refused: None, receipt: None };
        let Some(read) = self.live.slowest(output, Instant::now()) else {
            return Ok(answer(piece.offset, false));
        };
        let folder = output.live_folder();
        let mut end = self.live.end(output);
        if end != Some(piece.offset) {
            // Another process may have taken what is before it.
            end = self
                .blobs
                .list(&folder)
                .await?
                .iter()
                .filter_map(|found| Piece::read(&found.name))
                .map(Piece::end)
                .max();
        }
        let end = end.unwrap_or(0).max(read.max(MAX_OUTPUT_BYTES));
        if piece.offset != end {
            return Ok(answer(end, true));
        }
        let stored = Piece {
            offset: piece.offset,
            bytes: u64::from(piece.bytes),
            compressed: piece.compressed,
        };
        if stored.end() > read + WINDOW {
            return Ok(answer(piece.offset, true));
        }
        let name = format!("{folder}/{}", stored.name());
        self.blobs.put(&name, Bytes::from(piece.data.clone())).await?;
        for done in self.live.stored(output, stored, read) {
            if let Err(error) = self.blobs.erase(&format!("{folder}/{}", done.name())).await {
                tracing::debug!(folder, %error, "a piece that was read stays until the end");
            }
        }
        let OutputId { project, operation, device, .. } = output;
        let subject = output_subject(project, *operation, *device);
        if let Err(error) = self.nats.publish(subject, Bytes::new()).await {
            tracing::debug!(%error, "followers are not notified; they look by themselves");
        }
        Ok(answer(stored.end(), true))
    }

    /// Erases what is left of an output that has ended, once its followers had time to read it.
    pub(super) fn end_live(&self, output: OutputId) {
        let service = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ERASE_AFTER).await;
            service.live.forget(&output);
            if let Err(error) = service.blobs.erase_all(&output.live_folder()).await {
                tracing::warn!(%error, "output that was passed on stays in the blob store");
            }
        });
    }
}

impl Service {
    /// Takes the reports of followers until `stop`.
    pub async fn receive_output_reports(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                ended = listen_once(self) => {
                    if let Err(error) = ended {
                        tracing::warn!(%error, "followers of output are not heard; trying again");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

async fn listen_once(service: &Service) -> Result<(), async_nats::SubscribeError> {
    let mut reports = service.nats.subscribe(OUTPUT_READ_SUBJECT).await?;
    while let Some(message) = reports.next().await {
        let Ok(read) = codec::decode::<OutputRead>(&message.payload) else { continue };
        let OutputRead { project, operation, device, stream, follower, position } = read;
        let output = OutputId { project, operation, device, stream };
        service.live.report(output, follower, position, Instant::now());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use muster_schemas::wire::OutputStream;
    use muster_schemas::{DeviceId, OperationId, ProjectId};

    use super::*;

    #[test]
    fn the_slowest_follower_counts_until_it_is_gone() {
        let live = LiveOutputs::default();
        let output = OutputId {
            project: ProjectId::default_project(),
            operation: OperationId(Uuid::from_u128(1)),
            device: DeviceId(Uuid::from_u128(2)),
            stream: OutputStream::Stdout,
        };
        let now = Instant::now();
        assert_eq!(live.slowest(&output, now), None);
        live.report(output.clone(), Uuid::from_u128(1), 500, now);
        live.report(output.clone(), Uuid::from_u128(2), 100, now);
        assert_eq!(live.slowest(&output, now), Some(100));
        let piece = |offset| Piece { offset, bytes: 50, compressed: false };
        assert_eq!(live.stored(&output, piece(0), 100), [piece(0)]);
        assert_eq!(live.stored(&output, piece(80), 100), []);
        assert_eq!(live.end(&output), Some(130));
        let later = now + FOLLOWER_TTL;
        live.report(output.clone(), Uuid::from_u128(1), 600, later);
        assert_eq!(live.slowest(&output, later), Some(600));
        assert_eq!(live.slowest(&output, later + FOLLOWER_TTL), None);
    }
}
