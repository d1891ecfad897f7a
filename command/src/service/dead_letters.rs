//! Retry of dead letters: published unchanged, for ingest to validate again.

use std::time::Duration;

use muster_channel::Publisher;
use muster_eventlog::EventLog;
use muster_schemas::subjects::{self, DeviceSubjects};

use crate::domain::{Conflict, Rejection};
use crate::error::CommandError;

/// Timeout for the broker's confirmation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the subject that the device published on, from the one that the broker stored.
fn device_subject(stored: &str) -> Option<String> {
    let (project, device, rest) = subjects::parse_stored(stored)?;
    match stored.split('.').next()? {
        "evt" if rest.is_empty() => Some(format!("muster.{project}.{device}.evt")),
        "met" => Some(format!("muster.{project}.{device}.met.{rest}")),
        _ => None,
    }
}

/// Sends dead letters again.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    log: EventLog,
    /// Connection to the servers' account.
    nats: async_nats::Client,
}

impl DeadLetters {
    pub(super) const fn new(log: EventLog, nats: async_nats::Client) -> Self {
        Self { log, nats }
    }

    /// Publishes a dead letter again.
    ///
    /// # Errors
    /// When it does not exist, was truncated, or its subject is not a device's, or when the broker
    /// is unavailable.
    pub async fn retry(&self, id: i64) -> Result<(), CommandError> {
        let dead_letter =
            self.log.dead_letter(id).await?.ok_or(Rejection::NotFound("dead letter"))?;
        if dead_letter.size != dead_letter.bytes.len() as u64 {
            return Err(Rejection::from(Conflict::DeadLetterTruncated).into());
        }
        let subject = device_subject(&dead_letter.subject)
            .ok_or_else(|| Rejection::from(Conflict::DeadLetterNotFromDevice))?;
        let broker = |error: String| CommandError::Broker(error);
        let (project, device, _) = subjects::parse(&subject)
            .ok_or_else(|| Rejection::from(Conflict::DeadLetterNotFromDevice))?;
        let stored = DeviceSubjects::new(&project, device).stored();
        let publisher = Publisher::new(self.nats.clone(), stored, CONFIRM_TIMEOUT)
            .await
            .map_err(|error| broker(error.to_string()))?;
        publisher
            .publish(subject, dead_letter.bytes.into())
            .await
            .map_err(|error| broker(error.to_string()))?;
        self.log.mark_retried(id).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_is_the_one_that_the_device_published_on() {
        let id = "0198c0de-7000-7abc-8def-0123456789ab";
        for (stored, expected) in [
            (format!("evt.3.default.{id}"), Some(format!("muster.default.{id}.evt"))),
            (
                format!("met.3.default.{id}.live.host"),
                Some(format!("muster.default.{id}.met.live.host")),
            ),
            (format!("evt.3.default.{id}.x"), None),
            ("$SYS.a.b".to_owned(), None),
        ] {
            assert_eq!(device_subject(&stored), expected);
        }
    }
}
