//! Responses that a healthy store does not send, from a fake one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use muster_ingest::metrics::{MetricSink, Outcome, SinkSettings, SinkTask};
use muster_metric_store::{Api, Credentials, InfluxClient, Lines, StoreSettings, WriteResponse};

use crate::support::{self, Failure};
use crate::{fast_settings, lines, wait_for};

/// A store that sends the given responses in order, then always 204.
async fn fake(
    responses: &'static [(u16, &'static str)],
) -> Result<(String, Arc<AtomicUsize>), Failure> {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let respond = move |_: axum::body::Bytes| async move {
        let (status, after) =
            responses.get(count.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or((204, ""));
        let mut headers = HeaderMap::new();
        if let Ok(after) = after.parse() {
            headers.insert("retry-after", after);
        }
        (StatusCode::from_u16(status).unwrap_or_default(), headers, "{\"message\":\"not now\"}")
    };
    let app = Router::new().route("/api/v2/write", post(respond));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((url, requests))
}

/// A store that fails on every body that contains one of these texts, and records the others.
async fn failing_on(
    texts: &'static [&'static str],
) -> Result<(String, Arc<Mutex<String>>), Failure> {
    let written = Arc::new(Mutex::new(String::new()));
    let kept = written.clone();
    let respond = move |body: String| async move {
        if texts.iter().any(|word| body.contains(word)) {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push_str(&body);
        StatusCode::NO_CONTENT
    };
    let app = Router::new().route("/api/v2/write", post(respond));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((url, written))
}

#[tokio::test]
async fn a_line_that_the_store_fails_on_is_rejected_alone() -> Result<(), Failure> {
    let (url, written) = failing_on(&["poison"]).await?;
    let (sink, _task) = v2_sink(&url, fast_settings())?;
    let bad = Lines::from_text("m,id=2 v=1 1\npoison v=1 1\nm,id=2 v=2 2\n".to_owned());
    let (good, bad) = (sink.submit(lines(1, 20)).await?, sink.submit(bad).await?);
    let Outcome::Rejected(rejected) = bad.await else { return Err("not rejected".into()) };
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(rejected[0].line, "poison v=1 1");
    assert!(rejected[0].reason.contains("500"), "{rejected:?}");
    assert_eq!(good.await, Outcome::Written);
    let text = written.lock().map_err(|_| "poisoned")?.clone();
    assert_eq!(text.lines().filter(|line| line.starts_with("m,id=1")).count(), 20, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("m,id=2")).count(), 2, "{text}");
    Ok(())
}

#[tokio::test]
async fn a_store_that_fails_on_everything_drops_nothing() -> Result<(), Failure> {
    let (url, _) = failing_on(&["="]).await?;
    let (sink, _task) = v2_sink(&url, fast_settings())?;
    let waiting = sink.submit(lines(1, 20)).await?;
    let tried = || sink.counters().snapshot().retries >= 12;
    assert!(wait_for(Duration::from_secs(20), tried).await);
    assert_eq!(sink.counters().snapshot().lines_rejected, 0);
    drop(waiting);
    Ok(())
}

fn v2_sink(url: &str, settings: SinkSettings) -> Result<(MetricSink, SinkTask), Failure> {
    support::install_crypto();
    let store = StoreSettings { api: Api::V2, ..StoreSettings::new(url, "metrics") };
    Ok(MetricSink::start(Arc::new(InfluxClient::new(store)?), settings))
}

#[tokio::test]
async fn nothing_is_dropped_while_the_store_requests_retries() -> Result<(), Failure> {
    // The store's responses, and the minimum delay of the sink.
    let cases: &[(&'static [(u16, &'static str)], u64)] = &[
        (&[(429, "1")], 1000),
        (&[(503, "1"), (503, "")], 1000),
        (&[(500, ""), (502, ""), (504, "")], 30),
        (&[(401, ""), (403, ""), (404, "")], 30),
    ];
    for (responses, at_least) in cases {
        let (url, requests) = fake(responses).await?;
        let (sink, task) = v2_sink(&url, fast_settings())?;
        let start = Instant::now();
        assert_eq!(sink.submit(lines(1, 1)).await?.await, Outcome::Written, "{responses:?}");
        assert!(start.elapsed() >= Duration::from_millis(*at_least), "{responses:?}");
        assert_eq!(requests.load(Ordering::SeqCst), responses.len() + 1);
        assert_eq!(sink.counters().snapshot().retries, responses.len() as u64);
        assert!(task.drain(Duration::from_secs(1)).await);
    }
    Ok(())
}

#[tokio::test]
async fn the_write_api_is_selected_by_the_store_version() -> Result<(), Failure> {
    // The version that the store reports (header of /ping, body of /health), and the expected
    // write.
    let v1 = "/write?db=metrics&precision=u&rp=week Basic dXNlcjpwYXNz gzip";
    let v2 = "/api/v2/write?bucket=metrics&precision=us&org=plant Token secret gzip";
    for (ping, health, expected) in [
        ("1.8.10", "", v1),
        ("v2.7.1", "", v2),
        ("3.1.0", "", v2),
        ("", r#"{"name":"influxdb","version":"v2.0.4"}"#, v2),
    ] {
        let (requests, mut received) = tokio::sync::mpsc::unbounded_channel();
        let app = Router::new()
            .route(
                "/ping",
                get(move || async move { (StatusCode::OK, [("x-influxdb-version", ping)]) }),
            )
            .route("/health", get(move || async move { health }))
            .fallback(move |uri: axum::http::Uri, headers: HeaderMap| async move {
                let header = |name: &str| {
                    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
                };
                let request =
                    format!("{uri} {} {}", header("authorization"), header("content-encoding"));
                let _ = requests.send(request);
                StatusCode::NO_CONTENT
            });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, app).await });
        support::install_crypto();
        let credentials = if expected == v1 {
            Credentials::Password { user: "user".to_owned(), password: "pass".to_owned() }
        } else {
            Credentials::Token {
                organization: Some("plant".to_owned()),
                token: "secret".to_owned(),
            }
        };
        let settings = StoreSettings {
            credentials,
            retention_policy: Some("week".to_owned()),
            gzip: true,
            ..StoreSettings::new(&url, "metrics")
        };
        let client = InfluxClient::new(settings)?;
        let body = client.pack(b"m v=1 1\n".to_vec());
        assert_eq!(client.write(body).await, WriteResponse::Written, "{ping} {health}");
        assert_eq!(received.recv().await.as_deref(), Some(expected), "{ping} {health}");
    }
    Ok(())
}

#[tokio::test]
async fn stopping_writes_or_abandons_every_submitted_message() -> Result<(), Failure> {
    let (url, _) = fake(&[]).await?;
    // Draining ends the linger early.
    let (sink, task) =
        v2_sink(&url, SinkSettings { linger: Duration::from_secs(60), ..fast_settings() })?;
    let completion = sink.submit(lines(1, 10)).await?;
    let start = Instant::now();
    assert!(task.drain(Duration::from_secs(10)).await);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(completion.await, Outcome::Written);
    assert!(sink.submit(lines(2, 1)).await.is_err());

    let (sink, task) = v2_sink("http://127.0.0.1:1", fast_settings())?;
    let completion = sink.submit(lines(1, 10)).await?;
    assert!(!task.drain(Duration::from_millis(200)).await);
    assert_eq!(completion.await, Outcome::Abandoned);
    assert_eq!(sink.counters().snapshot().bytes_held, 0);
    assert_eq!(sink.counters().snapshot().requests_in_flight, 0);
    assert!(sink.submit(lines(2, 1)).await.is_err());
    Ok(())
}

#[tokio::test]
async fn unusable_settings_are_rejected() {
    support::install_crypto();
    for url in ["", "localhost:8086", "ftp://x", "http://"] {
        let error = InfluxClient::new(StoreSettings::new(url, "metrics"));
        assert!(error.is_err_and(|error| error.to_string().contains("http://host:8086")), "{url}");
    }
}
