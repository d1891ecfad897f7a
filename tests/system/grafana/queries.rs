//! Grafana's queries: taken from dashboards and alert rules, with variables filled in like by
//! Grafana.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// The store of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Postgres,
    Influx,
}

/// A query, and its location.
#[derive(Clone, Debug)]
pub(super) struct PanelQuery {
    pub(super) location: String,
    pub(super) store: Store,
    pub(super) text: String,
    /// Time range of the query before now, in seconds.
    pub(super) span: u64,
}

/// A dashboard with its queries.
#[derive(Debug)]
pub(super) struct Dashboard {
    pub(super) name: String,
    pub(super) json: Value,
}

impl Dashboard {
    pub(super) fn all(dir: &Path) -> Vec<Self> {
        let mut paths: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let read = |path: &std::path::PathBuf| Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            json: serde_json::from_slice(&fs::read(path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        };
        paths.iter().map(read).collect()
    }

    pub(super) fn panels(&self) -> &[Value] {
        self.json["panels"].as_array().unwrap()
    }

    pub(super) fn variables(&self) -> &[Value] {
        self.json["templating"]["list"].as_array().unwrap()
    }

    /// Whether several devices can be selected.
    pub(super) fn is_multiple(&self) -> bool {
        self.variables().iter().any(|it| it["name"] == "device" && it["multi"] == true)
    }

    /// The queries of panels and annotations.
    pub(super) fn queries(&self) -> Vec<PanelQuery> {
        let mut found = Vec::new();
        for panel in self.panels() {
            let location = format!("{}: panel '{}'", self.name, panel["title"].as_str().unwrap());
            let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
            if targets.is_empty() {
                let kind = panel["type"].as_str().unwrap();
                assert!(["row", "alertlist", "text"].contains(&kind), "{location} asks nothing");
            }
            found.extend(targets.iter().map(|target| panel_query(&location, target, SPAN)));
        }
        for annotation in self.json["annotations"]["list"].as_array().unwrap() {
            if annotation["builtIn"] == 1 {
                continue;
            }
            let location = format!("{}: annotation {}", self.name, annotation["name"]);
            found.push(panel_query(&location, &annotation["target"], SPAN));
        }
        found
    }
}

/// Time range of a dashboard in the test, in seconds.
const SPAN: u64 = 900;

/// An alert rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) title: String,
    pub(super) query: PanelQuery,
    /// The texts for a person.
    pub(super) texts: String,
    /// The dashboard's uid and the panel's id with the related data.
    pub(super) panel: (String, u64),
    /// `gt` or `lt`, and the value.
    threshold: (String, f64),
}

impl Rule {
    pub(super) fn is_crossed_by(&self, value: f64) -> bool {
        match self.threshold.0.as_str() {
            "gt" => value > self.threshold.1,
            "lt" => value < self.threshold.1,
            other => panic!("{}: what is {other}?", self.title),
        }
    }
}

/// The rules of a file; each has one query and ends with a threshold.
pub(super) fn rules(path: &Path) -> Vec<Rule> {
    let text = fs::read_to_string(path).unwrap();
    let file: Value = serde_norway::from_str(&text).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).map(rule).collect()
}

fn rule(rule: &Value) -> Rule {
    let title = rule["title"].as_str().unwrap().to_owned();
    let data = rule["data"].as_array().unwrap();
    let query = &data[0];
    assert_eq!(query["datasourceUid"], query["model"]["datasource"]["uid"], "{title}");
    let span = query["relativeTimeRange"]["from"].as_u64().unwrap();
    let last = &data[data.len() - 1];
    assert_eq!(rule["condition"], last["refId"], "{title}");
    let evaluator = &last["model"]["conditions"][0]["evaluator"];
    Rule {
        query: panel_query(&format!("rule '{title}'"), &query["model"], span),
        texts: rule["annotations"].to_string(),
        panel: (
            rule["dashboardUid"].as_str().unwrap().to_owned(),
            rule["panelId"].as_u64().unwrap(),
        ),
        threshold: (
            evaluator["type"].as_str().unwrap().to_owned(),
            evaluator["params"][0].as_f64().unwrap(),
        ),
        title,
    }
}

/// The query of a panel, an annotation or a rule.
fn panel_query(location: &str, target: &Value, span: u64) -> PanelQuery {
    let store = store(&target["datasource"], location);
    let key = if store == Store::Postgres { "rawSql" } else { "query" };
    assert_eq!(target["rawQuery"], true, "{location}");
    let text = target[key].as_str().unwrap_or_else(|| panic!("{location} has no {key}")).to_owned();
    PanelQuery { location: location.to_owned(), store, text, span }
}

pub(super) fn store(source: &Value, location: &str) -> Store {
    match (source["type"].as_str(), source["uid"].as_str()) {
        (Some("grafana-postgresql-datasource"), Some("muster-log")) => Store::Postgres,
        (Some("influxdb"), Some("muster-metrics")) => Store::Influx,
        other => panic!("{location}: the data source {other:?} is not ours"),
    }
}

/// The selection in the lists at a dashboard's top.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) labels: Vec<&'static str>,
    /// Device ids.
    pub(super) devices: Vec<String>,
    pub(super) is_multiple: bool,
    /// Variables with one value: `project`, `measurement` …
    pub(super) plain: BTreeMap<String, String>,
}

impl Choice {
    /// The query as sent to its store, for the `span` seconds before `now` (milliseconds).
    pub(super) fn fill(&self, question: &PanelQuery, now: u64) -> String {
        let from = now - question.span * 1000;
        let mut text = question.text.clone();
        let quoted = |values: &[String]| {
            values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(",")
        };
        let (devices, labels) = match question.store {
            Store::Postgres if self.is_multiple => (quoted(&self.devices), String::new()),
            Store::Influx if self.is_multiple => {
                (format!("({})", self.devices.join("|")), String::new())
            }
            _ => (self.devices[0].clone(), String::new()),
        };
        let labels = if question.store == Store::Influx {
            labels
        } else if self.labels.is_empty() {
            "'*'".to_owned()
        } else {
            quoted(&self.labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>())
        };
        match question.store {
            Store::Postgres => {
                text = replace_call(&text, "$__timeFilter(", |column| {
                    let at = |ms: u64| format!("to_timestamp({}.{:03})", ms / 1000, ms % 1000);
                    format!("{column} BETWEEN {} AND {}", at(from), at(now))
                });
                text = replace_call(&text, "$__timeGroupAlias(", |arguments| {
                    let column = arguments.strip_suffix(", $__interval").unwrap();
                    format!("floor(extract(epoch from {column})/10)*10 AS \"time\"")
                });
            }
            Store::Influx => {
                let filter = format!("time >= {from}ms and time <= {now}ms");
                text = text.replace("$timeFilter", &filter);
            }
        }
        text = text.replace("$__interval_ms", "10000").replace("$__interval", "10s");
        text = text.replace("$device", &devices).replace("$label", &labels);
        for (name, value) in &self.plain {
            text = text.replace(&format!("${name}"), value);
        }
        // A remaining `$/` is the end of a regular expression.
        let left = text.replace("$/", "");
        assert!(!left.contains('$'), "{}: not all is filled in: {text}", question.location);
        text
    }
}

fn replace_call(text: &str, call: &str, with: impl Fn(&str) -> String) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(call) {
        let (inner, after) = after.split_once(')').unwrap();
        done.push_str(before);
        done.push_str(&with(inner));
        rest = after;
    }
    done + rest
}
