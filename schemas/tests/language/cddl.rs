//! The CDDL files against the golden files, and against broken ones.

use std::fs;
use std::path::Path;

use cddl_cat::cbor::validate_cbor;
use cddl_cat::context::BasicContext;
use cddl_cat::flatten::flatten_from_str;
use ciborium::Value;
use muster_schemas::{Event, codec};

use crate::golden;
use crate::samples;

struct Language(BasicContext);

impl Language {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cddl");
        let text: Vec<_> = ["terms", "events", "wire"]
            .iter()
            .map(|file| fs::read_to_string(folder.join(format!("{file}.cddl"))).unwrap())
            .collect();
        Self(BasicContext::new(flatten_from_str(&text.concat()).unwrap()))
    }

    fn check(&self, rule: &str, value: &Value) -> Result<(), String> {
        let rule = self.0.rules.get(rule).ok_or_else(|| format!("no rule '{rule}'"))?;
        validate_cbor(rule, value, &self.0).map_err(|error| error.to_string())
    }
}

/// The value, without the tag of a COSE_Sign1, which the validator does not know.
fn read(bytes: &[u8]) -> Value {
    match codec::decode(bytes).unwrap() {
        Value::Tag(18, inner) => *inner,
        value => value,
    }
}

#[test]
fn every_golden_file_follows_its_rule() {
    let language = Language::read();
    let files = golden::files();
    for sample in samples::all() {
        let (stem, rule) = (sample.stem(), sample.rule());
        for bytes in [&sample.bytes, &files[&stem]] {
            assert_eq!(language.check(&rule, &read(bytes)), Ok(()), "{stem}");
        }
    }
}

#[test]
fn every_event_type_has_a_rule() {
    let language = Language::read();
    for (kind, newest) in Event::TYPES {
        assert!(language.0.rules.contains_key(*kind), "{kind}");
        for version in 1..*newest {
            assert!(language.0.rules.contains_key(&format!("{kind}-v{version}")), "{kind}");
        }
    }
}

/// The ways to break a value: each entry retyped or dropped, an unknown one added, or the whole
/// value of another type.
fn broken(value: &Value) -> Vec<(String, Value)> {
    let wrong = Value::Array(vec![Value::Null]);
    let mut all = vec![("the whole is text".to_owned(), Value::Text("x".into()))];
    match value {
        Value::Map(entries) => {
            for (index, (key, _)) in entries.iter().enumerate() {
                let mut bent = entries.clone();
                bent[index].1 = wrong.clone();
                all.push((format!("{key:?} retyped"), Value::Map(bent)));
            }
            let mut more = entries.clone();
            more.push(("no_such_key".into(), Value::Null));
            all.push(("an unknown key".to_owned(), Value::Map(more)));
        }
        Value::Array(items) => {
            for index in 0..items.len() {
                let mut bent = items.clone();
                bent[index] = wrong.clone();
                all.push((format!("item {index} retyped"), Value::Array(bent)));
                let mut fewer = items.clone();
                fewer.remove(index);
                all.push((format!("item {index} left out"), Value::Array(fewer)));
            }
            let mut more = items.clone();
            more.push(Value::Null);
            all.push(("one item more".to_owned(), Value::Array(more)));
        }
        _ => {}
    }
    all
}

#[test]
fn broken_values_violate_their_rule() {
    let language = Language::read();
    for sample in samples::all() {
        let rule = sample.rule();
        for (how, value) in broken(&read(&sample.bytes)) {
            assert!(language.check(&rule, &value).is_err(), "{rule} took a value with {how}");
        }
    }
}

#[test]
fn decoders_reject_what_the_cddl_rules_reject() {
    let language = Language::read();
    for sample in samples::all().iter().filter(|sample| sample.is_newest) {
        let Value::Map(entries) = read(&sample.bytes) else { continue };
        for index in 0..entries.len() {
            let mut fewer = entries.clone();
            let (key, _) = fewer.remove(index);
            let value = Value::Map(fewer);
            let bytes = codec::encode(&value);
            assert_eq!(
                language.check(&sample.rule(), &value).is_ok(),
                samples::Message::decode(sample.name, sample.version, &bytes).is_ok(),
                "{}: is {key:?} optional?",
                sample.name
            );
        }
    }
}
