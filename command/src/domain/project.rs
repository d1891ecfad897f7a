//! The project: created, renamed, archived, restored; its metrics' retention. Its events are in the
//! log `system`.

use muster_schemas::events::{
    ProjectArchived, ProjectCreated, ProjectRenamed, ProjectRestored, ProjectRetentionSet,
};
use muster_schemas::names::ProjectTitle;
use muster_schemas::{Event, Retention};

use super::{Conflict, Decider, Decision, Rejection};

/// State of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// Display name; `None` when the project does not exist.
    pub title: Option<ProjectTitle>,
    /// Whether it is archived, and so read-only.
    pub is_archived: bool,
    /// Retention of its metrics.
    pub retention: Retention,
}

/// Commands on a project.
#[derive(Clone, Debug)]
pub enum ProjectCommand {
    /// Create the project.
    Create {
        /// Display name.
        title: ProjectTitle,
        /// Retention of its metrics.
        retention: Retention,
    },
    /// Rename, archive or restore it, or change its metrics' retention; fields that are `None` are
    /// unchanged.
    Change {
        /// New display name.
        title: Option<ProjectTitle>,
        /// Whether it is archived.
        archived: Option<bool>,
        /// New retention of its metrics.
        retention: Option<Retention>,
    },
}

impl Decider for Project {
    type Command = ProjectCommand;

    fn decide(&self, command: ProjectCommand) -> Decision {
        match (command, &self.title) {
            (ProjectCommand::Create { .. }, Some(title)) => {
                Err(Conflict::ProjectExists(title.clone()).into())
            }
            (ProjectCommand::Create { title, retention }, None) => {
                let created = ProjectCreated { title }.into();
                Ok([created].into_iter().chain(self.retention_event(Some(retention))).collect())
            }
            (ProjectCommand::Change { .. }, None) => Err(Rejection::NotFound("project")),
            (ProjectCommand::Change { title, archived, retention }, Some(previous)) => {
                let title = title.filter(|title| title != previous).map(|title| {
                    let previous = previous.clone();
                    ProjectRenamed { title, previous }.into()
                });
                let archived = archived.filter(|archived| *archived != self.is_archived);
                let archived = archived.map(|archived| {
                    if archived { ProjectArchived {}.into() } else { ProjectRestored {}.into() }
                });
                Ok(title
                    .into_iter()
                    .chain(archived)
                    .chain(self.retention_event(retention))
                    .collect())
            }
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::ProjectCreated(event) => self.title = Some(event.title.clone()),
            Event::ProjectRenamed(event) => self.title = Some(event.title.clone()),
            Event::ProjectArchived(_) => self.is_archived = true,
            Event::ProjectRestored(_) => self.is_archived = false,
            Event::ProjectRetentionSet(event) => self.retention = event.retention,
            _ => {}
        }
        self
    }
}

impl Project {
    /// Returns the event of a changed retention.
    fn retention_event(&self, retention: Option<Retention>) -> Option<Event> {
        let previous = self.retention;
        let retention = retention.filter(|retention| *retention != previous)?;
        Some(ProjectRetentionSet { retention, previous }.into())
    }
}
