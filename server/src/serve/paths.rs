//! Refuses paths and headers that are too long, and paths that another program would parse as a different path. Limits and routes depend on
//! the path; a proxy or HTTP client that later resolves dot segments or backslashes would bypass
//! them.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use muster_api::Problem;
use muster_api::problem::Kind;

/// Maximum length of a path with its query, in bytes.
const MAX_URI_BYTES: usize = 32 * 1024;
/// Maximum size of all headers, in bytes.
const MAX_HEADERS_BYTES: usize = 64 * 1024;

/// Middleware that refuses paths and headers that are too long, and ambiguous paths.
pub(super) async fn check(request: Request, next: Next) -> Response {
    let uri_bytes = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri_bytes > MAX_URI_BYTES {
        let detail = format!(
            "the path with its query has {uri_bytes} bytes, more than {MAX_URI_BYTES}: shorten the \
             selector or the list"
        );
        return Problem::new(Kind::UriTooLong, detail).into_response();
    }
    let header_bytes =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let headers_bytes: usize = request.headers().iter().map(header_bytes).sum();
    if headers_bytes > MAX_HEADERS_BYTES {
        let detail =
            format!("the headers have {headers_bytes} bytes, more than {MAX_HEADERS_BYTES}");
        return Problem::new(Kind::HeadersTooLarge, detail).into_response();
    }
    let path = request.uri().path();
    if path == "*" && request.method() == Method::OPTIONS {
        // RFC 9110 §9.3.7: `OPTIONS *` refers to the server as a whole.
        return StatusCode::NO_CONTENT.into_response();
    }
    if is_plain(path) {
        return next.run(request).await;
    }
    let detail = "the path must start with / and have no segment . or .. and no backslash, \
                  encoded or not; send the normalized path";
    Problem::new(Kind::Validation, detail).into_response()
}

/// Whether every program parses this path in the same way.
pub(super) fn is_plain(path: &str) -> bool {
    let decoded = path.to_ascii_lowercase().replace("%2e", ".").replace("%5c", "\\");
    decoded.starts_with('/')
        && !decoded.contains('\\')
        // An encoded slash stays within its segment: programs that resolve dot segments do not
        // decode it.
        && decoded.split(['/', ';']).all(|segment| segment != "." && segment != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_paths_are_rejected() {
        for plain in [
            "/",
            "/api/v1/devices/x",
            "/a.b/..c/.well-known",
            "/a//b",
            "/%20",
            "/..%2f..%2fx",
            "/%252e%252e",
        ] {
            assert!(is_plain(plain), "{plain}");
        }
        for odd in [
            "*",
            "",
            "/api/v1/x/../device/nonce",
            "/x/%2e%2e/device/nonce",
            "/x/.%2E/device/nonce",
            "/./x",
            "/x/..",
            "/x\\..\\y",
            "/x%5c..%5Cy",
            "/..;/x",
        ] {
            assert!(!is_plain(odd), "{odd}");
        }
    }
}
