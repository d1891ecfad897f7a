//! Responses for paths without a route: problems instead of axum's empty bodies. For the router
//! into which the routes of both roles are merged: `.fallback(not_found)`,
//! `.method_not_allowed_fallback(method_not_allowed)`.

use axum::http::{Method, Uri};

use crate::problem::{Kind, Problem};

/// Responds that the path does not exist.
#[expect(clippy::unused_async, reason = "handlers of axum are async")]
pub async fn not_found(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::not_found(format!("there is no resource at {path}; see /openapi.json"))
}

/// Responds that the path does not support the method.
#[expect(clippy::unused_async, reason = "handlers of axum are async")]
pub async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{method} is not allowed on {path}; see /openapi.json"),
    )
}
