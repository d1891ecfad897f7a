//! Grafana's user in InfluxDB 1.x, which may read one database. 2.x and 3.x use tokens, which an
//! administrator creates there.

use std::time::Duration;

use anyhow::{Context, Result};
use muster_metric_store::{InfluxClient, StoreSettings};

/// Name of the user.
pub(super) const USER: &str = "muster_grafana";

/// Timeout of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn client(store: &StoreSettings) -> Result<InfluxClient> {
    Ok(InfluxClient::new(StoreSettings { timeout: REQUEST_TIMEOUT, ..store.clone() })?)
}

/// Creates the user with this password, or sets its password, and grants read access to the
/// database.
pub(super) async fn grant_access(store: &StoreSettings, password: &str) -> Result<()> {
    client(store)?.grant_read(USER, password).await.with_context(|| {
        format!(
            "failed to give {USER} read access to {} in InfluxDB at {}",
            store.database, store.url
        )
    })
}
