//! Shells that may be running on devices, each with the token that opened it, for the process that
//! ends them when that token is revoked or expires.

use std::time::Duration;

use muster_eventlog::{ErrorContext, EventLog, StoreError};
use muster_schemas::{DeviceId, ProjectId, SessionId};

/// Time for which a shell is kept after its grace time, in seconds: the device notices later than
/// the server that no client is attached.
const EXPIRY_MARGIN_SECS: f64 = 60.0;

/// A shell on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenShell {
    /// Id of the session.
    pub(super) session: SessionId,
    /// Project of the device.
    pub(super) project: ProjectId,
    /// Id of the device.
    pub(super) device: DeviceId,
    /// Actor that opened it: `token:<id>`.
    pub(super) actor: String,
}

fn project(text: &str) -> Result<ProjectId, StoreError> {
    text.parse().map_err(|error| StoreError::Corrupt(format!("open_shells: {error}")))
}

/// The rows of open shells.
pub(super) struct OpenShellRows<'a>(pub(super) &'a EventLog);

impl OpenShellRows<'_> {
    /// Registers a shell before it is opened. `grace`: its grace time without an attached client.
    pub(super) async fn put(&self, shell: &OpenShell, grace: u32) -> Result<(), StoreError> {
        let client = self.0.stores().connection().await?;
        let OpenShell { session, project, device, actor } = shell;
        let grace = i32::try_from(grace).unwrap_or(i32::MAX);
        client
            .execute(
                "INSERT INTO open_shells
                     (session, project, device, actor, grace_seconds, kept_until, claimed_until)
                 VALUES ($1, $2, $3, $4, $5::int4,
                     clock_timestamp() + make_interval(secs => $5 + $6::float8), clock_timestamp())",
                &[&session.0, &project.as_str(), &device.0, actor, &grace, &EXPIRY_MARGIN_SECS],
            )
            .await
            .while_trying("record an open shell")?;
        Ok(())
    }

    /// Extends the registrations of the shells with an open websocket by their grace time from now,
    /// and removes the expired ones.
    pub(super) async fn renew(&self) -> Result<(), StoreError> {
        let client = self.0.stores().connection().await?;
        // A row is updated only when its time changes by more than a few seconds.
        client
            .execute(
                "UPDATE open_shells AS s
                 SET kept_until = clock_timestamp() + make_interval(secs => s.grace_seconds + $1::float8)
                 WHERE EXISTS (SELECT FROM bridges b WHERE b.session = s.session)
                   AND s.kept_until < clock_timestamp()
                       + make_interval(secs => s.grace_seconds + $1::float8 - 20)",
                &[&EXPIRY_MARGIN_SECS],
            )
            .await
            .while_trying("extend the entries of open shells")?;
        client
            .execute("DELETE FROM open_shells WHERE kept_until < clock_timestamp()", &[])
            .await
            .while_trying("delete the entries of ended shells")?;
        Ok(())
    }

    /// Returns the openers of the registered shells, at most `limit`.
    pub(super) async fn openers(&self, limit: u32) -> Result<Vec<(ProjectId, String)>, StoreError> {
        let client = self.0.stores().connection().await?;
        let rows = client
            .query("SELECT DISTINCT project, actor FROM open_shells LIMIT $1", &[&i64::from(limit)])
            .await
            .while_trying("list the actors with open shells")?;
        rows.iter().map(|row| Ok((project(row.get(0))?, row.get(1)))).collect()
    }

    /// Claims shells of an opener, at most `limit`, so that no other process claims them within
    /// `time`. Shells to which the opener is attached through a running process are left to that
    /// process.
    pub(super) async fn claim(
        &self,
        opener: &(ProjectId, String),
        claim_ttl: Duration,
        limit: u32,
    ) -> Result<Vec<OpenShell>, StoreError> {
        let client = self.0.stores().connection().await?;
        let (of, actor) = opener;
        let rows = client
            .query(
                "UPDATE open_shells
                 SET claimed_until = clock_timestamp() + make_interval(secs => $3)
                 WHERE session IN (
                     SELECT s.session FROM open_shells s
                     WHERE s.project = $1 AND s.actor = $2 AND s.claimed_until <= clock_timestamp()
                       AND NOT EXISTS (
                           SELECT FROM bridges b
                           WHERE b.session = s.session AND b.actor = s.actor
                             AND b.expires_at > clock_timestamp())
                     LIMIT $4 FOR UPDATE SKIP LOCKED
                 )
                 RETURNING session, project, device, actor",
                &[&of.as_str(), actor, &claim_ttl.as_secs_f64(), &i64::from(limit)],
            )
            .await
            .while_trying("claim open shells")?;
        rows.iter()
            .map(|row| {
                Ok(OpenShell {
                    session: SessionId(row.get(0)),
                    project: project(row.get(1))?,
                    device: DeviceId(row.get(2)),
                    actor: row.get(3),
                })
            })
            .collect()
    }

    /// Releases a claimed shell, which can be claimed again after `wait`.
    pub(super) async fn release(
        &self,
        session: SessionId,
        retry_delay: Duration,
    ) -> Result<(), StoreError> {
        let client = self.0.stores().connection().await?;
        client
            .execute(
                "UPDATE open_shells
                 SET claimed_until = clock_timestamp() + make_interval(secs => $2)
                 WHERE session = $1",
                &[&session.0, &retry_delay.as_secs_f64()],
            )
            .await
            .while_trying("release an open shell")?;
        Ok(())
    }

    /// Removes a shell that has ended.
    pub(super) async fn remove(&self, session: SessionId) -> Result<(), StoreError> {
        let client = self.0.stores().connection().await?;
        client
            .execute("DELETE FROM open_shells WHERE session = $1", &[&session.0])
            .await
            .while_trying("delete the entry of a shell")?;
        Ok(())
    }
}
