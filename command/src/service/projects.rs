//! Projects: created, changed, and checked for being archived.

use async_recursion::async_recursion as boxed;
use muster_schemas::names::ProjectTitle;
use muster_schemas::{ProjectId, Retention, StreamName};
use uuid::Uuid;

use crate::domain::project::{Project, ProjectCommand};
use crate::domain::{Conflict, Decider, Rejection};
use crate::error::CommandError;
use crate::executor::Executor;
use crate::request::{Request, Written};

/// Maximum number of projects of a server: each has its own partitions.
const MAX_PROJECTS: usize = 1_000;

/// Creates and changes projects.
#[derive(Clone, Debug)]
pub struct Projects {
    executor: Executor,
}

impl Projects {
    pub(super) const fn new(executor: Executor) -> Self {
        Self { executor }
    }

    /// Creates a project and its log.
    ///
    /// # Errors
    /// When it exists, there are too many, or the log cannot be used.
    pub async fn create(
        &self,
        request: &Request,
        project: ProjectId,
        title: ProjectTitle,
        retention: Retention,
    ) -> Result<Written, CommandError> {
        let stream = StreamName::Project(project.clone());
        if project.is_system() {
            return Err(Rejection::Invalid {
                field: "id",
                rule: "is the name of the server's own log; choose another".to_owned(),
                value: project.to_string(),
            }
            .into());
        }
        let (log, project, title) = (&self.executor.log, &project, &title);
        let decide = |state: Project| async move {
            let command = ProjectCommand::Create { title: title.clone(), retention };
            let events = state.decide(command)?;
            if log.projects().await?.len() > MAX_PROJECTS {
                return Err(Rejection::from(Conflict::TooManyProjects(MAX_PROJECTS)).into());
            }
            // The log first: a project that the log `system` names must accept appends.
            log.ensure_project(project).await?;
            Ok(events.into())
        };
        self.executor.carry_out(request, stream, decide).await
    }

    /// Renames, archives or restores a project, or changes its metrics' retention.
    ///
    /// # Errors
    /// When the project does not exist, or the log cannot be used.
    pub async fn change(
        &self,
        request: &Request,
        project: &ProjectId,
        title: Option<ProjectTitle>,
        archived: Option<bool>,
        retention: Option<Retention>,
    ) -> Result<Written, CommandError> {
        let stream = StreamName::Project(project.clone());
        let command = ProjectCommand::Change { title, archived, retention };
        let decide = |state: Project| {
            let decision = state.decide(command.clone());
            async { Ok(decision?.into()) }
        };
        self.executor.carry_out(request, stream, decide).await
    }

    /// Records the project `default`, which exists from the start.
    ///
    /// # Errors
    /// When the log cannot be used.
    #[boxed]
    pub async fn ensure_default(&self) -> Result<(), CommandError> {
        let request =
            Request::unconditional(ProjectId::system(), "system".to_owned(), Uuid::now_v7());
        let title = "Default".parse().map_err(|_| Rejection::NotFound("title"))?;
        let (project, retention) = (ProjectId::default_project(), Retention::Default);
        match self.create(&request, project, title, retention).await {
            Ok(_) | Err(CommandError::Rejected(Rejection::Conflict(_))) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
