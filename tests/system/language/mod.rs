//! Plain language: what a person reads has no words that only this project uses.
//!
//! `patterns.txt` lists such words and what to write instead. Documentation, `--help`, the OpenAPI
//! document, comments and messages have none, and no item is named like one of [`PRIVATE_NAMES`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, iter};

use muster_tests::binaries;
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::architecture::{root, rust_files};

/// String literals that are not messages: names that are stored, or that other programs define.
const NOT_MESSAGES: [(&str, &str); 5] = [
    ("bridges", "a table, and the lease `reap-bridges`"),
    ("answers.seed", "a key file"),
    ("all was said", "the close reason of agents before 0.2"),
    ("nobody", "a user of the system"),
    ("BEGIN", "a keyword of SQL and of PEM"),
];

/// Names of types, constants and modules by which no reader would search for the concept.
const PRIVATE_NAMES: &str = "Answer Answers Ask Asked Begun Bridge Bridges Door Doors Ear Fate Gone Heard Keeper Known \
    Letter Letters Marks News Past Place Places Say Standing Todo Told Travel Trouble Way Weather \
    Words BEAT LIFE LOOK MARKS PATIENCE REST SETTLE bridge bridges door keeper letters news patience \
    place places say standing todo told travel weather words";

const PATTERNS: &str = include_str!("patterns.txt");

struct Pattern {
    regex: Regex,
    replacement: &'static str,
}

fn patterns() -> Vec<Pattern> {
    PATTERNS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (pattern, instead) = line.split_once('\t').unwrap();
            let mut regex = RegexBuilder::new(&format!(r"\b(?:{pattern})\b"));
            Pattern { regex: regex.case_insensitive(true).build().unwrap(), replacement: instead }
        })
        .collect()
}

/// Each finding in a text, as `WHERE: 'found' (instead: …)`.
fn findings(patterns: &[Pattern], location: &str, text: &str) -> Vec<String> {
    patterns
        .iter()
        .flat_map(|pattern| {
            // A word in capitals is a keyword, such as `BEGIN` in SQL.
            let is_prose = |found: &&str| *found != found.to_uppercase();
            let found = pattern.regex.find_iter(text).map(|found| found.as_str());
            let report =
                |found| format!("{location}: '{found}' (instead: {})", pattern.replacement);
            found.filter(is_prose).map(report).collect::<Vec<_>>()
        })
        .collect()
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// Markdown without code.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            let parts = line.split('`').step_by(2);
            writeln!(prose, "{}", parts.collect::<Vec<_>>().join("`")).unwrap();
        }
    }
    prose
}

fn markdown() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/decisions", "fuzz"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 20, "only {} pages were found", found.len());
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

#[test]
fn documentation_is_in_plain_language() {
    let patterns = patterns();
    let mut all = Vec::new();
    for path in markdown() {
        let text = prose(&fs::read_to_string(&path).unwrap());
        for (number, line) in text.lines().enumerate() {
            let location = format!("{} (line of prose {})", relative(&path), number + 1);
            all.extend(findings(&patterns, &location, line));
        }
    }
    assert_none(&all);
}

fn texts(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let path = format!("{path}/{key}");
                match value {
                    Value::String(text) if ["summary", "description"].contains(&key.as_str()) => {
                        found.push((path, prose(text)));
                    }
                    value => texts(value, &path, found),
                }
            }
        }
        Value::Array(entries) => {
            for (index, value) in entries.iter().enumerate() {
                texts(value, &format!("{path}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn the_openapi_document_is_in_plain_language() {
    let document = fs::read_to_string(root().join("docs/openapi.json")).unwrap();
    let mut found = Vec::new();
    texts(&serde_json::from_str(&document).unwrap(), "", &mut found);
    assert!(found.len() > 500, "only {} texts were found", found.len());
    let patterns = patterns();
    let all: Vec<String> =
        found.iter().flat_map(|(path, text)| findings(&patterns, path, text)).collect();
    assert_none(&all);
}

/// The help of a command and of all commands below it.
fn help(program: &Path, command: &[String], found: &mut BTreeMap<String, String>) {
    let output = Command::new(program).args(command).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let listed = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<String> = listed
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    found.insert(command.join(" "), text);
    for name in names {
        let below: Vec<String> = command.iter().cloned().chain(iter::once(name)).collect();
        help(program, &below, found);
    }
}

#[test]
fn the_help_is_in_plain_language() {
    let patterns = patterns();
    let mut all = Vec::new();
    for (name, least) in [("muster", 50), ("muster-agent", 4)] {
        let mut found = BTreeMap::new();
        help(&binaries::binary(name), &[], &mut found);
        assert!(found.len() >= least, "only {} commands of {name} were found", found.len());
        for (command, text) in found {
            let location = format!("{name} {command} --help");
            // The width of the terminal decides where lines end.
            let text: Vec<&str> = text.split_whitespace().collect();
            all.extend(findings(&patterns, &location, &text.join(" ")));
        }
    }
    assert_none(&all);
}

/// Texts with their line numbers.
type Lines = Vec<(usize, String)>;

/// The comments of a Rust file, and its string literals outside tests, line by line.
fn comments_and_messages(text: &str) -> (Lines, Lines) {
    let (mut comments, mut messages) = (Vec::new(), Vec::new());
    let mut is_test = false;
    for (index, line) in text.lines().enumerate() {
        is_test |= line.contains("#[cfg(test)]");
        let code = match line.find("//") {
            Some(at) if line[..at].matches('"').count() % 2 == 0 => {
                comments.push((index + 1, prose(&line[at..])));
                &line[..at]
            }
            _ => line,
        };
        let is_message = !is_test && code.contains('"');
        if is_message {
            let literals: Vec<&str> = code.split('"').skip(1).step_by(2).collect();
            messages.push((index + 1, prose(&literals.join(" "))));
        }
    }
    (comments, messages)
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.contains("/benches/")
        || path.ends_with("tests.rs")
        || path.starts_with("fuzz/")
}

#[test]
fn comments_and_messages_are_in_plain_language() {
    let patterns = patterns();
    let (mut in_comments, mut in_messages) = (Vec::new(), Vec::new());
    for path in rust_files() {
        let name = relative(&path);
        let (comments, messages) = comments_and_messages(&fs::read_to_string(&path).unwrap());
        for (line, text) in comments {
            in_comments.extend(findings(&patterns, &format!("{name}:{line}"), &text));
        }
        if !is_test_file(&name) {
            for (line, mut text) in messages {
                for (name, _) in NOT_MESSAGES {
                    text = text.replace(name, "");
                }
                in_messages.extend(findings(&patterns, &format!("{name}:{line}"), &text));
            }
        }
    }
    assert_none(&in_comments);
    assert_none(&in_messages);
}

#[test]
fn names_are_in_plain_language() {
    let definition = Regex::new(
        r"^\s*(?:pub(?:\([a-z ]+\))? )?(?:struct|enum|trait|type|const|static|mod) (\w+)",
    )
    .unwrap();
    let private: Vec<&str> = PRIVATE_NAMES.split_whitespace().collect();
    let (mut all, mut found) = (0, Vec::new());
    for path in rust_files() {
        for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let Some(captures) = definition.captures(line) else { continue };
            all += 1;
            if private.contains(&&captures[1]) {
                found.push(format!("{}:{}: '{}'", relative(&path), index + 1, &captures[1]));
            }
        }
    }
    assert!(all > 2_000, "only {all} definitions were found");
    assert_none(&found);
}
