//! Enrollment tokens and API tokens, and the bearer of a request.

use std::collections::BTreeSet;

use muster_schemas::events::Role;
use muster_schemas::names::{ConfigVars, LabelKey, Labels, TokenName};
use muster_schemas::{DeviceId, ProjectId, StreamVersion, Timestamp, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::devices::DeviceRef;
use crate::{Open, WriteResult, schema};

/// A request to create an enrollment token.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "plant 7", "expires_in_seconds": 600, "max_uses": 20, "labels": {"site": "a"}, "config": {"metrics.interval": "30s"}}))]
pub struct CreateEnrollmentToken {
    /// Display name of the token.
    #[schema(value_type = schema::TokenName)]
    pub name: TokenName,
    /// Lifetime, in seconds; default: an hour.
    #[serde(default = "one_hour")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub expires_in_seconds: u32,
    /// Number of devices that may enroll with the token; default: one.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 100_000)]
    pub max_uses: u32,
    /// Labels that a device receives.
    #[serde(default)]
    #[schema(value_type = BTreeMap<schema::LabelKey, schema::LabelValue>)]
    pub labels: Labels,
    /// Keys of the labels that a machine may set itself; default: none. Other labels that the
    /// machine sends are dropped, because labels decide which orders a device receives.
    #[serde(default)]
    #[schema(max_items = 64, value_type = Vec<schema::LabelKey>)]
    pub allowed_labels: BTreeSet<LabelKey>,
    /// Config variables that a new device starts with; a device that was already known keeps its
    /// own.
    #[serde(default)]
    #[schema(value_type = BTreeMap<schema::ConfigKey, schema::ConfigValue>)]
    pub config: ConfigVars,
    /// The only device that may enroll with the token; if it is enrolled already, its keys are
    /// replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::DeviceId>)]
    pub device: Option<DeviceId>,
    /// Whether an operator must accept each device that enrolls with the token.
    #[serde(default)]
    pub approval_required: bool,
}

impl CreateEnrollmentToken {
    /// Returns a request with the defaults of the other fields.
    #[must_use]
    pub fn new(name: TokenName) -> Self {
        Self {
            name,
            expires_in_seconds: one_hour(),
            max_uses: one(),
            labels: Labels::new(),
            allowed_labels: BTreeSet::new(),
            config: ConfigVars::new(),
            device: None,
            approval_required: false,
        }
    }
}

/// A request to create an API token.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "grafana", "role": "viewer", "expires_in_seconds": 31_536_000}))]
pub struct CreateToken {
    /// Display name of the token.
    #[schema(value_type = schema::TokenName)]
    pub name: TokenName,
    /// Role that the token grants.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// Lifetime, in seconds; default: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3_153_600_000_u64)]
    pub expires_in_seconds: Option<u32>,
    /// Whether the token is valid for all projects and the server itself. Only a server-wide admin
    /// can create one; the parameter `project` is ignored then.
    #[serde(default)]
    pub server_wide: bool,
}

/// A created token.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c0de-7001-7abc-8def-0123456789ab",
    "secret": "mst_default_0198c0de70017abc8def0123456789ab_…",
    "expires_at": "2036-11-23T09:00:00Z", "version": 1, "position": 42
}))]
pub struct TokenCreated {
    /// Id of the token.
    #[schema(value_type = schema::TokenId)]
    pub id: TokenId,
    /// Text of the token, for the header `Authorization`; it cannot be shown again.
    pub secret: String,
    /// Time at which the token expires; `null` if it does not.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub expires_at: Option<Timestamp>,
    /// For an enrollment token: the pin of the server's key, for the command that installs the
    /// agent:
    /// `curl -fsSk --pinnedpubkey PIN URL/install.sh | MUSTER_ENROLL_TOKEN=TOKEN sudo --preserve-env=MUSTER_ENROLL_TOKEN sh -s --`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_pin: Option<String>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the document would repeat the description")]
    pub result: WriteResult,
}

/// A created enrollment token, with its text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c0de-7001-7abc-8def-0123456789ab", "name": "plant 7", "status": "active",
    "created_by": "token:0198c0de-7001-7abc-8def-0123456789ac",
    "created_at": "2026-11-23T07:00:00Z", "expires_at": "2026-11-23T07:10:00Z", "max_uses": 20,
    "use_count": 0, "labels": {"site": "a"}, "allowed_labels": [], "config": {}, "device": null,
    "approval_required": false, "version": 1,
    "secret": "mse_default_0198c0de70017abc8def0123456789ab_…", "server_pin": "sha256//…"
}))]
pub struct EnrollmentTokenCreated {
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the document would repeat the description")]
    pub token: EnrollmentToken,
    /// Text of the token; it cannot be shown again.
    pub secret: String,
    /// The pin of the server's key, for the command that installs the agent:
    /// `curl -fsSk --pinnedpubkey PIN URL/install.sh | MUSTER_ENROLL_TOKEN=TOKEN sudo --preserve-env=MUSTER_ENROLL_TOKEN sh -s --`.
    pub server_pin: String,
}

/// A created API token, with its text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c0de-7001-7abc-8def-0123456789ab", "name": "grafana", "status": "active",
    "role": "viewer", "created_by": "token:0198c0de-7001-7abc-8def-0123456789ac",
    "created_at": "2026-11-23T07:00:00Z", "version": 1,
    "secret": "mst_default_0198c0de70017abc8def0123456789ab_…"
}))]
pub struct ApiTokenCreated {
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the document would repeat the description")]
    pub token: ApiToken,
    /// Text of the token, for the header `Authorization`; it cannot be shown again.
    pub secret: String,
}

/// Whether a token is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenStatus {
    /// The token is valid.
    Active,
    /// The token has reached its maximum number of uses.
    UsedUp,
    /// The token has expired.
    Expired,
    /// The token was revoked.
    Revoked,
}

/// A token with which devices enroll.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EnrollmentToken {
    /// Id of the token.
    #[schema(value_type = schema::TokenId)]
    pub id: TokenId,
    /// Name for people.
    #[schema(value_type = schema::TokenName)]
    pub name: Option<TokenName>,
    /// Whether the token is valid.
    #[schema(value_type = TokenStatus)]
    pub status: Open<TokenStatus>,
    /// The actor that created it.
    pub created_by: String,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Time at which it expires.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub expires_at: Option<Timestamp>,
    /// Time at which it was revoked.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub revoked_at: Option<Timestamp>,
    /// Maximum number of devices that may enroll with it.
    pub max_uses: u32,
    /// Number of devices that have enrolled with it.
    pub use_count: u64,
    /// Time of the last enrollment with it.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub last_used_at: Option<Timestamp>,
    /// Labels for the devices that enroll with it.
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Labels,
    /// Keys of the labels that a machine may set itself.
    #[schema(value_type = Vec<String>)]
    pub allowed_labels: BTreeSet<LabelKey>,
    /// Config variables that a new device starts with.
    #[schema(value_type = BTreeMap<String, schema::ConfigValue>)]
    pub config: ConfigVars,
    /// The only device that may use it.
    pub device: Option<DeviceRef>,
    /// Whether an operator must accept each device that enrolls with it.
    pub approval_required: bool,
    /// Version of its stream, as in its `ETag`.
    #[schema(value_type = u64)]
    pub version: StreamVersion,
}

/// A token with which a client uses the API.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApiToken {
    /// Id of the token.
    #[schema(value_type = schema::TokenId)]
    pub id: TokenId,
    /// Name for people.
    #[schema(value_type = schema::TokenName)]
    pub name: Option<TokenName>,
    /// Whether the token is valid.
    #[schema(value_type = TokenStatus)]
    pub status: Open<TokenStatus>,
    /// Role of its bearer.
    #[schema(value_type = schema::Role)]
    pub role: Open<Role>,
    /// The actor that created it.
    pub created_by: String,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Time at which it expires; never when absent.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub expires_at: Option<Timestamp>,
    /// Time at which it was revoked.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub revoked_at: Option<Timestamp>,
    /// Time of its last use; recorded at most once an hour.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub last_used_at: Option<Timestamp>,
    /// Client address of its last use.
    pub last_used_address: Option<String>,
    /// Version of its stream, as in its `ETag`.
    #[schema(value_type = u64)]
    pub version: StreamVersion,
}

/// The bearer of a token.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The token's id.
    #[schema(value_type = schema::TokenId)]
    pub token: TokenId,
    /// Role of its bearer.
    #[schema(value_type = schema::Role)]
    pub role: Open<Role>,
    /// Project of the token; null for a server-wide token.
    #[schema(value_type = Option<schema::ProjectId>)]
    pub project: Option<ProjectId>,
    /// The actor that events name.
    #[schema(example = "token:0198c0de-7001-7abc-8def-0123456789ab")]
    pub actor: String,
}

const fn one_hour() -> u32 {
    3600
}

const fn one() -> u32 {
    1
}
