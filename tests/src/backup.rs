//! Backup and restore of a fleet's event log, and the loss of its event stream.

use std::path::{Path, PathBuf};
use std::process::Command;

use muster_schemas::subjects::EVENTS_STREAM;

use crate::fleet::Fleet;

/// Runs a program to its end.
///
/// # Panics
/// When it fails.
pub fn run(program: &Path, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", program.display());
}

/// A backup of the log's database.
///
/// # Panics
/// When `pg_dump` fails.
#[must_use]
pub fn dump(fleet: &Fleet) -> PathBuf {
    let dump = fleet.dir().join("dump.sql");
    let (bin, url) = (fleet.postgres.bin(), fleet.postgres.connection_url());
    run(&bin.join("pg_dump"), &["-f", dump.to_str().expect("a name"), &url]);
    dump
}

/// Fills an empty database from the dump. The roles must be stopped.
///
/// # Panics
/// When `psql` fails.
pub fn restore_database(fleet: &Fleet, dump: &Path) {
    let (psql, url) = (fleet.postgres.bin().join("psql"), fleet.postgres.connection_url());
    let server = fleet.postgres.connection_url_of("postgres");
    run(&psql, &["-q", "-c", "DROP DATABASE muster WITH (FORCE)", &server]);
    run(&psql, &["-q", "-c", "CREATE DATABASE muster", &server]);
    let file = dump.to_str().expect("a name");
    run(&psql, &["-q", "-v", "ON_ERROR_STOP=1", "-f", file, &url]);
}

/// Restores the log as docs/operations.md describes it, and starts the roles again.
///
/// # Panics
/// When a step fails.
pub async fn restore(fleet: &mut Fleet, dump: &Path) {
    for role in [&mut fleet.ingest, &mut fleet.command, &mut fleet.query] {
        role.kill9();
    }
    restore_database(fleet, dump);
    for role in [&mut fleet.ingest, &mut fleet.command, &mut fleet.query] {
        role.kill9_and_restart();
    }
    fleet.wait_until_ready().await;
}

/// Deletes the stream of events at the broker, with what is in it.
///
/// # Panics
/// When the broker refuses.
pub async fn delete_events_stream(fleet: &Fleet) {
    let client = fleet.broker().await;
    async_nats::jetstream::new(client)
        .delete_stream(EVENTS_STREAM)
        .await
        .expect("the stream is deleted");
}
