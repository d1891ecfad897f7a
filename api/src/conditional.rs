//! Conditional reads: an `ETag` that is true for the whole body, and 304 for `If-None-Match`.
//!
//! The `ETag` of a resource starts with its version, which is what `If-Match` compares; the rest is
//! a hash of the body, because a device's status or metrics change without a new version.

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// Maximum size of a body that gets a validator, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// Length of the hash in a validator, in bytes.
const HASH_BYTES: usize = 12;
/// Clients may keep a response, but must ask whether it is still true.
const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Middleware that adds a validator to JSON responses, and responds with 304 if the client has the
/// body already.
pub async fn revalidate(request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        return next.run(request).await;
    }
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    if !has_validator(&response) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let body = match to_bytes(body, MAX_BYTES).await {
        Ok(body) => body,
        Err(error) => return Problem::internal(&error).into_response(),
    };
    let tag = validator(&parts.headers, &body);
    let is_known = known.is_some_and(|known| matches(&known, &tag));
    parts.headers.entry(header::CACHE_CONTROL).or_insert(REVALIDATE);
    if let Ok(value) = HeaderValue::try_from(format!("\"{tag}\"")) {
        parts.headers.insert(header::ETAG, value);
    }
    if !is_known {
        return Response::from_parts(parts, Body::from(body));
    }
    parts.status = StatusCode::NOT_MODIFIED;
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, Body::empty())
}

/// Whether a response is JSON that is complete in memory.
fn has_validator(response: &Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_json = content_type.is_some_and(|value| value == "application/json");
    let size = response.body().size_hint().exact();
    response.status() == StatusCode::OK
        && is_json
        && size.is_some_and(|size| size <= MAX_BYTES as u64)
}

/// Returns the version of the resource, if it has one, and the hash of the body.
fn validator(headers: &HeaderMap, body: &[u8]) -> String {
    let hash = Sha256::digest(body);
    let hash = HEXLOWER.encode(hash.get(..HASH_BYTES).unwrap_or_default());
    let version = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    match version.map(|tag| tag.trim_matches('"')) {
        Some(version) => format!("{version}-{hash}"),
        None => hash,
    }
}

/// Whether `If-None-Match` names the tag. It compares weakly (RFC 9110 §13.1.2): a compressed
/// response has the tag with a suffix.
fn matches(known: &HeaderValue, tag: &str) -> bool {
    let known = known.to_str().unwrap_or_default();
    known.trim() == "*"
        || known.split(',').any(|one| {
            let one = one.trim().trim_start_matches("W/").trim_matches('"');
            one.strip_prefix(tag).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
}

/// Middleware, outside of the compression: a compressed body has another strong validator (RFC 9110
/// §8.8.3.3).
pub async fn mark_encoding(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let tag = headers.get(header::ETAG).and_then(|value| value.to_str().ok());
    let marked = encoding
        .zip(tag.and_then(|tag| tag.strip_suffix('"')))
        .and_then(|(encoding, tag)| HeaderValue::try_from(format!("{tag}-{encoding}\"")).ok());
    if let Some(marked) = marked {
        headers.insert(header::ETAG, marked);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;
    use crate::Json;
    use crate::etag::{IfMatch, etag};

    async fn send(path: &str, known: Option<&str>) -> (StatusCode, HeaderMap, usize) {
        let device = || async { ([etag(muster_schemas::StreamVersion(7))], Json("online")) };
        let router = Router::new()
            .route("/device", get(device))
            .route("/list", get(|| async { Json([1, 2]) }))
            .route("/text", get(|| async { "text" }))
            .layer(from_fn(revalidate));
        let mut request = Request::get(path);
        if let Some(known) = known {
            request = request.header(header::IF_NONE_MATCH, known);
        }
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, to_bytes(body, 1 << 20).await.unwrap().len())
    }

    #[tokio::test]
    async fn a_client_that_has_the_body_gets_304() {
        for path in ["/device", "/list"] {
            let (status, headers, bytes) = send(path, None).await;
            assert_eq!(
                (status, headers[header::CACHE_CONTROL].to_str().unwrap()),
                (StatusCode::OK, "private, no-cache")
            );
            assert!(bytes > 0);
            let tag = headers[header::ETAG].to_str().unwrap().to_owned();
            let compressed = tag.strip_suffix('"').unwrap().to_owned() + "-gzip\"";
            for known in [&tag, &format!("W/{tag}"), &format!("\"x\", {tag}"), &compressed, "*"] {
                let (status, headers, bytes) = send(path, Some(known)).await;
                assert_eq!((status, bytes), (StatusCode::NOT_MODIFIED, 0), "{known}");
                assert_eq!(headers[header::ETAG], tag.as_str());
                assert!(!headers.contains_key(header::CONTENT_TYPE));
            }
            for other in ["\"x\"", "", "\"7\""] {
                assert_eq!(send(path, Some(other)).await.0, StatusCode::OK, "{other}");
            }
        }
        assert!(!send("/text", None).await.1.contains_key(header::ETAG));
    }

    #[tokio::test]
    async fn if_match_compares_the_version_in_the_tag() {
        let (_, headers, _) = send("/device", None).await;
        let tag = headers[header::ETAG].to_str().unwrap();
        let seven = IfMatch::Versions(vec![muster_schemas::StreamVersion(7)]);
        assert_eq!(IfMatch::parse(tag), seven);
        assert_eq!(IfMatch::parse("\"7\""), seven);
        assert_eq!(IfMatch::parse("\"x-7\""), IfMatch::Versions(Vec::new()));
    }
}
