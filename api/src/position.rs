//! Positions in headers: a write returns its position, and a read can wait for one.

use std::time::Duration;

use async_recursion::async_recursion as boxed;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use muster_api_types::headers;
use muster_eventlog::projection::Progress;
use muster_eventlog::{EventLog, Failure};
use muster_schemas::{Position, ProjectId};

use crate::problem::{Kind, Problem};

/// Header of command's response to a write to many resources: the path of a read that waits until
/// the read model includes the write. The listener removes it.
pub const READ_MODEL: HeaderName = HeaderName::from_static("muster-read-model");
/// Header of a write's response: the position of its last event.
pub const POSITION: HeaderName = HeaderName::from_static(headers::POSITION);
/// Header of a read: the position that its response must include.
pub const MIN_POSITION: HeaderName = HeaderName::from_static(headers::MIN_POSITION);
/// Maximum time for which a read waits for a position.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for which a read waits before it checks whether the log has the position.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Interval between checks whether the position can still be reached.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Returns the header with the position of a write or a read.
#[must_use]
pub fn position_header(position: Position) -> (HeaderName, HeaderValue) {
    (POSITION, position.get().into())
}

/// The position that `Muster-Min-Position` requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MinPosition(pub Option<Position>);

impl MinPosition {
    /// Waits until a read model has reached the position.
    ///
    /// # Errors
    /// When the log does not have the position, or the read model does not reach it within
    /// [`WAIT_TIMEOUT`].
    #[boxed]
    pub async fn wait(
        self,
        log: &EventLog,
        progress: &Progress,
        project: &ProjectId,
    ) -> Result<(), Problem> {
        let Some(position) = self.0 else {
            return Ok(());
        };
        // Usually the position is that of a write that has just been made.
        if progress.wait_for(project, position, FIRST_WAIT).await {
            return Ok(());
        }
        let end = log.newest_position(project).await?;
        if position > end {
            return Err(Problem::new(
                Kind::PositionNotInLog,
                format!("the log of project {project} ends at {end}, before position {position}"),
            ));
        }
        for _ in 0..WAIT_TIMEOUT.as_millis() / CHECK_INTERVAL.as_millis() {
            if progress.wait_for(project, position, CHECK_INTERVAL).await {
                return Ok(());
            }
            // A read model that cannot be written will not reach the position.
            if let Some(Failure { since, cause }) = progress.failure() {
                let detail = format!("the read model has not been updated since {since}: {cause}");
                return Err(Problem::unavailable(detail, 2));
            }
        }
        let reached = progress.position(project);
        Err(Problem::new(
            Kind::NotYet,
            format!(
                "the read model of project {project} is at position {reached} and did not reach \
                 {position} within {} s; try again",
                WAIT_TIMEOUT.as_secs()
            ),
        )
        .retry_after(1))
    }

    /// Waits until a read model includes everything that the log has now, up to position `until`:
    /// for a history, in which a missing part would not be noticed.
    ///
    /// # Errors
    /// As [`Self::wait`].
    #[boxed]
    pub async fn wait_for_all(
        self,
        log: &EventLog,
        progress: &Progress,
        project: &ProjectId,
        until: Position,
    ) -> Result<(), Problem> {
        self.wait(log, progress, project).await?;
        let end = log.newest_position(project).await?;
        Self(Some(end.min(until))).wait(log, progress, project).await
    }
}

impl<S: Send + Sync> FromRequestParts<S> for MinPosition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(&MIN_POSITION) else {
            return Ok(Self(None));
        };
        let text = value.to_str().unwrap_or_default();
        match text.parse::<u64>() {
            Ok(position) if i64::try_from(position).is_ok() => Ok(Self(Some(Position(position)))),
            _ => Err(Problem::header(
                "Muster-Min-Position",
                "is not a position: send the number of a Muster-Position header",
                Some(text.into()),
            )),
        }
    }
}

/// The header that [`MinPosition`] reads, for the OpenAPI document.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what `MinPosition` reads")]
pub struct MinPositionParam {
    /// Position of a write (its `Muster-Position`): the response waits up to 5 s until it includes
    /// it.
    #[param(rename = "Muster-Min-Position", minimum = 0, value_type = u64, required = false)]
    position: Option<Position>,
}
