//! Credentials of a server: its secrets are files in its folder.

use std::fmt;
use std::path::Path;

use super::error::InfluxError;
use super::flavor::Flavor;
use super::options::{Auth, InfluxOptions};
use crate::files;

/// The administrator.
pub(super) const USER: &str = "muster";

/// Credentials for InfluxDB.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// No authentication.
    Open,
    /// 1.x: user and password.
    Password {
        /// The administrator.
        user: String,
        /// Its password.
        password: String,
    },
    /// 2.x: an all-access token.
    Token {
        /// The organization of the bucket.
        organization: String,
        /// The token.
        token: String,
    },
}

impl fmt::Debug for Credentials {
    /// Omits the secret: `Debug` output of credentials may be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Password { .. } => "Password(..)",
            Self::Token { .. } => "Token(..)",
        })
    }
}

impl Credentials {
    /// Reads the secrets of the server in `dir`, and creates those that are missing.
    pub(super) fn read_or_create(
        options: &InfluxOptions,
        dir: &Path,
        flavor: Flavor,
    ) -> Result<Self, InfluxError> {
        Ok(match (flavor, options.auth) {
            (Flavor::V1, Auth::Open) => Self::Open,
            (Flavor::V1, Auth::Password) => {
                Self::Password { user: USER.into(), password: secret(dir, "password")? }
            }
            (Flavor::V2 | Flavor::V3, _) => {
                Self::Token { organization: options.database.clone(), token: secret(dir, "token")? }
            }
        })
    }
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
