//! The metric sink against a real InfluxDB 1.x, and against a fake store for responses that a
//! healthy one does not send.

mod fake_store;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_ingest::metrics::{MetricSink, Outcome, SinkSettings, SinkTask};
use muster_metric_store::{InfluxClient, Lines, MetricBucket, Origin, StoreSettings, encode};
use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::{ProjectId, Retention, Timestamp};
use support::{Failure, Influx};

fn sink(url: &str, gzip: bool, settings: SinkSettings) -> Result<(MetricSink, SinkTask), Failure> {
    support::install_crypto();
    let store = StoreSettings {
        gzip,
        timeout: Duration::from_secs(5),
        ..StoreSettings::new(url, "metrics")
    };
    Ok(MetricSink::start(Arc::new(InfluxClient::new(store)?), settings))
}

/// Settings with delays short enough for tests.
fn fast_settings() -> SinkSettings {
    SinkSettings {
        linger: Duration::from_millis(20),
        first_delay: Duration::from_millis(20),
        max_delay: Duration::from_millis(200),
        ..SinkSettings::default()
    }
}

/// `count` lines `m,id=ID v=N N`.
fn lines(id: usize, count: usize) -> Lines {
    Lines::from_text((1..=count).map(|n| format!("m,id={id} v={n} {n}\n")).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_a_device_sent_can_be_queried() -> Result<(), Failure> {
    let store = Influx::start("").await?;
    let (sink, task) = sink(&store.url(), true, fast_settings())?;
    let time = 1_795_420_800_000_001;
    let batch = MetricBatch {
        time: Timestamp(time),
        points: vec![
            Point::new("odd, name")
                .tag("pa th", "a=b,c d\"e")
                .field("float", 12.34)
                .field("tiny", 1.5e-300)
                .field("huge", f64::MAX)
                .field("int", i64::MIN)
                .field("truth", true)
                .field("text", FieldValue::Text("say \"hi\" \\ ä".into())),
            Point { offset: 5, ..Point::new("odd, name").tag("pa th", "x").field("float", 0.0) },
        ],
    };
    let project = "default".parse()?;
    let device = "0198c0de-7000-7abc-8def-0123456789ab".parse()?;
    let encoded = encode(&batch, &Origin { project: &project, device, name: "robot-7" });
    assert_eq!(sink.submit(encoded).await?.await, Outcome::Written);

    let rows = store
        .rows(r#"SELECT float, tiny, huge, int, truth, text, host, device_id, project, "pa th" FROM "odd, name""#)
        .await?;
    let expected = serde_json::json!([
        [
            time,
            12.34,
            1.5e-300,
            f64::MAX,
            i64::MIN,
            true,
            "say \"hi\" \\ ä",
            "robot-7",
            "0198c0de-7000-7abc-8def-0123456789ab",
            "default",
            "a=b,c d\"e"
        ],
        [
            time + 5,
            0,
            null,
            null,
            null,
            null,
            null,
            "robot-7",
            "0198c0de-7000-7abc-8def-0123456789ab",
            "default",
            "x"
        ],
    ]);
    // InfluxDB writes 0 for 0.0.
    assert_eq!(serde_json::to_value(rows)?, expected);
    assert!(task.drain(Duration::from_secs(5)).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_store_loses_nothing_and_memory_stays_bounded() -> Result<(), Failure> {
    let mut store = Influx::start("").await?;
    let settings = SinkSettings { max_held_bytes: 64 * 1024, max_lines: 500, ..fast_settings() };
    let (sink, task) = sink(&store.url(), true, settings)?;
    assert_eq!(sink.submit(lines(0, 100)).await?.await, Outcome::Written);

    store.kill().await?;
    let feeder = tokio::spawn({
        let sink = sink.clone();
        async move {
            let mut completions = Vec::new();
            for id in 1..=200 {
                completions.push(sink.submit(lines(id, 100)).await?);
            }
            Ok::<_, Failure>(completions)
        }
    });
    // The feeder is stopped by the limit; it has not submitted everything.
    let full = wait_for(Duration::from_secs(5), || sink.counters().snapshot().retries >= 4).await;
    let held = sink.counters().snapshot().bytes_held;
    assert!(full && held <= 64 * 1024 && held > 32 * 1024, "{held} bytes are held");
    assert!(!feeder.is_finished());

    store.restart().await?;
    for completion in feeder.await?? {
        assert_eq!(completion.await, Outcome::Written);
    }
    assert_eq!(store.count("m", "v").await?, 201 * 100);
    let counted = sink.counters().snapshot();
    assert_eq!((counted.lines_written, counted.lines_rejected), (201 * 100, 0));
    assert_eq!((counted.bytes_held, counted.messages_written), (0, 201));
    assert!(task.drain(Duration::from_secs(5)).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_are_isolated_with_the_store_s_reason() -> Result<(), Failure> {
    let store = Influx::start("").await?;
    let (sink, _task) = sink(&store.url(), true, fast_settings())?;
    assert_eq!(sink.submit(lines(0, 1)).await?.await, Outcome::Written);

    // Three messages, gathered into one batch: type conflict, no line protocol, time out of range.
    let conflict = "m,id=1 v=1i 1\nm,id=1 v=2 2\nm,id=1 w=1,v=\"x\" 3\nother v=1i 1";
    let garbage = "m,id=2 v=1 1\nno line at all\nm,id=2 v= 1\nm,id=2 v=9 9";
    let time = format!("m,id=3 v=1 {}\nm,id=3 v=1 1", i64::MAX);
    let mut completions = Vec::new();
    for text in [conflict, garbage, &time] {
        completions.push(sink.submit(Lines::from_text(text.to_owned())).await?);
    }
    completions.push(sink.submit(lines(4, 1000)).await?);
    let mut found = Vec::new();
    for completion in completions {
        let rejected = match completion.await {
            Outcome::Rejected(rejected) => rejected,
            Outcome::Written => Vec::new(),
            Outcome::Abandoned => return Err("abandoned".into()),
        };
        for line in &rejected {
            assert!(
                ["type", "unable to parse", "time outside range"]
                    .iter()
                    .any(|w| line.reason.contains(w)),
                "{line:?}"
            );
        }
        let mut lines: Vec<String> = rejected.into_iter().map(|line| line.line).collect();
        lines.sort();
        found.push(lines);
    }
    let expected = [
        vec!["m,id=1 v=1i 1".to_owned(), "m,id=1 w=1,v=\"x\" 3".to_owned()],
        vec!["m,id=2 v= 1".to_owned(), "no line at all".to_owned()],
        vec![format!("m,id=3 v=1 {}", i64::MAX)],
        vec![],
    ];
    assert_eq!(found, expected);
    assert_eq!(store.count("m", "v").await?, 1 + 1 + 2 + 1 + 1000);
    assert_eq!(store.count("other", "v").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bad_lines_cost_few_requests() -> Result<(), Failure> {
    let store = Influx::start("").await?;
    let (sink, _task) = sink(&store.url(), true, fast_settings())?;
    let floats = (0..9).map(|n| format!("c{n} v=1 1\n")).collect();
    assert_eq!(sink.submit(Lines::from_text(floats)).await?.await, Outcome::Written);
    let before = sink.counters().snapshot().requests;

    // Every third line has a type conflict, in nine measurements.
    let text = (0..3000)
        .map(|n| format!("c{},n={n} v=1{} 1\n", n % 9, if n % 3 == 0 { "i" } else { "" }))
        .collect();
    let Outcome::Rejected(rejected) = sink.submit(Lines::from_text(text)).await?.await else {
        return Err("nothing was rejected".into());
    };
    assert_eq!(rejected.len(), 1000);
    let requests = sink.counters().snapshot().requests - before;
    assert!(requests <= 12, "{requests} requests");

    let garbage = (0..1000).map(|n| format!("garbage number {n}\nok,n={n} v=1 1\n")).collect();
    let Outcome::Rejected(rejected) = sink.submit(Lines::from_text(garbage)).await?.await else {
        return Err("nothing was rejected".into());
    };
    assert_eq!(rejected.len(), 1000);
    assert_eq!(store.count("ok", "v").await?, 1000);
    Ok(())
}

/// Regression: of alternating good and bad lines of one field, each bad line needed a separate
/// request.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_too_many_bad_lines_affects_only_itself() -> Result<(), Failure> {
    let store = Influx::start("").await?;
    let (sink, _task) = sink(&store.url(), true, fast_settings())?;
    assert_eq!(sink.submit(lines(0, 1)).await?.await, Outcome::Written);
    let before = sink.counters().snapshot().requests;
    let bad = (1..=2_000)
        .map(|n| format!("m,id=bad,n={n} v={n}{} 1\n", if n % 2 == 0 { "i" } else { "" }))
        .collect();
    let bad = sink.submit(Lines::from_text(bad)).await?;
    let good = [sink.submit(lines(1, 50)).await?, sink.submit(lines(2, 50)).await?];
    let Outcome::Rejected(rejected) = bad.await else { return Err("not rejected".into()) };
    assert!((1_000..2_000).contains(&rejected.len()), "{}", rejected.len());
    for good in good {
        assert_eq!(good.await, Outcome::Written);
    }
    let requests = sink.counters().snapshot().requests - before;
    assert!(requests <= 70, "{requests} requests");
    assert_eq!(store.count("m", "v").await?, 1 + 100 + 1_000, "the store has every good line");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_split() -> Result<(), Failure> {
    let store = Influx::start("max-body-size = 4000").await?;
    let (sink, _task) = sink(&store.url(), false, fast_settings())?;
    let huge = format!("m,id=2 t=\"{}\" 1", "x".repeat(5000));
    let mixed = Lines::from_text(format!("m,id=2 v=1 1\n{huge}\nm,id=2 v=2 2"));
    let (small, mixed) = (sink.submit(lines(1, 1000)).await?, sink.submit(mixed).await?);
    assert_eq!(small.await, Outcome::Written);
    let Outcome::Rejected(rejected) = mixed.await else { return Err("not rejected".into()) };
    assert_eq!(rejected.len(), 1);
    assert_eq!(
        (rejected[0].line.as_str(), rejected[0].reason.as_str()),
        (huge.as_str(), "Request Entity Too Large")
    );
    assert_eq!(store.count("m", "v").await?, 1002);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_with_its_own_retention_has_its_own_bucket() -> Result<(), Failure> {
    let store = Influx::start("").await?;
    let (sink, _task) = sink(&store.url(), true, fast_settings())?;
    let client = InfluxClient::new(StoreSettings::new(&store.url(), "metrics"))?;
    let policies = async || -> Result<serde_json::Value, Failure> {
        Ok(serde_json::to_value(store.rows("SHOW RETENTION POLICIES").await?)?)
    };
    let shared = serde_json::json!(["autogen", "0s", "168h0m0s", 1, true]);
    let own =
        |duration, shard| serde_json::json!([shared, ["project-a", duration, shard, 1, false]]);
    // For a project that never had a retention, only the database is created.
    client.reset_retention("project-a").await?;
    assert_eq!(policies().await?, serde_json::json!([shared]));
    for (days, duration, shard) in [
        (30, "720h0m0s", "24h0m0s"),
        (30, "720h0m0s", "24h0m0s"),
        (1, "24h0m0s", "1h0m0s"),
        (365, "8760h0m0s", "168h0m0s"),
        (9_999, "239976h0m0s", "168h0m0s"),
        (30, "720h0m0s", "24h0m0s"),
    ] {
        client.apply_retention("project-a", Retention::Days(days)).await?;
        assert_eq!(policies().await?, own(duration, shard), "{days} days");
    }

    // One batch for two buckets; points older than the policy's duration are not bad lines.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    let old = now - 40 * 86_400 * 1_000_000;
    let mixed = format!("m,id=a v=1 {old}\nm,id=a v=2 {now}\nm,id=a v=3i {now}\n");
    let bucket = MetricBucket::own(&"a".parse::<ProjectId>()?, Retention::Days(30));
    let first = sink.submit_to(bucket.clone(), Lines::from_text(mixed)).await?;
    let other = sink.submit(lines(0, 2)).await?;
    let Outcome::Rejected(rejected) = first.await else { return Err("none is rejected".into()) };
    assert_eq!(other.await, Outcome::Written);
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert!(rejected[0].line.contains("3i"), "{rejected:?}");
    assert_eq!(store.count("\"project-a\".m", "v").await?, 1);
    assert_eq!(store.count("m", "v").await?, 2);

    // The policy was dropped: it is created again, and nothing is lost.
    store.rows("DROP RETENTION POLICY \"project-a\" ON metrics").await?;
    let line = Lines::from_text(format!("m,id=a v=4 {now}\n"));
    assert_eq!(sink.submit_to(bucket, line).await?.await, Outcome::Written);
    assert_eq!(policies().await?, own("720h0m0s", "24h0m0s"));

    // Back to the shared retention: existing points are kept as long as those of the database.
    client.reset_retention("project-a").await?;
    assert_eq!(policies().await?, own("0s", "168h0m0s"));
    Ok(())
}

/// Regression: a string in `cpu.usage_user` made the store refuse numbers of all other devices, in
/// other projects, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_does_not_affect_the_types_or_names_of_another() -> Result<(), Failure> {
    let store = Influx::start("").await?;
    let (sink, _task) = sink(&store.url(), true, fast_settings())?;
    let client = InfluxClient::new(StoreSettings::new(&store.url(), "metrics"))?;
    let own = |project: &str| -> Result<MetricBucket, Failure> {
        Ok(MetricBucket::own(&project.parse::<ProjectId>()?, Retention::Default))
    };
    for project in ["a", "b"] {
        client.apply_retention(&format!("project-{project}"), Retention::Default).await?;
    }
    let line = |text: &str| Lines::from_text(text.to_owned());
    let writes = [
        (own("a")?, "q,project=a size=\"x\",secret=1 1\n"),
        (own("b")?, "q,project=b size=2.5 1\n"),
        (MetricBucket::Shared, "q,project=default size=true 1\n"),
        // Created at the first write.
        (own("c")?, "q,project=c size=7i 1\n"),
    ];
    for (bucket, text) in writes {
        assert_eq!(sink.submit_to(bucket, line(text)).await?.await, Outcome::Written, "{text}");
    }
    let fields =
        serde_json::to_value(store.rows("SHOW FIELD KEYS FROM \"project-b\".\"q\"").await?)?;
    assert_eq!(fields, serde_json::json!([["size", "float"]]));
    let policies = serde_json::to_value(store.rows("SHOW RETENTION POLICIES").await?)?;
    let of_c = serde_json::json!(["project-c", "0s", "168h0m0s", 1, false]);
    assert!(policies.as_array().is_some_and(|it| it.contains(&of_c)), "{policies}");
    Ok(())
}

async fn wait_for(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}
