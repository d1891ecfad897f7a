//! Exports spans to a collector, by OTLP over HTTP with JSON; optional. When the collector is
//! unreachable or slow, spans are dropped and counted; no other work waits for it.
//!
//! Source: OpenTelemetry protocol specification 1.x, `POST /v1/traces`. `muster_eventlog::traces`
//! documents the spans and the ids of traces.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use async_recursion::async_recursion as boxed;
use clap::Args;
use muster_eventlog::traces::ROOT;
use muster_schemas::errors::error_chain;
use reqwest::Url;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context as LayerContext;

use crate::InvalidOption;

/// Maximum number of queued spans.
const MAX_QUEUED_SPANS: usize = 16_384;
/// Maximum number of spans in a request.
const MAX_BATCH_SPANS: usize = 2_000;
/// Time for which spans are collected before they are sent.
const COLLECT_TIME: Duration = Duration::from_millis(500);

/// Export of spans.
#[derive(Args, Clone, Debug)]
pub struct OtlpArgs {
    /// OpenTelemetry collector (OTLP over HTTP) for traces of events: http://host:4318
    #[arg(long, env = "MUSTER_OTLP_URL")]
    pub otlp_url: Option<String>,
}

/// Layer that extracts spans from `tracing`'s events.
pub struct Spans {
    sender: Sender<Value>,
    dropped: Arc<AtomicU64>,
}

/// Task that sends spans.
pub struct Exporter {
    receiver: Receiver<Value>,
    dropped: Arc<AtomicU64>,
    http: reqwest::Client,
    url: Url,
}

impl Exporter {
    /// Creates the layer and the exporter.
    pub fn new(url: &str) -> Result<(Spans, Self)> {
        let wrong = || {
            InvalidOption(format!("'{url}' is not the URL of a collector; write http://host:4318"))
        };
        let base: Url = url.trim_end_matches('/').parse().map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(wrong().into());
        }
        let mut http = reqwest::Client::builder().timeout(Duration::from_secs(10));
        if base.scheme() == "http" {
            http = http.tls_certs_only([]);
        }
        let http = http.build().context("failed to set up HTTP to the collector")?;
        let url = format!("{}/v1/traces", base.as_str().trim_end_matches('/')).parse()?;
        let (sender, receiver) = channel(MAX_QUEUED_SPANS);
        let dropped = Arc::new(AtomicU64::new(0));
        Ok((Spans { sender, dropped: dropped.clone() }, Self { receiver, dropped, http, url }))
    }

    /// Sends spans until the process ends.
    #[boxed]
    pub async fn run(mut self) {
        let mut is_away = false;
        let mut spans = Vec::new();
        while self.receiver.recv_many(&mut spans, MAX_BATCH_SPANS).await > 0 {
            tokio::time::sleep(COLLECT_TIME).await;
            while spans.len() < MAX_BATCH_SPANS
                && let Ok(span) = self.receiver.try_recv()
            {
                spans.push(span);
            }
            let count = spans.len() as u64;
            let sent = self.http.post(self.url.clone()).json(&request(&std::mem::take(&mut spans)));
            match sent.send().await.and_then(reqwest::Response::error_for_status) {
                Ok(_) => {
                    let dropped = self.dropped.swap(0, Ordering::Relaxed);
                    if is_away || dropped > 0 {
                        tracing::info!(dropped, "the trace collector accepts spans again");
                    }
                    is_away = false;
                }
                Err(error) => {
                    self.dropped.fetch_add(count, Ordering::Relaxed);
                    if !is_away {
                        let error = error_chain(&error);
                        tracing::warn!(
                            %error,
                            "the trace collector is unavailable; spans are dropped"
                        );
                    }
                    is_away = true;
                }
            }
        }
    }
}

fn request(spans: &[Value]) -> Value {
    let service = attribute("service.name", "muster");
    let version = attribute("service.version", env!("CARGO_PKG_VERSION"));
    json!({"resourceSpans": [{
        "resource": {"attributes": [service, version]},
        "scopeSpans": [{"scope": {"name": "muster"}, "spans": spans}],
    }]})
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

impl<S: Subscriber> Layer<S> for Spans {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let mut fields = EventFields::default();
        event.record(&mut fields);
        if self.sender.try_send(span(&fields.0)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Fields of a `tracing` event.
#[derive(Default)]
struct EventFields(Map<String, Value>);

impl Visit for EventFields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}

/// Converts a span to OTLP.
fn span(fields: &Map<String, Value>) -> Value {
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let nanos = |name: &str| {
        let micros = fields.get(name).and_then(Value::as_i64).unwrap_or_default();
        (i128::from(micros) * 1000).to_string()
    };
    let (trace, name) = (text("trace"), text("name"));
    // The root's id is derived from the trace's id, so that every process can compute it. A step
    // that is repeated has two ids.
    let root = trace.get(..16).unwrap_or_default();
    let (id, parent) = if name == ROOT {
        (root.to_owned(), String::new())
    } else {
        (format!("{:016x}", rand::random::<u64>() | 1), root.to_owned())
    };
    let detail = text("detail");
    let name = if name == "project" { format!("project {detail}") } else { name.to_owned() };
    json!({
        "traceId": trace,
        "spanId": id,
        "parentSpanId": parent,
        "name": name,
        "kind": 1,
        "startTimeUnixNano": nanos("start"),
        "endTimeUnixNano": nanos("end"),
        "attributes": [
            attribute("muster.project", text("project")),
            attribute("muster.stream", text("stream")),
            attribute("muster.detail", detail),
            {"key": "muster.version", "value": {"intValue": fields.get("version").map(Value::to_string)}},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spans_of_an_event_are_children_of_its_root_span() {
        let span_of = |name: &str| {
            let data = json!({"trace": "0af7651916cd43dd8448eb211c80319c", "name": name, "start": 1,
                "end": 2, "detail": "x", "project": "default", "stream": "device/1", "version": 3});
            span(data.as_object().unwrap())
        };
        let (root, child) = (span_of(ROOT), span_of("append"));
        assert_eq!(root["spanId"], "0af7651916cd43dd");
        assert_eq!(root["parentSpanId"], "");
        assert_eq!(child["parentSpanId"], root["spanId"]);
        assert_eq!(child["startTimeUnixNano"], "1000");
        assert_eq!(child["attributes"][3]["value"]["intValue"], "3");
    }

    #[test]
    fn an_invalid_url_is_reported() {
        assert!(Exporter::new("collector:4318").is_err());
        assert!(Exporter::new("what").is_err());
    }
}
