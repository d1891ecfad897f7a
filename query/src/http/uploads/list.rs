//! `GET /uploads`, `GET /uploads/{operation}/{device}`.

use std::time::SystemTime;

use axum::extract::State;
use axum::response::IntoResponse;
use futures::StreamExt;
use muster_api::auth::ReadDevices;
use muster_api::params::{NoParams, ProjectParam};
use muster_api::position::MinPositionParam;
use muster_api::problem::ReadProblems;
use muster_api::{Json, Limit, MinPosition, PathParam, Problem, Query, Scope, etag};
use muster_api_types::devices::Status;
use muster_api_types::uploads::{Upload, UploadStatus};
use muster_api_types::{Page, UploadPage, schema};
use muster_blobs::key;
use muster_schemas::wire::OutputStream;
use muster_schemas::{DeviceId, OperationId, ProjectId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sqlx::QueryBuilder;
use utoipa::IntoParams;
use uuid::Uuid;

use super::view::{condition, example, set_received, view};
use crate::http::devices::resolve;
use crate::http::keyset::{Keyset, Order};
use crate::http::sessions::blob_problem;
use crate::projections::devices;
use crate::projections::operations::{Operation, Run, TABLE, explain};
use crate::state::{QueryState, sql_problem};

/// Maximum number of concurrent counts of received bytes in the blob store, for files in transfer.
const MAX_CONCURRENT_COUNTS: usize = 8;

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListUploads {
    /// Maximum number of items in a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// The `next` of the previous page.
    cursor: Option<String>,
    /// Only uploads from this device: its id or name.
    #[param(example = "robot-7")]
    device: Option<String>,
    /// Only uploads of this operation.
    #[param(value_type = Option<schema::OperationId>)]
    operation: Option<OperationId>,
    /// Only uploads with these statuses, comma-separated.
    #[param(
        example = "sending,stored",
        pattern = "^(waiting|sending|stored|erased|failed|timed_out|canceled|expired|rejected|unknown)(,(waiting|sending|stored|erased|failed|timed_out|canceled|expired|rejected|unknown))*$"
    )]
    status: Option<String>,
    /// Only uploads of this path, as in the request.
    #[param(example = "/var/log/app.log")]
    path: Option<String>,
}

/// Operation, device, position, the device's name and status; the states of the operation and of
/// the run.
type Row = (Uuid, Uuid, i64, Option<String>, Option<String>, String, String);

fn select() -> QueryBuilder<sqlx::Postgres> {
    QueryBuilder::new(format!(
        "SELECT u.operation, u.device, u.position, d.name, d.status, o.state, r.state
         FROM {TABLE}_uploads u
         JOIN {TABLE} o ON o.project = u.project AND o.operation = u.operation
         JOIN {TABLE}_runs r ON r.project = u.project AND r.operation = u.operation
              AND r.device = u.device
         LEFT JOIN {} d ON d.project = u.project AND d.device = u.device
         WHERE u.project = ",
        devices::TABLE
    ))
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| Problem::internal(&error))
}

/// An upload in the read model.
pub(super) struct UploadRow {
    pub(super) key: (OperationId, DeviceId),
    pub(super) operation: Operation,
    pub(super) run: Run,
    name: Option<String>,
    status: Option<Status>,
}

impl UploadRow {
    fn new(row: Row) -> Result<Self, Problem> {
        let (operation, device, _, name, word, requested, run) = row;
        let status = word.and_then(|word| Status::ALL.into_iter().find(|it| it.as_str() == word));
        let key = (OperationId(operation), DeviceId(device));
        Ok(Self { key, operation: read(&requested)?, run: read(&run)?, name, status })
    }

    /// Returns the view; for a file in transfer, counts the received bytes.
    async fn view(self, state: &QueryState, project: &ProjectId) -> Result<Upload, Problem> {
        let shown = view(self.key, self.name, &self.operation, &self.run);
        let mut view = shown.ok_or_else(|| unknown(project, self.key))?;
        if view.status == UploadStatus::Sending {
            let folder = key::output(project, self.key.0, self.key.1, OutputStream::File);
            let found = state.blobs.list(&folder).await.map_err(|error| blob_problem(&error))?;
            let done = key::contiguous(&found).last().map_or(0, |piece| piece.end());
            set_received(&mut view, done, key::size_in(&found), &self.run);
        }
        Ok(view)
    }
}

fn unknown(project: &ProjectId, (operation, device): (OperationId, DeviceId)) -> Problem {
    Problem::not_found(format!(
        "there is no upload {operation} of device {device} in project {project}"
    ))
}

/// List uploads, the newest first
///
/// The files that operations of the kind `upload` request from devices, in all statuses: also
/// files that are still being sent and files that were erased.
#[utoipa::path(
    get, path = "/api/v1/uploads", tag = "uploads", security(("bearer" = [])),
    params(ListUploads, ProjectParam, MinPositionParam),
    responses(
        (status = 200, description = "A page of uploads", body = UploadPage,
            example = json!({"items": [example()]})),
        ReadProblems,
    )
)]
pub(crate) async fn list_uploads(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    Query(query): Query<ListUploads>,
) -> Result<Json<Page<Upload>>, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.operations, project).await?;
    let page = Keyset::new("u.position", Order::Descending, query.cursor.as_deref(), query.limit)?;
    let states = statuses(query.status.as_deref())?;
    let mut sql = select();
    sql.push_bind(project.as_str().to_owned());
    if let Some(device) = &query.device {
        let device = resolve(&state, project, device).await?;
        sql.push(" AND u.device = ").push_bind(device.0);
    }
    if let Some(operation) = query.operation {
        sql.push(" AND u.operation = ").push_bind(operation.0);
    }
    if let Some(path) = query.path {
        sql.push(" AND u.path = ").push_bind(crate::projections::storable(&path));
    }
    if !states.is_empty() {
        let conditions: Vec<_> = states.into_iter().map(condition).collect();
        sql.push(format!(" AND ({})", conditions.join(" OR ")));
    }
    let (rows, next) = page.read(&state, sql, |row: &Row| row.2).await?;
    let found = rows.into_iter().map(UploadRow::new).collect::<Result<Vec<_>, _>>()?;
    let shown: Vec<Result<Upload, Problem>> = futures::stream::iter(found)
        .map(|found| found.view(&state, project))
        .buffered(MAX_CONCURRENT_COUNTS)
        .collect()
        .await;
    let items = shown.into_iter().collect::<Result<_, _>>()?;
    Ok(Json(Page { items, next }))
}

/// Get an upload with an explanation of its status
///
/// The file can be read when `status` is `stored`. Until then, `received_bytes` shows the
/// progress.
#[utoipa::path(
    get, path = "/api/v1/uploads/{operation}/{device}", tag = "uploads", security(("bearer" = [])),
    params(
        ("operation" = schema::OperationId, Path, description = "The operation's id"),
        ("device" = schema::DeviceKey, Path, description = "The device's id or name", example = "robot-7"),
        ProjectParam, MinPositionParam,
    ),
    responses(
        (status = 200, description = "The upload", body = Upload,
            headers(("ETag" = String, description = "Version of its run's stream")),
            example = json!(example())),
        ReadProblems,
    )
)]
pub(crate) async fn get_upload(
    State(state): State<QueryState>,
    scope: Scope<ReadDevices>,
    min_position: MinPosition,
    PathParam((operation, device)): PathParam<(OperationId, String)>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<impl IntoResponse, Problem> {
    let project = &scope.project;
    min_position.wait(state.log(), &state.read_models.operations, project).await?;
    let device = resolve(&state, project, &device).await?;
    let found = find(&state, project, (operation, device)).await?;
    let explanation = explain(&found.operation, &found.run, found.status, SystemTime::now().into());
    let mut view = found.view(&state, project).await?;
    view.explanation = Some(explanation);
    Ok(([etag(view.version)], Json(view)))
}

/// Reads an upload.
pub(super) async fn find(
    state: &QueryState,
    project: &ProjectId,
    key: (OperationId, DeviceId),
) -> Result<UploadRow, Problem> {
    let mut sql = select();
    sql.push_bind(project.as_str().to_owned());
    sql.push(" AND u.operation = ").push_bind(key.0.0);
    sql.push(" AND u.device = ").push_bind(key.1.0);
    let row: Option<Row> =
        sql.build_query_as().fetch_optional(state.sql()).await.map_err(sql_problem)?;
    UploadRow::new(row.ok_or_else(|| unknown(project, key))?)
}

fn statuses(text: Option<&str>) -> Result<Vec<UploadStatus>, Problem> {
    let words = text.into_iter().flat_map(|words| words.split(','));
    words
        .map(|word| {
            UploadStatus::parse(word.trim()).ok_or_else(|| {
                let rule = format!("is not one of {}", UploadStatus::names());
                Problem::parameter("status", rule, Some(word.into()))
            })
        })
        .collect()
}
