//! Waiting for conditions, without fixed delays.

use std::future::Future;
use std::time::{Duration, Instant};

use futures::StreamExt;

/// Waits until the broker has processed this client's previous requests: `flush` only writes them
/// to the socket.
///
/// # Panics
/// When the connection is closed.
pub async fn flush(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut own = client.subscribe(inbox.clone()).await.expect("a connection");
    client.publish(inbox, "".into()).await.expect("a connection");
    own.next().await.expect("its own word");
}

/// Calls `ask` until it returns a value; panics with `what` otherwise.
///
/// # Panics
/// When there is no value within `patience`.
pub async fn until<T, F>(description: &str, timeout: Duration, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started_at = Instant::now();
    loop {
        if let Some(result) = check().await {
            return result;
        }
        assert!(started_at.elapsed() < timeout, "waited {timeout:?} for {description}, in vain");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}
