//! Setup of the event log: the authority of earlier events, and the first admin token, which is
//! created once and stored in a file, as the initial access to the API.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use muster_command::domain::Decider;
use muster_command::domain::api_token::{ApiToken, ApiTokenCommand};
use muster_command::keys::KeyStore;
use muster_eventlog::{
    Append, ConnectOptions, EventLog, Expected, LogOptions, NewEvent, StoredEvent,
};
use muster_schemas::events::{ApiTokenCreated, Role};
use muster_schemas::wire::ApiTokenText;
use muster_schemas::{Event, Hash, ProjectId, StreamName, StreamVersion, Timestamp, TokenId};
use uuid::Uuid;

use muster_files::write_private;

/// Opens the log with the rights of the database's owner and with the authority key.
pub(crate) async fn open_as_owner(postgres_url: &str, keys: &KeyStore) -> Result<EventLog> {
    let connect = ConnectOptions { connections: 2, ..ConnectOptions::new(postgres_url) };
    let log = EventLog::open(&connect, LogOptions::default())
        .await
        .context("failed to open the event log in PostgreSQL")?;
    Ok(log.with_authority(keys.authority().clone(), keys.authority_verifier()))
}

/// Returns the token in `file` if it is valid, otherwise a new one. Events from before this server
/// had an authority key are adopted first.
pub(crate) async fn admin_token(
    log: &EventLog,
    keys: &KeyStore,
    file: &Path,
    force_adoption: bool,
) -> Result<String> {
    let system = ProjectId::system();
    log.ensure_project(&system).await?;
    adopt_events(log, keys, force_adoption).await?;
    if let Ok(text) = fs::read_to_string(file)
        && let Ok(token) = text.trim().parse::<ApiTokenText>()
        && is_valid(log, &token).await?
    {
        return Ok(token.to_string());
    }
    let token = ApiTokenText {
        project: system.clone(),
        id: TokenId(Uuid::now_v7()),
        secret: rand::random(),
    };
    // Written first: a token that is lost is worse than a file whose token was not created.
    write_private(file, format!("{token}\n").as_bytes())?;
    let now = Timestamp::from(std::time::SystemTime::now());
    let created = ApiTokenCreated {
        name: "first admin".parse().context("a token's name")?,
        secret: Hash::of(&token.secret),
        role: Role::Admin,
        expires_at: None,
    };
    let events = ApiToken::default().decide(ApiTokenCommand::Create { token: created, now })?;
    let events = events.iter().map(|event| NewEvent::server(event, now)).collect();
    let append = Append::by_actor("system").stream(
        StreamName::Token(token.id),
        Expected::Version(StreamVersion::ZERO),
        events,
    );
    log.append(&system, append).await.context("failed to record the admin token")?;
    Ok(token.to_string())
}

/// Adopts the events from before this server had an authority key: once, or `again` on an
/// operator's request.
pub(crate) async fn adopt_events(log: &EventLog, keys: &KeyStore, force: bool) -> Result<()> {
    if keys.has_adopted_events() && !force {
        return Ok(());
    }
    let adopted = log.adopt_events(keys.authority()).await.context(
        "failed to adopt the events from before authority.key existed; \
         run `muster bootstrap` with the URL of the database's owner",
    )?;
    if adopted > 0 {
        tracing::warn!(adopted, "events from before this server proved authority were adopted");
    }
    keys.record_adopted_events(adopted)?;
    Ok(())
}

async fn is_valid(log: &EventLog, token: &ApiTokenText) -> Result<bool> {
    let stored = log.read_stream(&token.project, &StreamName::Token(token.id)).await?;
    let stored = log.authentic(&token.project, stored).await;
    let events: Vec<Event> = stored.iter().map(StoredEvent::event).collect::<Result<_, _>>()?;
    let state = ApiToken::fold(&events);
    Ok(!state.is_revoked
        && state.created.is_some_and(|created| created.secret == Hash::of(&token.secret)))
}
