//! Waiting for a condition: never for luck.

use std::future::Future;
use std::time::{Duration, Instant};

use futures::StreamExt;

/// Waits until the broker has done what this client asked for: `flush` only hands it to the socket.
///
/// # Panics
/// When the broker does not answer.
pub async fn settled(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut own = client.subscribe(inbox.clone()).await.expect("a connection");
    client.publish(inbox, "".into()).await.expect("a connection");
    own.next().await.expect("its own word");
}

/// Asks again and again until there is an answer; fails with what was waited for.
///
/// # Panics
/// When there is none within `patience`.
pub async fn until<T, F>(what: &str, patience: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < patience, "waited {patience:?} for {what}, in vain");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}
