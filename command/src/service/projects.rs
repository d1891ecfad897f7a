//! Projects: created, changed, and checked for being archived.

use std::sync::atomic::{AtomicBool, Ordering};

use async_recursion::async_recursion as boxed;
use muster_schemas::names::ProjectTitle;
use muster_schemas::{ProjectId, Retention, StreamName};
use uuid::Uuid;

use crate::domain::project::{Project, ProjectCommand};
use crate::domain::{Conflict, Decider, Decision, Rejection};
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
        project: &ProjectId,
        title: ProjectTitle,
        retention: Retention,
    ) -> Result<Written, CommandError> {
        let create = |state: Project| {
            state.decide(ProjectCommand::Create { title: title.clone(), retention })
        };
        Ok(self.create_or(request, project, create).await?.0)
    }

    /// Creates a project and its log, or replaces its title and retention; returns whether it was
    /// created.
    ///
    /// # Errors
    /// When there are too many, or the log cannot be used.
    pub async fn put(
        &self,
        request: &Request,
        project: &ProjectId,
        title: ProjectTitle,
        retention: Retention,
    ) -> Result<(Written, bool), CommandError> {
        let put = |state: Project| {
            let title = title.clone();
            state.decide(match state.title {
                None => ProjectCommand::Create { title, retention },
                Some(_) => ProjectCommand::Change {
                    title: Some(title),
                    archived: None,
                    retention: Some(retention),
                },
            })
        };
        self.create_or(request, project, put).await
    }

    /// Carries out what `decide` returns, and creates the log of a new project; returns whether it
    /// is new.
    async fn create_or(
        &self,
        request: &Request,
        project: &ProjectId,
        decide: impl Fn(Project) -> Decision,
    ) -> Result<(Written, bool), CommandError> {
        let stream = StreamName::Project(project.clone());
        if project.is_system() {
            return Err(Rejection::Invalid {
                field: "id",
                rule: "is the name of the server's own log; choose another".to_owned(),
                value: project.to_string(),
            }
            .into());
        }
        let (log, decide, created) = (&self.executor.log, &decide, &AtomicBool::new(false));
        let decide = |state: Project| async move {
            let is_new = state.title.is_none();
            let events = decide(state)?;
            request.check_exists(!is_new)?;
            created.store(is_new, Ordering::Relaxed);
            if !is_new {
                return Ok(events.into());
            }
            if log.projects().await?.len() > MAX_PROJECTS {
                return Err(Rejection::from(Conflict::TooManyProjects(MAX_PROJECTS)).into());
            }
            // The log first: a project that the log `system` names must accept appends.
            log.ensure_project(project).await?;
            Ok(events.into())
        };
        let written = self.executor.carry_out(request, stream, decide).await?;
        Ok((written, created.load(Ordering::Relaxed)))
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
        match self.create(&request, &project, title, retention).await {
            Ok(_) | Err(CommandError::Rejected(Rejection::Conflict(_))) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
