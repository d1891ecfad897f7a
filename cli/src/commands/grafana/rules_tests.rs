//! Common errors in alert rule files; each is reported with file, rule and key.

use super::*;
use crate::commands::grafana::files::RULES;

const GOOD: &str = "
apiVersion: 1
groups:
  - name: g
    folder: f
    interval: 1m
    rules:
      - uid: one
        title: One
        condition: C
        for: 1h30m
        noDataState: OK
        execErrState: Error
        data:
          - refId: A
            relativeTimeRange: { from: 600, to: 0 }
            datasourceUid: store
            model: { refId: A, query: SELECT 1 }
          - refId: B
            datasourceUid: __expr__
            model: { refId: B, type: reduce, expression: A, reducer: last }
          - refId: C
            datasourceUid: __expr__
            model: { refId: C, type: threshold, expression: B, conditions: [{ evaluator: { type: gt, params: [1] } }] }
";

fn check(text: &str) -> Vec<String> {
    let mut checker = Checker::new(BTreeSet::from(["store".to_owned()]));
    checker.file("a.yaml", text);
    checker.end().1.iter().map(ToString::to_string).collect()
}

#[test]
fn the_included_rules_are_valid() {
    let sources = ["muster-metrics", "muster-log"].map(str::to_owned);
    let mut checker = Checker::new(sources.into());
    for (name, text) in RULES {
        checker.file(name, text);
    }
    let (rules, wrong) = checker.end();
    assert_eq!(wrong, []);
    assert!(rules >= 10, "{rules}");
}

#[test]
fn a_valid_file_has_no_errors() {
    assert_eq!(check(GOOD), Vec::<String>::new());
    assert_eq!(check("apiVersion: 1\ncontactPoints: []"), Vec::<String>::new());
}

#[test]
fn an_error_is_reported_with_file_rule_and_key() {
    for (good, bad, expected) in [
        ("condition: C", "condition: D", "a.yaml: rule 'One': condition:|'D'"),
        ("condition: C", "", "a.yaml: rule 'One': condition:"),
        ("uid: one", "uid: 'a b'", "a.yaml: rule 'One': uid:"),
        ("uid: one", "", "a.yaml: rule 'One': uid:"),
        ("title: One", "", "a.yaml: rule 'one': title:"),
        ("for: 1h30m", "for: soon", "a.yaml: rule 'One': for:"),
        ("for: 1h30m", "for: 5", "a.yaml: rule 'One': for:"),
        ("noDataState: OK", "noDataState: Ok", "a.yaml: rule 'One': noDataState:"),
        ("noDataState", "noDataSate", "a.yaml: rule 'One': noDataSate:"),
        ("datasourceUid: store", "datasourceUid: shop", "data[0].datasourceUid:|'shop'|store"),
        ("for: 1h30m", "dashboardUid: x", "a.yaml: rule 'One': panelId:"),
        ("from: 600", "from: 0", "a.yaml: rule 'One': data[0].relativeTimeRange:"),
        ("query: SELECT 1", "query: ''", "a.yaml: rule 'One': data[0].model:"),
        (
            "type: reduce, expression: A",
            "type: reduce, expression: X",
            "data[1].model.expression:|'X'",
        ),
        ("type: reduce", "type: reduces", "data[1].model.type:|'reduces'"),
        (", reducer: last", "", "data[1].model.reducer:"),
        (
            "type: reduce, expression: A",
            "type: math, expression: '$A / ${Y}'",
            "data[1].model.expression:|'Y'",
        ),
        ("params: [1]", "params: [many]", "data[2].model.conditions:"),
        ("- refId: B", "- refId: A", "data[1].refId:|'A'"),
        ("folder: f", "", "a.yaml: group 'g': folder:"),
        ("interval: 1m", "interval: 60", "a.yaml: group 'g': interval:"),
        ("apiVersion: 1", "apiVersion: 2", "a.yaml: apiVersion:"),
        ("groups:", "groups: [", "a.yaml:|YAML"),
    ] {
        assert!(GOOD.contains(good), "{good}");
        let found = check(&GOOD.replacen(good, bad, 1));
        let is_named = |line: &String| expected.split('|').all(|part| line.contains(part));
        assert!(found.iter().any(is_named), "{bad}: {found:?}");
    }
}

#[test]
fn a_uid_is_unique_across_all_files() {
    let mut checker = Checker::new(BTreeSet::new());
    checker.file("a.yaml", GOOD);
    checker.file("b.yaml", GOOD);
    let wrong: Vec<_> = checker.end().1.iter().map(ToString::to_string).collect();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].starts_with("b.yaml: rule 'One': uid: 'one'"));
}
