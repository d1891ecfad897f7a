//! Projects: created, changed, and checked for being archived.

use muster_schemas::names::ProjectTitle;
use muster_schemas::{ProjectId, Retention, StreamName};
use uuid::Uuid;

use super::{Request, Service, ServiceError, Written, until_appended};
use crate::domain::project::{Project, ProjectCommand};
use crate::domain::{Decider, Rejection};

/// Maximum number of projects of a server: each has its own partitions.
const MAX_PROJECTS: usize = 1_000;

impl Service {
    /// Creates a project and its log.
    ///
    /// # Errors
    /// When it exists, there are too many, or the log cannot be used.
    pub async fn create_project(
        &self,
        request: &Request,
        project: ProjectId,
        title: ProjectTitle,
        retention: Retention,
    ) -> Result<Written, ServiceError> {
        let stream = StreamName::Project(project.clone());
        if let Some(written) = self.previous_result(request, &stream).await? {
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
        if self.log.projects().await?.len() > MAX_PROJECTS {
            let rule = format!("the server has {MAX_PROJECTS} projects, which is the maximum");
            return Err(Rejection::Conflict(rule).into());
        }
        until_appended!({
            let loaded = self.load::<Project>(&request.project, &stream).await?;
            let command = ProjectCommand::Create { title: title.clone(), retention };
            let events = loaded.state.decide(command)?;
            // The log first: a project that the log `system` names must accept appends.
            self.log.ensure_project(&project).await?;
            let version = loaded.version + events.len() as u64;
            let parts = vec![(stream.clone(), loaded.version, events)];
            self.try_append(request, parts).await?.map(|position| Written { version, position })
        })
    }

    /// Renames, archives or restores a project, or changes its metrics' retention.
    ///
    /// # Errors
    /// When the project does not exist, or the log cannot be used.
    pub async fn change_project(
        &self,
        request: &Request,
        project: &ProjectId,
        title: Option<ProjectTitle>,
        archived: Option<bool>,
        retention: Option<Retention>,
    ) -> Result<Written, ServiceError> {
        let stream = StreamName::Project(project.clone());
        if let Some(written) = self.previous_result(request, &stream).await? {
            return Ok(written);
        }
        until_appended!({
            let loaded = self.load::<Project>(&request.project, &stream).await?;
            let command = ProjectCommand::Change { title: title.clone(), archived, retention };
            let events = loaded.state.decide(command)?;
            request.check_version(loaded.version)?;
            let version = loaded.version + events.len() as u64;
            let parts = vec![(stream.clone(), loaded.version, events)];
            self.try_append(request, parts).await?.map(|position| Written { version, position })
        })
    }

    /// Records the project `default`, which exists from the start.
    ///
    /// # Errors
    /// When the log cannot be used.
    pub async fn ensure_default_project(&self) -> Result<(), ServiceError> {
        let request = Request {
            project: ProjectId::system(),
            actor: "system".to_owned(),
            append_id: Uuid::now_v7(),
            request_hash: None,
            versions: None,
        };
        let title = "Default".parse().map_err(|_| Rejection::NotFound("title"))?;
        let (project, retention) = (ProjectId::default_project(), Retention::Default);
        match self.create_project(&request, project, title, retention).await {
            Ok(_) | Err(ServiceError::Rejected(Rejection::Conflict(_))) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Rejects changes in an archived project.
    pub(crate) async fn check_not_archived(&self, project: &ProjectId) -> Result<(), ServiceError> {
        if project.is_system() {
            return Ok(());
        }
        let stream = StreamName::Project(project.clone());
        let existing = self.load::<Project>(&ProjectId::system(), &stream).await?;
        if existing.state.is_archived {
            let message = format!(
                "project {project} is archived; `muster project restore {project}` restores it"
            );
            return Err(Rejection::Conflict(message).into());
        }
        Ok(())
    }
}
