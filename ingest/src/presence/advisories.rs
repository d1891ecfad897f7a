//! The broker's advisories about connections, on the system account. Pure.
//!
//! Source: the server's `system_events`: `$SYS.ACCOUNT.<account>.CONNECT` and `.DISCONNECT`.

use muster_schemas::events::DisconnectReason;
use serde::Deserialize;

use super::connection::Connection;

/// A parsed advisory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advisory {
    /// A device's connection was opened.
    Opened(Connection),
    /// A connection was closed; only the table knows its device.
    Closed {
        /// The broker's id of the connection.
        id: String,
        /// Closed, or closed because it was silent.
        reason: DisconnectReason,
        /// The broker's own reason.
        detail: Option<String>,
    },
}

#[derive(Debug, Deserialize)]
struct AdvisoryMessage {
    server: Server,
    client: Client,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Server {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Client {
    id: u64,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

/// The broker's reason for a connection that did not respond to its pings.
const STALE: &str = "Stale Connection";

impl Advisory {
    /// Parses an advisory; `None` if it is irrelevant here.
    ///
    /// # Errors
    /// When it is not an advisory of the broker.
    pub fn parse(subject: &str, payload: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let is_open = match subject.rsplit('.').next() {
            Some("CONNECT") => true,
            Some("DISCONNECT") => false,
            _ => return Ok(None),
        };
        let AdvisoryMessage { server, client, reason } = serde_json::from_slice(payload)?;
        if is_open {
            let connection =
                Connection::from_tags(&server.id, client.id, client.host, &client.tags);
            return Ok(connection.map(Self::Opened));
        }
        let is_stale = reason.as_deref() == Some(STALE);
        Ok(Some(Self::Closed {
            id: Connection::id_of(&server.id, client.id),
            reason: if is_stale { DisconnectReason::Silent } else { DisconnectReason::Closed },
            detail: reason,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: &str = "$SYS.ACCOUNT.AB.";

    fn parse(verb: &str, payload: &str) -> Option<Advisory> {
        Advisory::parse(&format!("{SUBJECT}{verb}"), payload.as_bytes()).unwrap()
    }

    #[test]
    fn a_device_is_identified_only_by_its_tags() {
        let device = uuid::Uuid::from_u128(7);
        let advisory = |tags: &str| {
            format!(
                r#"{{"server":{{"id":"S"}},"client":{{"id":3,"host":"10.0.0.1","name":"device:x","tags":[{tags}]}}}}"#
            )
        };
        let ours = advisory(&format!(r#""project:default","device:{device}""#));
        let Some(Advisory::Opened(connection)) = parse("CONNECT", &ours) else {
            panic!("not opened")
        };
        assert_eq!((connection.id.as_str(), connection.server()), ("S/3", "S"));
        assert_eq!(connection.device.1.0, device);
        for foreign in ["", r#""project:default""#, r#""project:default","device:x""#] {
            assert_eq!(parse("CONNECT", &advisory(foreign)), None);
        }
        assert_eq!(parse("SOMETHING", &ours), None);
        assert!(Advisory::parse("$SYS.ACCOUNT.AB.CONNECT", b"{}").is_err());
    }

    #[test]
    fn a_connection_closed_for_missing_pings_was_silent() {
        for (text, expected) in [
            ("Stale Connection", DisconnectReason::Silent),
            ("Client Closed", DisconnectReason::Closed),
        ] {
            let advisory =
                format!(r#"{{"server":{{"id":"S"}},"client":{{"id":3}},"reason":"{text}"}}"#);
            let Some(Advisory::Closed { id, reason, detail }) = parse("DISCONNECT", &advisory)
            else {
                panic!("not closed")
            };
            assert_eq!((id.as_str(), reason, detail.as_deref()), ("S/3", expected, Some(text)));
        }
    }
}
