//! The table of tokens. There are few events, so each batch reads and writes the rows that it
//! changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use muster_eventlog::StoredEvent;
use muster_eventlog::as_i64;
use muster_eventlog::projection::{
    Column, Columns, Projection, ProjectionError, Table, Transaction, Write,
};
use muster_schemas::events::{
    ApiTokenCreated, ApiTokenRevoked, ApiTokenUsed, EnrollmentTokenCreated, EnrollmentTokenRevoked,
    EnrollmentTokenUsed,
};
use muster_schemas::{ProjectId, StreamName, TokenId};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::fold::{Token, TokenKind};
use crate::projections::{decode, encode};

/// Types of the events that it handles: all about tokens.
pub(crate) const TYPES: &[&str] = &[
    EnrollmentTokenCreated::TYPE,
    EnrollmentTokenUsed::TYPE,
    EnrollmentTokenRevoked::TYPE,
    ApiTokenCreated::TYPE,
    ApiTokenUsed::TYPE,
    ApiTokenRevoked::TYPE,
];

const COLUMNS: Columns = Columns {
    key: &[Column::new("token", "uuid")],
    values: &[
        Column::key_text("kind").or_null(), // enrollment | api
        Column::new("created_position", "bigint"),
        Column::new("state", "text"),
    ],
};

/// Fills the table of tokens.
#[derive(Debug)]
pub struct Tokens {
    table: Table,
}

impl Tokens {
    /// Creates the projection for a table of this name: the live one, or one for a rebuild.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: Table::new(table, COLUMNS) }
    }

    async fn load(
        &self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        ids: &[Uuid],
    ) -> Result<BTreeMap<Uuid, Token>, ProjectionError> {
        let rows = self.table.read(transaction, project.as_str(), &[&ids], "token, state").await?;
        let mut tokens: BTreeMap<Uuid, Token> =
            ids.iter().map(|id| (*id, Token::default())).collect();
        for row in rows {
            tokens.insert(row.get(0), decode(&self.table, row.get(1))?);
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
        self.table.name()
    }

    fn kinds(&self) -> Vec<&'static str> {
        TYPES.to_vec()
    }

    fn tables(&self) -> String {
        self.table.create()
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
            tokens.entry(id).or_default().evolve(stored).map_err(|error| {
                ProjectionError::cannot_apply(self.table.name(), stored, &error)
            })?;
        }
        let kinds: Vec<Option<&str>> =
            tokens.values().map(|token| token.kind.as_ref().map(TokenKind::as_str)).collect();
        let created: Vec<i64> =
            tokens.values().map(|token| as_i64(token.created_position)).collect();
        let states: Vec<String> =
            tokens.values().map(|token| encode(&self.table, token)).collect::<Result<_, _>>()?;
        let ids: Vec<Uuid> = tokens.keys().copied().collect();
        let arrays: [&(dyn ToSql + Sync); 4] = [&ids, &kinds, &created, &states];
        Ok(self.table.write(transaction, project.as_str(), Write::Upsert, &arrays).await?)
    }
}
