//! Changes of a device's labels and config variables, and the rules for them.

use std::collections::BTreeMap;

use muster_schemas::names::{DeviceName, LabelKey};
use muster_schemas::selector::is_reserved_key;

use super::Rejection;

/// A change of some entries: a value sets, `None` removes.
pub type Changes<K, V> = BTreeMap<K, Option<V>>;

/// Returns those changes that have an effect: entries that get another value, and existing entries
/// that are removed.
pub(super) fn effective<K: Ord + Clone, V: PartialEq>(
    current: &BTreeMap<K, V>,
    changes: Changes<K, V>,
) -> (BTreeMap<K, V>, Vec<K>) {
    let mut set = BTreeMap::new();
    let mut removed = Vec::new();
    for (key, change) in changes {
        match change {
            Some(value) if current.get(&key) != Some(&value) => {
                set.insert(key, value);
            }
            None if current.contains_key(&key) => removed.push(key),
            _ => {}
        }
    }
    (set, removed)
}

/// Returns the changes that replace all entries.
pub(super) fn replacement<K: Ord + Clone, V>(
    current: &BTreeMap<K, V>,
    new: BTreeMap<K, V>,
) -> Changes<K, V> {
    let mut changes: Changes<K, V> = current.keys().map(|key| (key.clone(), None)).collect();
    changes.extend(new.into_iter().map(|(key, value)| (key, Some(value))));
    changes
}

pub(super) fn apply<K: Ord + Clone, V: Clone>(
    map: &mut BTreeMap<K, V>,
    set: &BTreeMap<K, V>,
    removed: &[K],
) {
    map.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
    for key in removed {
        map.remove(key);
    }
}

pub(super) fn check_name(name: &DeviceName) -> Result<(), Rejection> {
    name.check_new().map_err(|error| Rejection::Invalid {
        field: "name",
        rule: error.rule.to_owned(),
        value: error.value,
    })
}

/// Rejects keys of new labels that selectors read as something else.
pub(super) fn check_label_keys<'a>(
    field: &'static str,
    mut keys: impl Iterator<Item = &'a LabelKey>,
) -> Result<(), Rejection> {
    let Some(key) = keys.find(|key| is_reserved_key(key)) else { return Ok(()) };
    let rule = format!("'{key}' is a field or a word of selectors, so it is not a label key");
    Err(Rejection::Invalid { field, rule, value: key.to_string() })
}

pub(super) fn check_count(field: &'static str, count: usize, max: usize) -> Result<(), Rejection> {
    if count <= max {
        return Ok(());
    }
    Err(Rejection::Invalid {
        field,
        rule: format!("a device has at most {max} of them"),
        value: count.to_string(),
    })
}
