//! Ids of requests: `X-Request-Id`, and the trace of a client in `traceparent` (W3C Trace Context).
//!
//! A client's own id is kept, otherwise a request gets one. Log lines about a request have its id
//! and the id of its trace; the response has both headers. Requests that are forwarded to another
//! process keep them.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use uuid::Uuid;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// Maximum length of a client's id.
const MAX_LENGTH: usize = 128;

/// Middleware that gives a request its id.
pub(super) async fn set(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).filter(|id| is_id(id)).cloned();
    let id = id.unwrap_or_else(new_id);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let trace = request.headers().get(TRACE_PARENT).and_then(Trace::parse);
    let text = id.to_str().unwrap_or_default();
    // The highest level, so that each line that is logged has it.
    let span = match &trace {
        Some(trace) => tracing::error_span!("request", id = text, trace = trace.id.as_str()),
        None => tracing::error_span!("request", id = text),
    };
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id);
    if let Some(parent) = trace.and_then(|trace| trace.parent()) {
        response.headers_mut().insert(TRACE_PARENT, parent);
    }
    response
}

/// Whether a client's id is short, visible ASCII, which logs and other tools can hold.
fn is_id(id: &HeaderValue) -> bool {
    (1..=MAX_LENGTH).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn new_id() -> HeaderValue {
    HeaderValue::try_from(Uuid::now_v7().to_string())
        .unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// The trace of a client.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    id: String,
    flags: String,
}

impl Trace {
    /// Parses `00-TRACE-SPAN-FLAGS`; `None` if it is not valid, which the standard ignores.
    fn parse(header: &HeaderValue) -> Option<Self> {
        let mut parts = header.to_str().ok()?.split('-');
        let (version, id) = (parts.next()?, parts.next()?);
        let (span, flags) = (parts.next()?, parts.next()?);
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_set = |text: &str| text.bytes().any(|b| b != b'0');
        // Later versions may have more parts.
        let fits = is_hex(version, 2)
            && version != "ff"
            && (version != "00" || parts.next().is_none())
            && is_hex(id, 32)
            && is_set(id)
            && is_hex(span, 16)
            && is_set(span)
            && is_hex(flags, 2);
        fits.then(|| Self { id: id.to_owned(), flags: flags.to_owned() })
    }

    /// Returns the header of the response: the same trace, with a span of this server.
    fn parent(&self) -> Option<HeaderValue> {
        let span = rand::random::<u64>().max(1);
        HeaderValue::try_from(format!("00-{}-{span:016x}-{}", self.id, self.flags)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_trace_is_continued_and_an_invalid_one_ignored() {
        let parse = |text: &str| Trace::parse(&HeaderValue::try_from(text).unwrap());
        let trace = parse(&format!("00-{TRACE}-00f067aa0ba902b7-01")).unwrap();
        let parent = trace.parent().unwrap();
        assert_ne!(parent.to_str().unwrap(), format!("00-{TRACE}-00f067aa0ba902b7-01"));
        assert_eq!(Trace::parse(&parent), Some(trace));
        assert!(parse(&format!("01-{TRACE}-00f067aa0ba902b7-01-later")).is_some());
        for bad in [
            "",
            "00",
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{TRACE}-{}-01", "0".repeat(16)),
            &format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            &format!("00-{TRACE}-00f067aa0ba902b7"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_of_clients_are_short_and_visible() {
        let is_id = |text: &str| is_id(&HeaderValue::try_from(text).unwrap());
        assert!(is_id("abc/7") && is_id(&"x".repeat(128)));
        assert!(!is_id("") && !is_id("a b") && !is_id(&"x".repeat(129)));
    }
}
