//! Positions in headers: a write says where it stands, a read may wait for it.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use muster_eventlog::projection::Progress;
use muster_eventlog::{EventLog, Failure};
use muster_schemas::ProjectId;

use crate::problem::{Kind, Problem};

/// On a write's answer: the position of its last event.
pub const POSITION: HeaderName = HeaderName::from_static("muster-position");
/// On a read: the position that its answer must hold.
pub const MIN_POSITION: HeaderName = HeaderName::from_static("muster-min-position");
/// How long a read waits for it.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Interval between looks whether what is waited for can still come.
const LOOK: Duration = Duration::from_millis(250);

/// The header that says how far a write or a read has come.
#[must_use]
pub fn position_header(position: u64) -> (HeaderName, HeaderValue) {
    (POSITION, position.into())
}

/// What `Muster-Min-Position` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MinPosition(pub Option<u64>);

impl MinPosition {
    /// Waits until a read model has come that far.
    ///
    /// # Errors
    /// When the log itself does not go that far, or the read model does not come there within
    /// [`PATIENCE`].
    pub async fn wait(
        self,
        log: &EventLog,
        progress: &Progress,
        project: &ProjectId,
    ) -> Result<(), Problem> {
        let Some(position) = self.0 else {
            return Ok(());
        };
        if progress.position(project) >= position {
            return Ok(());
        }
        let end = log.head(project).await?.map_or(0, |head| head.position);
        if position > end {
            return Err(Problem::new(
                Kind::PreconditionFailed,
                format!("the log of project {project} ends at {end}, before position {position}"),
            ));
        }
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if progress.wait_for(project, position, LOOK).await {
                return Ok(());
            }
            // A read model that cannot be written is not waited for.
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
                PATIENCE.as_secs()
            ),
        )
        .retry_after(1))
    }

    /// Waits until a read model holds all that the log holds now, up to position `until`: for a
    /// history, in which a missing piece is not seen.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub async fn wait_for_all(
        self,
        log: &EventLog,
        progress: &Progress,
        project: &ProjectId,
        until: u64,
    ) -> Result<(), Problem> {
        self.wait(log, progress, project).await?;
        let end = log.head(project).await?.map_or(0, |head| head.position);
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
            Ok(position) if i64::try_from(position).is_ok() => Ok(Self(Some(position))),
            _ => Err(Problem::field(
                "Muster-Min-Position",
                "is not a position: give the number of a Muster-Position header",
                Some(text.into()),
            )),
        }
    }
}

/// For the OpenAPI document: what [`MinPosition`] reads.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what `MinPosition` reads")]
pub struct MinPositionParam {
    /// Waits, up to 5 s, until the answer holds what this position wrote: give the
    /// `Muster-Position` of a write.
    #[param(rename = "Muster-Min-Position", minimum = 0, value_type = u64, required = false)]
    position: Option<u64>,
}
