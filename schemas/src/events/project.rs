//! What happens to projects. These facts stand in the log `system`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::ProjectTitle;
use crate::retention::Retention;

/// A project was made. Its id is the name of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectCreated {
    /// What people call it.
    pub title: ProjectTitle,
}

/// A project is called something else now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectRenamed {
    /// What people call it now.
    pub title: ProjectTitle,
    /// What they called it before.
    pub previous: ProjectTitle,
}

/// A project takes no more changes and no more devices; all of it can still be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectArchived {}

/// An archived project is at work again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectRestored {}

/// A project's metrics are kept for another time from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectRetentionSet {
    /// How long they are kept now.
    pub retention: Retention,
    /// How long they were kept before.
    pub previous: Retention,
}
