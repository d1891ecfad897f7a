//! The OpenAPI document of the whole API: in version 3.1, as the roles describe their routes, and in
//! version 3.0.3 for generators that do not read 3.1.

mod downgrade;
mod links;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

use crate::docs::REFERENCE;

/// Returns the OpenAPI document of the whole API, without starting a server.
#[must_use]
pub fn openapi_document() -> OpenApi {
    let mut document = muster_query::openapi_info();
    document.merge(muster_query::openapi());
    document.merge(muster_command::http::openapi());
    links::add(&mut document);
    document
}

/// Returns the same document in OpenAPI 3.0.3.
///
/// # Errors
/// When the document cannot be written as JSON.
pub fn openapi_3_0_document() -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(openapi_document()).map(downgrade::to_3_0)
}

/// Returns the routes of the documents and of the page that shows them. They describe the whole
/// API, independent of the roles in this process.
pub(crate) fn router() -> Router {
    let older = match openapi_3_0_document() {
        Ok(document) => document.to_string(),
        Err(error) => {
            tracing::error!(%error, "failed to write the OpenAPI document");
            String::new()
        }
    };
    let older: Bytes = older.into();
    let json = HeaderValue::from_static("application/json");
    let serve = async move || ([(header::CONTENT_TYPE, json)], older).into_response();
    Router::new()
        .route("/openapi-3.0.json", get(serve))
        .merge(SwaggerUi::new(REFERENCE).url("/openapi.json", openapi_document()))
}
