//! Projects.

use muster_schemas::names::ProjectTitle;
use muster_schemas::{Position, ProjectId, Retention, StreamVersion, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Open, WriteResult, schema};

/// A request to create a project.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": "plant-7", "title": "Plant 7", "retention": "90d"}))]
pub struct CreateProject {
    /// Id of the project, permanent: 1 to 40 characters of a-z, 0-9 and -; it starts with a-z and
    /// does not end with -.
    #[schema(value_type = schema::ProjectId)]
    pub id: ProjectId,
    /// Display name of the project; default: the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ProjectTitle>)]
    pub title: Option<ProjectTitle>,
    /// Retention of the project's metrics; default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Retention>)]
    pub retention: Option<Retention>,
}

/// A request to change a project; fields that are left out are unchanged.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"title": "Plant 7, north", "retention": "30d"}))]
pub struct ChangeProject {
    /// New display name of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ProjectTitle>)]
    pub title: Option<ProjectTitle>,
    /// New status. An archived project is read-only and accepts no devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ProjectStatus>)]
    pub status: Option<ProjectStatus>,
    /// Retention of the project's metrics: `30d`, `2w`, or `default`. Points from before the
    /// project's first own retention stay in the bucket that all projects share; a later change of
    /// the number of days applies to all points since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Retention>)]
    pub retention: Option<Retention>,
}

/// A request to create a project, or to replace its settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"title": "Plant 7", "retention": "90d"}))]
pub struct ReplaceProject {
    /// Display name of the project; default: the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ProjectTitle>)]
    pub title: Option<ProjectTitle>,
    /// Retention of the project's metrics; default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Retention>)]
    pub retention: Option<Retention>,
}

/// A created project.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"id": "plant-7", "version": 1, "position": 42}))]
pub struct ProjectCreated {
    /// Id of the project.
    #[schema(value_type = schema::ProjectId)]
    pub id: ProjectId,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the document would repeat the description")]
    pub result: WriteResult,
}

/// Whether a project accepts changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectStatus {
    /// The project accepts changes.
    Active,
    /// The project accepts no changes and no devices, but can be read.
    Archived,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Id, which never changes.
    #[schema(value_type = schema::ProjectId)]
    pub id: ProjectId,
    /// Title for people.
    #[schema(value_type = schema::ProjectTitle)]
    pub title: ProjectTitle,
    /// Whether it accepts changes.
    #[schema(value_type = ProjectStatus)]
    pub status: Open<ProjectStatus>,
    /// Time for which its metrics are kept.
    #[schema(value_type = schema::Retention)]
    pub retention: Retention,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// The actor that created it.
    pub created_by: String,
    /// The newest position of its log.
    #[schema(value_type = u64)]
    pub position: Position,
    /// Version of the resource; also the `ETag`.
    #[schema(value_type = u64)]
    pub version: StreamVersion,
}
