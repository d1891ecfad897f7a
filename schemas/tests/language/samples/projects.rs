//! Samples of what happens to projects.

use muster_schemas::Retention;
use muster_schemas::events::{
    ProjectArchived, ProjectCreated, ProjectRenamed, ProjectRestored, ProjectRetentionSet,
};

use super::{Sample, text};

pub(super) fn samples() -> Vec<Sample> {
    vec![
        Sample::event(ProjectCreated { title: text("Plant 7") }),
        Sample::event(ProjectRenamed { title: text("Plant 7, north"), previous: text("Plant 7") }),
        Sample::event(ProjectArchived {}),
        Sample::event(ProjectRestored {}),
        Sample::event(ProjectRetentionSet {
            retention: Retention::Days(30),
            previous: Retention::Default,
        }),
    ]
}
