//! Sends the pieces of a file sequentially, until the server has all of them.
//!
//! The server determines the offset: a piece that it already has is not sent again. These requests
//! are separate from those of programs' outputs, and so do not delay them.

use std::time::{Duration, Instant};

use muster_schemas::cose::{self, Kind};
use muster_schemas::wire::{FileStored, MAX_FILE_PIECE_BYTES};
use muster_schemas::{Hash, OperationId, codec};
use tokio::time::{sleep, sleep_until};

use super::messages::Piece;
use super::reader::Reader;
use crate::backoff::Backoff;
use crate::connection::connected;
use crate::identity::Identity;
use crate::operations::output_client::OutputClient;

/// Minimum size of a piece, in bytes, even on a slow connection.
const MIN_PIECE_BYTES: usize = 16 * 1024;
/// Size of the first piece, in bytes.
const FIRST_PIECE_BYTES: usize = 64 * 1024;
/// Duration of a request beyond which the next pieces are smaller, to share the connection.
const SLOW_REQUEST_TIME: Duration = Duration::from_secs(1);
/// Duration of a request below which the next pieces are larger.
const FAST_REQUEST_TIME: Duration = Duration::from_millis(250);
/// Interval, in pieces, between attempts to compress a file that has not become smaller.
const COMPRESSION_RETRY_INTERVAL: u64 = 16;

/// Limits the transfer rate.
struct RateLimiter {
    bytes_per_second: Option<u64>,
    next_at: Instant,
}

impl RateLimiter {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, next_at: Instant::now() }
    }

    /// Returns the size of the largest piece that takes no longer than a second.
    fn max_piece_bytes(&self) -> usize {
        let most = self.bytes_per_second.unwrap_or(u64::MAX);
        usize::try_from(most).unwrap_or(usize::MAX).clamp(4096, MAX_FILE_PIECE_BYTES)
    }

    async fn wait(&mut self, bytes: usize) {
        let Some(speed) = self.bytes_per_second else { return };
        sleep_until(self.next_at.into()).await;
        let takes = Duration::from_secs_f64(bytes as f64 / speed.max(1) as f64);
        self.next_at = self.next_at.max(Instant::now()) + takes;
    }
}

/// Sends a file until the server has all of it; returns its salted hash.
///
/// # Errors
/// When it cannot be read, was changed, or the server refuses it, with a message.
pub(super) async fn send(
    server: &OutputClient,
    id: OperationId,
    salt: [u8; 16],
    mut reader: Reader,
    total: u64,
    bytes_per_second: Option<u64>,
) -> Result<Hash, String> {
    let mut link = server.subscribe();
    let mut backoff = Backoff::reconnect();
    let mut pace = RateLimiter::new(bytes_per_second);
    let (mut size, mut sent, mut incompressible) = (FIRST_PIECE_BYTES, 0_u64, false);
    // The server's offset; unknown before the first request.
    let mut next = None;
    loop {
        let client = connected(&mut link).await;
        let length = if next.is_some() { size.min(pace.max_piece_bytes()) } else { 0 };
        let tries = !incompressible || sent.is_multiple_of(COMPRESSION_RETRY_INTERVAL);
        let (at, is_asking) = (next.unwrap_or(0), next.is_none());
        let piece = Piece { id, salt, length, at, is_asking, compresses: tries };
        let packed = reader.pack(piece).await?;
        incompressible =
            tries && packed.bytes > 0 && !packed.is_smaller || (!tries && incompressible);
        let message = server.seal(packed.piece)?;
        pace.wait(message.len()).await;
        let started_at = Instant::now();
        let response = server.request(&client, message).await;
        let problem = match response {
            Ok(taken) => {
                if let Some(why) = taken.refused {
                    return Err(format!("the server rejects the file: {why}"));
                }
                if taken.next > total {
                    return Err("the server has more bytes than the file".to_owned());
                }
                let was_at = next.replace(taken.next);
                if let Some(receipt) = taken.receipt.filter(|_| was_at == Some(total)) {
                    check_receipt(&server.identity, id, total, &receipt)?;
                    return Ok(Hash(reader.hash().await?));
                }
                if was_at.is_none_or(|at| taken.next > at) {
                    backoff.reset();
                    sent += 1;
                    size = next_piece_bytes(size, started_at.elapsed());
                    continue;
                }
                "the server received no further data".to_owned()
            }
            Err(problem) => problem,
        };
        tracing::debug!(problem, operation = %id, "failed to send a file; retrying");
        size = (size / 2).max(MIN_PIECE_BYTES);
        tokio::select! {
            () = sleep(backoff.next_delay(rand::random())) => {}
            // A new connection may succeed.
            _ = link.changed() => {}
        }
    }
}

/// Verifies that the receipt for the whole file comes from the server: the broker could forge it.
fn check_receipt(
    identity: &Identity,
    id: OperationId,
    total: u64,
    receipt: &[u8],
) -> Result<(), String> {
    let key = identity.operation_key().map_err(|error| error.to_string())?;
    let opened = cose::open(receipt, Kind::Stored, &key).map_err(|error| error.to_string());
    let stored = opened
        .and_then(|bytes| codec::decode::<FileStored>(&bytes).map_err(|error| error.to_string()));
    let (project, device) = (identity.project.clone(), identity.device);
    let expected = FileStored { project, device, operation: id, bytes: total };
    match stored {
        Ok(stored) if stored == expected => Ok(()),
        Ok(_) => Err("the server's signed response is for another file".to_owned()),
        Err(why) => Err(format!("the server's confirmation is not validly signed: {why}")),
    }
}

fn next_piece_bytes(size: usize, took: Duration) -> usize {
    if took > SLOW_REQUEST_TIME {
        (size / 2).max(MIN_PIECE_BYTES)
    } else if took < FAST_REQUEST_TIME {
        (size * 2).min(MAX_FILE_PIECE_BYTES)
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_on_a_fast_connection_and_shrink_on_a_slow_one() {
        let mut size = FIRST_PIECE_BYTES;
        for _ in 0..10 {
            size = next_piece_bytes(size, Duration::from_millis(10));
        }
        assert_eq!(size, MAX_FILE_PIECE_BYTES);
        assert_eq!(next_piece_bytes(size, Duration::from_millis(500)), size);
        for _ in 0..10 {
            size = next_piece_bytes(size, Duration::from_secs(2));
        }
        assert_eq!(size, MIN_PIECE_BYTES);
        for (speed, most) in [(None, MAX_FILE_PIECE_BYTES), (Some(9_000), 9_000), (Some(1), 4096)] {
            assert_eq!(RateLimiter::new(speed).max_piece_bytes(), most);
        }
    }

    #[tokio::test]
    async fn sending_respects_the_rate_limit() {
        let mut pace = RateLimiter::new(Some(10_000));
        let started_at = Instant::now();
        for _ in 0..5 {
            pace.wait(1_000).await;
        }
        let took = started_at.elapsed();
        assert!(took >= Duration::from_millis(400), "{took:?}");
        let mut pace = RateLimiter::new(None);
        pace.wait(1 << 30).await;
        assert!(started_at.elapsed() < took + Duration::from_secs(1));
    }
}
