//! Uses of API tokens that are not in the log yet: any role stores them, command records them.

use async_recursion::async_recursion as boxed;
use muster_eventlog::{ErrorContext, EventLog, StoreError};
use muster_schemas::{ProjectId, Timestamp, TokenId};
use uuid::Uuid;

/// Maximum number of uses that one query reads.
const PAGE_SIZE: i64 = 500;

/// The newest use of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUse {
    /// Project of the token.
    pub project: ProjectId,
    /// Id of the token.
    pub token: TokenId,
    /// Time of the use, by PostgreSQL's clock.
    pub used_at: Timestamp,
    /// Address of the client.
    pub address: Option<String>,
}

/// Stores the use of a token, until command records it.
///
/// # Errors
/// When PostgreSQL is unreachable or the statement fails.
#[boxed]
pub(super) async fn store_token_use(
    log: &EventLog,
    project: &ProjectId,
    token: TokenId,
    address: Option<&str>,
) -> Result<(), StoreError> {
    let client = log.stores().connection().await?;
    client
        .execute(
            "INSERT INTO token_uses (project, token, address) VALUES ($1, $2, $3)
             ON CONFLICT (project, token)
             DO UPDATE SET used_at = clock_timestamp(), address = excluded.address",
            &[&project.as_str(), &token.0, &address],
        )
        .await
        .while_trying("record the use of a token")
        .map(drop)
}

/// Returns the stored uses, oldest first.
///
/// # Errors
/// When PostgreSQL is unreachable or the statement fails.
#[boxed]
pub async fn token_uses(log: &EventLog) -> Result<Vec<TokenUse>, StoreError> {
    let client = log.stores().connection().await?;
    let rows = client
        .query(
            "SELECT project, token, (extract(epoch FROM used_at) * 1000000)::bigint, address
             FROM token_uses ORDER BY used_at LIMIT $1",
            &[&PAGE_SIZE],
        )
        .await
        .while_trying("read the uses of tokens")?;
    rows.iter()
        .map(|row| {
            let project = row.get::<_, &str>(0).parse();
            Ok(TokenUse {
                project: project
                    .map_err(|error| StoreError::Corrupt(format!("token_uses: {error}")))?,
                token: TokenId(row.get::<_, Uuid>(1)),
                used_at: Timestamp(row.get(2)),
                address: row.get(3),
            })
        })
        .collect()
}

/// Deletes a stored use, even if the token was used again since it was read.
///
/// # Errors
/// When PostgreSQL is unreachable or the statement fails.
#[boxed]
pub async fn delete_token_use(log: &EventLog, token_use: &TokenUse) -> Result<(), StoreError> {
    let client = log.stores().connection().await?;
    client
        .execute(
            "DELETE FROM token_uses WHERE project = $1 AND token = $2",
            &[&token_use.project.as_str(), &token_use.token.0],
        )
        .await
        .while_trying("delete the recorded use of a token")
        .map(drop)
}
