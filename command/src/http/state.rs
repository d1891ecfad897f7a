//! State that the handlers share.

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRef;
use muster_api::ApiState;

use crate::service::Service;

/// State that the handlers share; cheap to clone, which happens several times for each request.
#[derive(Clone, Debug)]
pub(super) struct CommandState(Arc<Shared>);

/// The parts of the state.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) api: ApiState,
    pub(super) service: Service,
}

impl CommandState {
    pub(super) fn new(api: ApiState, service: Service) -> Self {
        Self(Arc::new(Shared { api, service }))
    }
}

impl Deref for CommandState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl FromRef<CommandState> for ApiState {
    fn from_ref(state: &CommandState) -> Self {
        state.api.clone()
    }
}
