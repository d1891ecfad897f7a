//! The filter of a list of devices, in SQL and in memory (for point-in-time queries). Invariant:
//! both select the same devices.

use std::time::SystemTime;

use muster_api::Problem;
use muster_api_types::devices::Status;
use muster_schemas::names::LabelValue;
use muster_schemas::selector::{
    AgentVersion, Condition, Field, InvalidSelector, Pattern, Selector, Subject,
};
use muster_schemas::wire::internal::WithoutFreshValue;
use muster_schemas::{DeviceId, ProjectId};
use sqlx::{Postgres, QueryBuilder, Row};

use super::condition::{self, Measured};
use crate::latest::{LatestMetrics, MeasuredDevices};
use crate::projections::devices::{Device, TABLE, search_text};
use crate::state::{QueryState, sql_problem};

/// The filter of a request. Deleted devices are excluded unless the request selects their status.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    selector: Selector,
    /// The selector as it was written.
    text: String,
    statuses: Vec<Status>,
    search: Option<String>,
    /// Results of the selector's conditions on metrics, in their order.
    measured: Vec<MeasuredDevices>,
}

impl Filter {
    /// Parses the parameters.
    pub(super) fn read(
        selector: Option<&str>,
        status: Option<&str>,
        search: Option<&str>,
    ) -> Result<Self, Problem> {
        let text = selector.unwrap_or_default();
        let selector: Selector = text.parse().map_err(|error| invalid(text, &error))?;
        let mut statuses = Vec::new();
        for word in status.into_iter().flat_map(|words| words.split(',')) {
            let found = Status::ALL.iter().find(|one| one.as_str() == word.trim());
            statuses.push(*found.ok_or_else(|| {
                let rule =
                    "is not a list of registered, pending, online, offline, revoked, deleted";
                Problem::parameter("status", rule, Some(word.into()))
            })?);
        }
        if statuses.is_empty() && !selector.asks_for_status(Status::Deleted.as_str()) {
            statuses =
                Status::ALL.into_iter().filter(|status| *status != Status::Deleted).collect();
        }
        let search = search.map(|text| text.trim().to_lowercase()).filter(|text| !text.is_empty());
        if search.as_ref().is_some_and(|text| text.len() > 200 || text.contains('\0')) {
            let rule = "is longer than 200 bytes, or contains a NUL";
            return Err(Problem::parameter("search", rule, None));
        }
        Ok(Self { selector, text: text.to_owned(), statuses, search, measured: Vec::new() })
    }

    /// Whether a device matches the filter.
    pub(super) fn matches(&self, id: DeviceId, device: &Device) -> bool {
        if device.name.is_none() {
            return false;
        }
        let fits_status = self.statuses.is_empty() || self.statuses.contains(&device.status());
        let fits_search =
            || self.search.as_ref().is_none_or(|text| search_text(device).contains(text.as_str()));
        let fits_selector = || {
            self.selector.0.as_ref().is_none_or(|expression| {
                expression.evaluate(&mut |one| holds(one, id, device)) == Some(true)
            })
        };
        fits_status && fits_selector() && fits_search()
    }

    /// Adds the conditions to a query of the table of devices.
    pub(super) fn push(&self, query: &mut QueryBuilder<Postgres>) {
        self.push_parameters(query);
        if let Some(expression) = &self.selector.0 {
            query.push(" AND ");
            condition::push(query, expression, Some(&self.measured));
        }
    }

    /// Adds all conditions but the selector.
    fn push_parameters(&self, query: &mut QueryBuilder<Postgres>) {
        query.push(" AND name IS NOT NULL");
        if !self.statuses.is_empty() {
            let statuses: Vec<String> =
                self.statuses.iter().map(|one| one.as_str().into()).collect();
            query.push(" AND status = ANY(").push_bind(statuses).push(")");
        }
        if let Some(text) = &self.search {
            query.push(" AND strpos(search, ").push_bind(text.clone()).push(") > 0");
        }
    }

    /// Evaluates the conditions on the newest metrics, which are not in the log.
    pub(super) fn evaluate_metrics(&mut self, latest: &LatestMetrics, project: &ProjectId) {
        let now = SystemTime::now().into();
        let conditions = self.selector.conditions().into_iter();
        self.measured = conditions
            .filter_map(|(condition, _)| match condition {
                Condition::Metric(metric, comparison, limit) => {
                    Some(latest.measure(project, metric, *comparison, *limit, now))
                }
                _ => None,
            })
            .collect();
    }

    /// Refuses conditions on metrics: a point-in-time query has none.
    pub(super) fn reject_metrics(&self) -> Result<(), Problem> {
        match self.selector.metrics().first() {
            None => Ok(()),
            Some(metric) => {
                let rule = "selects by the newest metrics, which have no history; omit it, or omit \
                     position and at";
                Err(Problem::parameter("selector", rule, Some(metric.to_string().into())))
            }
        }
    }

    /// Refuses names that are probably misspelt: they resemble a known name, and no device of the
    /// project has a label or reports a metric of this name.
    pub(super) async fn reject_misspelt(
        &self,
        state: &QueryState,
        project: &ProjectId,
    ) -> Result<(), Problem> {
        for misspelt in self.selector.misspelt() {
            let is_known = match &misspelt.subject {
                Subject::Label(key) => {
                    let mut query = QueryBuilder::new("SELECT EXISTS (SELECT FROM ");
                    query.push(TABLE).push(" WHERE project = ").push_bind(project.as_str());
                    query.push(" AND jsonb_exists(labels, ").push_bind(key.as_str()).push("))");
                    let exists = query.build_query_scalar().fetch_one(state.sql()).await;
                    exists.map_err(sql_problem)?
                }
                Subject::Metric { measurement, field } => {
                    state.latest.is_reported(project, measurement, field)
                }
            };
            if !is_known {
                return Err(invalid(&self.text, &misspelt.error(&self.text)));
            }
        }
        Ok(())
    }

    /// Counts the devices for which a missing value decided; none without conditions on metrics.
    pub(super) async fn without_fresh_value(
        &self,
        state: &QueryState,
        project: &ProjectId,
    ) -> Result<Vec<WithoutFreshValue>, Problem> {
        let metrics = self.selector.metrics();
        let (Some(expression), false) = (&self.selector.0, metrics.is_empty()) else {
            return Ok(Vec::new());
        };
        let push_is_unknown = |query: &mut QueryBuilder<Postgres>, measured: Measured<'_>| {
            query.push("count(*) FILTER (WHERE (");
            condition::push(query, expression, measured);
            query.push(") IS NULL");
        };
        let mut query = QueryBuilder::new("SELECT ");
        push_is_unknown(&mut query, None);
        query.push(")");
        for metric in &metrics {
            query.push(", ");
            push_is_unknown(&mut query, Some(&self.measured));
            if let Some(found) = self.devices_with(metric) {
                query.push(" AND NOT ");
                condition::push_is_one_of(&mut query, found.matching.iter().chain(&found.others));
            }
            query.push(")");
        }
        query.push(" FROM ").push(TABLE).push(" WHERE project = ");
        query.push_bind(project.as_str().to_owned());
        self.push_parameters(&mut query);
        let row = query.build().fetch_one(state.sql()).await.map_err(sql_problem)?;
        let count = |column: usize| -> Result<u64, Problem> {
            let count: i64 = row.try_get(column).map_err(sql_problem)?;
            Ok(count.unsigned_abs())
        };
        let mut found = Vec::new();
        for (index, metric) in metrics.iter().enumerate() {
            let device_count = count(index + 1)?;
            if device_count > 0 {
                let candidate_count = count(0)?;
                let metric = metric.to_string();
                found.push(WithoutFreshValue { metric, device_count, candidate_count });
            }
        }
        Ok(found)
    }

    /// Returns the devices with a fresh value of a metric.
    fn devices_with(&self, metric: &muster_schemas::selector::Metric) -> Option<&MeasuredDevices> {
        let conditions = self.selector.conditions().into_iter();
        let metrics = conditions.filter_map(|(condition, _)| match condition {
            Condition::Metric(metric, ..) => Some(metric),
            _ => None,
        });
        metrics.zip(&self.measured).find(|(one, _)| *one == metric).map(|(_, found)| found)
    }
}

fn invalid(text: &str, error: &InvalidSelector) -> Problem {
    Problem::parameter("selector", error.to_string(), Some(text.into()))
}

/// Whether a device satisfies a condition; `None` for one on metrics.
fn holds(condition: &Condition, id: DeviceId, device: &Device) -> Option<bool> {
    let one_of = |patterns: &[Pattern], value: Option<&str>| {
        value.is_some_and(|value| patterns.iter().any(|pattern| pattern.matches(value)))
    };
    let label = |label: &muster_schemas::selector::Label| {
        device.labels.get(&label.key).map(LabelValue::as_str)
    };
    Some(match condition {
        Condition::HasLabel(key) => label(key).is_some(),
        Condition::Label(key, patterns) => one_of(patterns, label(key)),
        Condition::HasField(field) => !values(*field, id, device).is_empty(),
        Condition::Field(field, patterns) => values(*field, id, device)
            .iter()
            .any(|value| patterns.iter().any(|pattern| field.matches(pattern, value))),
        Condition::Version(comparison, version) => values(Field::Agent, id, device)
            .iter()
            .filter_map(|text| AgentVersion::start_of(text))
            .any(|own| comparison.holds(own, *version)),
        Condition::Metric(..) => return None,
    })
}

/// The values of a field, as in the columns of the table.
fn values(field: Field, id: DeviceId, device: &Device) -> Vec<String> {
    let inventory = device.inventory.as_ref();
    let values = match field {
        Field::Name => [device.name.as_ref().map(ToString::to_string), None],
        Field::Id => [Some(id.to_string()), None],
        Field::Status => [Some(device.status().as_str().to_owned()), None],
        Field::Os => {
            [inventory.and_then(|it| it.os_name.clone()), inventory.and_then(|it| it.os_id.clone())]
        }
        Field::Arch => [inventory.and_then(|it| it.arch.clone()), None],
        Field::Agent => [inventory.map(|it| it.agent_version.clone()), None],
        Field::Hostname => [device.hostname().map(str::to_owned), None],
    };
    values.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use muster_api_types::devices::Status;
    use muster_schemas::selector::STATUSES;

    #[test]
    fn selectors_know_every_status() {
        assert_eq!(Status::ALL.map(Status::as_str), STATUSES);
    }
}
