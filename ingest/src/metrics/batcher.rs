//! The batcher gathers the lines of many messages into batches and keeps several in flight.
//!
//! It contains no HTTP: a batch goes to [`Writer`], which returns when the outcome of each message
//! is decided.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Entry};
use super::sink_settings::SinkSettings;
use super::writer::Writer;

/// Runs until `close` is canceled or every [`super::MetricSink`] is dropped, and all submitted
/// messages have an outcome; or until `abandon` is canceled.
pub(super) async fn run(
    mut queue: mpsc::Receiver<Entry>,
    writer: Arc<Writer>,
    settings: SinkSettings,
    close: CancellationToken,
    abandon: CancellationToken,
) {
    // Dropping the set aborts the writes in flight, and drops their outcome senders.
    let mut flying = JoinSet::new();
    let work = async {
        let slots = Arc::new(Semaphore::new(settings.requests.max(1)));
        // The entry that did not fit into the previous batch.
        let mut carried = None;
        while let Some(first) = match carried.take() {
            Some(entry) => Some(entry),
            None => next(&mut queue, &close).await,
        } {
            let mut batch = Batch::default();
            batch.push(first);
            let deadline = Instant::now() + settings.linger;
            let mut gather = async |batch: &mut Batch, deadline: Instant| {
                while carried.is_none() && !batch.is_full(&settings) {
                    match timeout_at(deadline, next(&mut queue, &close)).await {
                        Ok(Some(entry)) if batch.fits(&entry, &settings) => batch.push(entry),
                        Ok(Some(entry)) => carried = Some(entry),
                        Ok(None) | Err(_) => break,
                    }
                }
            };
            gather(&mut batch, deadline).await;
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
            // The wait for a slot may have been long: add the entries received meanwhile.
            gather(&mut batch, Instant::now()).await;
            while flying.try_join_next().is_some() {}
            let writer = Arc::clone(&writer);
            flying.spawn(async move {
                writer.write(batch).await;
                drop(slot);
            });
        }
        while flying.join_next().await.is_some() {}
    };
    tokio::select! {
        () = work => {}
        () = abandon.cancelled() => {}
    }
}

/// The next entry; `None` when the queue is closed and empty.
async fn next(queue: &mut mpsc::Receiver<Entry>, close: &CancellationToken) -> Option<Entry> {
    tokio::select! {
        biased;
        entry = queue.recv() => entry,
        () = close.cancelled() => {
            // Later submissions fail; entries that are already in the queue are still received.
            queue.close();
            queue.recv().await
        }
    }
}
