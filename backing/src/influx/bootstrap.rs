//! The initial setup of a server: its administrator and its database. Idempotent, so every start
//! runs it.

use std::path::Path;

use muster_metric_store::{Credentials, InfluxClient, StoreError};

use super::credentials::secret;
use super::error::InfluxError;

/// Creates what the server of this client lacks; `dir` is its folder.
pub(super) async fn bootstrap(client: &InfluxClient, dir: &Path) -> Result<(), InfluxError> {
    if let Credentials::Token { .. } = client.settings().credentials {
        let password = secret(dir, "password")?;
        let failed = |source| InfluxError::Store { attempt: "set up InfluxDB", source };
        return client.set_up(&password).await.map_err(failed);
    }
    client.create_administrator().await.map_err(|error| match error {
        StoreError::Denied { .. } => InfluxError::ForeignData,
        source => InfluxError::Store { attempt: "create the administrator of InfluxDB", source },
    })?;
    let failed = |source| InfluxError::Store { attempt: "create the database in InfluxDB", source };
    client.create_database().await.map_err(failed)
}
