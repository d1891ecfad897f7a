//! Checks alert rule files for errors that make Grafana refuse a file or a rule never fire. Pure:
//! texts in, errors out. `tests/system/grafana.rs` tests the queries with real stores.
//!
//! Source: Grafana's provisioning of alerting resources, file format version 1.

use std::collections::BTreeSet;
use std::fmt;

use serde_norway::Value;

/// Data source of Grafana's own expressions.
const EXPRESSIONS: &str = "__expr__";

/// All valid keys of a rule. Any other key is a misspelling, which Grafana ignores silently.
const RULE_KEYS: &[&str] = &[
    "uid",
    "title",
    "condition",
    "data",
    "dashboardUid",
    "panelId",
    "noDataState",
    "execErrState",
    "for",
    "keepFiringFor",
    "missing_series_evals_to_resolve",
    "annotations",
    "labels",
    "isPaused",
    "notification_settings",
    "record",
];

/// An error, with its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuleError {
    file: String,
    /// The group or rule; empty for an error of the whole file.
    rule: String,
    key: String,
    problem: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, rule, key, problem: what } = self;
        match (rule.is_empty(), key.is_empty()) {
            (true, true) => write!(f, "{file}: {what}"),
            (true, false) => write!(f, "{file}: {key}: {what}"),
            (false, _) => write!(f, "{file}: {rule}: {key}: {what}"),
        }
    }
}

/// Checks one file after another; uids must be unique in all of them.
#[derive(Debug)]
pub(super) struct Checker {
    /// Uids of the data sources; if empty, any data source is valid.
    sources: BTreeSet<String>,
    uids: BTreeSet<String>,
    titles: BTreeSet<(String, String)>,
    errors: Vec<RuleError>,
    rules: usize,
}

/// Location of the checker in the files.
#[derive(Clone, Copy)]
struct RuleLocation<'a> {
    file: &'a str,
    rule: &'a str,
}

impl Checker {
    pub(super) fn new(sources: BTreeSet<String>) -> Self {
        Self {
            sources,
            uids: BTreeSet::new(),
            titles: BTreeSet::new(),
            errors: Vec::new(),
            rules: 0,
        }
    }

    /// Returns the number of rules, and the errors.
    pub(super) fn end(self) -> (usize, Vec<RuleError>) {
        (self.rules, self.errors)
    }

    fn report(&mut self, at: RuleLocation<'_>, key: impl Into<String>, problem: impl Into<String>) {
        self.errors.push(RuleError {
            file: at.file.to_owned(),
            rule: at.rule.to_owned(),
            key: key.into(),
            problem: problem.into(),
        });
    }

    /// Checks a file of this name. A file without rules (contact points, policies) must only be
    /// valid YAML.
    pub(super) fn file(&mut self, name: &str, text: &str) {
        let at = RuleLocation { file: name, rule: "" };
        let document: Value = match serde_norway::from_str(text) {
            Ok(document) => document,
            Err(error) => return self.report(at, "", format!("is not YAML: {error}")),
        };
        if document.get("apiVersion").and_then(Value::as_u64) != Some(1) {
            self.report(at, "apiVersion", "must be 1");
        }
        let Some(groups) = document.get("groups") else { return };
        let Some(groups) = groups.as_sequence() else {
            return self.report(at, "groups", "must be a list");
        };
        for (index, group) in groups.iter().enumerate() {
            self.group(name, index, group);
        }
    }

    fn group(&mut self, file: &str, index: usize, group: &Value) {
        let called = group.get("name").and_then(Value::as_str).unwrap_or_default();
        let rule = if called.is_empty() {
            format!("group {}", index + 1)
        } else {
            format!("group '{called}'")
        };
        let at = RuleLocation { file, rule: &rule };
        for key in ["name", "folder"] {
            self.text(at, group, key);
        }
        self.duration(at, group, "interval", true);
        let folder = group.get("folder").and_then(Value::as_str).unwrap_or_default();
        match group.get("rules").and_then(Value::as_sequence) {
            Some(rules) if !rules.is_empty() => {
                for (index, rule) in rules.iter().enumerate() {
                    self.rule(file, folder, index, rule);
                }
            }
            _ => self.report(at, "rules", "must be a list with at least one rule"),
        }
    }

    fn rule(&mut self, file: &str, folder: &str, index: usize, rule: &Value) {
        self.rules += 1;
        let title = rule.get("title").and_then(Value::as_str).unwrap_or_default().to_owned();
        let uid = rule.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned();
        let called = match (title.is_empty(), uid.is_empty()) {
            (false, _) => format!("rule '{title}'"),
            (true, false) => format!("rule '{uid}'"),
            (true, true) => format!("rule {}", index + 1),
        };
        let at = RuleLocation { file, rule: &called };
        let Some(keys) = rule.as_mapping() else {
            return self.report(at, "", "must be a mapping");
        };
        for key in keys.keys().filter_map(Value::as_str).filter(|key| !RULE_KEYS.contains(key)) {
            self.report(at, key, "is not a key of an alert rule");
        }
        for key in ["uid", "title", "condition"] {
            self.text(at, rule, key);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if uid.len() > 40 || !uid.chars().all(plain) {
            self.report(at, "uid", "must have at most 40 letters, digits, - and _");
        }
        if !uid.is_empty() && !self.uids.insert(uid.clone()) {
            self.report(at, "uid", format!("'{uid}' is also the uid of another rule"));
        }
        if !title.is_empty() && !self.titles.insert((folder.to_owned(), title)) {
            self.report(at, "title", "another rule of this folder has the same title");
        }
        self.duration(at, rule, "for", false);
        self.duration(at, rule, "keepFiringFor", false);
        self.one_of(at, rule, "noDataState", &["NoData", "Alerting", "OK", "KeepLast"]);
        self.one_of(at, rule, "execErrState", &["Error", "Alerting", "OK", "KeepLast"]);
        if rule.get("dashboardUid").is_some() != rule.get("panelId").is_some() {
            self.report(at, "panelId", "and dashboardUid must be set together");
        }
        match rule.get("data").and_then(Value::as_sequence) {
            Some(data) if !data.is_empty() => self.data(at, rule, data),
            _ => self.report(at, "data", "must be a list with at least one query"),
        }
    }

    fn data(&mut self, at: RuleLocation<'_>, rule: &Value, data: &[Value]) {
        let mut known = BTreeSet::new();
        for (index, query) in data.iter().enumerate() {
            let key = format!("data[{index}]");
            match query.get("refId").and_then(Value::as_str) {
                Some(id) if !id.is_empty() => {
                    if !known.insert(id) {
                        self.report(at, format!("{key}.refId"), format!("'{id}' occurs twice"));
                    }
                    let inner = query.get("model").and_then(|model| model.get("refId"));
                    if inner.is_some_and(|inner| inner.as_str() != Some(id)) {
                        self.report(
                            at,
                            format!("{key}.model.refId"),
                            format!("must also be '{id}'"),
                        );
                    }
                }
                _ => self.report(at, format!("{key}.refId"), "is missing"),
            }
        }
        for (index, query) in data.iter().enumerate() {
            self.query(at, &format!("data[{index}]"), query, &known);
        }
        if let Some(condition) = rule.get("condition").and_then(Value::as_str)
            && !condition.is_empty()
            && !known.contains(condition)
        {
            self.report(at, "condition", format!("no query has the refId '{condition}'"));
        }
    }

    fn query(&mut self, at: RuleLocation<'_>, key: &str, query: &Value, known: &BTreeSet<&str>) {
        let source = query.get("datasourceUid").and_then(Value::as_str).unwrap_or_default();
        let Some(model) = query.get("model").filter(|model| model.is_mapping()) else {
            return self.report(at, format!("{key}.model"), "is missing");
        };
        if source == EXPRESSIONS {
            return self.expression(at, &format!("{key}.model"), model, known);
        }
        if source.is_empty() {
            self.report(at, format!("{key}.datasourceUid"), "is missing");
        } else if !self.sources.is_empty() && !self.sources.contains(source) {
            let known: Vec<&str> = self.sources.iter().map(String::as_str).collect();
            let what =
                format!("no data source has the uid '{source}'; known: {}", known.join(", "));
            self.report(at, format!("{key}.datasourceUid"), what);
        }
        let seconds = |name| query.get("relativeTimeRange")?.get(name)?.as_u64();
        if !matches!((seconds("from"), seconds("to").or(Some(0))), (Some(from), Some(to)) if from > to)
        {
            let what = "must have 'from' and 'to' in seconds before now, from the larger one";
            self.report(at, format!("{key}.relativeTimeRange"), what);
        }
        let text = |name| model.get(name).and_then(Value::as_str).unwrap_or_default();
        if ["rawSql", "query", "expr"].iter().all(|name| text(name).trim().is_empty()) {
            self.report(at, format!("{key}.model"), "has no query (rawSql, query or expr)");
        }
    }

    fn expression(
        &mut self,
        at: RuleLocation<'_>,
        key: &str,
        model: &Value,
        known: &BTreeSet<&str>,
    ) {
        let kind = model.get("type").and_then(Value::as_str).unwrap_or_default();
        let used = model.get("expression").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "reduce" | "threshold" | "resample" => {
                if !known.contains(used.trim_start_matches('$')) {
                    let what = format!("no query has the refId '{used}'");
                    self.report(at, format!("{key}.expression"), what);
                }
            }
            "math" => {
                for name in variables(used).filter(|name| !known.contains(name)) {
                    let what = format!("no query has the refId '{name}'");
                    self.report(at, format!("{key}.expression"), what);
                }
            }
            "classic_conditions" | "sql" => {}
            _ => {
                let what = format!(
                    "'{kind}' is none of reduce, threshold, math, resample, classic_conditions, sql"
                );
                self.report(at, format!("{key}.type"), what);
            }
        }
        let reducer = model.get("reducer").and_then(Value::as_str).unwrap_or_default();
        if kind == "reduce" && reducer.is_empty() {
            self.report(
                at,
                format!("{key}.reducer"),
                "is missing (last, mean, min, max, sum, count)",
            );
        }
        if kind == "threshold" && !model.get("conditions").is_some_and(has_evaluator) {
            let what = "needs an evaluator with a type (gt, lt …) and numbers as params";
            self.report(at, format!("{key}.conditions"), what);
        }
    }

    fn text(&mut self, at: RuleLocation<'_>, map: &Value, key: &str) {
        match map.get(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => {}
            None => self.report(at, key, "is missing"),
            Some(_) => self.report(at, key, "must be a non-empty string"),
        }
    }

    fn duration(&mut self, at: RuleLocation<'_>, map: &Value, key: &str, is_needed: bool) {
        match map.get(key) {
            Some(Value::String(text)) if is_duration(text) || text.contains('$') => {}
            None if !is_needed => {}
            None => self.report(at, key, "is missing"),
            Some(_) => self.report(at, key, "must be a duration: 30s, 5m, 1h30m"),
        }
    }

    fn one_of(&mut self, at: RuleLocation<'_>, map: &Value, key: &str, values: &[&str]) {
        if let Some(value) = map.get(key)
            && !value.as_str().is_some_and(|word| values.contains(&word))
        {
            self.report(at, key, format!("must be one of {}", values.join(", ")));
        }
    }
}

/// Whether the text is a Prometheus duration, which Grafana requires here: `1h30m`, `10s`, `0s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        if unit.len() == rest.len() {
            return false;
        }
        let Some(after) =
            ["ms", "y", "w", "d", "h", "m", "s"].iter().find_map(|word| unit.strip_prefix(word))
        else {
            return false;
        };
        rest = after;
    }
    !text.is_empty()
}

fn has_evaluator(conditions: &Value) -> bool {
    let Some(conditions) = conditions.as_sequence() else { return false };
    let is_good = |condition: &Value| {
        let evaluator = condition.get("evaluator");
        let kind = evaluator.and_then(|it| it.get("type")).and_then(Value::as_str);
        let params = evaluator.and_then(|it| it.get("params")).and_then(Value::as_sequence);
        kind.is_some() && params.is_some_and(|it| !it.is_empty() && it.iter().all(Value::is_number))
    };
    !conditions.is_empty() && conditions.iter().all(is_good)
}

/// Returns the names after `$` in a math expression: `$A`, `${B}`.
fn variables(expression: &str) -> impl Iterator<Item = &str> {
    expression.split('$').skip(1).map(|rest| {
        let rest = rest.trim_start_matches('{');
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]
    })
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
