//! The filter of a list of devices, in SQL and in memory (for point-in-time queries). Invariant:
//! both select the same devices.

use muster_api::Problem;
use muster_api_types::devices::Status;
use muster_schemas::names::LabelValue;
use muster_schemas::selector::{ONLINE, Requirement, Selector, Test, is_attribute};
use muster_schemas::{DeviceId, ProjectId};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use crate::latest::LatestMetrics;
use crate::projections::devices::{Device, search_text};

/// The filter of a request. Deleted devices are excluded unless the request selects their status.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    selector: Selector,
    statuses: Vec<Status>,
    search: Option<String>,
    /// Devices whose newest metrics match, if the selector has conditions on metrics.
    matching_metrics: Option<Vec<Uuid>>,
}

impl Filter {
    /// Parses the parameters.
    pub(super) fn read(
        selector: Option<&str>,
        status: Option<&str>,
        search: Option<&str>,
    ) -> Result<Self, Problem> {
        let selector: Selector = selector.unwrap_or_default().parse().map_err(
            |error: muster_schemas::selector::InvalidSelector| {
                Problem::parameter("selector", error.to_string(), selector.map(Into::into))
            },
        )?;
        let mut statuses = Vec::new();
        for word in status.into_iter().flat_map(|words| words.split(',')) {
            let found = Status::ALL.iter().find(|one| one.as_str() == word.trim());
            statuses.push(*found.ok_or_else(|| {
                let rule =
                    "is not a list of registered, pending, online, offline, revoked, deleted";
                Problem::parameter("status", rule, Some(word.into()))
            })?);
        }
        if statuses.is_empty() && !selects_deleted(&selector) {
            statuses =
                Status::ALL.into_iter().filter(|status| *status != Status::Deleted).collect();
        }
        let search = search.map(|text| text.trim().to_lowercase()).filter(|text| !text.is_empty());
        if search.as_ref().is_some_and(|text| text.len() > 200 || text.contains('\0')) {
            let rule = "is longer than 200 bytes, or contains a NUL";
            return Err(Problem::parameter("search", rule, None));
        }
        Ok(Self { selector, statuses, search, matching_metrics: None })
    }

    /// Whether a device matches the filter.
    pub(super) fn matches(&self, id: DeviceId, device: &Device) -> bool {
        let Some(name) = &device.name else {
            return false;
        };
        let status = device.status();
        let id = id.to_string();
        let fits_status = self.statuses.is_empty() || self.statuses.contains(&status);
        let fits_search =
            || self.search.as_ref().is_none_or(|text| search_text(device).contains(text.as_str()));
        fits_status
            && self.selector.0.iter().all(|requirement| {
                requirement.holds(match requirement.key.as_str() {
                    "name" => Some(name.as_str()),
                    "id" => Some(&id),
                    "status" => Some(status.as_str()),
                    ONLINE => (status == Status::Online).then_some(ONLINE),
                    _ => device.labels.get(&requirement.key).map(LabelValue::as_str),
                })
            })
            && fits_search()
    }

    /// Adds the conditions to a query of the table of devices.
    pub(super) fn push(&self, query: &mut QueryBuilder<Postgres>) {
        query.push(" AND name IS NOT NULL");
        if !self.statuses.is_empty() {
            let statuses: Vec<String> =
                self.statuses.iter().map(|one| one.as_str().into()).collect();
            query.push(" AND status = ANY(").push_bind(statuses).push(")");
        }
        if let Some(text) = &self.search {
            query.push(" AND strpos(search, ").push_bind(text.clone()).push(") > 0");
        }
        for requirement in self.selector.0.iter().filter(|one| one.metric().is_none()) {
            query.push(" AND ");
            push_requirement(query, requirement);
        }
        if let Some(fitting) = &self.matching_metrics {
            query.push(" AND device = ANY(").push_bind(fitting.clone()).push(")");
        }
    }

    /// Evaluates the conditions on the newest metrics, which are not in the log.
    pub(super) fn evaluate_metrics(&mut self, latest: &LatestMetrics, project: &ProjectId) {
        let measured: Vec<&Requirement> = self.selector.measured().collect();
        if !measured.is_empty() {
            let fitting = latest.matching(project, &measured);
            self.matching_metrics = Some(fitting.into_iter().map(|id| id.0).collect());
        }
    }

    /// Refuses conditions on metrics: a point-in-time query has none.
    pub(super) fn reject_metrics(&self) -> Result<(), Problem> {
        match self.selector.measured().next() {
            None => Ok(()),
            Some(requirement) => {
                let rule = "selects by the newest metrics, which have no history; omit it, or omit \
                     position and at";
                Err(Problem::parameter("selector", rule, Some(requirement.key.as_str().into())))
            }
        }
    }
}

fn selects_deleted(selector: &Selector) -> bool {
    selector.0.iter().any(|requirement| {
        requirement.key.as_str() == "status"
            && matches!(&requirement.test, Test::In(values)
                if values.iter().any(|value| value.as_str() == Status::Deleted.as_str()))
    })
}

fn push_requirement(query: &mut QueryBuilder<Postgres>, requirement: &Requirement) {
    let key = requirement.key.as_str();
    let own = is_attribute(key);
    // A device's own attributes are columns and always present; a label is a key of `labels`.
    let push_value = |query: &mut QueryBuilder<Postgres>| match key {
        "name" => drop(query.push("name")),
        "status" => drop(query.push("status")),
        "id" => drop(query.push("device::text")),
        label => drop(query.push("labels ->> ").push_bind(label.to_owned())),
    };
    let texts = |values: &[muster_schemas::names::LabelValue]| -> Vec<String> {
        values.iter().map(|value| value.as_str().to_owned()).collect()
    };
    match &requirement.test {
        Test::Exists if key == ONLINE => drop(query.push("status = 'online'")),
        Test::Absent if key == ONLINE => drop(query.push("status <> 'online'")),
        Test::Exists if own => drop(query.push("TRUE")),
        Test::Absent if own => drop(query.push("FALSE")),
        Test::Exists => {
            query.push("jsonb_exists(labels, ").push_bind(key.to_owned()).push(")");
        }
        Test::Absent => {
            query.push("NOT jsonb_exists(labels, ").push_bind(key.to_owned()).push(")");
        }
        Test::In(values) => {
            query.push("(");
            push_value(query);
            query.push(") = ANY(").push_bind(texts(values)).push(")");
        }
        Test::NotIn(values) => {
            query.push("((");
            push_value(query);
            query.push(") = ANY(").push_bind(texts(values)).push(")) IS NOT TRUE");
        }
        // Already evaluated in memory.
        Test::Measured(..) => drop(query.push("TRUE")),
    }
}
