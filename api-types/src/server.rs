//! The state of the server and its projections, and counts of its devices.

use std::borrow::Cow;
use std::collections::BTreeMap;

use muster_schemas::Position;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of this server.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `degraded` when it serves reads but cannot write something.
    #[schema(example = "ok")]
    #[schema(value_type = String)]
    pub status: Cow<'static, str>,
    /// Parts that cannot be written, since when and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
}

/// A projection's progress.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Projection {
    /// Name with the version of its fold.
    pub name: String,
    /// The position that it has reached.
    #[schema(value_type = u64)]
    pub position: Position,
    /// Number of events of the log that it has not processed.
    pub pending_event_count: u64,
    /// Cause for which it stopped; absent while it runs.
    pub failure: Option<String>,
}

/// Numbers of devices, without deleted ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetSummary {
    /// Number of all devices.
    pub device_count: i64,
    /// Numbers by status: `registered`, `pending`, `online`, `offline`, `revoked`.
    pub status_counts: BTreeMap<String, i64>,
    /// Numbers by operating system; the 100 most frequent.
    pub os_counts: BTreeMap<String, i64>,
    /// Numbers by architecture; the 100 most frequent.
    pub arch_counts: BTreeMap<String, i64>,
    /// Numbers by the agent's version; the 100 most frequent.
    pub agent_version_counts: BTreeMap<String, i64>,
}
