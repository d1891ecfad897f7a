//! `GET /whoami`: the identity of the request's token.

use muster_api::auth::ReadDevices;
use muster_api::params::NoParams;
use muster_api::problem::ReadProblems;
use muster_api::{Allowed, Json, Query};
use muster_schemas::events::Role;
use muster_schemas::{ProjectId, TokenId};
use serde::Serialize;
use utoipa::ToSchema;

/// The bearer of a token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct WhoAmI {
    /// The token's id.
    token: TokenId,
    /// Role of its bearer.
    role: Role,
    /// Project of the token; null for a server-wide token.
    project: Option<ProjectId>,
    /// The actor that events name.
    #[schema(example = "token:0198c0de-7001-7abc-8def-0123456789ab")]
    actor: String,
}

/// Get the identity of the request's token
#[utoipa::path(
    get, path = "/api/v1/whoami", tag = "tokens", security(("bearer" = [])),
    responses(
        (status = 200, description = "The identity of the request's token", body = WhoAmI,
            example = json!({
                "token": "0198c0de-7001-7abc-8def-0123456789ab",
                "role": "viewer",
                "project": "default",
                "actor": "token:0198c0de-7001-7abc-8def-0123456789ab"
            })),
        ReadProblems,
    )
)]
pub(crate) async fn get_whoami(
    allowed: Allowed<ReadDevices>,
    Query(NoParams {}): Query<NoParams>,
) -> Json<WhoAmI> {
    let principal = allowed.principal;
    Json(WhoAmI {
        actor: principal.actor(),
        token: principal.token,
        role: principal.role,
        project: principal.project,
    })
}
