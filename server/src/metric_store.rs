//! Arguments of the metric store: its database and the credentials for it.

use clap::Args;
use muster_metric_store::{Credentials, StoreSettings};

/// Database and credentials of the metric store.
#[derive(Args, Clone, Debug)]
pub struct InfluxArgs {
    /// InfluxDB database (1.x) or bucket (2.x, 3.x)
    #[arg(long, env = "MUSTER_INFLUX_DATABASE", default_value = "muster")]
    influx_database: String,
    /// InfluxDB 1.x: user name
    #[arg(long, env = "MUSTER_INFLUX_USER", requires = "influx_password")]
    influx_user: Option<String>,
    /// InfluxDB 1.x: password of the user (environment variable only)
    #[arg(long, env = "MUSTER_INFLUX_PASSWORD", hide_env_values = true)]
    influx_password: Option<String>,
    /// InfluxDB 2.x and 3.x: organization
    #[arg(long, env = "MUSTER_INFLUX_ORG", default_value = "muster")]
    influx_org: String,
    /// InfluxDB 2.x and 3.x: token (environment variable only)
    #[arg(long, env = "MUSTER_INFLUX_TOKEN", hide_env_values = true)]
    influx_token: Option<String>,
}

impl InfluxArgs {
    /// Returns the settings of the store at this URL.
    #[must_use]
    pub fn settings(self, url: &str) -> StoreSettings {
        let organization = Some(self.influx_org);
        StoreSettings {
            credentials: credentials(
                self.influx_token.map(|token| (organization, token)),
                self.influx_user.zip(self.influx_password),
            ),
            ..StoreSettings::new(url, &self.influx_database)
        }
    }
}

/// Returns the credentials: a token takes precedence over a user.
#[must_use]
pub fn credentials(
    token: Option<(Option<String>, String)>,
    user: Option<(String, String)>,
) -> Credentials {
    match (token, user) {
        (Some((organization, token)), _) => Credentials::Token { organization, token },
        (None, Some((user, password))) => Credentials::Password { user, password },
        (None, None) => Credentials::Open,
    }
}
