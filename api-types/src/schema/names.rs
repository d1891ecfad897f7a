//! Names, labels and retentions.

use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A device's name, unique in its project: as a host name, dots allowed.
#[derive(Debug, ToSchema)]
#[schema(pattern = "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", max_length = 63, example = "robot-7")]
pub struct DeviceName(pub String);

/// A device: its id or its name.
#[derive(Debug, ToSchema)]
#[schema(pattern = "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", max_length = 63, example = "robot-7")]
pub struct DeviceKey(pub String);

/// A label's key.
#[derive(Debug, ToSchema)]
#[schema(
    pattern = "^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$",
    max_length = 63,
    example = "env"
)]
pub struct LabelKey(pub String);

/// A label's value; may be empty.
#[derive(Debug, ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_.:/+@-]{0,128}$", max_length = 128, example = "prod")]
pub struct LabelValue(pub String);

/// A config variable's key.
#[derive(Debug, ToSchema)]
#[schema(
    pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
    max_length = 63,
    example = "log.level"
)]
pub struct ConfigKey(pub String);

/// A token's display name.
#[derive(Debug, ToSchema)]
#[schema(
    pattern = "^[^\\s\\u0000-\\u001f\\u007f-\\u009f]([^\\u0000-\\u001f\\u007f-\\u009f]{0,78}[^\\s\\u0000-\\u001f\\u007f-\\u009f])?$",
    max_length = 80,
    example = "grafana read-only"
)]
pub struct TokenName(pub String);

/// A project's display name; its id is permanent.
#[derive(Debug, ToSchema)]
#[schema(
    pattern = "^[^\\s\\u0000-\\u001f\\u007f-\\u009f]([^\\u0000-\\u001f\\u007f-\\u009f]{0,78}[^\\s\\u0000-\\u001f\\u007f-\\u009f])?$",
    max_length = 80,
    example = "Plant 7"
)]
pub struct ProjectTitle(pub String);

/// A retention of metrics.
#[derive(Debug)]
pub struct Retention(pub String);

impl PartialSchema for Retention {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "How long metrics are kept: days (`30d`), weeks (`2w`), or `default`: as long as the \
                 metric store keeps those of all projects. Given back as days or `default`.",
            ))
            .pattern(Some("^(default|[1-9][0-9]{0,3}d|[1-9][0-9]{0,2}w)$"))
            .examples(["90d"])
            .into()
    }
}

impl ToSchema for Retention {}
