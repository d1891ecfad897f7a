//! Projects: created, changed, and checked for being archived.

use async_recursion::async_recursion as boxed;
use muster_schemas::names::ProjectTitle;
use muster_schemas::{ProjectId, Retention, StreamName};
use uuid::Uuid;

use crate::domain::project::{Project, ProjectCommand};
use crate::domain::{Conflict, Decider, Rejection};
use crate::error::CommandError;
use crate::executor::{Executor, until_appended};
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
        if let Some(written) = self.executor.previous_result(request, &stream).await? {
            return Ok(written);
        }
        if project.is_system() {
            return Err(Rejection::Invalid {
                field: "id",
                rule: "is the name of the server's own log; choose another".to_owned(),
                value: project.to_string(),
            }
            .into());
        }
        if self.executor.log.projects().await?.len() > MAX_PROJECTS {
            return Err(Rejection::from(Conflict::TooManyProjects(MAX_PROJECTS)).into());
        }
        until_appended(|| async {
            let loaded = self.executor.load::<Project>(&request.project, &stream).await?;
            let command = ProjectCommand::Create { title: title.clone(), retention };
            let events = loaded.state.decide(command)?;
            // The log first: a project that the log `system` names must accept appends.
            self.executor.log.ensure_project(&project).await?;
            let version = loaded.version + events.len() as u64;
            let parts = vec![(stream.clone(), loaded.version, events)];
            let position = self.executor.try_append(request, parts).await?;
            Ok(position.map(|position| Written { version, position }))
        })
        .await
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
        if let Some(written) = self.executor.previous_result(request, &stream).await? {
            return Ok(written);
        }
        until_appended(|| async {
            let loaded = self.executor.load::<Project>(&request.project, &stream).await?;
            let command = ProjectCommand::Change { title: title.clone(), archived, retention };
            let events = loaded.state.decide(command)?;
            request.check_version(loaded.version)?;
            let version = loaded.version + events.len() as u64;
            let parts = vec![(stream.clone(), loaded.version, events)];
            let position = self.executor.try_append(request, parts).await?;
            Ok(position.map(|position| Written { version, position }))
        })
        .await
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
