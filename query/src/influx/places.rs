//! Where a project's points may be in InfluxDB: where those of all projects are, and in a place of the
//! project's own once it had a retention of its own. One question asks both, so that what was measured
//! before is found with what was measured since. Ingest makes these places.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use muster_schemas::ProjectId;
use muster_schemas::retention::{own_bucket, own_policy};

use super::client::{InfluxClient, InfluxError};
use super::influxql::identifier;

/// So long it may go unnoticed that a place was made, or dropped.
const FRESH: Duration = Duration::from_secs(5);

/// Where the points of one project may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The project's own retention policy, when it is there.
    pub(super) own: Option<String>,
    /// The database that `SHOW` must be asked of besides: 2.x looks into one bucket at a time, 1.x into
    /// all policies of a database.
    pub(super) own_database: Option<String>,
}

impl Places {
    /// What `FROM` names to get a measurement from all places. InfluxQL brings series of one name and
    /// the same tags together.
    pub(super) fn sources(&self, measurement: &str) -> String {
        let name = identifier(measurement);
        match &self.own {
            Some(policy) => format!("{name}, {}.{name}", identifier(policy)),
            None => name,
        }
    }

    /// The databases that `SHOW` must be asked of.
    pub(super) fn databases<'a>(&'a self, shared: &'a str) -> impl Iterator<Item = &'a str> {
        std::iter::once(shared).chain(self.own_database.as_deref())
    }
}

/// The retention policies that a store has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policies {
    pub(super) names: BTreeSet<String>,
    /// Is it an InfluxDB 2.x, where a policy is a bucket?
    pub(super) are_buckets: bool,
}

/// What was last heard of a store's policies.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<Mutex<Option<News>>>);

/// The policies, and when they were heard of.
type News = (Instant, Arc<Policies>);

impl InfluxClient {
    /// Where a project's points may be now.
    ///
    /// # Errors
    /// See [`InfluxError`].
    pub async fn places(&self, project: &ProjectId) -> Result<Places, InfluxError> {
        let own = own_policy(project);
        let policies = self.policies().await?;
        if !policies.names.contains(&own) {
            return Ok(Places::default());
        }
        let database = &self.options.database;
        let own_database = policies.are_buckets.then(|| own_bucket(database, &own));
        Ok(Places { own: Some(own), own_database })
    }

    async fn policies(&self) -> Result<Arc<Policies>, InfluxError> {
        let lock = || self.policies.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = lock().clone();
        if let Some((when, policies)) = heard
            && when.elapsed() < FRESH
        {
            return Ok(policies);
        }
        let asked = self.ask_of(&self.options.database, "SHOW RETENTION POLICIES").await;
        let policies = match asked {
            Ok((rows, version)) => Policies {
                names: rows
                    .iter()
                    .flat_map(|row| &row.values)
                    .filter_map(|value| Some(value.first()?.as_str()?.to_owned()))
                    .collect(),
                are_buckets: version.trim_start_matches('v').starts_with("2."),
            },
            // No database yet, or a store that has no policies: none is a project's own.
            Err(InfluxError::Refused(why)) => {
                tracing::debug!(why, "InfluxDB names no retention policies");
                Policies::default()
            }
            Err(error) => return Err(error),
        };
        let policies = Arc::new(policies);
        *lock() = Some((Instant::now(), policies.clone()));
        Ok(policies)
    }
}
