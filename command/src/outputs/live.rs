//! Output of programs beyond the stored part: passed on to its followers through the blob store.
//!
//! A follower, in the query role, reports how far it has read. The device may be one window ahead
//! of the slowest follower; pieces that all have read are erased. Without a follower no output is
//! accepted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use muster_blobs::key::{self, Piece};
use muster_blobs::{BlobError, Blobs};
use muster_schemas::codec;
use muster_schemas::wire::internal::{OUTPUT_READ_SUBJECT, OutputRead, output_subject};
use muster_schemas::wire::{MAX_OUTPUT_BYTES, OutputPiece, OutputTaken};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::followed::FollowedOutputs;
use super::id::OutputId;

/// Maximum number of bytes by which a device may be ahead of the slowest follower.
const MAX_AHEAD_BYTES: u64 = 8 << 20;
/// Interval between checks whether an ended output still has a follower.
const END_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of those checks.
const MAX_END_CHECKS: u32 = 360;
/// Interval between searches for abandoned outputs.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before a subscription that ended is renewed.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Passes output on to its followers; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct LiveOutputs {
    nats: async_nats::Client,
    blobs: Blobs,
    followed: Arc<FollowedOutputs>,
}

impl LiveOutputs {
    pub(super) fn new(nats: async_nats::Client, blobs: Blobs) -> Self {
        Self { nats, blobs, followed: Arc::default() }
    }

    /// Whether an output has a follower, as far as this process can know.
    pub(super) fn is_followed(&self, output: &OutputId) -> bool {
        self.followed.is_followed(output, Instant::now())
    }

    /// Accepts a piece of output that is not stored permanently, if a follower has room for it.
    pub(super) async fn accept(
        &self,
        output: &OutputId,
        piece: &OutputPiece,
    ) -> Result<OutputTaken, BlobError> {
        let response =
            |next, reader| OutputTaken { next, reader: Some(reader), refused: None, receipt: None };
        let now = Instant::now();
        let Some(read) = self.followed.slowest(output, now) else {
            return Ok(response(piece.offset, self.followed.is_followed(output, now)));
        };
        let folder = output.live_folder();
        let mut end = self.followed.end(output);
        if end != Some(piece.offset) {
            // Another process may have accepted the pieces before it.
            end = self
                .blobs
                .list(&folder)
                .await?
                .iter()
                .filter_map(|found| Piece::parse(&found.name))
                .map(Piece::end)
                .max();
        }
        let end = end.unwrap_or(0).max(read.max(MAX_OUTPUT_BYTES));
        if piece.offset != end {
            return Ok(response(end, true));
        }
        let stored = Piece {
            offset: piece.offset,
            bytes: u64::from(piece.bytes),
            is_compressed: piece.compressed,
        };
        if stored.end() > read + MAX_AHEAD_BYTES {
            return Ok(response(piece.offset, true));
        }
        let name = format!("{folder}/{}", stored.name());
        self.blobs.put(&name, Bytes::from(piece.data.clone())).await?;
        for done in self.followed.add_piece(output, stored, read) {
            if let Err(error) = self.blobs.erase(&format!("{folder}/{}", done.name())).await {
                tracing::debug!(
                    folder, %error,
                    "failed to erase a piece that was read; it is erased at the end"
                );
            }
        }
        let OutputId { project, operation, device, .. } = output;
        let subject = output_subject(project, *operation, *device);
        if let Err(error) = self.nats.publish(subject, Bytes::new()).await {
            tracing::debug!(%error, "failed to notify followers; they poll");
        }
        Ok(response(stored.end(), true))
    }

    /// Records that the device has sent all of an output. The rest is erased once its followers
    /// have read it, or have disconnected.
    pub(super) async fn end(&self, output: &OutputId) -> Result<(), BlobError> {
        let marker = format!("{}/{}", output.folder(), key::ENDED);
        self.blobs.put(&marker, Bytes::new()).await?;
        if self.followed.mark_ended(output, Instant::now()) {
            let (live, output) = (self.clone(), output.clone());
            tokio::spawn(async move {
                for _ in 0..MAX_END_CHECKS {
                    tokio::time::sleep(END_CHECK_INTERVAL).await;
                    if live.followed.slowest(&output, Instant::now()).is_none() {
                        break;
                    }
                }
                live.erase(&output).await;
            });
        }
        Ok(())
    }

    async fn erase(&self, output: &OutputId) {
        self.followed.remove(output);
        if let Err(error) = self.blobs.erase_all(&output.live_folder()).await {
            tracing::warn!(%error, "failed to erase live output from the blob store");
        }
    }

    /// Receives the reports of followers until `stop`.
    pub(super) async fn receive_reports(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                ended = self.listen_once() => {
                    if let Err(error) = ended {
                        tracing::warn!(
                            %error,
                            "failed to receive the reports of followers; trying again"
                        );
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    async fn listen_once(&self) -> Result<(), async_nats::SubscribeError> {
        let mut reports = self.nats.subscribe(OUTPUT_READ_SUBJECT).await?;
        self.followed.reset_listening_since(Instant::now());
        let mut search = tokio::time::interval(SEARCH_INTERVAL);
        search.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = reports.next() => {
                    let Some(message) = message else { return Ok(()) };
                    let Ok(read) = codec::decode::<OutputRead>(&message.payload) else { continue };
                    let OutputRead { project, operation, device, stream, follower, position } = read;
                    let output = OutputId { project, operation, device, stream };
                    self.followed.report(output, follower, position, Instant::now());
                }
                _ = search.tick() => {
                    for abandoned in self.followed.remove_abandoned(Instant::now()) {
                        self.erase(&abandoned).await;
                    }
                }
            }
        }
    }
}
