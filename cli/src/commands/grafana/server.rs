//! Selects the server for Grafana, and grants Grafana access to it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_metric_store::{Credentials, StoreSettings};
use muster_query::grafana::{self, GrantOutcome};
use muster_server::metric_store::credentials;
use reqwest::Url;
use uuid::Uuid;

use super::files::Values;
use super::influx;
use crate::exit::UsageError;

/// The server: the data folder of a running `muster up`, or the backing servers of `muster serve`.
#[derive(Args, Debug)]
pub(crate) struct ServerArgs {
    /// Data folder of a running `muster up`; not with --postgres-url
    #[arg(long, env = "MUSTER_DATA", default_value = "muster-data")]
    data: PathBuf,
    /// PostgreSQL, with muster's user: postgres://user@host:port/database; with a password, use the
    /// variable
    #[arg(long, env = "MUSTER_POSTGRES_URL", hide_env_values = true, requires = "influx_url")]
    postgres_url: Option<String>,
    /// InfluxDB: http://host:port
    #[arg(long, env = "MUSTER_INFLUX_URL")]
    influx_url: Option<String>,
    /// InfluxDB database (1.x) or bucket (2.x, 3.x)
    #[arg(long, env = "MUSTER_INFLUX_DATABASE", default_value = "muster")]
    influx_database: String,
    /// InfluxDB 1.x: administrator; omit without authentication
    #[arg(long, env = "MUSTER_INFLUX_USER", requires = "influx_password")]
    influx_user: Option<String>,
    /// InfluxDB 1.x: password of the administrator (environment variable only)
    #[arg(long, env = "MUSTER_INFLUX_PASSWORD", hide_env_values = true)]
    influx_password: Option<String>,
    /// InfluxDB 2.x and 3.x: token for Grafana, best read-only (environment variable only)
    #[arg(long, env = "MUSTER_INFLUX_TOKEN", hide_env_values = true)]
    influx_token: Option<String>,
    /// Password of Grafana's database users (environment variable only); default: random
    #[arg(long, env = "MUSTER_GRAFANA_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

impl ServerArgs {
    /// Creates Grafana's users; returns the variables of the data sources, and the metric store.
    pub(super) async fn grant_access(self) -> Result<(Values, StoreSettings)> {
        let (postgres_url, store) = match self.postgres_url {
            Some(url) => {
                let influx_url = self.influx_url.ok_or_else(|| {
                    UsageError("--postgres-url requires --influx-url http://host:port".to_owned())
                })?;
                let store = StoreSettings {
                    credentials: credentials(
                        self.influx_token.map(|token| (None, token)),
                        self.influx_user.zip(self.influx_password),
                    ),
                    ..StoreSettings::new(&influx_url, &self.influx_database)
                };
                (url, store)
            }
            None => muster_server::up::servers_in(&self.data)?,
        };
        let given = self.password.is_some();
        let password = self
            .password
            .unwrap_or_else(|| format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()));
        let connect = ConnectOptions { connections: 2, ..ConnectOptions::new(&postgres_url) };
        let log = EventLog::open(&connect, LogOptions::default())
            .await
            .context("failed to open the event log in PostgreSQL; does the server run?")?;
        match grafana::grant_access(&log, &password)
            .await
            .context("failed to give Grafana access to PostgreSQL")?
        {
            GrantOutcome::Granted => {}
            GrantOutcome::PasswordUnchanged if given => {}
            GrantOutcome::PasswordUnchanged => bail!(
                "the role {role} exists, and muster's own role may not set its password; set \
                 MUSTER_GRAFANA_PASSWORD",
                role = grafana::ROLE
            ),
            GrantOutcome::NoRole => bail!(
                "muster's own role may not create roles; a PostgreSQL administrator must run\n  \
                 CREATE ROLE {role} LOGIN PASSWORD '…';\n  \
                 ALTER ROLE {role} SET default_transaction_read_only = on;\n\
                 and run this command again with that password in MUSTER_GRAFANA_PASSWORD",
                role = grafana::ROLE
            ),
        }
        if let Credentials::Password { .. } = store.credentials {
            influx::grant_access(&store, &password).await?;
        }
        Ok((values(&postgres_url, &store, &password)?, store))
    }
}

/// Returns the values of the variables in the data sources.
fn values(postgres_url: &str, store: &StoreSettings, password: &str) -> Result<Values> {
    let postgres = Url::parse(postgres_url).context("the URL of PostgreSQL")?;
    let socket = postgres.query_pairs().find(|(name, _)| name == "host").map(|(_, host)| host);
    let host = postgres.host_str().filter(|host| !host.is_empty());
    let host = host.or(socket.as_deref()).unwrap_or("localhost");
    let port = postgres.port().unwrap_or(5432);
    let setting = postgres.query_pairs().find(|(key, _)| key == "sslmode");
    let sslmode = match setting.as_ref().map(|(_, value)| value.as_ref()) {
        Some(mode @ ("disable" | "require" | "verify-ca" | "verify-full")) => mode,
        // Grafana does not support `prefer`.
        _ if matches!(host, "localhost" | "127.0.0.1" | "[::1]") || host.starts_with('/') => {
            "disable"
        }
        _ => "require",
    };
    let (user, influx_password) = match &store.credentials {
        Credentials::Password { .. } => (influx::USER, password),
        Credentials::Open | Credentials::Token { .. } => ("", ""),
    };
    let (header, header_value) = match &store.credentials {
        Credentials::Token { token, .. } => ("Authorization", format!("Token {token}")),
        Credentials::Open | Credentials::Password { .. } => ("", String::new()),
    };
    Ok(Values::from([
        ("MUSTER_INFLUX_URL", store.url.clone()),
        ("MUSTER_INFLUX_DATABASE", store.database.clone()),
        ("MUSTER_GRAFANA_INFLUX_USER", user.to_owned()),
        ("MUSTER_GRAFANA_INFLUX_PASSWORD", influx_password.to_owned()),
        ("MUSTER_GRAFANA_INFLUX_HEADER", header.to_owned()),
        ("MUSTER_GRAFANA_INFLUX_HEADER_VALUE", header_value),
        ("MUSTER_GRAFANA_POSTGRES", format!("{host}:{port}")),
        ("MUSTER_GRAFANA_POSTGRES_DATABASE", postgres.path().trim_start_matches('/').to_owned()),
        ("MUSTER_GRAFANA_POSTGRES_SSLMODE", sslmode.to_owned()),
        ("MUSTER_GRAFANA_POSTGRES_PASSWORD", password.to_owned()),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(credentials: Credentials) -> StoreSettings {
        StoreSettings { credentials, ..StoreSettings::new("http://i:8086", "m") }
    }

    #[test]
    fn the_variables_are_derived_from_the_urls() {
        let user =
            Credentials::Password { user: "admin".to_owned(), password: "secret".to_owned() };
        let one = values("postgres://m:p@127.0.0.1:5433/muster", &store(user), "pw").unwrap();
        assert_eq!(one["MUSTER_GRAFANA_POSTGRES"], "127.0.0.1:5433");
        let by_socket = "postgresql:///muster?host=/run/postgresql&user=m";
        let other = values(by_socket, &store(Credentials::Open), "pw").unwrap();
        assert_eq!(other["MUSTER_GRAFANA_POSTGRES"], "/run/postgresql:5432");
        assert_eq!(other["MUSTER_GRAFANA_POSTGRES_SSLMODE"], "disable");
        assert_eq!(one["MUSTER_GRAFANA_POSTGRES_DATABASE"], "muster");
        assert_eq!(one["MUSTER_GRAFANA_POSTGRES_SSLMODE"], "disable");
        assert_eq!(one["MUSTER_GRAFANA_INFLUX_USER"], "muster_grafana");
        assert_eq!(one["MUSTER_GRAFANA_INFLUX_PASSWORD"], "pw");
        assert!(one.values().all(|value| !value.contains("secret")), "{one:?}");
        let token = Credentials::Token { organization: None, token: "t".to_owned() };
        let two = values("postgres://m:p@db/x?sslmode=verify-full", &store(token), "pw");
        let two = two.unwrap();
        assert_eq!(two["MUSTER_GRAFANA_POSTGRES"], "db:5432");
        assert_eq!(two["MUSTER_GRAFANA_POSTGRES_SSLMODE"], "verify-full");
        assert_eq!(two["MUSTER_GRAFANA_INFLUX_USER"], "");
        assert_eq!(two["MUSTER_GRAFANA_INFLUX_HEADER_VALUE"], "Token t");
    }
}
