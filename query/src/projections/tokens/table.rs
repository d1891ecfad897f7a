//! The table of tokens. There are few events, so each batch reads and writes the rows that it
//! changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::projection::{Projection, ProjectionError, Transaction};
use muster_eventlog::{StoreError, StoredEvent};
use muster_schemas::events::{
    ApiTokenCreated, ApiTokenRevoked, ApiTokenUsed, EnrollmentTokenCreated, EnrollmentTokenRevoked,
    EnrollmentTokenUsed,
};
use muster_schemas::{ProjectId, StreamName, TokenId};
use uuid::Uuid;

use super::fold::{Token, TokenKind};
use crate::projections::as_i64;
use crate::projections::devices::store_error;

/// Types of the events that it handles: all about tokens.
pub(crate) const TYPES: &[&str] = &[
    EnrollmentTokenCreated::TYPE,
    EnrollmentTokenUsed::TYPE,
    EnrollmentTokenRevoked::TYPE,
    ApiTokenCreated::TYPE,
    ApiTokenUsed::TYPE,
    ApiTokenRevoked::TYPE,
];

/// Fills the table of tokens.
#[derive(Debug)]
pub struct Tokens {
    table: String,
}

impl Tokens {
    /// Creates the projection for a table of this name: the live one, or one for a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: table.into() }
    }

    async fn load(
        &self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        ids: &[Uuid],
    ) -> Result<BTreeMap<Uuid, Token>, ProjectionError> {
        let sql = format!(
            "SELECT token, state FROM {} WHERE project = $1 AND token = ANY($2)",
            self.table
        );
        let rows = transaction
            .query(&sql, &[&project.as_str(), &ids])
            .await
            .map_err(store_error("read tokens"))?;
        let mut tokens: BTreeMap<Uuid, Token> =
            ids.iter().map(|id| (*id, Token::default())).collect();
        for row in rows {
            let id: Uuid = row.get(0);
            let token = serde_json::from_str(row.get(1)).map_err(|error| {
                StoreError::Corrupt(format!("{}: token {id}: {error}", self.table))
            })?;
            tokens.insert(id, token);
        }
        Ok(tokens)
    }
}

fn token_of(event: &StoredEvent) -> Option<TokenId> {
    match event.stream {
        StreamName::Token(id) => Some(id),
        _ => None,
    }
}

#[async_trait]
impl Projection for Tokens {
    fn name(&self) -> &str {
        &self.table
    }

    fn kinds(&self) -> Vec<&'static str> {
        TYPES.to_vec()
    }

    fn tables(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (
                 project          text COLLATE \"C\" NOT NULL,
                 token            uuid   NOT NULL,
                 kind             text COLLATE \"C\",  -- enrollment | api
                 created_position bigint NOT NULL,
                 state            text   NOT NULL,
                 PRIMARY KEY (project, token)
             )",
            self.table
        )
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        let mut ids: Vec<Uuid> =
            events.iter().filter_map(|event| token_of(event)).map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(());
        }
        let mut tokens = self.load(transaction, project, &ids).await?;
        for stored in events {
            let Some(TokenId(id)) = token_of(stored) else {
                continue;
            };
            tokens
                .entry(id)
                .or_default()
                .evolve(stored)
                .map_err(|error| ProjectionError::cannot_apply(&self.table, stored, &error))?;
        }
        let sql = format!(
            "INSERT INTO {} (project, token, kind, created_position, state)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (project, token) DO UPDATE SET kind = excluded.kind,
                 created_position = excluded.created_position, state = excluded.state",
            self.table
        );
        for (id, token) in &tokens {
            let state = serde_json::to_string(token)
                .map_err(|error| StoreError::Corrupt(format!("token {id}: {error}")))?;
            let kind = token.kind.as_ref().map(TokenKind::as_str);
            let created = as_i64(token.created_position);
            transaction
                .execute(&sql, &[&project.as_str(), id, &kind, &created, &state])
                .await
                .map_err(store_error("write tokens"))?;
        }
        Ok(())
    }

    fn discard_cache(&mut self) {}
}
