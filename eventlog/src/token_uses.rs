//! Uses of API tokens that are not in the log yet: any role notes them, command records them.

use muster_schemas::{ProjectId, Timestamp, TokenId};
use uuid::Uuid;

use crate::error::{Attempted, StoreError};
use crate::log::EventLog;

/// Number of uses that are read at once.
const PAGE: i64 = 500;

/// The newest use of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUse {
    /// The project.
    pub project: ProjectId,
    /// The token.
    pub token: TokenId,
    /// When it was used, by PostgreSQL's clock.
    pub used_at: Timestamp,
    /// The address of the client.
    pub address: Option<String>,
}

impl EventLog {
    /// Notes that a token was used, until command records it.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn note_token_use(
        &self,
        project: &ProjectId,
        token: TokenId,
        address: Option<&str>,
    ) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute(
                "INSERT INTO token_uses (project, token, address) VALUES ($1, $2, $3)
                 ON CONFLICT (project, token)
                 DO UPDATE SET used_at = clock_timestamp(), address = excluded.address",
                &[&project.as_str(), &token.0, &address],
            )
            .await
            .attempted("note the use of a token")
            .map(drop)
    }

    /// Uses that are noted, the oldest first.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn token_uses(&self) -> Result<Vec<TokenUse>, StoreError> {
        let client = self.stores().pool.get().await?;
        let rows = client
            .query(
                "SELECT project, token, (extract(epoch FROM used_at) * 1000000)::bigint, address
                 FROM token_uses ORDER BY used_at LIMIT $1",
                &[&PAGE],
            )
            .await
            .attempted("read the uses of tokens")?;
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

    /// Forgets the note of a use, also when it was used again meanwhile.
    ///
    /// # Errors
    /// When PostgreSQL cannot be asked.
    pub async fn forget_token_use(&self, noted: &TokenUse) -> Result<(), StoreError> {
        let client = self.stores().pool.get().await?;
        client
            .execute(
                "DELETE FROM token_uses WHERE project = $1 AND token = $2",
                &[&noted.project.as_str(), &noted.token.0],
            )
            .await
            .attempted("forget the use of a token")
            .map(drop)
    }
}
