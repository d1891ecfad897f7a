//! Tests of the search order, with temporary folders.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn program(path: &Path, prints: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\necho '{prints}'\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn postgres(bin: &Path, version: &str) {
    program(&bin.join("postgres"), &format!("postgres (PostgreSQL) {version}"));
    program(&bin.join("initdb"), "");
}

struct Machine {
    root: tempfile::TempDir,
    search_path: SearchPath,
}

fn machine() -> Machine {
    let root = tempfile::tempdir().unwrap();
    let places = SearchPath {
        path: root.path().join("path").into(),
        postgres_versions: root.path().join("debian"),
        cache: Some(root.path().join("cache")),
        ..SearchPath::default()
    };
    Machine { root, search_path: places }
}

#[test]
fn the_variable_precedes_path_and_path_precedes_the_cache() {
    let Machine { root, search_path: mut places } = machine();
    let root = fs::canonicalize(root.path()).unwrap();
    program(&root.join("cache/bin/nats-server"), "");
    assert_eq!(places.nats_server().unwrap(), root.join("cache/bin/nats-server"));
    program(&root.join("path/nats-server"), "");
    assert_eq!(places.nats_server().unwrap(), root.join("path/nats-server"));
    program(&root.join("mine"), "");
    places.nats_server = Some(root.join("mine"));
    assert_eq!(places.nats_server().unwrap(), root.join("mine"));
}

#[test]
fn a_wrong_variable_is_an_error_even_if_path_has_the_binary() {
    let Machine { root, search_path: mut places } = machine();
    program(&root.path().join("path/influxd"), "");
    places.influxd = Some("/nowhere/influxd".into());
    let error = places.influxd().unwrap_err();
    assert!(matches!(&error, FindError::Override { variable: "MUSTER_INFLUXD", .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/influxd"), "{error}");
}

#[test]
fn the_error_for_a_missing_binary_names_the_search_path_and_a_remedy() {
    let Machine { root, search_path: places } = machine();
    let error = places.postgres_bin(None).unwrap_err().to_string();
    for part in [
        "PostgreSQL",
        "PATH",
        "debian/*/bin",
        "cache/postgresql/bin",
        "make deps",
        "MUSTER_POSTGRES_BIN",
    ] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    drop(root);
}

#[test]
fn the_newest_postgres_is_used_unless_existing_data_needs_an_older_one() {
    let Machine { root, search_path: places } = machine();
    let debian = fs::canonicalize(root.path()).unwrap().join("debian");
    postgres(&debian.join("9/bin"), "9.6");
    postgres(&debian.join("15/bin"), "15.18 (Debian 15.18-0+deb12u1)");
    postgres(&debian.join("17/bin"), "17.2");
    assert_eq!(places.postgres_bin(None).unwrap(), debian.join("17/bin"));
    assert_eq!(places.postgres_bin(Some(15)).unwrap(), debian.join("15/bin"));
    let error = places.postgres_bin(Some(16)).unwrap_err().to_string();
    assert!(error.contains("PostgreSQL 16"), "{error}");
}
