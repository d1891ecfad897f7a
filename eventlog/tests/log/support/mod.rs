//! A real PostgreSQL for the tests of this crate: one server per process, one database per test.

use std::process::Command;

use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_schemas::ProjectId;
use tempfile::TempDir;

/// The database of a test; the server stops with it.
pub(crate) struct Database {
    server: std::sync::Arc<(Postgres, TempDir)>,
    name: String,
}

/// Starts a server with a new database.
pub(crate) async fn database() -> Database {
    let dir = tempfile::tempdir().unwrap();
    let options = PostgresOptions {
        tuning: Tuning::Throwaway,
        ..PostgresOptions::new(dir.path().join("pg"))
    };
    let server = Postgres::start(options).await.unwrap();
    Database { server: std::sync::Arc::new((server, dir)), name: "muster".into() }
}

impl Database {
    pub(crate) fn url(&self) -> String {
        self.server.0.connection_url_of(&self.name)
    }

    /// Opens a log on this database, with the default project.
    pub(crate) async fn open(&self) -> EventLog {
        self.open_with_partitions_of(LogOptions::default().partition_rows).await
    }

    pub(crate) async fn open_with_partitions_of(&self, partition_rows: u64) -> EventLog {
        let connect = ConnectOptions { connections: 4, ..ConnectOptions::new(self.url()) };
        let options = LogOptions { partition_rows, ..LogOptions::default() };
        let log = EventLog::open(&connect, options).await.unwrap();
        log.ensure_project(&ProjectId::default_project()).await.unwrap();
        log
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let (client, connection) =
            tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(sql).await.unwrap();
    }

    /// Returns the first column of a query's rows.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let (client, connection) =
            tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Terminates every connection to the server except this one.
    pub(crate) async fn kill_connections(&self) {
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'muster'",
        )
        .await;
    }

    /// Creates a second database from a dump of this one.
    pub(crate) async fn dump_and_restore(&self) -> Database {
        self.execute("CREATE DATABASE restored").await;
        let restored = Database { server: self.server.clone(), name: "restored".into() };
        let bin = self.server.0.bin();
        let dump = Command::new(bin.join("pg_dump")).arg(self.url()).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let file = self.server.1.path().join("dump.sql");
        std::fs::write(&file, dump.stdout).unwrap();
        let restore = Command::new(bin.join("psql"))
            .args([restored.url().as_str(), "-q", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
        restored
    }
}
