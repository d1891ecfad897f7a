//! Sends the output of programs, during and after the run, until the server has it. Each run has at
//! most one request in flight.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_channel::{Publisher, seal_to};
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{MAX_PIECE_BYTES, OutputPiece, OutputTaken, output_context};
use muster_schemas::{OperationId, codec, compress};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::spool::{Piece, Spool};
use crate::backoff::Backoff;
use crate::identity::Identity;
use crate::run::Shared;

/// Time for which output is gathered before it is sent.
const COLLECT_TIME: Duration = Duration::from_millis(100);
/// Maximum number of concurrent requests. A request without a response keeps its slot until its
/// timeout and is then retried after the others, so an output that no server accepts does not block
/// the rest.
const MAX_CONCURRENT_REQUESTS: usize = 4;
/// Wait before output is offered again to a reader that has no room for it.
const READER_RETRY_DELAY: Duration = Duration::from_millis(50);
/// Timeout of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends outputs, indefinitely.
pub(crate) async fn send_outputs(shared: &Shared) {
    let spools = &shared.operations.spools;
    // Declared first, because the futures borrow it.
    let asking = Semaphore::new(MAX_CONCURRENT_REQUESTS);
    let mut sending = FuturesUnordered::new();
    let mut busy: BTreeSet<OperationId> = BTreeSet::new();
    loop {
        for spool in spools.list() {
            if busy.insert(spool.operation) {
                sending.push(send(shared, spool, &asking));
            }
        }
        tokio::select! {
            Some(id) = sending.next(), if !sending.is_empty() => drop(busy.remove(&id)),
            () = spools.added.notified() => {}
        }
    }
}

/// Sends one run's outputs until the server has them.
async fn send(shared: &Shared, spool: Arc<Spool>, permits: &Semaphore) -> OperationId {
    let spools = &shared.operations.spools;
    let subjects = DeviceSubjects::new(&shared.identity.project, shared.identity.device);
    let subject = subjects.request("output");
    let mut link = shared.link.subscribe();
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
                while !spool.is_ended() {
                    spool.changed.notified().await;
                }
                break;
            }
        };
        let response = send_piece(shared, &client, &subject, spool.operation, &piece).await;
        if piece.is_live {
            let response = response.ok().map(|taken| (taken.next, taken.reader));
            if let Some((next, has_reader)) = response {
                spool.acknowledge_live(piece.stream, next, has_reader);
            }
            before = Some(piece.stream);
            drop(permit);
            match response {
                Some((next, _)) if next > piece.offset => backoff.reset(),
                // The reader is slow, or has not connected yet.
                Some(_) => sleep(READER_RETRY_DELAY).await,
                None => sleep(backoff.next_delay(rand::random())).await,
            }
            continue;
        }
        match response {
            Ok(OutputTaken { next, reader, .. }) => {
                spool.set_reader(piece.stream, reader);
                let is_further =
                    next > piece.offset || (piece.data.is_empty() && next == piece.offset);
                spool.acknowledge(piece.stream, next, piece.is_last);
                before = Some(piece.stream);
                if is_further {
                    backoff.reset();
                    continue;
                }
            }
            Err(problem) => {
                tracing::debug!(
                    problem,
                    operation = %spool.operation,
                    "failed to send the output of a run; retrying"
                );
            }
        }
        drop((piece, permit));
        let wait = backoff.next_delay(rand::random());
        tokio::select! {
            () = sleep(wait) => {}
            // A new connection may succeed.
            _ = link.changed() => {}
        }
    }
    spools.remove(&spool);
    spool.operation
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

pub(super) async fn connected(link: &mut watch::Receiver<Option<Publisher>>) -> Client {
    match link
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|link| link.as_ref().map(|link| link.client().clone()))
    {
        Some(client) => client,
        // The agent is ending, and this task with it.
        None => std::future::pending().await,
    }
}

async fn send_piece(
    shared: &Shared,
    client: &Client,
    subject: &str,
    operation: OperationId,
    piece: &Piece,
) -> Result<OutputTaken, String> {
    let message = seal(shared, pack(operation, piece))?;
    request(client, subject, message).await
}

/// Sends a piece and waits for the server's response.
pub(super) async fn request(
    client: &Client,
    subject: &str,
    message: Vec<u8>,
) -> Result<OutputTaken, String> {
    let request = client.request(subject.to_owned(), message.into());
    let response = timeout(RESPONSE_TIMEOUT, request)
        .await
        .map_err(|_| "no response arrived".to_owned())?
        .map_err(|error| error.to_string())?;
    codec::decode(&response.payload).map_err(|error| error.to_string())
}

/// Seals a piece to the project's operation key and encodes it: the broker must not read it.
pub(super) fn seal(shared: &Shared, piece: OutputPiece) -> Result<Vec<u8>, String> {
    let Identity { project, device, .. } = &shared.identity;
    let key = shared.identity.operation_key().map_err(|error| error.to_string())?;
    let context = output_context(project, *device, &piece);
    let data = seal_to(&key, &context, &piece.data).map_err(|error| error.to_string())?;
    Ok(codec::encode(&OutputPiece { data, sealed: true, ..piece }))
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
