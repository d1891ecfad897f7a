//! Resolution of the device in a path: by id or name. The name of a deleted device leads to it until
//! another device has the name.

use muster_api::Problem;
use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, ProjectId};

use crate::projections::devices::TABLE;
use crate::state::{QueryState, sql_problem};

/// The device in a path.
#[derive(Debug)]
pub(super) enum Key {
    Id(DeviceId),
    Name(DeviceName),
}

impl Key {
    /// An id is also a valid name: text that parses as an id is one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(id) => Some(Self::Id(id)),
            Err(_) => text.parse().ok().map(Self::Name),
        }
    }

    /// The condition of a query for one row, in which the key is `$2`. A name that no device has is
    /// that of the newest device that had it.
    pub(super) const fn condition(&self) -> &'static str {
        match self {
            Self::Id(_) => "device = $2 AND name IS NOT NULL",
            Self::Name(_) => "name = $2 ORDER BY status = 'deleted', created_position DESC LIMIT 1",
        }
    }
}

/// Returns the id of the device in a path.
pub(crate) async fn resolve(
    state: &QueryState,
    project: &ProjectId,
    text: &str,
) -> Result<DeviceId, Problem> {
    let key = Key::parse(text).ok_or_else(|| unknown(project, text))?;
    let sql = format!("SELECT device FROM {TABLE} WHERE project = $1 AND {}", key.condition());
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(project.as_str());
    let query = match &key {
        Key::Id(id) => query.bind(id.0),
        Key::Name(name) => query.bind(name.as_str()),
    };
    let found: Option<uuid::Uuid> = query.fetch_optional(state.sql()).await.map_err(sql_problem)?;
    found.map(DeviceId).ok_or_else(|| unknown(project, text))
}

/// Returns the problem of a device that does not exist.
pub(super) fn unknown(project: &ProjectId, text: &str) -> Problem {
    let text: String = text.chars().take(80).collect();
    Problem::not_found(format!(
        "there is no device '{text}' in project {project}; GET /api/v1/devices lists them"
    ))
}
