//! Dead letters: messages that could not be attributed to a device or written.

use muster_schemas::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema;

/// A message that could not be attributed to a device or written.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// Number of the dead letter.
    pub id: i64,
    /// Kind of the message: `events` or `metrics`.
    pub source: String,
    /// Project in the message's subject; null when there is none.
    pub project: Option<String>,
    /// Subject of the message.
    pub subject: String,
    /// Short code of the cause, such as `bad_signature`.
    pub cause: String,
    /// The cause in full.
    pub detail: String,
    /// Size of the whole message, in bytes.
    pub size_bytes: u64,
    /// Time at which the message was first received.
    #[schema(value_type = schema::Timestamp)]
    pub first_seen_at: Timestamp,
    /// Time at which the message was last received.
    #[schema(value_type = schema::Timestamp)]
    pub last_seen_at: Timestamp,
    /// Number of times that the message was received.
    pub seen_count: u64,
    /// Time of the last retry.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub retried_at: Option<Timestamp>,
    /// The message in base64, at most the first 64 KiB; only in the response for a single dead
    /// letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(content_encoding = "base64")]
    pub content_base64: Option<String>,
}

/// A dead letter that was published again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"id": 7}))]
pub struct DeadLetterRetried {
    /// Number of the dead letter.
    pub id: i64,
}
