//! Selectors: what they mean, how they read back, and which errors name which position.

use proptest::prelude::*;

use super::*;

/// A device of the tests: fields, labels, metrics without tags.
fn holds(selector: &str) -> Option<bool> {
    let field = |field: Field| match field {
        Field::Name => Some("robot-7"),
        Field::Id => Some("0198c0de-7000-7abc-8def-0123456789ab"),
        Field::Status => Some("online"),
        Field::Os => Some("Debian GNU/Linux 12 (bookworm)"),
        Field::Arch => Some("aarch64"),
        Field::Agent => Some("1.4.2"),
        Field::Hostname => None,
    };
    let label = |label: &Label| match label.key.as_str() {
        "env" => Some("prod"),
        "site" => Some("a"),
        "os" => Some("label-7"),
        "cpu.model" => Some("i7"),
        "flag" => Some(""),
        _ => None,
    };
    let matches_one = |patterns: &[Pattern], field: Option<Field>, value: Option<&str>| {
        value.is_some_and(|value| {
            patterns.iter().any(|pattern| match field {
                Some(field) => field.matches(pattern, value),
                None => pattern.matches(value),
            })
        })
    };
    let selector: Selector = selector.parse().unwrap_or_else(|error| panic!("{error}"));
    let Some(expression) = &selector.0 else { return Some(true) };
    expression.evaluate(&mut |condition| match condition {
        Condition::HasLabel(key) => Some(label(key).is_some()),
        Condition::Label(key, patterns) => Some(matches_one(patterns, None, label(key))),
        Condition::HasField(one) => Some(field(*one).is_some()),
        Condition::Field(one, patterns) => Some(matches_one(patterns, Some(*one), field(*one))),
        Condition::Version(comparison, limit) => {
            let own = field(Field::Agent).and_then(AgentVersion::start_of)?;
            Some(comparison.holds(own, *limit))
        }
        Condition::Metric(metric, comparison, limit) => {
            let value = match (metric.measurement.as_str(), metric.field.as_str()) {
                ("mem", "available") => 1e9,
                ("my.app", "requests" | "a.b") => 5.0,
                _ => return None,
            };
            Some(comparison.holds(value, *limit))
        }
    })
}

#[test]
fn a_selector_matches_the_expected_devices() {
    for yes in [
        "",
        "env",
        "env=prod",
        "env==prod",
        " env = prod , site in ( a , b ) ",
        "!retired",
        "not retired",
        "env!=dev",
        "retired!=yes",
        "site notin (b,c)",
        "site not in (b,c)",
        "env=prod,site in (a,b),!retired",
        "name=robot-7",
        "name in (robot-7,robot-8)",
        "name=robot-* and name!=*-8",
        "env=p*d",
        "status=online",
        "online",
        "not offline",
        "!offline",
        "os=debian*",
        "os='Debian GNU/Linux 12 (bookworm)'",
        "os=*BOOKWORM*",
        "arch",
        "!hostname",
        "hostname!=x",
        "label.os=label-7",
        "label.env",
        "cpu.model=i7",
        "flag=",
        "flag=\"\" and env",
        "agent=1.4.*",
        "agent>=1.4",
        "agent<1.10",
        "agent > 1.4.1",
        "id=0198*",
        "mem.available > 500Mi",
        "mem.available=1GB",
        "mem.available != 1",
        "metric.my.app.requests = 5",
        "my.app.requests >= 5",
        "\"my.app\".requests=5",
        "my.app.'a.b' > 4",
    ] {
        assert_eq!(holds(yes), Some(true), "{yes:?} should match");
    }
}

#[test]
fn and_binds_more_than_or_and_not_binds_most() {
    for yes in [
        "env=dev and site=b or online",
        "env=prod or env=dev and nothing",
        "env=prod or env=dev, nothing",
        "not env=dev and site=a",
        "!(env=dev or site=b)",
        "(env=dev or env=prod) and (site=a or site=b)",
        "env=prod or nothing.known > 5",
    ] {
        assert_eq!(holds(yes), Some(true), "{yes:?} should match");
    }
    for no in ["(env=prod or env=dev) and nothing", "not (env=prod or nothing.known > 5)"] {
        assert_eq!(holds(no), Some(false), "{no:?} should not match");
    }
    for unknown in ["nothing.known > 5", "not nothing.known > 5", "env=prod, nothing.known > 5"] {
        assert_eq!(holds(unknown), None, "{unknown:?} is not known");
    }
}

#[test]
fn a_selector_does_not_match_other_devices() {
    for no in [
        "env=dev",
        "!env",
        "retired",
        "env=",
        "env=PROD",
        "site in (b)",
        "name=other",
        "name=robot",
        "offline",
        "os=debian",
        "label.os=debian*",
        "agent<1.4.2",
        "hostname",
    ] {
        assert_eq!(holds(no), Some(false), "{no:?} should not match");
    }
}

#[test]
fn an_error_names_its_position_and_what_was_expected() {
    let deep = format!("{}a{}", "(".repeat(4_000), ")".repeat(4_000));
    let many = vec!["a"; MAX_CONDITIONS + 1].join(",");
    for (bad, at, words) in [
        (",", 1, "expected a condition"),
        ("env=prod,", 10, "expected a condition"),
        ("env~prod", 1, "label key"),
        ("site in a", 9, "'(' is missing"),
        ("site in (a", 11, "')' is missing"),
        ("site in (a b)", 12, "expected ',' or ')'"),
        ("env like prod", 5, "expected an operator"),
        ("env adn prod", 5, "did you mean 'and'"),
        ("env && prod", 5, "did you mean 'and'"),
        ("env=prod || site", 10, "did you mean 'or'"),
        ("ä=1", 1, "label key"),
        ("ää=ö or b=ü", 1, "label key"),
        ("env=prod site=a", 10, "expected ',', 'and', 'or' or the end"),
        ("available > 5", 11, "labels have no order"),
        ("env=prod and", 13, "expected a condition"),
        ("env=prod and and site", 14, "label.and"),
        ("(env=prod", 10, "')' is missing"),
        ("env=prod)", 9, "found ')'"),
        ("not", 4, "expected a condition"),
        ("mem.available > lots", 17, "500Mi"),
        ("mem.available > 5Qi", 17, "not a number"),
        ("mem.available > inf", 17, "not a number"),
        ("mem.available", 14, "label.mem.available"),
        ("mem.available=lots", 15, "label.mem.available"),
        ("mem.available in (5)", 15, "is a metric"),
        ("disk[/data.used_percent > 5", 25, "']' is missing"),
        ("disk[/data] > 5", 13, "expected '.'"),
        ("disk[].used_percent > 5", 6, "expected a tag"),
        ("online=yes", 7, "takes no value"),
        ("online in (a)", 8, "takes no value"),
        ("status=onlin", 8, "did you mean 'online'"),
        ("status in (online,gone)", 19, "expected one of"),
        ("status=", 8, "expected a value"),
        ("os<5", 3, "has no order"),
        ("name>robot", 5, "has no order"),
        ("agent<new", 7, "not a version"),
        ("name=Robot", 6, "not a device name"),
        ("id=robot-7", 4, "not an id"),
        ("id=0198", 4, "0198*"),
        ("os='Debian", 4, "closing '"),
        ("env='a b'", 5, "label value"),
        ("disk[a\u{1d}].used_percent>1", 6, "control character"),
        (deep.as_str(), 18, "nested"),
        (many.as_str(), 2 * MAX_CONDITIONS + 1, "more than 64 conditions"),
    ] {
        let error = bad.parse::<Selector>().unwrap_err();
        assert_eq!(error.offset(), at, "{error}");
        assert!(error.to_string().contains(words), "{bad:?}: {error}");
    }
    for opening in ["(", "!", "not ", "!("] {
        let error = opening.repeat(100_000).parse::<Selector>().unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
        assert!(opening.repeat(2_000).parse::<Selector>().is_err());
    }
}

#[test]
fn a_metric_has_tags_and_a_number_with_a_unit() {
    for (text, number) in [
        ("mem.available > 500Mi", 524_288_000.0),
        ("mem.available > 500MiB", 524_288_000.0),
        ("mem.available > 2GB", 2e9),
        ("battery.percent > 20", 20.0),
        ("disk.used_percent > 80%", 80.0),
        ("net.bytes_recv > 1.5G", 1.5e9),
        ("temp.temp > -5", -5.0),
        ("x.y > 2e3", 2000.0),
        ("system.uptime > 7d", 604_800.0),
        ("system.uptime > 1h30m", 5400.0),
        ("system.uptime > 0.5h", 1800.0),
        ("app.delay_ms > 2s", 2000.0),
        ("muster_agent.rtt_us > 20ms", 20_000.0),
    ] {
        let selector: Selector = text.parse().unwrap();
        let Some(Expression::Is(Condition::Metric(metric, Comparison::Above, found))) = &selector.0
        else {
            panic!("{text}: {selector:?}")
        };
        assert!((found - number).abs() < 1e-6, "{text}: {found}");
        assert!(metric.tags.is_empty() && text.starts_with(&metric.measurement), "{text}");
    }
    let tag = |name: Option<&str>, value: &str| TagTest {
        name: name.map(str::to_owned),
        value: Pattern::new(value),
    };
    for (text, tags) in [
        ("disk[/data].used_percent > 90", vec![tag(None, "/data")]),
        ("disk[path=/data].used_percent > 90", vec![tag(Some("path"), "/data")]),
        (
            "disk[ path = \"/my data\" , fstype=ext* ].used_percent > 90",
            vec![tag(Some("path"), "/my data"), tag(Some("fstype"), "ext*")],
        ),
    ] {
        let selector: Selector = text.parse().unwrap();
        let metrics = selector.metrics();
        assert_eq!(
            (&metrics[0].tags, metrics[0].field.as_str()),
            (&tags, "used_percent"),
            "{text}"
        );
    }
    assert!(tag(None, "/d*").holds("path", "/data"));
    assert!(!tag(Some("device"), "/data").holds("path", "/data"));
    let holds = |comparison: Comparison| [1.0, 2.0, 3.0].map(|value| comparison.holds(value, 2.0));
    assert_eq!(holds(Comparison::Below), [true, false, false]);
    assert_eq!(holds(Comparison::AtMost), [true, true, false]);
    assert_eq!(holds(Comparison::Above), [false, false, true]);
    assert_eq!(holds(Comparison::AtLeast), [false, true, true]);
    assert_eq!(holds(Comparison::Equal), [false, true, false]);
    assert_eq!(holds(Comparison::NotEqual), [true, false, true]);
}

#[test]
fn wildcards_match_any_characters() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("a*", "a", true),
        ("a*a", "a", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c", false),
        ("**x", "x", true),
        ("robot-*", "robot-7", true),
        ("*bot*", "robot-7", true),
        ("*7", "robot-77", true),
        ("a*ab", "aab", true),
        ("a*ab", "ab", false),
    ] {
        assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern} {text}");
    }
    assert_eq!(Pattern::new("50%_\\**").to_like(), "50\\%\\_\\\\%");
}

#[test]
fn misspelt_names_have_a_suggestion() {
    let check = |text: &str| {
        let selector: Selector = text.parse().unwrap();
        selector.misspelt().first().map(|one| (one.suggestion.clone(), one.error(text).offset()))
    };
    for (text, expected) in [
        ("statsu=online", Some(("status", 1))),
        ("env=prod and Status=x", Some(("status", 14))),
        ("OS=debian", Some(("os", 1))),
        ("offlin", Some(("offline", 1))),
        ("hostnme=x", Some(("hostname", 1))),
        ("cpu.usage_ilde > 5", Some(("cpu.usage_idle", 1))),
        ("env, dsik[/].used_percent > 5", Some(("disk.used_percent", 6))),
        ("label.statsu=online", None),
        ("metric.cpu.usage_ilde > 5", None),
        ("cpu.nonsense > 5", None),
        ("app.requests > 5", None),
        ("env=prod", None),
        ("ip=10.0.0.1", None),
        ("so", None),
    ] {
        let expected = expected.map(|(name, at): (&str, usize)| (name.to_owned(), at));
        assert_eq!(check(text), expected, "{text}");
    }
}

fn round_trip(text: &str) -> Result<(), TestCaseError> {
    if let Ok(selector) = text.parse::<Selector>() {
        let printed = selector.to_string();
        prop_assert_eq!(printed.parse::<Selector>(), Ok(selector), "{} -> {}", text, printed);
    }
    Ok(())
}

/// Selectors that are mostly valid.
fn selector_text() -> impl Strategy<Value = String> {
    let condition = prop::sample::select(vec![
        "env",
        "!env",
        "env=prod",
        "env!=a*",
        "x in (a,b,,c)",
        "x not in (a)",
        "label.os",
        "online",
        "os='a b'",
        "status=offline",
        "agent>=1.2.0",
        "agent=1.*",
        "mem.available>5Gi",
        "a.b<1e300",
        "\"a\".b=5",
        "metric.a.b=5",
        "disk[/data,x='y z'].used != -0",
        "'x.y'.\"z.z\"<=2",
        "\"label.q\".r>1",
        "metric.\"metric.q\".r>0.0000001",
        "name=*-1",
        "id=0*",
        "a.b=5",
        "flag=\"\"",
        "env=and",
        "x.y",
    ]);
    condition.prop_map(str::to_owned).prop_recursive(5, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} and {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} , {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} or {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} or {b}")),
            inner.clone().prop_map(|a| format!("not ({a})")),
            inner.prop_map(|a| format!("!{a}")),
        ]
    })
}

proptest! {
    #[test]
    fn parsing_never_panics_and_round_trips(text in "[a-c=!(), inotdr<>.\\[\\]\"'*0-9M\u{e9}]{0,40}") {
        round_trip(&text)?;
    }

    #[test]
    fn a_valid_selector_round_trips(text in selector_text()) {
        prop_assert!(text.parse::<Selector>().is_ok(), "{} {:?}", text, text.parse::<Selector>());
        round_trip(&text)?;
    }
}
