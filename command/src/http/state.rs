//! State that the handlers share.

use axum::extract::FromRef;
use muster_api::ApiState;

use crate::service::Service;

/// State that the handlers share.
#[derive(Clone, Debug)]
pub(super) struct CommandState {
    pub(super) api: ApiState,
    pub(super) service: Service,
}

impl FromRef<CommandState> for ApiState {
    fn from_ref(state: &CommandState) -> Self {
        state.api.clone()
    }
}
