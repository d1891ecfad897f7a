//! `GET /downloads/{token}`: a stored file, for the holder of a download link.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use muster_api::problem::{Kind, OpenProblems};
use muster_api::{PathParam, Problem};
use muster_api_types::problems::ProblemDocument;
use muster_api_types::schema;
use muster_schemas::wire::DownloadText;
use muster_schemas::{Event, Hash, StreamName, Timestamp};

use super::list::find;
use super::stored::respond;
use crate::live_streams::Holder;
use crate::state::QueryState;

/// Download a stored file with a link
///
/// The link is the credential: it is valid until it expires, or until the file is erased. `Range`
/// works as for the file itself.
#[utoipa::path(
    get, path = "/api/v1/downloads/{token}", tag = "uploads", security(()),
    params(("token" = String, Path, pattern = "^msd_[a-z0-9_-]+$", description = "The token in the link: `msd_…`")),
    responses(
        (status = 200, description = "The file", body = inline(schema::Bytes),
            content_type = "application/octet-stream", example = "2026-11-25 started\n"),
        (status = 206, description = "A part of the file", body = inline(schema::Bytes),
            content_type = "application/octet-stream", example = "started\n"),
        (status = 416, description = "The file does not have the requested part",
            body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The link does not exist",
            body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The file is not stored yet",
            body = ProblemDocument, content_type = "application/problem+json"),
        (status = 410, description = "The link has expired, or the file was erased",
            body = ProblemDocument, content_type = "application/problem+json"),
        OpenProblems,
    )
)]
pub(crate) async fn download_file(
    State(state): State<QueryState>,
    PathParam(token): PathParam<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let unknown =
        || Problem::not_found("the link does not exist; check that it was copied completely");
    let text: DownloadText = token.parse().map_err(|_| unknown())?;
    // The log itself, not a read model: a link is valid as soon as it is created, and only until
    // the file is erased.
    let stream = StreamName::Run(text.operation, text.device);
    let stored = state.log().read_stream(&text.project, &stream).await?;
    let stored = state.log().authentic(&text.project, stored).await;
    let events =
        stored.iter().map(muster_eventlog::StoredEvent::event).collect::<Result<Vec<_>, _>>();
    let events = events.map_err(|error| Problem::internal(&error))?;
    check(&events, Hash::of(&text.secret), std::time::SystemTime::now().into())?
        .ok_or_else(unknown)?;
    let found = find(&state, &text.project, (text.operation, text.device)).await?;
    tracing::info!(link = ?text, "a file is downloaded by a link");
    let (operation, device) = found.key;
    let holder = Holder::Upload(operation, device);
    respond(&state, &text.project, found, holder, &headers).await
}

/// Checks that a link with this secret is valid; `None` when it was never created.
fn check(events: &[Event], secret: Hash, now: Timestamp) -> Result<Option<()>, Problem> {
    let made = events.iter().find_map(|event| match event {
        Event::DownloadLinkMade(made) if made.secret == secret => Some(made),
        _ => None,
    });
    let Some(made) = made else { return Ok(None) };
    if now >= made.expires_at {
        return Err(Problem::new(Kind::Gone, "the link has expired"));
    }
    if events.iter().any(|event| matches!(event, Event::UploadErased(_))) {
        return Err(Problem::new(Kind::Gone, "the file was erased"));
    }
    Ok(Some(()))
}

#[cfg(test)]
mod tests {
    use muster_schemas::events::{DownloadLinkMade, EraseCause, UploadErased};

    use super::*;

    #[test]
    fn a_link_is_valid_until_it_expires_or_the_file_is_erased() {
        let (secret, other) = (Hash::of(b"secret"), Hash::of(b"other"));
        let link = DownloadLinkMade { secret, expires_at: Timestamp(100) };
        let mut events = vec![Event::from(link)];
        assert_eq!(check(&events, secret, Timestamp(99)).ok(), Some(Some(())));
        assert_eq!(check(&events, other, Timestamp(99)).ok(), Some(None));
        assert!(check(&events, secret, Timestamp(100)).is_err());
        events.push(UploadErased { cause: EraseCause::Kept }.into());
        assert!(check(&events, secret, Timestamp(1)).is_err());
        assert_eq!(check(&events, other, Timestamp(1)).ok(), Some(None));
    }
}
