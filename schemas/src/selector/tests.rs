//! Selectors: what they mean, how they read back, and that garbage is refused with its place.

use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().filter_map(|(k, v)| Some((k.parse().ok()?, v.parse().ok()?))).collect()
}

fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
    let own = |key: &str| (key == "name").then_some("robot-7");
    let labels = labels(pairs);
    selector.parse::<Selector>().is_ok_and(|selector| selector.matches(&labels, own))
}

#[test]
fn a_selector_means_what_it_says() {
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
fn garbage_is_refused_and_its_place_named() {
    for (bad, at) in [
        (",", "character 1"),
        ("env=prod,", "character 10"),
        ("env~prod", "character 1"),
        ("site in a", "character 9"),
        ("site in (a", "character 11"),
        ("site in (a b)", "character 12"),
        ("env like prod", "character 5"),
        ("ä=1", "character 1"),
        ("env=prod site=a", "character 10"),
    ] {
        let error = bad.parse::<Selector>().map_err(|error| error.to_string());
        assert!(error.as_ref().is_err_and(|text| text.contains(at)), "{bad:?}: {error:?}");
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_what_reads_reads_back(text in "[a-c=!(), inot\u{e9}]{0,40}") {
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
        }
    }
}
