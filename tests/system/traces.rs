//! The trace of one event from a device into the read models, as exported by several processes to a
//! collector of the test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use muster_backing::postgres::Tuning;
use muster_eventlog::traces::trace_id;
use muster_query::projections::{devices, timeline};
use muster_schemas::{ProjectId, StreamName, StreamVersion};
use muster_tests::fleet::Fleet;
use muster_tests::text::has_line;
use muster_tests::{SimDevice, wait};
use serde_json::Value;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

type Spans = Arc<Mutex<Vec<Value>>>;

/// Starts a collector that accepts OTLP over HTTP with JSON.
async fn collector() -> (String, Spans) {
    let spans = Spans::default();
    let kept = spans.clone();
    let app = Router::new().route(
        "/v1/traces",
        post(async move |Json(body): Json<Value>| {
            for resource in body["resourceSpans"].as_array().unwrap() {
                assert_eq!(resource["resource"]["attributes"][0]["key"], "service.name");
                for scope in resource["scopeSpans"].as_array().unwrap() {
                    kept.lock().unwrap().extend(scope["spans"].as_array().unwrap().clone());
                }
            }
            Json(serde_json::json!({}))
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, spans)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_traced_from_a_device_to_the_read_models() {
    let (url, spans) = collector().await;
    let fleet = Fleet::start_with(Tuning::Small, &[("MUSTER_OTLP_URL", &url)]).await;
    let token = fleet.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "sim").await;
    device.chain.record_many(3);
    device.sync(WAIT_TIMEOUT).await;

    let id = device.id().parse().unwrap();
    let stream = StreamName::DeviceReport(id, device.chain.epoch);
    for version in (1..=3).map(StreamVersion) {
        let trace = trace_id(&ProjectId::default_project(), &stream, version);
        let expected = [
            "event".to_owned(),
            "append".to_owned(),
            "ingest".to_owned(),
            format!("project {}", devices::TABLE),
            format!("project {}", timeline::TABLE),
        ];
        let found = wait::until("the spans of an event", WAIT_TIMEOUT, || async {
            let spans = spans.lock().unwrap();
            let of_trace = spans.iter().filter(|span| span["traceId"] == trace.as_str());
            let found: BTreeMap<String, Value> = of_trace
                .map(|span| (span["name"].as_str().unwrap().to_owned(), span.clone()))
                .collect();
            expected.iter().all(|name| found.contains_key(name)).then_some(found)
        })
        .await;
        let root = &found["event"];
        assert_eq!(root["parentSpanId"], "");
        let at = |span: &Value, name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        for name in &expected {
            let span = &found[name];
            assert!(at(span, "startTimeUnixNano") <= at(span, "endTimeUnixNano"), "{span}");
            if name != "event" {
                assert_eq!(span["parentSpanId"], root["spanId"], "{span}");
                assert!(at(span, "startTimeUnixNano") >= at(root, "startTimeUnixNano"), "{span}");
            }
        }
    }
    // An operator's request is traced in the same way.
    let stream: StreamName = format!("device/{}", device.id()).parse().unwrap();
    let trace = trace_id(&ProjectId::default_project(), &stream, StreamVersion::FIRST);
    assert!(spans.lock().unwrap().iter().any(|span| span["traceId"] == trace.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_collector_affects_nothing() {
    let nowhere = "http://127.0.0.1:9";
    let fleet = Fleet::start_with(Tuning::Small, &[("MUSTER_OTLP_URL", nowhere)]).await;
    let token = fleet.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "sim").await;
    device.chain.record_many(100);
    device.sync(WAIT_TIMEOUT).await;
    wait::until("ingest to say so", WAIT_TIMEOUT, || async {
        let has_error = |fields: &Value| fields["error"].is_string();
        has_line(&fleet.ingest.output(), "WARN", "muster_server::otlp", has_error).then_some(())
    })
    .await;
}
