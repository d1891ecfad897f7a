//! Problem documents (RFC 9457): every error that a client can see.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::devices::DeviceRef;

/// A rule that a part of the request breaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) to the value in the body; to where it would be if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/labels/env")]
    pub pointer: Option<String>,
    /// Name of the parameter in the path or the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// Name of the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The rule.
    #[schema(example = "is not a label value: use up to 128 of A-Z, a-z, 0-9, …")]
    pub rule: String,
    /// The value in the request, shortened; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false, example = "a b")]
    pub value: Option<Value>,
}

/// A problem document, as in RFC 9457 and in the OpenAPI document.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "/problems/not-found",
    "title": "Not found",
    "status": 404,
    "detail": "there is no device 'robot-7' in project default",
}))]
pub struct ProblemDocument {
    /// Kind of the problem; stable, for programs. It is also the path of a page that explains it.
    #[serde(rename = "type")]
    #[schema(example = "/problems/validation")]
    pub kind: String,
    /// Kind of the problem, for people.
    #[schema(value_type = String)]
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// The attempted action with its object, and a suggested fix.
    pub detail: String,
    /// All rules that were broken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
    /// The device that the problem is about: the one that has the name, or that is offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceRef>,
    /// Correlation id of the entry in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Uuid>,
}
