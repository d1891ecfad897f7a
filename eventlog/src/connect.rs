//! Connections to PostgreSQL: a pool of tokio-postgres for the log, a pool of sqlx for read models.
//!
//! Both use the same database. tokio-postgres supports binary COPY and pipelining, which the append
//! needs; sqlx supports migrations, listeners with reconnection and query building.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use deadpool_postgres::{Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::StoreError;

/// URL of PostgreSQL, and the size of the pools.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// URL `postgres://user:password@host:port/database`, with `sslmode` and `sslrootcert` as in
    /// libpq.
    pub url: String,
    /// Number of connections in each of the two pools.
    pub connections: u32,
}

impl ConnectOptions {
    /// Returns options with the default of 8 connections in each pool.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), connections: 8 }
    }
}

/// Time limit of a query for an API client.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);

/// Time after which a connection of the pool for read models is tested before it is used again.
const MAX_UNTESTED_IDLE_TIME: Duration = Duration::from_secs(1);

/// Pools of connections.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Pool for the log.
    pub(crate) pool: Pool,
    /// Pool for queries of API clients: small, with a time limit, so that they do not block other
    /// work.
    pub(crate) readers: Pool,
    /// Pool for read models, migrations and listeners.
    pub sql: sqlx::PgPool,
    /// Opens connections outside of the pools.
    pub(crate) dialer: Arc<Dialer>,
}

/// Opens connections outside of the pool.
#[derive(Debug)]
pub(crate) struct Dialer {
    config: tokio_postgres::Config,
    tls: rustls::ClientConfig,
}

impl Dialer {
    /// Opens a separate connection, driven by a task that ends with it.
    #[boxed]
    pub(crate) async fn dial(&self) -> Result<tokio_postgres::Client, StoreError> {
        let tls = MakeRustlsConnect::new(self.tls.clone());
        let (client, connection) =
            self.config.connect(tls).await.map_err(|error| StoreError::Connect(Box::new(error)))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        Ok(client)
    }
}

/// A connection of a pool.
pub type Connection = deadpool_postgres::Client;

impl Stores {
    /// Returns a connection of the log's pool, for the tables of other crates.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable.
    #[boxed]
    pub async fn connection(&self) -> Result<Connection, StoreError> {
        Ok(self.pool.get().await?)
    }

    /// Opens a connection outside of the pools, for a lock that is held for long.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable.
    #[boxed]
    pub async fn separate_connection(&self) -> Result<tokio_postgres::Client, StoreError> {
        self.dialer.dial().await
    }

    /// Creates both pools. Connects only when the first connection is needed.
    ///
    /// # Errors
    /// When the URL or its root certificate is invalid.
    pub fn new(options: &ConnectOptions) -> Result<Self, StoreError> {
        let (url, root_certificate) = split_root_certificate(&options.url)?;
        let mut config = tokio_postgres::Config::from_str(&url)
            .map_err(|error| StoreError::Url(error.to_string()))?;
        config.application_name("muster");
        config.connect_timeout(Duration::from_secs(5));
        config.keepalives_idle(Duration::from_secs(20));
        config.tcp_user_timeout(Duration::from_secs(30));
        let tls = client_tls(root_certificate.as_deref())?;

        let work = new_pool(&config, &tls, options.connections)?;
        let mut careful = config.clone();
        careful.options(format!("-c statement_timeout={}", QUERY_TIMEOUT.as_millis()));
        let readers = new_pool(&careful, &tls, options.connections.div_ceil(2))?;

        let connect = PgConnectOptions::from_str(&options.url)
            .map_err(|error| StoreError::Url(error.to_string()))?
            .application_name("muster");
        let sql = PgPoolOptions::new()
            .max_connections(options.connections)
            .acquire_timeout(Duration::from_secs(10))
            // A ping before each query would double the round trips.
            .test_before_acquire(false)
            .before_acquire(|connection, idle| {
                Box::pin(async move {
                    if idle.idle_for >= MAX_UNTESTED_IDLE_TIME {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(connect);
        Ok(Self { pool: work, readers, sql, dialer: Arc::new(Dialer { config, tls }) })
    }
}

fn new_pool(
    config: &tokio_postgres::Config,
    tls: &rustls::ClientConfig,
    connections: u32,
) -> Result<Pool, StoreError> {
    let manager = Manager::from_config(
        config.clone(),
        MakeRustlsConnect::new(tls.clone()),
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    Pool::builder(manager)
        // The connection used last has prepared statements and warm caches.
        .queue_mode(QueueMode::Lifo)
        .max_size(connections as usize)
        .runtime(deadpool_postgres::Runtime::Tokio1)
        .wait_timeout(Some(Duration::from_secs(10)))
        .create_timeout(Some(Duration::from_secs(10)))
        .build()
        .map_err(|error| StoreError::Connect(Box::new(error)))
}

/// Splits `sslrootcert` off the URL, because tokio-postgres does not support it.
fn split_root_certificate(url: &str) -> Result<(String, Option<PathBuf>), StoreError> {
    let mut parsed = url::Url::parse(url).map_err(|error| StoreError::Url(error.to_string()))?;
    let mut root = None;
    let kept: Vec<(String, String)> = parsed
        .query_pairs()
        .filter_map(|(key, value)| {
            if key == "sslrootcert" {
                root = Some(PathBuf::from(value.as_ref()));
                return None;
            }
            // The stricter modes of libpq: TLS always verifies here, so `require` is equivalent.
            let value = match (key.as_ref(), value.as_ref()) {
                ("sslmode", "verify-ca" | "verify-full") => "require".to_owned(),
                _ => value.into_owned(),
            };
            Some((key.into_owned(), value))
        })
        .collect();
    parsed.set_query(None);
    if !kept.is_empty() {
        parsed.query_pairs_mut().extend_pairs(kept);
    }
    Ok((parsed.into(), root))
}

fn client_tls(root: Option<&std::path::Path>) -> Result<rustls::ClientConfig, StoreError> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = root {
        let unusable =
            |error: String| StoreError::Url(format!("sslrootcert {}: {error}", path.display()));
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Url(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_certificate_is_split_off_the_url() {
        let (url, root) = split_root_certificate(
            "postgres://u:p@h:5432/d?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        )
        .unwrap();
        assert_eq!(url, "postgres://u:p@h:5432/d?sslmode=require");
        assert_eq!(root, Some(PathBuf::from("/etc/ca.pem")));
        assert!(split_root_certificate("not a url").is_err());
        let error = split_root_certificate("postgres://u@/d?host=/run/pg").unwrap_err();
        assert!(error.to_string().contains("postgresql:///database?host="), "{error}");
    }
}
