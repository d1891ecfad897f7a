//! The headers of a refused request that name the limit: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers).

use axum::http::{HeaderName, HeaderValue};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// A limit on requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Name of the limit.
    pub name: &'static str,
    /// Maximum number of requests.
    pub quota: u32,
    /// Time to which the quota applies, in seconds; `None` for concurrent requests.
    pub window_seconds: Option<u32>,
}

impl RateLimit {
    /// Returns the headers; nothing is left until the number of seconds is over.
    pub(super) fn headers(self, seconds: u32) -> Vec<(HeaderName, HeaderValue)> {
        let Self { name, quota, window_seconds } = self;
        let policy = match window_seconds {
            Some(window) => format!("\"{name}\";q={quota};w={window}"),
            None => format!("\"{name}\";q={quota};qu=\"concurrent-requests\""),
        };
        let state = format!("\"{name}\";r=0;t={seconds}");
        let headers = [(POLICY, policy), (STATE, state)];
        headers
            .into_iter()
            .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_are_structured_fields() {
        let headers = |window_seconds| {
            let limit = RateLimit { name: "lists", quota: 30, window_seconds };
            let headers = limit.headers(7).into_iter();
            headers.map(|(_, value)| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(headers(Some(60)), ["\"lists\";q=30;w=60", "\"lists\";r=0;t=7"]);
        let concurrent = "\"lists\";q=30;qu=\"concurrent-requests\"";
        assert_eq!(headers(None), [concurrent, "\"lists\";r=0;t=7"]);
    }
}
