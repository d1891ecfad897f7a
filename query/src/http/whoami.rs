//! `GET /whoami`: the identity of the request's token.

use muster_api::auth::ReadDevices;
use muster_api::params::NoParams;
use muster_api::problem::ReadProblems;
use muster_api::{Allowed, Json, Query};
use muster_api_types::tokens::WhoAmI;

/// Get the identity of the request's token
///
/// Use it to check a token and to find out its role. `project` is absent for a server-wide token.
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
        role: principal.role.into(),
        project: principal.project,
    })
}
