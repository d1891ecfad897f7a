//! Writes line protocol through the v1 or the v2 API.
//!
//! One request, one [`WriteResponse`]. The caller decides how to react: it repeats the request,
//! splits the body, or creates what is missing.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};

use crate::bucket::{MetricBucket, own_bucket};
use crate::client::InfluxClient;
use crate::response::{read_text, store_message};
use crate::settings::Api;

/// The result of one write request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteResponse {
    /// All lines are in the store.
    Written,
    /// The body is larger than the store's limit (413).
    TooLarge(String),
    /// The store refuses some or all of the lines because of their content (400, 422).
    Refused(String),
    /// The store requests a retry later (429, 503).
    Busy {
        /// The delay, if the store specifies one.
        after: Option<Duration>,
        /// The store's message.
        message: String,
    },
    /// The store is unreachable, exceeds the timeout, or fails (5xx).
    Unavailable(String),
    /// The database (v1) or bucket (v2) does not exist; the store has an API to create it.
    DatabaseMissing(String),
    /// The store denies the write: credentials, organization, bucket or path are wrong.
    Misconfigured(String),
}

impl InfluxClient {
    /// Creates a request body from lines, compressed at level 1 if the settings require it.
    /// CPU-bound, about 2 ms per megabyte: do not call it on the runtime's own threads.
    #[must_use]
    pub fn pack(&self, lines: Vec<u8>) -> Bytes {
        if !self.settings().gzip {
            return lines.into();
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 6), Compression::fast());
        // Writing into memory cannot fail; if it did, the empty body would write nothing.
        let packed = encoder.write_all(&lines).and_then(|()| encoder.finish());
        packed.unwrap_or_default().into()
    }

    /// Writes a body of [`Self::pack`] to the shared database.
    #[boxed]
    pub async fn write(&self, body: Bytes) -> WriteResponse {
        self.write_to(&MetricBucket::Shared, body).await
    }

    /// Writes a body to a bucket. [`WriteResponse::DatabaseMissing`] is also returned if that
    /// bucket is missing.
    #[boxed]
    pub async fn write_to(&self, bucket: &MetricBucket, body: Bytes) -> WriteResponse {
        let api = match self.api().await {
            Ok(api) => api,
            Err(error) => return WriteResponse::Unavailable(error.reason()),
        };
        let path = if api == Api::V1 { "write" } else { "api/v2/write" };
        let mut request = self
            .request(Method::POST, path, &self.write_query(api, bucket))
            .header(CONTENT_TYPE, "text/plain; charset=utf-8");
        if self.settings().gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        match self.send(request.body(body)).await {
            Ok(response) => match classify_response(api, response).await {
                // 1.x responds to a missing retention policy with status 500.
                WriteResponse::Unavailable(reason)
                    if *bucket != MetricBucket::Shared
                        && reason.contains("retention policy not found") =>
                {
                    WriteResponse::DatabaseMissing(reason)
                }
                other => other,
            },
            Err(error) => WriteResponse::Unavailable(error.reason()),
        }
    }

    fn write_query<'a>(
        &'a self,
        api: Api,
        bucket: &'a MetricBucket,
    ) -> Vec<(&'static str, Cow<'a, str>)> {
        let settings = self.settings();
        let database = settings.database.as_str();
        if api == Api::V1 {
            let policy = match bucket {
                MetricBucket::Shared => settings.retention_policy.as_deref(),
                MetricBucket::Own { policy, .. } => Some(&**policy),
            };
            let policy = policy.map(|policy| ("rp", policy.into()));
            [("db", database.into()), ("precision", "u".into())].into_iter().chain(policy).collect()
        } else {
            let bucket = match bucket {
                MetricBucket::Shared => database.into(),
                MetricBucket::Own { policy, .. } => own_bucket(database, policy).into(),
            };
            let org = settings.organization().map(|org| ("org", org.into()));
            [("bucket", bucket), ("precision", "us".into())].into_iter().chain(org).collect()
        }
    }
}

/// Interprets a status and its body, by InfluxDB's API reference and the actual behavior of 1.6.
async fn classify_response(api: Api, response: Response) -> WriteResponse {
    let status = response.status();
    if status.is_success() {
        return WriteResponse::Written;
    }
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        // No known store sends the other form, a date: the backoff is used for it.
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let message = store_message(&read_text(response).await);
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => WriteResponse::TooLarge(message),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY
            if is_settings_error(&message) =>
        {
            WriteResponse::Misconfigured(format!("{status}: {message}"))
        }
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            WriteResponse::Refused(message)
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            WriteResponse::Busy { after, message }
        }
        StatusCode::NOT_FOUND if is_database_missing(api, &message) => {
            WriteResponse::DatabaseMissing(message)
        }
        _ if status.is_server_error() => WriteResponse::Unavailable(format!("{status}: {message}")),
        _ => WriteResponse::Misconfigured(format!("{status}: {message}")),
    }
}

/// Whether the database (1.x: `database not found: "x"`) or bucket (2.x: `bucket "x" not found`) is
/// missing. A missing organization is not created.
fn is_database_missing(api: Api, message: &str) -> bool {
    match api {
        Api::V1 => message.contains("database not found"),
        _ => message.contains("bucket") && message.contains("not found"),
    }
}

/// Whether a 400 is caused by the settings and not by a line.
fn is_settings_error(message: &str) -> bool {
    let text = message.to_ascii_lowercase();
    ["database is required", "authorization", "unauthorized", "please provide either org"]
        .iter()
        .any(|sign| text.starts_with(sign))
}
