//! The encoder, compared with `influxdb-line-protocol`, the parser of InfluxDB 3, as oracle.

use std::collections::BTreeMap;

use influxdb_line_protocol::{FieldValue as Parsed, ParsedLine, parse_lines};
use muster_schemas::Timestamp;
use muster_schemas::metrics::MetricName;
use proptest::prelude::*;

use super::*;

type Failure = Box<dyn std::error::Error>;

fn encoded(points: Vec<Point>, name: &str) -> Result<Lines, Failure> {
    let project: ProjectId = "plant-7".parse()?;
    let device: DeviceId = "0198c0de-7000-7abc-8def-0123456789ab".parse()?;
    let batch = MetricBatch { time: Timestamp(1_795_420_800_000_001), points };
    Ok(encode(&batch, &Origin { project: &project, device, name }))
}

#[test]
fn lines_match_telegraf_output() -> Result<(), Failure> {
    let ours = "device_id=0198c0de-7000-7abc-8def-0123456789ab,host=robot-7";
    let cases = [
        (
            Point::new("cpu").tag("cpu", "cpu0").field("usage_user", 12.5).field("n", 3_i64),
            format!("cpu,cpu=cpu0,{ours},project=plant-7 n=3i,usage_user=12.5 1795420800000001\n"),
        ),
        // The device's own `device` is kept; a tag with the name of a server's tag is not.
        (
            Point::new("disk")
                .tag("device", "sda1")
                .tag("host", "x")
                .tag("zz", "y")
                .field("ok", true),
            format!("disk,device=sda1,{ours},project=plant-7,zz=y ok=true 1795420800000001\n"),
        ),
        (
            Point::new("m s,x=")
                .tag("a b", "c,d=e")
                .field("q", FieldValue::Text("a\"b\\c\nd".into())),
            format!(
                "m\\ s\\,x=,a\\ b=c\\,d\\=e,{ours},project=plant-7 q=\"a\\\"b\\\\c d\" 1795420800000001\n"
            ),
        ),
        // What the protocol cannot represent is replaced.
        (
            Point::new("#m").tag("path", "C:\\x\\").tag("t", "a\\,b").field("f\\", 1e300),
            format!("_m,{ours},path=C:\\x/,project=plant-7,t=a/\\,b f/=1e300 1795420800000001\n"),
        ),
        (
            Point { offset: -1, ..Point::new("m").field("f", -0.0) },
            format!("m,{ours},project=plant-7 f=-0 1795420800000000\n"),
        ),
        (
            Point { offset: i64::MAX, ..Point::new("m").field("f", i64::MIN) },
            format!("m,{ours},project=plant-7 f=-9223372036854775808i 9223372036854775807\n"),
        ),
        // A point without fields makes no line.
        (Point::new("m").tag("a", "b"), String::new()),
    ];
    for (point, expected) in cases {
        let lines = encoded(vec![point], "robot-7")?;
        assert_eq!(lines.as_str(), expected);
        assert_eq!(lines.count(), usize::from(!expected.is_empty()));
    }
    Ok(())
}

/// The expected replacement of a text that the protocol may not be able to represent.
fn replaced(text: &str, measurement: bool) -> String {
    let characters: Vec<char> = text.chars().collect();
    let unsafe_after = |next: Option<&char>| {
        next.is_none_or(|c| matches!(c, ',' | ' ' | '=' | '\\' | '"') || c.is_control())
    };
    characters
        .iter()
        .enumerate()
        .map(|(at, c)| match c {
            '#' if at == 0 && measurement => '_',
            '\\' if unsafe_after(characters.get(at + 1)) => '/',
            c if c.is_ascii_control() => '_',
            c => *c,
        })
        .collect()
}

fn owned(line: &ParsedLine<'_>) -> (String, BTreeMap<String, String>, BTreeMap<String, String>) {
    let tags = line.series.tag_set.iter().flatten();
    let value = |value: &Parsed<'_>| match value {
        Parsed::I64(number) => format!("{number}i"),
        Parsed::U64(number) => format!("{number}u"),
        Parsed::F64(number) => format!("{:016x}", number.to_bits()),
        Parsed::String(text) => format!("'{text}'"),
        Parsed::Boolean(truth) => truth.to_string(),
    };
    (
        line.series.measurement.to_string(),
        tags.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        line.field_set.iter().map(|(name, field)| (name.to_string(), value(field))).collect(),
    )
}

fn expected(point: &Point) -> (String, BTreeMap<String, String>, BTreeMap<String, String>) {
    let mut tags: BTreeMap<String, String> = point
        .tags
        .iter()
        .map(|(name, value)| (replaced(name.as_str(), false), replaced(value, false)))
        .collect();
    tags.extend(
        [
            ("device_id", "0198c0de-7000-7abc-8def-0123456789ab"),
            ("host", "h"),
            ("project", "plant-7"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let value = |value: &FieldValue| match value {
        FieldValue::Int(number) => format!("{number}i"),
        FieldValue::Float(number) => format!("{:016x}", number.to_bits()),
        FieldValue::Text(text) => format!("'{}'", text.replace(['\n', '\r'], " ")),
        FieldValue::Bool(truth) => truth.to_string(),
    };
    let fields = point.fields.iter();
    (
        replaced(point.measurement.as_str(), true),
        tags,
        fields.map(|(name, field)| (replaced(name.as_str(), false), value(field))).collect(),
    )
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_]{1,8}", "[ -~äß€😀]{1,12}", "[,= \\\\\"#a]{1,6}"]
}

fn field() -> impl Strategy<Value = FieldValue> {
    prop_oneof![
        any::<i64>().prop_map(FieldValue::Int),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(FieldValue::Float),
        any::<f32>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| FieldValue::Float(f64::from(number))),
        any::<bool>().prop_map(FieldValue::Bool),
        "[ -~\n\r\tä€😀]{0,20}".prop_map(FieldValue::Text),
    ]
}

fn point() -> impl Strategy<Value = Point> {
    let tags = proptest::collection::btree_map(text().prop_map(MetricName::from), text(), 0..5);
    let fields = proptest::collection::btree_map(text().prop_map(MetricName::from), field(), 1..5);
    (text(), tags, fields, any::<i32>()).prop_map(|(measurement, tags, fields, offset)| Point {
        measurement: measurement.into(),
        tags,
        fields,
        offset: i64::from(offset),
    })
}

/// Whether all names stay distinct: no store can distinguish two that become equal by replacement.
fn has_distinct_names(point: &Point) -> bool {
    let (_, tags, fields) = expected(point);
    tags.len() == point.tags.len() + 3 && fields.len() == point.fields.len()
}

proptest! {
    #[test]
    fn every_point_round_trips(
        points in proptest::collection::vec(point().prop_filter("distinct", has_distinct_names), 1..5)
    ) {
        let lines = encoded(points.clone(), "h").map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(lines.count(), points.len());
        prop_assert_eq!(lines.as_str().lines().count(), points.len());
        for (point, line) in points.iter().zip(parse_lines(lines.as_str())) {
            let line = line.map_err(|error| TestCaseError::fail(format!("{error}: {}", lines.as_str())))?;
            prop_assert_eq!(owned(&line), expected(point), "{}", lines.as_str());
            prop_assert_eq!(line.timestamp, Some(1_795_420_800_000_001 + point.offset));
        }
    }
}
