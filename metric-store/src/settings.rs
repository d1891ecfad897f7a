//! The settings of a metric store: its address, its database, the credentials.

use std::fmt;
use std::time::Duration;

use reqwest::Url;

/// Write API of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// Detected by the store's version at the first request that depends on it.
    #[default]
    Detect,
    /// `/write`: InfluxDB 1.x.
    V1,
    /// `/api/v2/write`: InfluxDB 2.x and 3.x, VictoriaMetrics.
    V2,
}

/// Credentials for a store. `Debug` does not show secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// No authentication.
    #[default]
    Open,
    /// 1.x: user and password.
    Password {
        /// Name of the user.
        user: String,
        /// Password of the user.
        password: String,
    },
    /// 2.x and 3.x: an API token.
    Token {
        /// Name of the organization that owns the bucket; not needed by queries and by 3.x.
        organization: Option<String>,
        /// The token.
        token: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Password { .. } => "Password(…)",
            Self::Token { .. } => "Token(…)",
        })
    }
}

/// The address of the store, and how to use it.
#[derive(Clone)]
pub struct StoreSettings {
    /// `http://` or `https://`, host and port; a path is kept as prefix.
    pub url: String,
    /// The write API.
    pub api: Api,
    /// The database (v1) or bucket (v2).
    pub database: String,
    /// v1: the retention policy; `None`: the database's default.
    pub retention_policy: Option<String>,
    /// The credentials.
    pub credentials: Credentials,
    /// Certificates (PEM) to trust in addition to the machine's own.
    pub ca_pem: Option<Vec<u8>>,
    /// Whether to compress writes. Measured on loopback: no gain, and 0.6 µs of CPU for each point;
    /// so it is on by default only for stores on other machines.
    pub gzip: bool,
    /// Timeout of a request.
    pub timeout: Duration,
}

impl StoreSettings {
    /// Settings for a store without users; its API is detected.
    #[must_use]
    pub fn new(url: &str, database: &str) -> Self {
        Self {
            url: url.to_owned(),
            api: Api::Detect,
            database: database.to_owned(),
            retention_policy: None,
            credentials: Credentials::Open,
            ca_pem: None,
            gzip: !is_loopback(url),
            timeout: Duration::from_secs(30),
        }
    }

    /// The organization (2.x).
    pub(crate) fn organization(&self) -> Option<&str> {
        match &self.credentials {
            Credentials::Token { organization, .. } => organization.as_deref(),
            Credentials::Open | Credentials::Password { .. } => None,
        }
    }
}

// Keeps secrets out of logs.
impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings")
            .field("url", &self.url)
            .field("api", &self.api)
            .field("database", &self.database)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

fn is_loopback(url: &str) -> bool {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_contains_no_secrets() {
        let token = Credentials::Token { organization: None, token: "secret".to_owned() };
        let password =
            Credentials::Password { user: "u".to_owned(), password: "secret".to_owned() };
        for credentials in [token, password] {
            let settings = StoreSettings { credentials, ..StoreSettings::new("http://x", "m") };
            assert!(!format!("{settings:?}").contains("secret"), "{settings:?}");
        }
    }

    #[test]
    fn only_writes_to_other_machines_are_compressed() {
        for (url, gzip) in [
            ("http://127.0.0.1:8086", false),
            ("http://[::1]:8086", false),
            ("http://localhost:8086", false),
            ("https://store.example:8086", true),
        ] {
            assert_eq!(StoreSettings::new(url, "m").gzip, gzip, "{url}");
        }
    }
}
