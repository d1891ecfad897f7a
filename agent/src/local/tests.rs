//! Tests of applications' metrics: what is accepted, and that nothing they write does harm.

use muster_schemas::Timestamp;
use muster_schemas::metrics::{FieldValue, MetricBatch};
use proptest::prelude::*;
use uuid::Uuid;

use super::sockets::{ListenerSettings, Listeners};
use super::*;
use crate::clock::Moment;
use crate::metrics::{Group, GroupSet};

const NOW: i64 = 1_795_420_800_000_000;

fn at(mono: u64) -> Moment {
    Moment { boot: Uuid::from_u128(1), mono, wall: Timestamp(NOW) }
}

fn intake(quota: Quota) -> PointQueue {
    let intake = PointQueue::default();
    intake.set(quota, GroupSet::NONE.with(Group::Mem));
    intake
}

/// Returns the points as `measurement tags fields offset`, or the causes of dropped ones.
fn accepted(format: Format, text: &str) -> (Vec<String>, Vec<&'static str>) {
    let intake = intake(Quota::default());
    intake.accept(format, text.as_bytes(), &at(1_000_000));
    let shown = intake.drain(&at(3_000_000)).into_iter().map(|point| {
        let tags: Vec<String> = point.tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let fields: Vec<String> = point
            .fields
            .iter()
            .map(|(name, value)| match value {
                FieldValue::Float(number) => format!("{name}={number:?}"),
                FieldValue::Int(number) => format!("{name}={number}i"),
                FieldValue::Bool(is) => format!("{name}={is}"),
                FieldValue::Text(text) => format!("{name}={text:?}"),
            })
            .collect();
        format!("{} {} {} {}", point.measurement, tags.join(","), fields.join(","), point.offset)
    });
    let shown = shown.collect();
    let counts = intake.counts();
    let dropped = Cause::ALL
        .into_iter()
        .flat_map(|cause| std::iter::repeat_n(cause.as_str(), counts.dropped_for(cause) as usize));
    (shown, dropped.collect())
}

fn check(format: Format, cases: &[(&str, &[&str], &[&str])]) {
    for (text, points, dropped) in cases {
        let (found, causes) = accepted(format, text);
        assert_eq!(
            (found, causes.as_slice()),
            (points.iter().map(|p| (*p).to_owned()).collect(), *dropped),
            "{text}"
        );
    }
}

#[test]
fn line_protocol_is_accepted() {
    let long = format!("m {}=1", "f".repeat(200));
    check(
        Format::Lines,
        &[
            (
                "app,queue=a len=3i,ok=true,load=0.5,word=\"x y\"",
                &["app queue=a len=3i,load=0.5,ok=true,word=\"x y\" -2000000"],
                &[],
            ),
            (
                "# a comment\n\n  a x=1 \nb x=2\r\n",
                &["a  x=1.0 -2000000", "b  x=2.0 -2000000"],
                &[],
            ),
            // One second before now, in each unit.
            ("a x=1 1795420799", &["a  x=1.0 -3000000"], &[]),
            ("a x=1 1795420799000", &["a  x=1.0 -3000000"], &[]),
            ("a x=1 1795420799000000", &["a  x=1.0 -3000000"], &[]),
            ("a x=1 1795420799000000000", &["a  x=1.0 -3000000"], &[]),
            ("a x=1 0\na x=1 -9223372036854775808\na x=1 9223372036854775807", &[], &["time"; 3]),
            ("a x=1 1795507200000000000", &[], &["time"]),
            ("nonsense\na x=nan\na x=inf\na x=\na\n,=1 x=2\na x=1i2", &[], &["malformed"; 7]),
            (
                "a,host=h,project=p,device=d,device_id=i,my=tag x=1,host=2",
                &["a my=tag x=1.0 -2000000"],
                &[],
            ),
            ("a host=\"x\"", &[], &["malformed"]),
            (
                "mem used=1i\nmuster_agent_local points=1i\n_a x=1\na time=5\na,_t=1 x=1",
                &[],
                &["name"; 5],
            ),
            ("cpu x=1", &["cpu  x=1.0 -2000000"], &[]),
            // Built-in fields keep their types, whether or not the agent samples the group.
            (
                "temp temp=45i\ncpu usage_user=\"x\"\nnet speed=1.5",
                &["temp  temp=45.0 -2000000"],
                &["type"; 2],
            ),
            (&long, &[], &["too_long"]),
            (&format!("a x=\"{}\"", "y".repeat(9000)), &[], &["too_long"]),
            (
                &format!("a {}", (0..65).map(|n| format!("f{n}=1")).collect::<Vec<_>>().join(",")),
                &[],
                &["too_many"],
            ),
        ],
    );
}

#[test]
fn json_is_accepted() {
    check(
        Format::Json,
        &[
            (
                r#"{"measurement":"app","tags":{"q":"a","n":1,"no":null},"fields":{"len":3,"ok":true,"w":"x","no":null}}"#,
                &["app n=1,q=a len=3.0,ok=true,w=\"x\" -2000000"],
                &[],
            ),
            (
                r#"[{"measurement":"a","fields":{"x":1},"time":"2026-11-23T07:59:59Z"}, 7, {"measurement":"a","fields":{"x":1},"time":1795420799,"unit":"s"}]"#,
                &["a  x=1.0 -3000000", "a  x=1.0 -3000000"],
                &["malformed"],
            ),
            (
                r#"{"measurement":"a","fields":{"x":1},"time":1795420798.5}"#,
                &["a  x=1.0 -3500000"],
                &[],
            ),
            (
                r#"{"measurement":"a","fields":{"x":1},"time":1795420799,"unit":"ns"}"#,
                &[],
                &["time"],
            ),
            (r#"{"measurement":"a","fields":{"x":1},"time":1e300}"#, &[], &["time"]),
            (r#"{"measurement":"a","fields":{"x":1},"time":"tomorrow"}"#, &[], &["time"]),
            (
                r#"{"measurement":"a\u001b","tags":{"q\n":"1\n2"},"fields":{"x\t":1}}"#,
                &["a_ q_=1_2 x_=1.0 -2000000"],
                &[],
            ),
            (r#"{"measurement":"a","fields":{"x":{}}}"#, &[], &["malformed"]),
            (r#"{"measurement":"a","fields":{"x":1e999}}"#, &[], &["malformed"]),
            (r#"{"measurement":"a","fields":{}}"#, &[], &["malformed"]),
            (r#"{"measurement":"a","field":{"x":1}}"#, &[], &["malformed"]),
            (r#"{"fields":{"x":1}}"#, &[], &["malformed"]),
            ("", &[], &[]),
            ("{", &[], &["malformed"]),
        ],
    );
    let nested = "[".repeat(60_000);
    assert_eq!(accepted(Format::Json, &nested).1, ["malformed"]);
}

#[test]
fn a_million_series_and_a_flood_stay_within_the_quota() {
    let intake = intake(Quota { series: 100, rate: 500 });
    let mut sent = 0_u64;
    for millis in 0..200_000_u64 {
        let lines: String = (0..5).map(|n| format!("a,s={} x=1\n", millis * 5 + n)).collect();
        intake.accept(Format::Lines, lines.as_bytes(), &at(millis * 1000));
        sent += 5;
        if intake.is_send_due() || millis % 10_000 == 0 {
            assert!(intake.drain(&at(millis * 1000)).len() <= 5000);
        }
    }
    let counts = intake.counts();
    assert_eq!(counts.accepted + counts.total_dropped(), sent);
    assert_eq!((counts.accepted, counts.series), (100, 100));
    // 500 per second and the initial burst were read, and no more.
    let read = counts.accepted + counts.dropped_for(Cause::Series);
    assert!((104_000..=105_001).contains(&read), "{read}");
    // An hour later the earlier series have expired.
    let later = at(4_000_000_000);
    intake.accept(Format::Lines, b"b,s=1 x=1", &later);
    assert_eq!((intake.counts().accepted, intake.counts().series), (101, 1));
}

#[test]
fn the_queue_is_bounded_and_fits_into_one_message() {
    let intake = intake(Quota { series: 100_000, rate: 10_000 });
    let text = "y".repeat(1000);
    for n in 0..10_000_u64 {
        intake.accept(Format::Lines, format!("a,s={n} x=\"{text}\"").as_bytes(), &at(n * 1000));
    }
    assert!(intake.counts().dropped_for(Cause::Full) > 9_000);
    let points = intake.drain(&at(10_000_000));
    let batch = MetricBatch { time: Timestamp(NOW), points }.encode();
    assert!((100_000..=200_000).contains(&batch.len()), "{}", batch.len());
    assert!(MetricBatch::decode(&batch).is_ok());
    assert!(!intake.has_points());
}

proptest! {
    #[test]
    fn every_accepted_point_is_accepted_by_ingest(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        text in "[a-z0-9,=\\\\\" .\n\u{0}-\u{1f}é]{0,200}",
        is_json in any::<bool>(),
    ) {
        let format = if is_json { Format::Json } else { Format::Lines };
        let intake = intake(Quota::default());
        intake.accept(format, &bytes, &at(5));
        intake.accept(format, text.as_bytes(), &at(6));
        let points = intake.drain(&at(7));
        let batch = MetricBatch { time: Timestamp(NOW), points };
        prop_assert_eq!(MetricBatch::decode(&batch.encode()), Ok(batch));
    }

    #[test]
    fn a_line_is_parsed_as_written(
        name in "[a-zA-Z][a-z0-9 ,=é]{0,20}[a-z]",
        tag in "[a-z ,=é]{1,20}[a-z]",
        number in any::<i64>(),
        text in "[ -~é]{0,50}",
    ) {
        let escaped = |text: &str| text.replace(',', "\\,").replace(' ', "\\ ").replace('=', "\\=");
        let measurement = name.replace(',', "\\,").replace(' ', "\\ ");
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let line = format!("{measurement},t={} n={number}i,w=\"{quoted}\"", escaped(&tag));
        let intake = intake(Quota::default());
        intake.accept(Format::Lines, line.as_bytes(), &at(5));
        let points = intake.drain(&at(5));
        prop_assume!(!name.starts_with("mem"));
        prop_assert_eq!(points.len(), 1, "{}", line);
        prop_assert_eq!(points[0].measurement.as_str(), name);
        prop_assert_eq!(points[0].tags.values().next().map(String::as_str), Some(tag.as_str()));
        let fields: Vec<&FieldValue> = points[0].fields.values().collect();
        prop_assert_eq!(fields, [&FieldValue::Int(number), &FieldValue::Text(text)]);
    }
}

#[tokio::test]
async fn the_socket_folder_outlives_the_agent_and_contains_only_sockets() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("sockets");
    let settings = ListenerSettings { udp: None, json: None, sockets: true };
    let names = || {
        let entries = std::fs::read_dir(&folder).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let first = Listeners::default();
    assert!(first.set(settings, dir.path()).is_empty());
    let inode = folder.metadata().unwrap().ino();
    assert_eq!(names(), ["metrics-datagram.sock", "metrics.sock"]);
    first.close(dir.path());
    assert!(names().is_empty());
    let second = Listeners::default();
    assert!(second.set(settings, dir.path()).is_empty());
    assert_eq!(folder.metadata().unwrap().ino(), inode, "a mounted folder stays the agent's");
    for path in [folder.join("metrics.sock"), dir.path().join("metrics.sock")] {
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok(), "{}", path.display());
    }
}

#[tokio::test]
async fn a_listener_that_cannot_be_opened_is_reported_by_its_config_variable() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let listeners = Listeners::default();
    let settings = ListenerSettings { udp: Some(port), json: None, sockets: false };
    let problems = listeners.set(settings, dir.path());
    let expected =
        format!("UDP 127.0.0.1:{port} (line protocol): Address already in use (os error 98)");
    assert_eq!(problems, [("metrics.udp".to_owned(), expected)].into());
    assert_eq!(problems, listeners.problems());
}
