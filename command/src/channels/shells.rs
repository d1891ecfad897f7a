//! Ends the shells that a token opened when the token is revoked, expires or may no longer open
//! them: those without an attached client, and those that only other tokens are attached to. The
//! list of open shells is in PostgreSQL, so a restart of this role forgets none.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use muster_schemas::ProjectId;
use muster_schemas::events::SessionEnded;
use muster_schemas::wire::Purpose;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::open::OpenError;
use super::open_shells::{OpenShell, OpenShellRows};
use super::ports::Channels;
use super::session::Session;
use super::token::{CHECK_INTERVAL, Token};
use crate::error::CommandError;

/// Maximum number of openers whose tokens are checked.
const MAX_OPENERS: u32 = 10_000;
/// Maximum number of shells that are ended concurrently.
const MAX_ENDING: usize = 64;
/// Time for which a process claims a shell to end it: longer than the timeout of a device's
/// response.
const CLAIM_TTL: Duration = Duration::from_secs(20);
/// Interval between attempts while a device is offline or does not respond.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Actor of the events.
const ACTOR: &str = "role:command";

type Tokens = HashMap<(ProjectId, String), Token>;

impl Channels {
    /// Stores a shell that is about to be opened, so that it can be ended with its token.
    #[boxed]
    pub(crate) async fn register_shell(
        &self,
        session: &Session,
        grace: u32,
    ) -> Result<(), CommandError> {
        let shell = OpenShell {
            session: session.id,
            project: session.project.clone(),
            device: session.device,
            actor: session.actor.clone(),
        };
        Ok(self.shell_rows().put(&shell, grace).await?)
    }

    /// Ends the shells of tokens that have ended, until `stop`.
    #[boxed]
    pub async fn end_shells_of_ended_tokens(&self, stop: CancellationToken) {
        let (mut tokens, mut ending) = (Tokens::new(), JoinSet::new());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            while ending.try_join_next().is_some() {}
            if let Err(error) = self.check_openers(&mut tokens, &mut ending).await {
                tracing::debug!(%error, "failed to check the tokens of open shells; trying again");
            }
        }
    }

    async fn check_openers(
        &self,
        tokens: &mut Tokens,
        ending: &mut JoinSet<()>,
    ) -> Result<(), CommandError> {
        self.shell_rows().renew().await?;
        let openers = self.shell_rows().openers(MAX_OPENERS).await?;
        let openers: HashSet<_> = openers.into_iter().collect();
        tokens.retain(|opener, _| openers.contains(opener));
        for opener in openers {
            if !tokens.contains_key(&opener) {
                let Some(token) = Token::from_actor(&opener.0, &opener.1) else { continue };
                tokens.insert(opener.clone(), token);
            }
            let Some(token) = tokens.get_mut(&opener) else { continue };
            let reason = match token.check(&self.executor.log).await {
                Ok(Some(reason)) => reason,
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(actor = opener.1, %error, "failed to check a token");
                    continue;
                }
            };
            let free = MAX_ENDING.saturating_sub(ending.len());
            let free = u32::try_from(free).unwrap_or(u32::MAX);
            for shell in self.shell_rows().claim(&opener, CLAIM_TTL, free).await? {
                let (channels, reason) = (self.clone(), reason.clone());
                ending.spawn(async move { channels.end_claimed_shell(shell, reason).await });
            }
        }
        Ok(())
    }

    fn shell_rows(&self) -> OpenShellRows<'_> {
        OpenShellRows(&self.executor.log)
    }

    async fn end_claimed_shell(&self, shell: OpenShell, reason: String) {
        let id = shell.session;
        let done = match self.end_shell(shell, reason).await {
            Ok(()) => self.shell_rows().remove(id).await,
            Err(reason) => {
                tracing::debug!(session = %id, reason, "failed to end a shell; trying again");
                self.shell_rows().release(id, RETRY_INTERVAL).await
            }
        };
        if let Err(error) = done {
            tracing::debug!(session = %id, %error, "failed to update the list of open shells");
        }
    }

    /// Ends a shell on its device; the error is the reason why it may still be running.
    async fn end_shell(&self, shell: OpenShell, reason: String) -> Result<(), String> {
        let OpenShell { session: id, project, device, .. } = shell;
        let reachable = self.check_reachable(&project, device).await;
        reachable.map_err(|error| error.to_string())?;
        match self.open_channel(&project, device, ACTOR, Purpose::End { session: id }).await {
            Ok(channel) => channel.sender.close("the session was ended").await,
            Err(OpenError::SessionEnded(_)) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        tracing::info!(
            session = %id, %device, reason,
            "a shell was ended because its token is no longer valid"
        );
        let session = Session::new(self.clone(), project, device, id, ACTOR.to_owned());
        session
            .record_best_effort(SessionEnded { exit_code: None, reason, bytes_in: 0, bytes_out: 0 })
            .await;
        Ok(())
    }
}
