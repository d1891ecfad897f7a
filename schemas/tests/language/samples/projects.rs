//! Samples of what happens to projects.

use muster_schemas::events::{ProjectArchived, ProjectCreated, ProjectRenamed, ProjectRestored};

use super::{Sample, text};

pub(super) fn samples() -> Vec<Sample> {
    vec![
        Sample::event(ProjectCreated { title: text("Plant 7") }),
        Sample::event(ProjectRenamed { title: text("Plant 7, north"), previous: text("Plant 7") }),
        Sample::event(ProjectArchived {}),
        Sample::event(ProjectRestored {}),
    ]
}
