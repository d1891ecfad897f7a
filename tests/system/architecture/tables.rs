//! Who may name a table of the log in SQL: the tables of the log itself are private to `eventlog`,
//! which offers functions and views; a few tables belong to another crate.

use std::fs;

use regex::Regex;

use super::{root, rust_files_in};

/// Tables that `eventlog` creates for another crate, and that crate's folder.
const OWNERS: &[(&str, &str)] = &[
    ("bridges", "command"),
    ("open_shells", "command"),
    ("account_claims", "command"),
    ("nats_revocations", "command"),
    ("token_uses", "api"),
    ("list_walks", "query"),
];
/// Crates of the servers.
const CRATES: &[&str] = &["api", "blobs", "ingest", "command", "query", "server", "cli"];

/// The tables that the migrations create.
fn tables() -> Vec<String> {
    let pattern =
        Regex::new(r"(?m)^\s*CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?([a-z_]+)").unwrap();
    let mut found = Vec::new();
    for file in fs::read_dir(root().join("eventlog/migrations")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        found.extend(pattern.captures_iter(&text).map(|table| table[1].to_owned()));
    }
    found
}

#[test]
fn sql_names_only_tables_of_its_own_crate() {
    let tables = tables();
    assert!(tables.len() > 10, "{tables:?}");
    for (table, _) in OWNERS {
        assert!(tables.iter().any(|found| found == table), "{table} does not exist");
    }
    let pattern = format!(r"\b(?:FROM|JOIN|INTO|UPDATE|TABLE)\s+({})\b", tables.join("|"));
    let pattern = Regex::new(&pattern).unwrap();
    assert!(pattern.is_match("SELECT 1\n FROM heads h"));
    let mut found = Vec::new();
    for folder in CRATES {
        for path in rust_files_in(&root().join(folder).join("src")) {
            let text = fs::read_to_string(&path).unwrap();
            for table in pattern.captures_iter(&text).map(|found| found[1].to_owned()) {
                let is_own = OWNERS.contains(&(table.as_str(), folder));
                if !is_own {
                    found.push(format!("{}: {table}", path.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "SQL names tables of another crate:\n{}", found.join("\n"));
}
