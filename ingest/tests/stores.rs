//! Metric stores of every generation: the write API of 2.x on a real server of another vendor
//! (VictoriaMetrics), the creation of what a 2.x lacks on a fake one, and any store given by
//! `MUSTER_TEST_INFLUX_URL`, with `MUSTER_TEST_INFLUX_DATABASE`, `…_ORG` and `…_TOKEN`, or `…_USER`
//! and `…_PASSWORD`.

#![allow(clippy::too_many_lines, reason = "a test is a sequence of steps")]

#[expect(dead_code, reason = "the other tests read more")]
mod support;

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use axum::{Json, Router};
use muster_ingest::metrics::{MetricSink, Outcome, SinkSettings};
use muster_metric_store::{
    Api, Credentials, InfluxClient, Lines, MetricBucket, StoreError, StoreSettings, WriteResponse,
};
use muster_schemas::{ProjectId, Retention};
use serde_json::{Value, json};
use support::Failure;

#[tokio::test(flavor = "multi_thread")]
async fn victoria_metrics_accepts_the_v2_write_api() -> Result<(), Failure> {
    support::install_crypto();
    let folder = tempfile::tempdir()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let program =
        std::env::var_os("MUSTER_VICTORIA_METRICS").unwrap_or_else(|| "victoria-metrics".into());
    let _server = tokio::process::Command::new(program)
        .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
        .arg(format!("-storageDataPath={}", folder.path().display()))
        .args(["-search.latencyOffset=0s", "-retentionPeriod=100y"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start victoria-metrics: {error}; scripts/deps test"))?;
    let url = format!("http://127.0.0.1:{port}");
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut tries = 0;
    while http.get(format!("{url}/health")).send().await.is_err() {
        tries += 1;
        assert!(tries < 200, "it does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    for gzip in [false, true] {
        let store = StoreSettings {
            api: Api::V2,
            credentials: token("muster"),
            gzip,
            ..StoreSettings::new(&url, "metrics")
        };
        let client = Arc::new(InfluxClient::new(store)?);
        // VictoriaMetrics has no setup and no buckets, and needs none.
        client.set_up("password").await?;
        client.create_database().await?;
        // It has no configurable retention either.
        let kept = client.apply_retention("project-x", Retention::Days(30)).await;
        assert!(matches!(kept, Err(StoreError::NoBuckets { .. })));
        let (sink, _task) = MetricSink::start(client, SinkSettings::default());
        let lines = (1..=1000)
            .map(|n| format!("m,gzip={gzip} v={n} {}\n", 1_795_420_800_000_000_i64 + n * 1000))
            .collect();
        assert_eq!(sink.submit(Lines::from_text(lines)).await?.await, Outcome::Written);
        let export = format!("{url}/api/v1/export?match=m_v%7Bgzip=%22{gzip}%22%7D");
        let mut values = Vec::new();
        for _ in 0..100 {
            // Without a flush, new points become visible only after some seconds.
            http.get(format!("{url}/internal/force_flush")).send().await?;
            let text = http.get(&export).send().await?.text().await?;
            values = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .flat_map(|series| series["values"].as_array().cloned().unwrap_or_default())
                .collect();
            if values.len() >= 1000 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        values.sort_by_key(Value::as_i64);
        let expected: Vec<Value> = (1..=1000).map(Value::from).collect();
        assert_eq!(values, expected, "gzip={gzip}");
    }
    Ok(())
}

/// The requests that a fake InfluxDB 2.x received.
type RecordedRequests = Arc<Mutex<Vec<(String, Value)>>>;

/// A new InfluxDB 2.x without setup, following its API reference.
async fn new_v2() -> Result<(String, RecordedRequests), Failure> {
    let requests = RecordedRequests::default();
    let kept = requests.clone();
    let app =
        Router::new().fallback(async move |method: Method, uri: Uri, body: axum::body::Bytes| {
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let mut requests = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let has = |text: &str| requests.iter().any(|(request, _)| request == text);
            let is_set_up = has("POST /api/v2/setup");
            let has_bucket = has("POST /api/v2/buckets");
            let request = format!("{method} {}", uri.path());
            let response = match request.as_str() {
                "GET /ping" => (StatusCode::OK, json!({"version": "2.7.11"})),
                "GET /api/v2/setup" => (StatusCode::OK, json!({"allowed": !is_set_up})),
                "GET /api/v2/orgs" => (StatusCode::OK, json!({"orgs": [{"id": "0a1b"}]})),
                "POST /api/v2/buckets" if has_bucket => {
                    (StatusCode::UNPROCESSABLE_ENTITY, json!({"message": "bucket exists"}))
                }
                "POST /api/v2/setup" | "POST /api/v2/buckets" => (StatusCode::CREATED, json!({})),
                "POST /api/v2/write" if has_bucket => (StatusCode::NO_CONTENT, json!({})),
                _ => (StatusCode::NOT_FOUND, json!({"message": "bucket \"metrics\" not found"})),
            };
            requests.push((request, body));
            (response.0, Json(response.1))
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((url, requests))
}

fn token(organization: &str) -> Credentials {
    Credentials::Token { organization: Some(organization.to_owned()), token: "secret".to_owned() }
}

fn v2_client(url: &str) -> Result<InfluxClient, Failure> {
    support::install_crypto();
    Ok(InfluxClient::new(StoreSettings {
        credentials: token("plant"),
        ..StoreSettings::new(url, "metrics")
    })?)
}

#[tokio::test]
async fn a_new_v2_is_set_up_once() -> Result<(), Failure> {
    let (url, requests) = new_v2().await?;
    let client = v2_client(&url)?;
    client.set_up("long password").await?;
    client.set_up("long password").await?;
    let requests = requests.lock().map_err(|_| "poisoned")?;
    let setups: Vec<_> =
        requests.iter().filter(|(request, _)| request == "POST /api/v2/setup").collect();
    let expected = json!({"username": "muster", "password": "long password", "org": "plant",
        "bucket": "metrics", "token": "secret"});
    assert_eq!(setups.len(), 1);
    assert_eq!(setups[0].1, expected);
    Ok(())
}

#[tokio::test]
async fn a_missing_bucket_is_created_at_the_first_write() -> Result<(), Failure> {
    let (url, requests) = new_v2().await?;
    let client = Arc::new(v2_client(&url)?);
    let body = client.pack(b"m v=1 1\n".to_vec());
    assert!(matches!(client.write(body).await, WriteResponse::DatabaseMissing(_)));
    let (sink, _task) = MetricSink::start(client, SinkSettings::default());
    assert_eq!(sink.submit(Lines::from_text("m v=1 1\n".into())).await?.await, Outcome::Written);
    let requests = requests.lock().map_err(|_| "poisoned")?;
    let made: Vec<_> =
        requests.iter().filter(|(request, _)| request == "POST /api/v2/buckets").collect();
    let expected = json!({"orgID": "0a1b", "name": "metrics", "retentionRules": []});
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].1, expected);
    Ok(())
}

/// An InfluxDB 2.x with the bucket `metrics`: buckets and InfluxQL mappings follow its API
/// reference, virtual mappings follow its `dbrp/service.go`.
async fn v2_with_buckets() -> Result<(String, Arc<Mutex<Buckets>>), Failure> {
    let state = Arc::new(Mutex::new(Buckets::default()));
    let kept = state.clone();
    let app =
        Router::new().fallback(async move |method: Method, uri: Uri, body: axum::body::Bytes| {
            let mut state = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let url = reqwest::Url::parse(&format!("http://x{uri}"));
            let query = |name: &str| {
                let pair = url.as_ref().ok()?.query_pairs().find(|(key, _)| key == name)?;
                Some(pair.1.into_owned())
            };
            let text = String::from_utf8_lossy(&body).into_owned();
            let body: Value = serde_json::from_str(&text).unwrap_or_default();
            let path = uri.path().trim_start_matches("/api/v2/");
            let response = match (method.as_str(), path) {
                ("GET", "/ping") => (StatusCode::OK, json!({"version": "2.7.11"})),
                ("GET", "orgs") => (StatusCode::OK, json!({"orgs": [{"id": "0a1b"}]})),
                ("GET", "buckets") => {
                    let name = query("name").unwrap_or_default();
                    let found: Vec<_> =
                        state.buckets.iter().filter(|it| it["name"] == name.as_str()).collect();
                    (StatusCode::OK, json!({ "buckets": found }))
                }
                ("POST", "buckets") => {
                    let mut bucket = body;
                    bucket["id"] = format!("b{}", state.buckets.len()).into();
                    state.buckets.push(bucket.clone());
                    (StatusCode::CREATED, bucket)
                }
                ("PATCH", path) => {
                    let id = path.trim_start_matches("buckets/");
                    if let Some(bucket) = state.buckets.iter_mut().find(|it| it["id"] == id) {
                        bucket["retentionRules"] = body["retentionRules"].clone();
                    }
                    (StatusCode::OK, json!({}))
                }
                ("GET", "dbrps") => {
                    let found = state.mapped(&query("db").unwrap_or_default(), None, false);
                    (StatusCode::OK, json!({ "content": found }))
                }
                ("POST", "dbrps") => {
                    let mut mapping = body;
                    let is_first =
                        !state.mappings.iter().any(|it| it["database"] == mapping["database"]);
                    if is_first {
                        mapping["default"] = true.into();
                    }
                    state.mappings.push(mapping);
                    (StatusCode::CREATED, json!({}))
                }
                ("POST", "write") => {
                    let bucket = query("bucket").unwrap_or_default();
                    if state.buckets.iter().any(|it| it["name"] == bucket.as_str()) {
                        state.written.push((bucket, text.trim().to_owned()));
                        (StatusCode::NO_CONTENT, json!({}))
                    } else {
                        let message = format!("bucket \"{bucket}\" not found");
                        (StatusCode::NOT_FOUND, json!({ "message": message }))
                    }
                }
                _ => (StatusCode::NOT_FOUND, json!({"message": "no such path"})),
            };
            (response.0, Json(response.1))
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((url, state))
}

#[derive(Default)]
struct Buckets {
    buckets: Vec<Value>,
    mappings: Vec<Value>,
    /// Bucket and lines.
    written: Vec<(String, String)>,
}

impl Buckets {
    /// The mappings of a database: the stored ones, of which the first is the default, and a
    /// virtual one for each bucket by its name, which is a default unless another match has the
    /// same bucket.
    fn mapped(&self, database: &str, policy: Option<&str>, only_default: bool) -> Vec<Value> {
        let fits = |it: &Value| {
            it["database"] == database
                && policy.is_none_or(|policy| it["retention_policy"] == policy)
                && (!only_default || it["default"] == true)
        };
        let mut found: Vec<Value> = self.mappings.iter().filter(|it| fits(it)).cloned().collect();
        for bucket in &self.buckets {
            let name = bucket["name"].as_str().unwrap_or_default();
            let (database, policy) = name.split_once('/').unwrap_or((name, "autogen"));
            let is_default = !found.iter().any(|it| it["bucketID"] == bucket["id"]);
            let made_up = json!({"database": database, "retention_policy": policy, "virtual": true,
                "bucketID": bucket["id"], "default": is_default});
            if fits(&made_up) {
                found.push(made_up);
            }
        }
        found
    }
}

#[tokio::test]
async fn in_v2_a_project_gets_a_bucket_that_influxql_can_query() -> Result<(), Failure> {
    let (url, state) = v2_with_buckets().await?;
    let client = Arc::new(v2_client(&url)?);
    // Nothing is created for a project that never had its own retention.
    client.create_database().await?;
    client.reset_retention("project-a").await?;
    assert_eq!(state.lock().map_err(|_| "poisoned")?.buckets.len(), 1);

    for _ in 0..2 {
        client.apply_retention("project-a", Retention::Days(30)).await?;
    }
    let (sink, _task) = MetricSink::start(client.clone(), SinkSettings::default());
    let own = MetricBucket::own(&"a".parse::<ProjectId>()?, Retention::Days(30));
    // A missing bucket is created at the first write.
    let removed = MetricBucket::own(&"b".parse::<ProjectId>()?, Retention::Days(7));
    let waiting = [
        sink.submit(Lines::from_text("m v=1 1\n".into())).await?,
        sink.submit_to(own, Lines::from_text("m v=2 2\n".into())).await?,
        sink.submit_to(removed, Lines::from_text("m v=3 3\n".into())).await?,
    ];
    for completion in waiting {
        assert_eq!(completion.await, Outcome::Written);
    }
    client.apply_retention("project-a", Retention::Days(90)).await?;
    client.reset_retention("project-b").await?;

    let state = state.lock().map_err(|_| "poisoned")?;
    let rule = |bucket: &Value| bucket["retentionRules"][0]["everySeconds"].as_u64();
    let buckets: Vec<_> = state
        .buckets
        .iter()
        .map(|it| (it["name"].as_str().unwrap_or_default(), rule(it)))
        .collect();
    assert_eq!(
        buckets,
        [
            ("metrics", None),
            ("metrics-project-a", Some(90 * 86_400)),
            ("metrics-project-b", Some(0))
        ]
    );
    let mut written = state.written.clone();
    written.sort();
    let line = |bucket: &str, line: &str| (bucket.to_owned(), line.to_owned());
    assert_eq!(
        written,
        [
            line("metrics", "m v=1 1"),
            line("metrics-project-a", "m v=2 2"),
            line("metrics-project-b", "m v=3 3")
        ]
    );
    let mappings: Vec<_> = state
        .mappings
        .iter()
        .map(|it| {
            let text = |name: &str| it[name].as_str().unwrap_or_default();
            (text("database"), text("retention_policy"), text("bucketID"), it["default"] == true)
        })
        .collect();
    assert_eq!(
        mappings,
        [
            ("metrics", "all-projects", "b0", true),
            ("metrics", "project-a", "b1", false),
            ("metrics", "project-b", "b2", false),
        ]
    );
    // InfluxQL resolves the default if the query names no policy, then the policy; each resolution
    // must match exactly once.
    for (database, named, bucket) in [
        ("metrics", None, "b0"),
        ("metrics", Some("autogen"), "b0"),
        ("metrics", Some("project-a"), "b1"),
        ("metrics-project-a", None, "b1"),
    ] {
        let one = |found: Vec<Value>| {
            assert_eq!(found.len(), 1, "{database} {named:?}: {found:?}");
            found.into_iter().next().unwrap_or_default()
        };
        let default = || one(state.mapped(database, None, true))["retention_policy"].clone();
        let policy = named.map_or_else(default, Value::from);
        let found = one(state.mapped(database, policy.as_str(), false));
        assert_eq!(found["bucketID"], bucket, "{database} {named:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_store_keeps_written_points_and_supports_influxql() -> Result<(), Failure> {
    support::install_crypto();
    let variable = |name: &str| std::env::var(format!("MUSTER_TEST_INFLUX_{name}")).ok();
    // Without a configured store: Debian's InfluxDB 1.6.
    let own =
        if variable("URL").is_none() { Some(support::Influx::start("").await?) } else { None };
    let url =
        variable("URL").or_else(|| own.as_ref().map(support::Influx::url)).unwrap_or_default();
    let database = variable("DATABASE").unwrap_or_else(|| "muster_test".to_owned());
    let organization = variable("ORG").or_else(|| Some("muster".to_owned()));
    let credentials = match (variable("TOKEN"), variable("USER")) {
        (Some(token), _) => Credentials::Token { organization, token },
        (None, Some(user)) => {
            Credentials::Password { user, password: variable("PASSWORD").unwrap_or_default() }
        }
        (None, None) => Credentials::Open,
    };
    let store = StoreSettings { credentials, ..StoreSettings::new(&url, &database) };
    let client = Arc::new(InfluxClient::new(store.clone())?);
    client.create_database().await?;
    let (sink, _task) = MetricSink::start(client, SinkSettings::default());
    let measurement = format!("muster_test_{}", uuid::Uuid::now_v7().simple());
    let lines = format!("{measurement},place=a f=1.5,i=7i,b=true,t=\"x\" 1795420800000001\n");
    assert_eq!(sink.submit(Lines::from_text(lines)).await?.await, Outcome::Written);

    let query = format!("SELECT f, i, b, t, place FROM {measurement}");
    let rows = InfluxClient::new(store)?.query(&query).await?;
    let expected = json!([[1_795_420_800_000_001_i64, 1.5, 7, true, "x", "a"]]);
    assert_eq!(json!(rows[0].values), expected);
    Ok(())
}
