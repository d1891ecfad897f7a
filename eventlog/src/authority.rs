//! Authority of events in the log: proved when command appends, verified where a role acts on an
//! event (docs/decisions/0020). Events are never refused or removed here; readers skip them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_recursion::async_recursion as boxed;
use muster_schemas::authority::{
    AuthorityError, AuthorityKey, AuthorityVerifier, Proof, ProofContent,
};
use muster_schemas::{Position, ProjectId};

use crate::authority_keys::AuthorityKeys;
use crate::connect::{ConnectOptions, Stores};
use crate::error::{ErrorContext, StoreError};
use crate::integers::as_i64;
use crate::log::EventLog;
use crate::stored_event::{COLUMNS, StoredEvent};

/// Number of events that are verified before the task yields.
const EVENTS_PER_YIELD: usize = 64;
/// Number of events that adoption and audit read in one query.
const PAGE_SIZE: i64 = 2_000;

impl StoredEvent {
    /// Returns the content that a proof of this event covers.
    fn proof_content<'a>(&'a self, project: &'a ProjectId) -> ProofContent<'a> {
        ProofContent {
            project: project.as_str(),
            stream: &self.stream,
            stream_version: self.stream_version,
            kind: &self.kind,
            schema_version: self.schema_version,
            occurred_at: self.occurred_at,
            actor: &self.actor,
            record: &self.record,
        }
    }

    fn verify(
        &self,
        project: &ProjectId,
        verifier: &AuthorityVerifier,
    ) -> Result<(), AuthorityError> {
        verifier.verify(&self.proof_content(project), self.authority.as_deref())
    }
}

impl EventLog {
    /// Returns the same log for a role that verifies authority.
    #[must_use]
    pub fn with_verifier(&self, verifier: AuthorityVerifier) -> Self {
        let trust = AuthorityKeys { signer: None, verifier: Some(Arc::new(verifier)) };
        Self { authority_keys: trust, ..self.clone() }
    }

    /// Returns the same log for command, which proves the authority of its appends.
    #[must_use]
    pub fn with_authority(&self, key: AuthorityKey, verifier: AuthorityVerifier) -> Self {
        let trust =
            AuthorityKeys { signer: Some(Arc::new(key)), verifier: Some(Arc::new(verifier)) };
        Self { authority_keys: trust, ..self.clone() }
    }

    /// Whether command recorded this event, or it needs no proof of that. A role must check it
    /// before it acts on an event. Always true on a log without a verifier: roles set one when they
    /// start.
    #[must_use]
    pub fn is_authentic(&self, project: &ProjectId, event: &StoredEvent) -> bool {
        let Some(verifier) = &self.authority_keys.verifier else { return true };
        match event.verify(project, verifier) {
            Ok(()) => true,
            Err(problem) => {
                self.inner.refused.add(project, event, &problem);
                false
            }
        }
    }

    /// Returns the authentic events, in their order.
    pub async fn authentic<E: AsRef<StoredEvent>>(
        &self,
        project: &ProjectId,
        events: Vec<E>,
    ) -> Vec<E> {
        let Some(verifier) = &self.authority_keys.verifier else { return events };
        let mut kept = Vec::with_capacity(events.len());
        let mut verified = 0;
        for shared in events {
            let event: &StoredEvent = shared.as_ref();
            if Proof::required_for(&event.stream, &event.kind).is_some() {
                verified += 1;
                if verified % EVENTS_PER_YIELD == 0 {
                    tokio::task::yield_now().await;
                }
            }
            match event.verify(project, verifier) {
                Ok(()) => kept.push(shared),
                Err(problem) => self.inner.refused.add(project, event, &problem),
            }
        }
        kept
    }

    /// Returns how many events this process skipped because their authority was not proved.
    #[must_use]
    pub fn refused_events(&self) -> u64 {
        self.inner.refused.count()
    }

    /// Adds a proof to every event that needs one and has none, in all projects; returns their
    /// number. Only for the adoption of events from before proofs existed: it would also adopt
    /// forged events.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable, or this user may not change events.
    #[boxed]
    pub async fn adopt_events(&self, key: &AuthorityKey) -> Result<u64, StoreError> {
        let client = self.stores().dialer.dial().await?;
        let mut adopted = 0;
        for project in self.projects().await? {
            let mut after = (String::new(), 0_i64);
            loop {
                let page = page(&client, &project, &after, true).await?;
                let Some(last) = page.last() else { break };
                after = (last.stream.to_string(), as_i64(last.stream_version));
                let proofs: Vec<(i64, Vec<u8>)> = page
                    .iter()
                    .filter_map(|event| {
                        Some((as_i64(event.position), key.prove(&event.proof_content(&project))?))
                    })
                    .collect();
                let (positions, proofs): (Vec<i64>, Vec<Vec<u8>>) = proofs.into_iter().unzip();
                adopted += client
                    .execute(
                        "UPDATE events SET authority = n.authority
                         FROM unnest($2::bigint[], $3::bytea[]) AS n (position, authority)
                         WHERE events.project = $1 AND events.position = n.position
                           AND events.authority IS NULL",
                        &[&project.as_str(), &positions, &proofs],
                    )
                    .await
                    .while_trying("adopt events")?;
            }
        }
        Ok(adopted)
    }
}

/// Returns the next events of streams that may need proofs, by stream and version.
async fn page(
    client: &tokio_postgres::Client,
    project: &ProjectId,
    (stream, version): &(String, i64),
    is_unproved: bool,
) -> Result<Vec<StoredEvent>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM events
         WHERE project = $1 AND left(stream, 7) <> 'device-'
           AND (stream, stream_version) > ($2, $3)
           AND (NOT $4 OR authority IS NULL AND type <> 'ApiTokenUsed')
         ORDER BY stream, stream_version LIMIT $5"
    );
    let rows = client
        .query(&sql, &[&project.as_str(), stream, version, &is_unproved, &PAGE_SIZE])
        .await
        .while_trying("read events that need a proof")?;
    rows.iter().map(StoredEvent::from_row).collect()
}

/// Result of an audit of the authority of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorityAudit {
    /// Number of events that were verified.
    pub verified: u64,
    /// Number of events whose authority is missing or wrong.
    pub refused: u64,
    /// First of those events: project, position, type.
    pub examples: Vec<(String, Position, String)>,
    /// Whether all events were verified within the time limit.
    pub is_complete: bool,
}

/// Verifies the authority of all events in the log, within `limit`. Changes nothing.
///
/// # Errors
/// When the database is unreachable or a query fails.
#[boxed]
pub async fn audit_authority(
    connect: &ConnectOptions,
    verifier: &AuthorityVerifier,
    limit: Duration,
) -> Result<AuthorityAudit, StoreError> {
    let started = Instant::now();
    let client = Stores::new(connect)?.dialer.dial().await?;
    let rows = client
        .query("SELECT project FROM heads ORDER BY 1", &[])
        .await
        .while_trying("list the projects")?;
    let mut found = AuthorityAudit { is_complete: true, ..AuthorityAudit::default() };
    for row in rows {
        let Ok(project) = row.get::<_, &str>(0).parse::<ProjectId>() else { continue };
        let mut after = (String::new(), 0_i64);
        loop {
            let page = page(&client, &project, &after, false).await?;
            let Some(last) = page.last() else { break };
            after = (last.stream.to_string(), as_i64(last.stream_version));
            for event in &page {
                found.verified += 1;
                if event.verify(&project, verifier).is_err() {
                    found.refused += 1;
                    if found.examples.len() < 5 {
                        let project = project.to_string();
                        found.examples.push((project, event.position, event.kind.clone()));
                    }
                }
            }
            if started.elapsed() > limit {
                found.is_complete = false;
                return Ok(found);
            }
        }
    }
    Ok(found)
}
