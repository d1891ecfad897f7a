//! What is answered where no route is: problems, not axum's empty bodies. For the router that
//! both doors are merged into: `.fallback(not_found)`,
//! `.method_not_allowed_fallback(method_not_allowed)`.

use axum::http::{Method, Uri};

use crate::problem::{Kind, Problem};

/// Nothing is at this path.
pub async fn not_found(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::not_found(format!("nothing is at {path}; /openapi.json says what there is"))
}

/// Something is at this path, not for this method.
pub async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{method} is not possible on {path}; /openapi.json says what is"),
    )
}
