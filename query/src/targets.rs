//! Resolves selectors for the command role, which does not have labels, presence and the newest
//! metrics.

use std::time::Duration;

use futures::StreamExt;
use muster_schemas::cose::Kind;
use muster_schemas::wire::internal::{FindTargets, TARGETS_SUBJECT, Targets, TargetsAnswer};
use muster_schemas::{Hash, SigningKey, codec};
use tokio_util::sync::CancellationToken;

use crate::http::select_devices;
use crate::state::QueryState;

/// Maximum number of devices in a response.
const MAX_DEVICES_PER_RESPONSE: usize = 5_000;
/// Interval between retries of a subscription that ended.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Responds to requests until `stop`; each request goes to one of the processes of this role.
pub(crate) async fn run(state: QueryState, key: Option<SigningKey>, stop: CancellationToken) {
    let Some(key) = key else {
        tracing::warn!(
            "selectors are not resolved for operations: this role's keys are from an older \
             release; run `muster bootstrap` again"
        );
        return;
    };
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            served = serve(&state, &key) => {
                if let Err(error) = served {
                    tracing::warn!(
                        %error,
                        "failed to receive requests to resolve selectors; trying again"
                    );
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

async fn serve(state: &QueryState, key: &SigningKey) -> Result<(), async_nats::SubscribeError> {
    let mut questions = state.nats.queue_subscribe(TARGETS_SUBJECT, "query".to_owned()).await?;
    while let Some(message) = questions.next().await {
        let Some(reply) = message.reply else { continue };
        let (state, key) = (state.clone(), key.clone());
        tokio::spawn(async move {
            let targets = match codec::decode::<FindTargets>(&message.payload) {
                Ok(question) => resolve(&state, &question).await,
                Err(error) => Targets::Refused(error.to_string()),
            };
            let response = TargetsAnswer { question: Hash::of(&message.payload), targets };
            let sealed = key.seal(Kind::Targets, codec::encode(&response));
            if let Err(error) = state.nats.publish(reply, sealed.into()).await {
                tracing::debug!(%error, "failed to send a selector's devices");
            }
        });
    }
    Ok(())
}

async fn resolve(state: &QueryState, request: &FindTargets) -> Targets {
    let found = select_devices(
        state,
        &request.project,
        &request.selector,
        request.scope,
        request.after,
        MAX_DEVICES_PER_RESPONSE,
    );
    match found.await {
        Ok((devices, without_fresh_value)) => Targets::Found {
            more: devices.len() == MAX_DEVICES_PER_RESPONSE,
            devices,
            without_fresh_value,
        },
        Err(problem) if problem.kind().status().is_server_error() => {
            Targets::Unavailable(problem.detail().to_owned())
        }
        Err(problem) => Targets::Refused(problem.detail().to_owned()),
    }
}
