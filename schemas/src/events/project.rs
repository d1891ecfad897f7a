//! Events of projects. They are in the log `system`.

use serde::{Deserialize, Serialize};

use crate::names::ProjectTitle;
use crate::retention::Retention;

/// A project was created. Its id is the stream's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectCreated {
    /// The display name.
    pub title: ProjectTitle,
}

/// A project was renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRenamed {
    /// The new display name.
    pub title: ProjectTitle,
    /// The previous display name.
    pub previous: ProjectTitle,
}

/// A project was archived: read-only, no new devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectArchived {}

/// An archived project was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRestored {}

/// The retention of a project's metrics was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRetentionSet {
    /// The new retention.
    pub retention: Retention,
    /// The previous retention.
    pub previous: Retention,
}
