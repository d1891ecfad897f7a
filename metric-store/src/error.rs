//! The error of a request to a metric store.

use muster_schemas::errors::error_chain;
use reqwest::StatusCode;

/// Maximum size of the response to a query, in bytes.
pub(crate) const MAX_QUERY_RESPONSE_BYTES: usize = 8 * 1024 * 1024;

/// The reason why a request to a metric store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL in the settings is not valid.
    #[error("'{0}' is not the URL of a metric store; write it as http://host:8086")]
    Url(String),
    /// The certificates in the settings cannot be parsed.
    #[error("failed to read the CA certificates for {url}; they must be PEM")]
    Certificates {
        /// URL of the store.
        url: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The TLS library cannot be used.
    #[error("failed to create TLS settings for {url}")]
    Tls {
        /// URL of the store.
        url: String,
        /// The cause.
        source: rustls::Error,
    },
    /// The HTTP client cannot be created.
    #[error("failed to create an HTTP client for {url}")]
    HttpClient {
        /// URL of the store.
        url: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The store is unreachable, or exceeds the timeout.
    #[error(
        "failed to reach the metric store at {store}; check that it is started, and that its port \
         is reachable from here"
    )]
    Unreachable {
        /// Address of the store.
        store: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The store cannot process requests now (429, 5xx).
    #[error("the metric store at {store} is unavailable ({status}): {message}; try again later")]
    Unavailable {
        /// Address of the store.
        store: String,
        /// Status of the response.
        status: StatusCode,
        /// The store's message.
        message: String,
    },
    /// The store rejected the credentials (401, 403).
    #[error(
        "the metric store at {store} rejected the credentials ({status}): {message}; check muster's \
         credentials for it"
    )]
    Denied {
        /// Address of the store.
        store: String,
        /// Status of the response.
        status: StatusCode,
        /// The store's message.
        message: String,
    },
    /// The store refused the request because of its content.
    #[error("the metric store at {store} refused the request: {message}")]
    Refused {
        /// Address of the store.
        store: String,
        /// The store's message.
        message: String,
    },
    /// The store reports no version, by which the API would be detected.
    #[error("the metric store at {store} does not report its version; set the API to v1 or v2")]
    UnknownVersion {
        /// Address of the store.
        store: String,
    },
    /// The organization (2.x) cannot be found.
    #[error(
        "the metric store at {store} has no organization '{organization}': {message}; create it, or \
         correct its name"
    )]
    OrganizationMissing {
        /// Address of the store.
        store: String,
        /// Name of the organization.
        organization: String,
        /// The store's message.
        message: String,
    },
    /// The bucket of the settings (2.x) cannot be found, although it was created.
    #[error("the metric store at {store} has no bucket '{bucket}'; try again later")]
    BucketMissing {
        /// Address of the store.
        store: String,
        /// Name of the bucket.
        bucket: String,
    },
    /// The store has no buckets of InfluxDB 2.x.
    #[error("the metric store at {store} does not support buckets of InfluxDB 2.x")]
    NoBuckets {
        /// Address of the store.
        store: String,
    },
    /// The response to a query exceeds the maximum size.
    #[error(
        "the response of the metric store at {store} exceeds {MAX_QUERY_RESPONSE_BYTES} bytes; query \
         less"
    )]
    TooLarge {
        /// Address of the store.
        store: String,
    },
    /// The response to a query cannot be parsed.
    #[error(
        "failed to parse the response of the metric store at {store}; check that its URL is right"
    )]
    Malformed {
        /// Address of the store.
        store: String,
        /// The cause.
        source: serde_json::Error,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without a change of the settings. A missing
    /// organization counts: an administrator may not have set up the store yet.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Unavailable { .. }
                | Self::UnknownVersion { .. }
                | Self::OrganizationMissing { .. }
                | Self::BucketMissing { .. }
        )
    }

    /// Returns the cause, for a message that already names the store and what was attempted.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Unreachable { source, .. } => error_chain(source),
            Self::Unavailable { status, message, .. } | Self::Denied { status, message, .. } => {
                format!("{status}: {message}")
            }
            Self::Refused { message, .. } => message.clone(),
            Self::UnknownVersion { .. } => {
                "it does not report its version; set the API to v1 or v2".to_owned()
            }
            Self::OrganizationMissing { organization, message, .. } => {
                format!("the organization '{organization}': {message}")
            }
            Self::BucketMissing { bucket, .. } => format!("the bucket '{bucket}' does not exist"),
            Self::NoBuckets { .. } => "it does not support buckets of InfluxDB 2.x".to_owned(),
            other => error_chain(other),
        }
    }
}
