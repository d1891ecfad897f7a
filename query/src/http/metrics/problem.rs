//! Conversion of InfluxDB's errors to problems.

use std::time::Duration;

use muster_api::Problem;
use muster_api::problem::Kind;
use muster_metric_store::StoreError;
use muster_schemas::errors::error_chain;

use crate::influx::{MAX_POINTS, MAX_SERIES, show_duration};

/// Value of `Retry-After`, in seconds.
const RETRY_AFTER_SECS: u32 = 5;

#[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` calls")]
pub(super) fn problem(error: StoreError) -> Problem {
    match &error {
        StoreError::Unreachable { .. }
        | StoreError::Unavailable { .. }
        | StoreError::Denied { .. } => {
            tracing::warn!(error = %error_chain(&error), "failed to read metrics");
            let detail = "InfluxDB does not respond; metrics are kept, and can be read when it is \
                          available again";
            Problem::unavailable(detail, RETRY_AFTER_SECS)
        }
        StoreError::Refused { message, .. } => {
            Problem::parameter("fn", format!("cannot be computed: {message}"), None)
        }
        StoreError::TooLarge { .. } => Problem::new(
            Kind::TooMuch,
            "the response would exceed 8 MiB; choose a larger step, a shorter time range, or fewer \
             series",
        ),
        _ => Problem::internal(&error),
    }
}

pub(super) fn too_many_points(points: usize, step: Duration) -> Problem {
    Problem::new(
        Kind::TooMuch,
        format!(
            "the response would contain {points} points, and at most {MAX_POINTS} are returned; \
             step={} would fit",
            show_duration(step)
        ),
    )
}

pub(super) fn too_many_series(series: usize) -> Problem {
    Problem::new(
        Kind::TooMuch,
        format!(
            "the response would contain {series} series, and at most {MAX_SERIES} are returned; \
             filter with tag.<key>=<value>, or use fewer tags in group_by"
        ),
    )
}
