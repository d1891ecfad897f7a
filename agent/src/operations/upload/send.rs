//! Sends the pieces of a file sequentially, until the server has all of them.
//!
//! The server determines the offset: a piece that it already has is not sent again. These requests
//! are separate from those of programs' outputs, and so do not delay them.

use std::time::{Duration, Instant};

use muster_schemas::codec::DecodeError;
use muster_schemas::cose::{self, CoseError, Kind};
use muster_schemas::wire::{FileStored, MAX_FILE_PIECE_BYTES};
use muster_schemas::{Hash, OperationId, codec};
use tokio::time::{sleep, sleep_until};

use super::messages::Piece;
use super::reader::{Reader, ReaderError};
use crate::backoff::Backoff;
use crate::connection::connected;
use crate::identity::Identity;
use crate::operations::output_client::{OutputClient, OutputError};

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

/// The reason why a file is not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// A piece could not be sealed.
    #[error(transparent)]
    Seal(#[from] OutputError),
    #[error("the server rejects the file: {0}")]
    Rejected(String),
    #[error("the server has more bytes than the file")]
    TooManyBytes,
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
}

/// The reason why the server's receipt does not confirm the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiptError {
    /// The project's operation key is invalid.
    #[error(transparent)]
    Key(CoseError),
    #[error("the server's confirmation is not validly signed: {0}")]
    Signature(#[from] CoseError),
    #[error("the server's confirmation is not validly signed: {0}")]
    Malformed(#[from] DecodeError),
    #[error("the server's signed response is for another file")]
    OtherFile,
}

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
/// When it cannot be read, was changed, or the server refuses it.
pub(super) async fn send(
    server: &OutputClient,
    id: OperationId,
    salt: [u8; 16],
    mut reader: Reader,
    total: u64,
    bytes_per_second: Option<u64>,
) -> Result<Hash, SendError> {
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
                    return Err(SendError::Rejected(why));
                }
                if taken.next > total {
                    return Err(SendError::TooManyBytes);
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
            Err(error) => error.to_string(),
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
) -> Result<(), ReceiptError> {
    let key = identity.operation_key().map_err(ReceiptError::Key)?;
    let stored: FileStored = codec::decode(&cose::open(receipt, Kind::Stored, &key)?)?;
    let (project, device) = (identity.project.clone(), identity.device);
    let expected = FileStored { project, device, operation: id, bytes: total };
    if stored == expected { Ok(()) } else { Err(ReceiptError::OtherFile) }
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
    use muster_schemas::Epoch;
    use muster_schemas::{DeviceId, ProjectId, SigningKey, Timestamp};
    use uuid::Uuid;

    use super::*;
    use crate::identity::DeviceKeys;

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

    #[test]
    fn a_file_is_confirmed_only_by_a_receipt_that_the_server_signed_for_it() {
        let server = SigningKey::from_seed(&[1; 32]);
        let identity = Identity {
            url: "https://muster.example".parse().unwrap(),
            project: ProjectId::default_project(),
            device: DeviceId(Uuid::from_u128(1)),
            name: "robot-7".parse().unwrap(),
            epoch: Epoch::FIRST,
            enrolled_at: Timestamp(0),
            keys: DeviceKeys::generate().unwrap(),
            operation_key: server.public().to_cose_key(),
            ca: Vec::new(),
        };
        let id = OperationId(Uuid::from_u128(2));
        let (project, device) = (identity.project.clone(), identity.device);
        let stored = codec::encode(&FileStored { project, device, operation: id, bytes: 7 });
        let check = |total, receipt: &[u8]| {
            check_receipt(&identity, id, total, receipt).map_err(|error| error.to_string())
        };
        let receipt = server.seal(Kind::Stored, stored.clone());
        assert_eq!(check(7, &receipt), Ok(()));
        let other = check(8, &receipt).unwrap_err();
        assert_eq!(other, "the server's signed response is for another file");
        let forged = SigningKey::from_seed(&[2; 32]).seal(Kind::Stored, stored);
        for receipt in [&forged, &server.seal(Kind::Stored, b"x".to_vec())] {
            let refused = check(7, receipt).unwrap_err();
            let expected = "the server's confirmation is not validly signed: ";
            assert!(refused.starts_with(expected), "{refused}");
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
