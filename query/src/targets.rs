//! Answers the command role: which devices does a selector mean now? It knows labels, presence and
//! the newest metrics; command does not.

use std::time::Duration;

use futures::StreamExt;
use muster_schemas::codec;
use muster_schemas::wire::internal::{FindTargets, TARGETS_SUBJECT, Targets};
use tokio_util::sync::CancellationToken;

use crate::http::select_devices;
use crate::state::QueryState;

/// Devices in one answer.
const STRETCH: usize = 5_000;
/// The wait before a subscription that ended is made again.
const RETRY: Duration = Duration::from_millis(500);

/// Answers until `stop`; the processes of this role share the questions.
pub(crate) async fn run(state: QueryState, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            served = serve(&state) => {
                if let Err(error) = served {
                    tracing::warn!(%error, "selectors are not resolved; trying again");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn serve(state: &QueryState) -> Result<(), async_nats::SubscribeError> {
    let mut questions = state.nats.queue_subscribe(TARGETS_SUBJECT, "query".to_owned()).await?;
    while let Some(message) = questions.next().await {
        let Some(reply) = message.reply else { continue };
        let state = state.clone();
        tokio::spawn(async move {
            let answer = match codec::decode::<FindTargets>(&message.payload) {
                Ok(question) => answer(&state, &question).await,
                Err(error) => Targets::Refused(error.to_string()),
            };
            if let Err(error) = state.nats.publish(reply, codec::encode(&answer).into()).await {
                tracing::debug!(%error, "a selector's devices could not be told");
            }
        });
    }
    Ok(())
}

async fn answer(state: &QueryState, question: &FindTargets) -> Targets {
    let found =
        select_devices(state, &question.project, &question.selector, question.after, STRETCH);
    match found.await {
        Ok(devices) => Targets::Found { more: devices.len() == STRETCH, devices },
        Err(problem) => Targets::Refused(problem.detail().to_owned()),
    }
}
