//! `/metrics`: this process's own metrics for Prometheus. It needs a token like the other routes:
//! Prometheus sends one with `authorization: {credentials_file: …}`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use muster_api::auth::{ReadDevices, ServerWide};
use muster_api::{ApiState, Problem};
use muster_eventlog::projection::ProjectionState;
use muster_eventlog::{EventLog, StoreError};
use tokio_util::sync::CancellationToken;

const REQUESTS: &str = "muster_http_requests_total";
const SECONDS: &str = "muster_http_request_seconds";
const LAG: &str = "muster_projection_lag_events";
const POSITION: &str = "muster_log_position";
const REFUSED: &str = "muster_events_without_authority_total";
/// Interval between upkeeps of the histograms, which bound memory when metrics are not scraped.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Bucket bounds of durations, in seconds.
const DURATION_BUCKETS: [f64; 11] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Bucket bounds of numbers of messages.
const SIZE_BUCKETS: [f64; 9] = [1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 5000.0];

/// The metrics of this process.
#[derive(Clone, Debug)]
pub(super) struct ProcessMetrics {
    handle: PrometheusHandle,
    process: Collector,
}

impl ProcessMetrics {
    /// Installs the global metrics recorder. Once per process.
    pub(super) fn install(stop: CancellationToken) -> Result<Self> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS)?
            .set_buckets_for_metric(Matcher::Suffix("_messages".to_owned()), &SIZE_BUCKETS)?
            .install_recorder()
            .context("another metrics recorder is installed in this process")?;
        describe_counter!(REQUESTS, "requests to the API, by method, route and status");
        describe_histogram!(SECONDS, "duration of requests to the API, in seconds, by route");
        describe_gauge!(
            LAG,
            "events that a projection has not applied yet, by projection and project"
        );
        describe_counter!(
            REFUSED,
            "events that this process skipped because their authority is not proved"
        );
        describe_gauge!(POSITION, "the newest position of a project's log");
        let process = Collector::default();
        process.describe();
        let metrics = Self { handle: handle.clone(), process };
        tokio::spawn(async move {
            let mut due = tokio::time::interval(UPKEEP_INTERVAL);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = due.tick() => handle.run_upkeep(),
                }
            }
        });
        Ok(metrics)
    }

    /// Returns the route.
    pub(super) fn router(self, api: ApiState) -> Router {
        Router::new().route("/metrics", get(get_metrics)).with_state(api).layer(Extension(self))
    }
}

async fn get_metrics(
    State(api): State<ApiState>,
    Extension(metrics): Extension<ProcessMetrics>,
    _: ServerWide<ReadDevices>,
) -> Result<Response, Problem> {
    metrics.process.collect();
    counter!(REFUSED).absolute(api.log.refused_events());
    // Without PostgreSQL the other metrics are even more useful.
    if let Err(error) = update_log_gauges(&api.log).await {
        tracing::debug!(%error, "failed to read the projections' lag");
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, metrics.handle.render()).into_response())
}

/// Updates the position of each log, and the lag of each projection.
async fn update_log_gauges(log: &EventLog) -> Result<(), StoreError> {
    for ProjectionState { name, project, lag, .. } in log.projection_states(None).await? {
        gauge!(LAG, "projection" => name, "project" => project).set(float(lag));
    }
    for (project, position) in log.heads().await? {
        gauge!(POSITION, "project" => project.to_string()).set(float(position.get()));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a graph")]
const fn float(number: u64) -> f64 {
    number as f64
}

/// Returns the method as a label. Clients can invent methods, and a label is kept forever.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Middleware that counts requests by route; paths would create an unbounded number of labels.
pub(super) async fn count(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let method = method_label(request.method());
    let started_at = Instant::now();
    let response = next.run(request).await;
    histogram!(SECONDS, "route" => route.clone()).record(started_at.elapsed().as_secs_f64());
    let status = response.status().as_u16().to_string();
    counter!(REQUESTS, "method" => method, "route" => route, "status" => status).increment(1);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_methods_share_one_label() {
        assert_eq!(method_label(&Method::PATCH), "PATCH");
        for invented in ["get", "BREW", &"X".repeat(60_000)] {
            let method = Method::from_bytes(invented.as_bytes()).unwrap();
            assert_eq!(method_label(&method), "other");
        }
    }
}
