//! The layers inside the large crates: a module depends only on its own group and on lower layers.

use std::collections::BTreeMap;

use super::imports::Files;
use super::root;

/// A group of top-level modules.
type Group = &'static [&'static str];

/// Layers from the top; the groups of one layer do not know each other.
const AGENT: &[&[Group]] = &[
    &[&["cli", "run", "doctor", "status"]],
    &[&["link", "config", "enroll"]],
    &[&["operations", "channels", "files"], &["report", "local", "inventory", "metrics"]],
    &[&["session", "outbox"]],
    &[&[
        "connection",
        "identity",
        "trust",
        "policy",
        "run_as",
        "subprocess",
        "clock",
        "store",
        "log_level",
        "backoff",
    ]],
];
const COMMAND: &[&[Group]] = &[
    &[&["http"], &["uploads"]],
    &[&["service"]],
    &[&["link"]],
    &[&["hello"], &["outputs"], &["channels"]],
    &[&["dispatch"]],
    &[&["device_keys", "executor", "error", "request", "clock", "domain", "keys", "loaded_states"]],
];

fn assert_layers(folder: &str, layers: &[&[Group]]) {
    let mut positions = BTreeMap::new();
    for (layer, groups) in layers.iter().enumerate() {
        for (group, modules) in groups.iter().enumerate() {
            positions.extend(modules.iter().map(|module| (*module, (layer, group))));
        }
    }
    let files = Files::read(&root().join(folder).join("src"));
    let mut found = Vec::new();
    for (from, targets) in files.dependencies() {
        // The crate's root assembles everything.
        let Some(module) = from.first() else { continue };
        let Some(at) = positions.get(module.as_str()) else {
            found.push(format!("{folder}/src/{module} is in no layer"));
            continue;
        };
        for target in &targets {
            let Some(other) = target.first().and_then(|name| positions.get(name.as_str())) else {
                continue;
            };
            let is_allowed = other == at || other.0 > at.0;
            if !is_allowed {
                found.push(format!("{folder}: {} -> {}", from.join("/"), target.join("/")));
            }
        }
    }
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_agents_layers_depend_only_downwards() {
    assert_layers("agent", AGENT);
}

#[test]
fn the_layers_of_command_depend_only_downwards() {
    assert_layers("command", COMMAND);
}
