//! Sends the output of programs, during and after the run, until the server has it. Each run has at
//! most one request in flight.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_schemas::wire::{MAX_PIECE_BYTES, OutputPiece, OutputTaken};
use muster_schemas::{OperationId, compress};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::output_client::{OutputClient, OutputError};
use super::spool::{Piece, Spool, Spools};
use crate::backoff::Backoff;
use crate::connection::connected;

/// Time for which output is gathered before it is sent.
const COLLECT_TIME: Duration = Duration::from_millis(100);
/// Maximum number of concurrent requests. A request without a response keeps its slot until its
/// timeout and is then retried after the others, so an output that no server accepts does not block
/// the rest.
const MAX_CONCURRENT_REQUESTS: usize = 4;
/// Wait before output is offered again to a reader that has no room for it.
const READER_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Sends outputs, indefinitely.
pub(super) async fn send_outputs(server: &OutputClient, spools: &Spools) {
    // Declared first, because the futures borrow it.
    let asking = Semaphore::new(MAX_CONCURRENT_REQUESTS);
    let mut sending = FuturesUnordered::new();
    let mut busy: BTreeSet<OperationId> = BTreeSet::new();
    loop {
        for spool in spools.list() {
            if busy.insert(spool.operation) {
                sending.push(send(server, spools, spool, &asking));
            }
        }
        tokio::select! {
            Some(id) = sending.next(), if !sending.is_empty() => drop(busy.remove(&id)),
            () = spools.added.notified() => {}
        }
    }
}

/// Sends one run's outputs until the server has them.
async fn send(
    server: &OutputClient,
    spools: &Spools,
    spool: Arc<Spool>,
    permits: &Semaphore,
) -> OperationId {
    let mut link = server.subscribe();
    let mut backoff = Backoff::reconnect();
    let mut before = None;
    while !spool.is_done() {
        wait_for_output(&spool).await;
        let client = connected(&mut link).await;
        let permit = permits.acquire().await;
        let piece = match spools.next_piece(&spool, before) {
            Ok(Some(piece)) => piece,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(
                    %error,
                    operation = %spool.operation,
                    "the output of a run was lost"
                );
                drop(permit);
                // Later output is not stored either, because the file is missing; its end reports
                // the length.
                wait_until_ended(&spool).await;
                break;
            }
        };
        let response = send_piece(server, &client, spool.operation, &piece).await;
        if piece.is_live || response.is_ok() {
            before = Some(piece.stream);
        }
        let progress = acknowledge(&spool, &piece, response);
        drop((piece, permit));
        match progress {
            Progress::Further => backoff.reset(),
            Progress::ReaderBusy => sleep(READER_RETRY_DELAY).await,
            Progress::NoLiveResponse => sleep(backoff.next_delay(rand::random())).await,
            Progress::None => {
                tokio::select! {
                    () = sleep(backoff.next_delay(rand::random())) => {}
                    // A new connection may succeed.
                    _ = link.changed() => {}
                }
            }
        }
    }
    spools.remove(&spool);
    spool.operation
}

/// The effect of a request.
enum Progress {
    /// The server has more of the output than before.
    Further,
    /// The reader of live output is slow, or has not connected yet.
    ReaderBusy,
    /// The server did not respond to live output.
    NoLiveResponse,
    /// The server has no more of the output than before.
    None,
}

/// Records which output the server has after its response to a piece.
fn acknowledge(
    spool: &Spool,
    piece: &Piece,
    response: Result<OutputTaken, OutputError>,
) -> Progress {
    let OutputTaken { next, reader, .. } = match response {
        Ok(taken) => taken,
        Err(_) if piece.is_live => return Progress::NoLiveResponse,
        Err(error) => {
            tracing::debug!(
                problem = error.to_string(),
                operation = %spool.operation,
                "failed to send the output of a run; retrying"
            );
            return Progress::None;
        }
    };
    if piece.is_live {
        spool.acknowledge_live(piece.stream, next, reader);
        return if next > piece.offset { Progress::Further } else { Progress::ReaderBusy };
    }
    spool.set_reader(piece.stream, reader);
    spool.acknowledge(piece.stream, next, piece.is_last);
    let is_further = next > piece.offset || (piece.data.is_empty() && next == piece.offset);
    if is_further { Progress::Further } else { Progress::None }
}

async fn wait_until_ended(spool: &Spool) {
    while !spool.is_ended() {
        spool.changed.notified().await;
    }
}

/// Waits until there is enough output to send.
async fn wait_for_output(spool: &Spool) {
    while spool.unsent_bytes() == 0 && !spool.is_ended() {
        spool.changed.notified().await;
    }
    let filled = async {
        while spool.unsent_bytes() < MAX_PIECE_BYTES as u64 && !spool.is_ended() {
            spool.changed.notified().await;
        }
    };
    let _ = timeout(COLLECT_TIME, filled).await;
}

async fn send_piece(
    server: &OutputClient,
    client: &Client,
    operation: OperationId,
    piece: &Piece,
) -> Result<OutputTaken, OutputError> {
    let message = server.seal(pack(operation, piece))?;
    server.request(client, message).await
}

fn pack(operation: OperationId, piece: &Piece) -> OutputPiece {
    let bytes = piece.data.len();
    let data = compress::compress(piece.data.clone());
    OutputPiece {
        operation,
        stream: piece.stream,
        offset: piece.offset,
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        compressed: data.len() < bytes,
        data,
        sealed: false,
        last: piece.is_last,
        salt: piece.salt.map(|salt| salt.to_vec()),
        total: None,
    }
}
