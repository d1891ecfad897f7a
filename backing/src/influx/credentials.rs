//! Credentials of a server: its secrets are files in its folder.

use std::path::Path;

use muster_metric_store::{ADMINISTRATOR, Credentials, Flavor};

use super::error::InfluxError;
use super::options::{Auth, InfluxOptions};
use crate::files;

/// Reads the secrets of the server in `dir`, and creates those that are missing.
pub(super) fn read_or_create(
    options: &InfluxOptions,
    dir: &Path,
    flavor: Flavor,
) -> Result<Credentials, InfluxError> {
    Ok(match (flavor, options.auth) {
        (Flavor::V1, Auth::Open) => Credentials::Open,
        (Flavor::V1, Auth::Password) => {
            Credentials::Password { user: ADMINISTRATOR.into(), password: secret(dir, "password")? }
        }
        (Flavor::V2 | Flavor::V3, _) => Credentials::Token {
            organization: Some(options.database.clone()),
            token: secret(dir, "token")?,
        },
    })
}

/// Reads a secret of the server in `dir`, or creates it.
pub(super) fn secret(dir: &Path, name: &str) -> Result<String, InfluxError> {
    let path = dir.join(name);
    files::read_or_create_secret(&path).map_err(|source| InfluxError::File {
        attempt: "read or create the secret",
        path,
        source,
    })
}
