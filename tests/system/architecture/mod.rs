//! Architecture rules, checked in the source: dependencies between crates, the completeness of the
//! architecture document, the format of files. No server is started.

mod cycles;
mod imports;
mod layers;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// All normal dependencies between muster's crates. A new one is a decision: add it here together
/// with a document in docs/decisions/.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("muster-schemas", &[]),
    ("muster-client-example", &[]),
    ("muster-files", &[]),
    ("muster-blobs", &["muster-schemas"]),
    ("muster-client", &["muster-api-types", "muster-files", "muster-schemas"]),
    ("muster-backing", &["muster-files", "muster-metric-store"]),
    ("muster-channel", &["muster-schemas"]),
    ("muster-eventlog", &["muster-schemas"]),
    ("muster-api-types", &["muster-schemas"]),
    ("muster-api", &["muster-api-types", "muster-eventlog", "muster-schemas"]),
    ("muster-agent", &["muster-channel", "muster-files", "muster-schemas"]),
    ("muster-simulate", &["muster-channel", "muster-schemas"]),
    ("muster-metric-store", &["muster-schemas"]),
    ("muster-ingest", &["muster-eventlog", "muster-metric-store", "muster-schemas"]),
    (
        "muster-command",
        &[
            "muster-api",
            "muster-api-types",
            "muster-blobs",
            "muster-channel",
            "muster-eventlog",
            "muster-files",
            "muster-schemas",
        ],
    ),
    (
        "muster-query",
        &[
            "muster-api",
            "muster-api-types",
            "muster-blobs",
            "muster-eventlog",
            "muster-metric-store",
            "muster-schemas",
        ],
    ),
];
/// These assemble everything and may depend on all crates.
const UNRESTRICTED: &[&str] = &["muster-server", "muster", "muster-tests"];

const MAX_FILE_LINES: usize = 500;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

struct Crate {
    name: String,
    folder: String,
    dependencies: BTreeSet<String>,
}

fn crates() -> Vec<Crate> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let read = |package: &Value| Crate {
        name: package["name"].as_str().unwrap().to_owned(),
        folder: Path::new(package["manifest_path"].as_str().unwrap())
            .parent()
            .and_then(|folder| folder.strip_prefix(root().canonicalize().unwrap()).ok())
            .and_then(Path::to_str)
            .unwrap()
            .to_owned(),
        dependencies: package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .collect(),
    };
    metadata["packages"].as_array().unwrap().iter().map(read).collect()
}

/// muster's Rust files.
pub(crate) fn rust_files() -> Vec<PathBuf> {
    let found = rust_files_in(&root());
    assert!(found.len() > 100, "only {} files were found", found.len());
    found
}

fn rust_files_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            let is_skipped = ["target", "node_modules", "corpus"].contains(&name);
            if !is_skipped && !name.starts_with('.') {
                found.extend(rust_files_in(&path));
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

fn map_of_the_code() -> String {
    fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap()
}

/// The code spans of the architecture document.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn crates_have_only_allowed_dependencies() {
    let allowed: BTreeMap<_, _> = DEPENDENCIES.iter().copied().collect();
    let crates = crates();
    let workspace: BTreeSet<_> = crates.iter().map(|package| package.name.clone()).collect();
    for Crate { name, dependencies, .. } in &crates {
        let actual: BTreeSet<_> =
            dependencies.intersection(&workspace).map(String::as_str).collect();
        match allowed.get(name.as_str()) {
            Some(allowed) => {
                let allowed: BTreeSet<_> = allowed.iter().copied().collect();
                assert_eq!(actual, allowed, "the crates that {name} depends on");
            }
            None => assert!(UNRESTRICTED.contains(&name.as_str()), "{name} is a new crate: add it"),
        }
    }
}

#[test]
fn schemas_depends_on_no_runtime_broker_or_store() {
    let crates = crates();
    let schemas = crates.iter().find(|package| package.name == "muster-schemas").unwrap();
    for banned in
        ["tokio", "sqlx", "tokio-postgres", "async-nats", "axum", "reqwest", "rand", "utoipa"]
    {
        assert!(!schemas.dependencies.contains(banned), "muster-schemas depends on {banned}");
    }
}

#[test]
fn the_api_types_depend_on_no_server_runtime_or_store() {
    let crates = crates();
    let types = crates.iter().find(|package| package.name == "muster-api-types").unwrap();
    let allowed = ["muster-schemas", "serde", "serde_json", "utoipa", "uuid"].map(str::to_owned);
    assert_eq!(types.dependencies, BTreeSet::from(allowed));
}

#[test]
fn every_path_on_the_map_exists() {
    let text = map_of_the_code();
    let paths: Vec<_> = quoted(&text)
        .into_iter()
        .filter(|word| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            let top = word.split('/').next().unwrap_or_default();
            word.contains('/') && word.chars().all(plain) && root().join(top).exists()
        })
        .collect();
    assert!(paths.len() > 50, "the map names only {} paths", paths.len());
    for path in paths {
        assert!(root().join(path).exists(), "docs/ARCHITECTURE.md names {path}, which is gone");
    }
}

#[test]
fn every_crate_and_every_top_level_module_is_on_the_map() {
    let text = map_of_the_code();
    let named = quoted(&text);
    for Crate { folder, .. } in crates() {
        assert!(named.contains(format!("{folder}/").as_str()), "`{folder}/` is not on the map");
        for entry in fs::read_dir(root().join(&folder).join("src")).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if ["lib", "main", "tests"].contains(&stem) || stem.ends_with("_tests") {
                continue;
            }
            let listed = [format!("{folder}/src/{stem}.rs"), format!("{folder}/src/{stem}/")];
            assert!(
                listed.iter().any(|path| named.contains(path.as_str())),
                "module {folder}/src/{stem} is not in docs/ARCHITECTURE.md (as a path in backticks)"
            );
        }
    }
}

#[test]
fn every_file_has_a_module_comment() {
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! "), "{} does not open with `//!`", path.display());
    }
}

#[test]
fn no_file_exceeds_the_maximum_length() {
    for path in rust_files() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= MAX_FILE_LINES, "{} has {lines} lines; split it", path.display());
    }
}

#[test]
fn no_module_has_a_meaningless_name() {
    let banned = ["utils", "util", "common", "helpers", "helper", "misc", "manager"];
    for path in rust_files() {
        for part in path.strip_prefix(root()).unwrap().components() {
            let part = Path::new(part.as_os_str()).file_stem().unwrap().to_str().unwrap();
            assert!(!banned.contains(&part), "{}: '{part}' says nothing", path.display());
        }
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some((_, rest)) = line.trim_start().split_once("mod ") else { continue };
            let name = rest.split([' ', ';', '{']).next().unwrap_or_default();
            assert!(!banned.contains(&name), "{}: `mod {name}` says nothing", path.display());
        }
    }
}
