//! Ids, hashes and times.

use serde::Serialize;
use utoipa::ToSchema;

/// A project's name, which is its id: `[a-z][a-z0-9-]*`, 1 to 40 characters, no `-` at the end.
///
/// Invariant: never contains `.`, `*` or `>`, which would widen a NATS permission.
#[derive(Debug, ToSchema)]
#[schema(pattern = "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", example = "default")]
pub struct ProjectId(pub String);

/// A device: a UUIDv7, assigned by the server at the registration.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Uuid, example = "0198c0de-7000-7abc-8def-0123456789ab")]
pub struct DeviceId(pub String);

/// An enrollment token or an API token.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Uuid, example = "0198c0de-7001-7abc-8def-0123456789ab")]
pub struct TokenId(pub String);

/// An operation: a request to devices. A UUIDv7.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Uuid, example = "0198c0de-7002-7abc-8def-0123456789ab")]
pub struct OperationId(pub String);

/// A session on a device; it outlives the channels that are attached to it. A UUIDv7.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Uuid, example = "0198c0de-7003-7abc-8def-0123456789ab")]
pub struct SessionId(pub String);

/// Bytes of a file or of a program's output.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Bytes(pub String);

/// A SHA-256 digest in lower-case hexadecimal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
pub struct Hash(pub String);

/// Time, as in RFC 3339, with up to six digits of a second.
#[derive(Debug, Serialize, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-23T08:00:00Z")]
pub struct Timestamp(pub String);
