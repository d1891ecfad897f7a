//! Golden files: bytes that were stored once are decoded the same way in every version.
//!
//! `cargo run -p muster-schemas --example write_golden` writes missing files only. An existing file is
//! never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use muster_schemas::{Event, Hash};

use crate::samples::{self, Message, diagnostic};

const HINT: &str = "run `cargo run -p muster-schemas --example write_golden`";

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Every golden file by its stem.
pub(crate) fn files() -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "cbor"))
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn every_golden_file_decodes_to_its_sample() {
    let files = files();
    for sample in samples::all() {
        let stem = sample.stem();
        let golden = files.get(&stem).unwrap_or_else(|| panic!("{stem}.cbor is missing: {HINT}"));
        assert_eq!(
            Message::decode(sample.name, sample.version, golden).as_ref(),
            Ok(&sample.message),
            "{stem}"
        );
        if sample.is_newest {
            assert!(
                sample.message.encode() == *golden,
                "{stem}: today's code writes other bytes than the golden file holds; a stored \
                 shape is forever: raise the version and add an upcaster (schemas/src/upcast.rs)"
            );
        }
    }
}

#[test]
fn every_event_type_has_a_golden_file_of_every_version() {
    let files = files();
    for (kind, newest) in Event::TYPES {
        for version in 1..=*newest {
            let stem = format!("{kind}.v{version}");
            assert!(
                files.contains_key(&stem),
                "{stem}.cbor is missing: add a sample in schemas/tests/language/samples, {HINT}"
            );
        }
    }
    let known: BTreeSet<_> = samples::all().iter().map(samples::Sample::stem).collect();
    let found: BTreeSet<_> = files.into_keys().collect();
    assert_eq!(found, known, "every golden file has a sample that says what it means");
}

#[test]
fn no_golden_file_was_changed_or_removed() {
    let sums = fs::read_to_string(folder().join("SHA256SUMS")).unwrap();
    let mut summed = BTreeSet::new();
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = fs::read(folder().join(name))
            .unwrap_or_else(|error| panic!("golden/{name} was taken away: {error}"));
        assert_eq!(Hash::of(&bytes).to_string(), sum, "golden/{name} was changed; add a new one");
        summed.insert(name.to_owned());
    }
    for (stem, bytes) in files() {
        assert!(summed.contains(&format!("{stem}.cbor")), "{stem} has no sum: {HINT}");
        let shown = fs::read_to_string(folder().join(format!("{stem}.diag"))).unwrap();
        assert_eq!(shown, diagnostic(&bytes), "{stem}.diag does not show {stem}.cbor");
    }
}
