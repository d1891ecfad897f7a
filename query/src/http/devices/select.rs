//! Resolution of a selector to the ids of the devices that match now.

use muster_api::Problem;
use muster_schemas::wire::internal::{TargetScope, WithoutFreshValue};
use muster_schemas::{DeviceId, ProjectId};
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::filter::Filter;
use crate::projections::devices::TABLE;
use crate::state::{QueryState, sql_problem};

/// Returns at most `limit` devices whose id is higher than `after`; without `after`, also the
/// metrics of which devices had no fresh value.
pub(crate) async fn select_devices(
    state: &QueryState,
    project: &ProjectId,
    selector: &str,
    scope: TargetScope,
    after: Option<DeviceId>,
    limit: usize,
) -> Result<(Vec<DeviceId>, Vec<WithoutFreshValue>), Problem> {
    let status = match scope {
        TargetScope::Enrolled => "online,offline",
        TargetScope::All => "registered,pending,online,offline,revoked",
    };
    let mut filter = Filter::read(Some(selector), Some(status), None)?;
    filter.reject_misspelt(state, project).await?;
    filter.evaluate_metrics(&state.latest, project);
    let mut sql = QueryBuilder::new(format!("SELECT device FROM {TABLE} WHERE project = "));
    sql.push_bind(project.as_str().to_owned());
    filter.push(&mut sql);
    sql.push(" AND device > ").push_bind(after.map_or(Uuid::nil(), |device| device.0));
    sql.push(" ORDER BY device LIMIT ").push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let devices: Vec<Uuid> =
        sql.build_query_scalar().fetch_all(state.sql()).await.map_err(sql_problem)?;
    let without_fresh_value = match after {
        None => filter.without_fresh_value(state, project).await?,
        Some(_) => Vec::new(),
    };
    Ok((devices.into_iter().map(DeviceId).collect(), without_fresh_value))
}
