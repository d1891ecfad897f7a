//! Revoked NATS user keys, and the lock of the process that sends the account's claim to the
//! broker.

use std::time::Duration;

use muster_eventlog::{ErrorContext, EventLog, StoreError};
use muster_schemas::Timestamp;

/// The lock for sending the account's claim with its revocations to the broker. One process holds
/// it at a time, until it is dropped: so a claim is never followed by one with fewer revocations.
#[derive(Debug)]
pub(super) struct ClaimLock {
    client: tokio_postgres::Client,
    account: String,
    /// Revoked keys, each with the time of its revocation.
    pub(super) revoked: Vec<(String, Timestamp)>,
    /// Issue time for the claim: later than that of each previous claim, in whole seconds.
    pub(super) issued_at: Timestamp,
}

impl ClaimLock {
    /// Records that the broker has accepted the claim.
    /// After an error, the broker has the claim nevertheless.
    pub(super) async fn mark_accepted(self) -> Result<(), StoreError> {
        let seconds = self.issued_at.seconds();
        self.client
            .execute(
                "INSERT INTO account_claims (account, issued_at) VALUES ($1, $2)
                 ON CONFLICT (account) DO UPDATE SET issued_at = excluded.issued_at",
                &[&self.account, &seconds],
            )
            .await
            .while_trying("record an account's claims")?;
        self.client.batch_execute("COMMIT").await.while_trying("record an account's claims")
    }
}

/// Waits for the lock of an account's claim. Revocations that are older than `ttl`, the
/// lifetime of a JWT, are deleted.
pub(super) async fn lock_claim(
    log: &EventLog,
    account: &str,
    ttl: Duration,
) -> Result<ClaimLock, StoreError> {
    let client = log.stores().separate_connection().await?;
    let begin = "BEGIN; SET LOCAL statement_timeout = '20s'";
    client.batch_execute(begin).await.while_trying("start an account's claims")?;
    client
        .execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('muster-claim:' || $1, 0))",
            &[&account],
        )
        .await
        .while_trying("wait for the lock on an account's claims")?;
    client
        .execute(
            "DELETE FROM nats_revocations
             WHERE revoked_at < clock_timestamp() - $1 * interval '1 second'",
            &[&ttl.as_secs_f64()],
        )
        .await
        .while_trying("delete old revocations")?;
    let rows = client
        .query(
            "SELECT nats_key, (extract(epoch FROM revoked_at) * 1000000)::bigint
             FROM nats_revocations ORDER BY nats_key",
            &[],
        )
        .await
        .while_trying("read revocations")?;
    let time = client
        .query_one(
            "SELECT greatest(extract(epoch FROM clock_timestamp())::bigint,
                1 + (SELECT coalesce(max(issued_at), 0) FROM account_claims WHERE account = $1))",
            &[&account],
        )
        .await
        .while_trying("determine the time of an account's claims")?;
    Ok(ClaimLock {
        client,
        account: account.to_owned(),
        revoked: rows.iter().map(|row| (row.get(0), Timestamp(row.get(1)))).collect(),
        issued_at: Timestamp(time.get::<_, i64>(0) * 1_000_000),
    })
}
