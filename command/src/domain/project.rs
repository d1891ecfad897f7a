//! The project: made, renamed, archived, restored, its metrics kept for a time. Its events stand in the log `system`.

use muster_schemas::events::{
    ProjectArchived, ProjectCreated, ProjectRenamed, ProjectRestored, ProjectRetentionSet,
};
use muster_schemas::names::ProjectTitle;
use muster_schemas::{Event, Retention};

use super::{Decider, Decision, Rejection};

/// What is known of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// What people call it; `None` when it does not exist.
    pub title: Option<ProjectTitle>,
    /// Does it take no more changes?
    pub archived: bool,
    /// How long its metrics are kept.
    pub retention: Retention,
}

/// What can be asked of a project.
#[derive(Clone, Debug)]
pub enum ProjectCommand {
    /// Make it.
    Create {
        /// What people shall call it.
        title: ProjectTitle,
        /// How long its metrics shall be kept.
        retention: Retention,
    },
    /// Call it something else, archive it or restore it, keep its metrics for another time; what is
    /// `None` stays.
    Change {
        /// What people shall call it.
        title: Option<ProjectTitle>,
        /// Shall it be archived?
        archived: Option<bool>,
        /// How long shall its metrics be kept?
        retention: Option<Retention>,
    },
}

impl Decider for Project {
    type Command = ProjectCommand;

    fn decide(&self, command: ProjectCommand) -> Decision {
        match (command, &self.title) {
            (ProjectCommand::Create { .. }, Some(title)) => {
                Err(Rejection::Conflict(format!("the project exists already: {title}")))
            }
            (ProjectCommand::Create { title, retention }, None) => {
                let created = ProjectCreated { title }.into();
                Ok([created].into_iter().chain(self.keep(Some(retention))).collect())
            }
            (ProjectCommand::Change { .. }, None) => Err(Rejection::NotFound("project")),
            (ProjectCommand::Change { title, archived, retention }, Some(previous)) => {
                let title = title.filter(|title| title != previous).map(|title| {
                    let previous = previous.clone();
                    ProjectRenamed { title, previous }.into()
                });
                let archived = archived.filter(|archived| *archived != self.archived);
                let archived = archived.map(|archived| {
                    if archived { ProjectArchived {}.into() } else { ProjectRestored {}.into() }
                });
                Ok(title.into_iter().chain(archived).chain(self.keep(retention)).collect())
            }
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::ProjectCreated(event) => self.title = Some(event.title.clone()),
            Event::ProjectRenamed(event) => self.title = Some(event.title.clone()),
            Event::ProjectArchived(_) => self.archived = true,
            Event::ProjectRestored(_) => self.archived = false,
            Event::ProjectRetentionSet(event) => self.retention = event.retention,
            _ => {}
        }
        self
    }
}

impl Project {
    /// What follows when its metrics shall be kept for so long.
    fn keep(&self, retention: Option<Retention>) -> Option<Event> {
        let previous = self.retention;
        let retention = retention.filter(|retention| *retention != previous)?;
        Some(ProjectRetentionSet { retention, previous }.into())
    }
}
