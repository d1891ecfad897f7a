//! Responses to writes contain the resource as it now is.
//!
//! Command responds to a write with its position and, in `Location`, with the path of the resource.
//! The listener that clients connect to has the read models: it waits until they include the
//! write, and responds with the resource. So a read after the response sees the write, too. For a
//! write to many resources it only waits: the response has a result for each.

use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use muster_api::position::{MIN_POSITION, POSITION, READ_MODEL};
use serde_json::{Map, Value};
use tower::ServiceExt;

/// Maximum size of a resource, in bytes.
const MAX_BYTES: usize = 16 << 20;
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const RESPOND_ASYNC: &str = "respond-async";

/// Middleware that adds the resource to the response of a write. `reader` has the routes of query.
pub(super) async fn add_resource(
    State(reader): State<Router>,
    request: Request,
    next: Next,
) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let is_async = prefers_async(request.headers());
    let credentials = request.headers().get(header::AUTHORIZATION).cloned();
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>().copied();
    let mut response = next.run(request).await;
    let read_model = response.headers_mut().remove(READ_MODEL);
    let Some(location) = path(&response, read_model.as_ref()) else {
        return response;
    };
    if is_async {
        let mut response = accepted(response);
        let applied = HeaderValue::from_static(RESPOND_ASYNC);
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        return response;
    }
    let mut read = Request::new(Body::empty());
    *read.uri_mut() = location;
    let position = response.headers().get(POSITION).cloned();
    let headers = [(MIN_POSITION, position), (header::AUTHORIZATION, credentials)];
    for (name, value) in headers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        read.headers_mut().insert(name, value);
    }
    if let Some(client) = client {
        read.extensions_mut().insert(client);
    }
    let resource = reader.oneshot(read).await.unwrap_or_else(|never| match never {});
    if resource.status() == StatusCode::OK && read_model.is_some() {
        response
    } else if resource.status() == StatusCode::OK {
        with_resource(response, resource).await
    } else {
        // The write is in the log. The read model is behind, or the token no longer allows the read.
        tracing::debug!(status = %resource.status(), "a write is not in the read model yet");
        accepted(response)
    }
}

/// Whether the client does not wait for the read models (RFC 7240).
fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split([',', ';'])).any(|one| one.trim() == RESPOND_ASYNC)
}

/// Returns the path of the resource that was written, or of the read model of many resources.
fn path(response: &Response, read_model: Option<&HeaderValue>) -> Option<axum::http::Uri> {
    let is_written = [StatusCode::OK, StatusCode::CREATED].contains(&response.status());
    let path = read_model.or_else(|| response.headers().get(header::LOCATION))?;
    path.to_str().ok()?.parse().ok().filter(|_| is_written)
}

/// Returns the response to a write whose resource the read models do not have yet.
fn accepted(mut response: Response) -> Response {
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// Returns the resource, with what only the response to the write has, such as the text of a token.
async fn with_resource(response: Response, resource: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let (read, resource) = resource.into_parts();
    let (body, resource) = (to_bytes(body, MAX_BYTES).await, to_bytes(resource, MAX_BYTES).await);
    let (Ok(body), Ok(resource)) = (body, resource) else {
        return accepted(Response::from_parts(parts, Body::empty()));
    };
    let merged = merge(&body, &resource).unwrap_or(resource);
    if let Some(tag) = read.headers.get(header::ETAG) {
        parts.headers.insert(header::ETAG, tag.clone());
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(merged))
}

/// Adds the fields of a write's own response to the resource, except its version and position,
/// which are in headers. `None` if there are none.
fn merge(written: &Bytes, resource: &Bytes) -> Option<Bytes> {
    let written: Map<String, Value> = serde_json::from_slice(written).ok()?;
    let mut merged: Map<String, Value> = serde_json::from_slice(resource).ok()?;
    let before = merged.len();
    for (name, value) in written {
        if !["version", "position"].contains(&name.as_str()) {
            merged.entry(name).or_insert(value);
        }
    }
    if merged.len() == before {
        return None;
    }
    serde_json::to_vec(&merged).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use axum::middleware::from_fn_with_state;
    use axum::response::IntoResponse;
    use axum::routing::{get, post};
    use serde_json::json;

    use super::*;

    /// Writes to a service whose read models have the write, or not.
    async fn write(path: &str, prefer: Option<&'static str>) -> (StatusCode, HeaderMap, Value) {
        let read = |headers: HeaderMap| async move {
            let is_known = headers.get(header::AUTHORIZATION).is_some_and(|it| it == "Bearer x");
            assert!(is_known && headers[MIN_POSITION] == "7");
            let tag = [(header::ETAG, HeaderValue::from_static("\"3-abc\""))];
            (tag, axum::Json(json!({"id": 1, "status": "active", "version": 3})))
        };
        let reader = Router::new()
            .route("/api/v1/tokens/1", get(read))
            .route("/api/v1/tokens/2", get(|| async { StatusCode::GATEWAY_TIMEOUT }));
        let write = |to: &'static str| {
            let headers = [
                (POSITION, HeaderValue::from(7)),
                (header::LOCATION, HeaderValue::from_static(to)),
            ];
            let body = axum::Json(json!({"id": 1, "secret": "s", "version": 3, "position": 7}));
            (StatusCode::CREATED, HeaderMap::from_iter(headers), body).into_response()
        };
        let router = Router::new()
            .route("/1", post(move || async move { write("/api/v1/tokens/1?project=default") }))
            .route("/2", post(move || async move { write("/api/v1/tokens/2") }))
            .layer(from_fn_with_state(reader, add_resource));
        let mut request = Request::post(path).header(header::AUTHORIZATION, "Bearer x");
        if let Some(prefer) = prefer {
            request = request.header(PREFER, prefer);
        }
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, MAX_BYTES).await.unwrap();
        (parts.status, parts.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_write_responds_with_the_resource() {
        let (status, headers, body) = write("/1", None).await;
        assert_eq!(status, StatusCode::CREATED);
        assert_eq!(body, json!({"id": 1, "status": "active", "version": 3, "secret": "s"}));
        assert_eq!(headers[header::ETAG], "\"3-abc\"");
        assert_eq!(headers[POSITION], "7");
        assert_eq!(headers[header::LOCATION], "/api/v1/tokens/1?project=default");
    }

    #[tokio::test]
    async fn a_write_that_is_not_readable_yet_is_accepted() {
        for (path, prefer) in [("/2", None), ("/1", Some("wait=5, respond-async"))] {
            let (status, headers, body) = write(path, prefer).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{path}");
            assert_eq!(body, json!({"id": 1, "secret": "s", "version": 3, "position": 7}));
            assert_eq!(headers.contains_key(PREFERENCE_APPLIED), prefer.is_some());
        }
    }
}
