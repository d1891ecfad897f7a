//! Conversion of InfluxDB's errors to problems.

use muster_api::Problem;
use muster_api::problem::{Kind, describe};

use crate::influx::{InfluxError, MAX_POINTS, MAX_SERIES, show_duration};

/// Value of `Retry-After`, in seconds.
const RETRY: u32 = 5;

pub(super) fn problem(error: InfluxError) -> Problem {
    match &error {
        InfluxError::Away(_) | InfluxError::Busy(_) | InfluxError::Denied(_) => {
            tracing::warn!(error = %describe(&error), "metrics cannot be read");
            let detail =
                "InfluxDB does not answer; metrics are kept, and can be read when it is back";
            Problem::unavailable(detail, RETRY)
        }
        InfluxError::Refused(why) => {
            Problem::field("fn", format!("cannot be worked out: {why}"), None)
        }
        InfluxError::TooLarge => Problem::new(
            Kind::TooMuch,
            "the answer would be larger than 8 MiB; choose a larger step, a shorter time, or fewer series",
        ),
        InfluxError::Client(_) | InfluxError::Malformed(_) => Problem::internal(&error),
    }
}

pub(super) fn too_many_points(points: usize, step: i64) -> Problem {
    Problem::new(
        Kind::TooMuch,
        format!(
            "the answer would hold {points} points, and at most {MAX_POINTS} are given; \
             step={} would fit",
            show_duration(step)
        ),
    )
}

pub(super) fn too_many_series(series: usize) -> Problem {
    Problem::new(
        Kind::TooMuch,
        format!(
            "the answer would hold {series} series, and at most {MAX_SERIES} are given; \
             filter with tag.<key>=<value>, or name fewer tags in group_by"
        ),
    )
}
