//! The project: made, renamed, archived, restored. Its events stand in the log `system`.

use muster_schemas::Event;
use muster_schemas::events::{ProjectArchived, ProjectCreated, ProjectRenamed, ProjectRestored};
use muster_schemas::names::ProjectTitle;

use super::{Decider, Decision, Rejection};

/// What is known of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// What people call it; `None` when it does not exist.
    pub title: Option<ProjectTitle>,
    /// Does it take no more changes?
    pub archived: bool,
}

/// What can be asked of a project.
#[derive(Clone, Debug)]
pub enum ProjectCommand {
    /// Make it.
    Create(ProjectTitle),
    /// Call it something else, archive it or restore it; what is `None` stays.
    Change {
        /// What people shall call it.
        title: Option<ProjectTitle>,
        /// Shall it be archived?
        archived: Option<bool>,
    },
}

impl Decider for Project {
    type Command = ProjectCommand;

    fn decide(&self, command: ProjectCommand) -> Decision {
        match (command, &self.title) {
            (ProjectCommand::Create(_), Some(title)) => {
                Err(Rejection::Conflict(format!("the project exists already: {title}")))
            }
            (ProjectCommand::Create(title), None) => Ok(vec![ProjectCreated { title }.into()]),
            (ProjectCommand::Change { .. }, None) => Err(Rejection::NotFound("project")),
            (ProjectCommand::Change { title, archived }, Some(previous)) => {
                let title = title.filter(|title| title != previous).map(|title| {
                    let previous = previous.clone();
                    ProjectRenamed { title, previous }.into()
                });
                let archived = archived.filter(|archived| *archived != self.archived);
                let archived = archived.map(|archived| {
                    if archived { ProjectArchived {}.into() } else { ProjectRestored {}.into() }
                });
                Ok(title.into_iter().chain(archived).collect())
            }
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::ProjectCreated(event) => self.title = Some(event.title.clone()),
            Event::ProjectRenamed(event) => self.title = Some(event.title.clone()),
            Event::ProjectArchived(_) => self.archived = true,
            Event::ProjectRestored(_) => self.archived = false,
            _ => {}
        }
        self
    }
}
