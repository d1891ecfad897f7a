//! Selectors: what they mean, how they read back, and that garbage is refused with its place.

use proptest::prelude::*;

use super::*;
use crate::names::Labels;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().filter_map(|(k, v)| Some((k.parse().ok()?, v.parse().ok()?))).collect()
}

fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
    let own = |key: &str| (key == "name").then_some("robot-7");
    let labels = labels(pairs);
    selector.parse::<Selector>().is_ok_and(|selector| {
        selector.0.iter().all(|requirement| {
            let key = &requirement.key;
            let label = || labels.get(key).map(LabelValue::as_str);
            requirement.holds(if is_attribute(key.as_str()) { own(key.as_str()) } else { label() })
        })
    })
}

#[test]
fn a_selector_matches_the_expected_devices() {
    let prod = &[("env", "prod"), ("site", "a")];
    for yes in [
        "",
        "env",
        "env=prod",
        "env==prod",
        " env = prod , site in ( a , b ) ",
        "!retired",
        "env!=dev",
        "retired!=yes",
        "site notin (b,c)",
        "env=prod,site in (a,b),!retired",
        "name=robot-7",
        "name in (robot-7,robot-8)",
    ] {
        assert!(matches(yes, prod), "{yes:?} should match");
    }
    for no in ["env=dev", "!env", "retired", "env=", "site in (b)", "name=other", "id"] {
        assert!(!matches(no, prod), "{no:?} should not match");
    }
}

#[test]
fn a_syntax_error_is_reported_with_its_offset() {
    for (bad, at) in [
        (",", 1),
        ("env=prod,", 10),
        ("env~prod", 1),
        ("site in a", 9),
        ("site in (a", 11),
        ("site in (a b)", 12),
        ("env like prod", 5),
        ("ä=1", 1),
        ("env=prod site=a", 10),
        ("available > 5", 12),
        ("mem.available > lots", 17),
        ("mem.available > 5Qi", 17),
        ("mem.available > inf", 17),
        ("online=yes", 7),
        ("online in (a)", 8),
    ] {
        let error = bad.parse::<Selector>().unwrap_err();
        assert_eq!(error.offset, at, "{bad:?}: {error}");
    }
}

#[test]
fn a_metric_is_compared_with_a_number_and_its_unit() {
    for (text, metric, comparison, limit) in [
        ("mem.available > 500Mi", ("mem", "available"), Comparison::Above, 524_288_000.0),
        ("battery.percent<20", ("battery", "percent"), Comparison::Below, 20.0),
        ("disk.used_percent >= 80%", ("disk", "used_percent"), Comparison::AtLeast, 80.0),
        ("net.bytes_recv<=1.5G", ("net", "bytes_recv"), Comparison::AtMost, 1.5e9),
        ("temp.temp > -5", ("temp", "temp"), Comparison::Above, -5.0),
    ] {
        let selector: Selector = text.parse().unwrap_or_default();
        let [requirement] = selector.0.as_slice() else { panic!("{text}: {selector}") };
        assert_eq!(requirement.metric(), Some(metric), "{text}");
        assert_eq!(requirement.test, Test::Measured(comparison, limit), "{text}");
    }
    let holds = |comparison: Comparison| [1.0, 2.0, 3.0].map(|value| comparison.holds(value, 2.0));
    assert_eq!(holds(Comparison::Below), [true, false, false]);
    assert_eq!(holds(Comparison::AtMost), [true, true, false]);
    assert_eq!(holds(Comparison::Above), [false, false, true]);
    assert_eq!(holds(Comparison::AtLeast), [false, true, true]);
    for (text, test) in [("online", Test::Exists), ("!online", Test::Absent)] {
        let selector: Selector = text.parse().unwrap_or_default();
        assert_eq!(selector.0.first().map(|one| one.test.clone()), Some(test), "{text}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics_and_round_trips(text in "[a-c=!(), inot<>.0-9M\u{e9}]{0,40}") {
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
        }
    }
}
