//! Queries contain only what was requested; steps fit. `query/tests/query/metrics.rs` tests a real
//! InfluxDB.

use std::time::Duration;

use muster_schemas::{DeviceId, ProjectId, Timestamp};
use uuid::Uuid;

use super::plan::{MAX_POINTS, Range, parse_duration, show_duration, too_many_points};
use super::{Function, MetricBuckets, MetricQuery, field_keys};

fn metric_query<'a>(
    measurement: &'a str,
    field: &'a str,
    group_by: &'a [String],
    filters: &'a [(String, String)],
    (project, buckets): (&'a ProjectId, &'a MetricBuckets),
) -> MetricQuery<'a> {
    MetricQuery {
        project,
        device: DeviceId(Uuid::from_u128(1)),
        buckets,
        measurement,
        field,
        from: Timestamp(1_000_000),
        to: Timestamp(61_000_000),
        step: Duration::from_secs(10),
        function: Function::P95,
        group_by,
        filters,
    }
}

#[test]
fn a_metric_query_is_formatted_as_influxql() {
    let project = ProjectId::default_project();
    let group = ["cpu".to_owned()];
    let filters = [("cpu".to_owned(), "cpu0".to_owned())];
    assert_eq!(
        metric_query("cpu", "usage_user", &group, &filters, (&project, &MetricBuckets::default()))
            .influxql(),
        "SELECT percentile(\"usage_user\", 95) AS \"value\" FROM \"cpu\" \
         WHERE \"project\" = 'default' \
         AND \"device_id\" = '00000000-0000-0000-0000-000000000001' \
         AND \"cpu\" = 'cpu0' AND time >= 1000000u AND time < 61000000u \
         GROUP BY time(10000000u), \"cpu\" fill(none)"
    );
}

#[test]
fn names_and_values_are_escaped_in_quotes() {
    let project = ProjectId::default_project();
    for evil in ["'", "\"", "\\", "\\'", "' OR 1=1 --", "\"; DROP DATABASE x", "a\nb", "\\\\\""] {
        let group = [evil.to_owned()];
        let filters = [(evil.to_owned(), evil.to_owned())];
        let places = MetricBuckets { own: Some(evil.to_owned()), ..MetricBuckets::default() };
        let text = metric_query(evil, evil, &group, &filters, (&project, &places)).influxql();
        assert!(is_closed(&text), "{text}");
    }
}

#[test]
fn a_project_with_its_own_bucket_is_queried_in_both_buckets() {
    let project = ProjectId::default_project();
    let places = MetricBuckets {
        own: Some("project-default".to_owned()),
        own_database: Some("muster-project-default".to_owned()),
        are_names_shared: true,
        is_own_only: false,
    };
    let text = metric_query("cpu", "v", &[], &[], (&project, &places)).influxql();
    assert!(text.contains(" FROM \"cpu\", \"project-default\".\"cpu\" WHERE "), "{text}");
    assert_eq!(
        field_keys(&places, &["cpu".to_owned(), "mem".to_owned()]).as_deref(),
        Some(
            "SHOW FIELD KEYS FROM \"cpu\", \"project-default\".\"cpu\", \"mem\", \"project-default\".\"mem\""
        )
    );
    // The names in the database itself are hidden from other projects.
    let places = MetricBuckets { are_names_shared: false, ..places };
    assert_eq!(
        field_keys(&places, &["cpu".to_owned()]).as_deref(),
        Some("SHOW FIELD KEYS FROM \"project-default\".\"cpu\"")
    );
    let alone = places.own_only().unwrap();
    let text = metric_query("cpu", "v", &[], &[], (&project, &alone)).influxql();
    assert!(text.contains(" FROM \"project-default\".\"cpu\" WHERE "), "{text}");
    assert_eq!(field_keys(&MetricBuckets::default(), &["cpu".to_owned()]), None);
    let databases: Vec<_> = places.databases("muster").collect();
    assert_eq!(databases, ["muster", "muster-project-default"]);
}

/// Whether the text of a query outside of quotes is only that of the template.
fn is_closed(text: &str) -> bool {
    let mut outside = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (None, c) => outside.push(c),
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
        }
    }
    quote.is_none()
        && !outside.contains([';', '\\'])
        && !outside.contains("DROP")
        && !outside.contains("1=1")
}

#[test]
fn steps_are_selected_and_too_many_points_are_rejected() {
    let hour = Range::new(Timestamp(0), Timestamp(3_600_000_000), None);
    assert_eq!(hour.step, Duration::from_secs(30));
    assert!(hour.points() <= 130, "{}", hour.points());
    let year =
        Range::new(Timestamp(0), Timestamp(31_536_000_000_000), Some(Duration::from_secs(1)));
    let step = too_many_points(&year, year.points()).unwrap();
    let fitting = Range { step, ..year };
    assert_eq!(too_many_points(&fitting, fitting.points()), None);
    assert!(fitting.points() > MAX_POINTS / 4, "needlessly coarse: {}", fitting.points());
}

#[test]
fn durations_round_trip() {
    for text in ["90s", "5m", "1h", "36h", "7d"] {
        assert_eq!(show_duration(parse_duration(text).unwrap()), text);
    }
    assert_eq!(parse_duration("2w"), parse_duration("14d"));
    for bad in ["", "5", "h", "0s", "-1h", "1.5s", "99999999999w"] {
        assert_eq!(parse_duration(bad), None, "{bad}");
    }
}
