//! Stream names: one stream is the ordered history of one aggregate.

use std::fmt;
use std::str::FromStr;

use crate::ids::{DeviceId, OperationId, ProjectId, SessionId, TokenId};
use crate::names::DeviceName;
use crate::numbers::Epoch;

/// The stream of an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamName {
    /// `device/<id>`: life cycle and settings; operators' decisions.
    Device(DeviceId),
    /// `device-report/<id>/<epoch>`: the device's reports. The stream version of a report is the
    /// device's own `seq` in that epoch.
    DeviceReport(DeviceId, Epoch),
    /// `device-presence/<id>`: connects and disconnects, as tracked by ingest.
    DevicePresence(DeviceId),
    /// `token/<id>`: an enrollment token or an API token.
    Token(TokenId),
    /// `project/<id>`: a project's life cycle, in the log `system`.
    Project(ProjectId),
    /// `operation/<id>`: a request to devices.
    Operation(OperationId),
    /// `run/<operation>/<device>`: one device's part of an operation; the server's decisions.
    Run(OperationId, DeviceId),
    /// `session/<id>/<device>`: a session on a device.
    Session(SessionId, DeviceId),
    /// `name/<name>`: the device that has a name.
    Name(DeviceName),
}

/// The text is not a stream name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a stream name")]
pub struct InvalidStream(String);

impl StreamName {
    /// The device of this stream, if it has one.
    #[must_use]
    pub const fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Device(id)
            | Self::DeviceReport(id, _)
            | Self::DevicePresence(id)
            | Self::Run(_, id)
            | Self::Session(_, id) => Some(*id),
            Self::Token(_) | Self::Project(_) | Self::Operation(_) | Self::Name(_) => None,
        }
    }

    /// The prefix of all report streams of a device, of all epochs.
    #[must_use]
    pub fn report_prefix(device: DeviceId) -> String {
        format!("device-report/{device}/")
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id) => write!(f, "device/{id}"),
            Self::DeviceReport(id, epoch) => write!(f, "device-report/{id}/{epoch}"),
            Self::DevicePresence(id) => write!(f, "device-presence/{id}"),
            Self::Token(id) => write!(f, "token/{id}"),
            Self::Project(id) => write!(f, "project/{id}"),
            Self::Operation(id) => write!(f, "operation/{id}"),
            Self::Run(operation, device) => write!(f, "run/{operation}/{device}"),
            Self::Session(id, device) => write!(f, "session/{id}/{device}"),
            Self::Name(name) => write!(f, "name/{name}"),
        }
    }
}

impl FromStr for StreamName {
    type Err = InvalidStream;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidStream(text.chars().take(120).collect());
        let (kind, rest) = text.split_once('/').ok_or_else(invalid)?;
        let name = match kind {
            "device" => Self::Device(rest.parse().map_err(|_| invalid())?),
            "device-report" => {
                let (id, epoch) = rest.split_once('/').ok_or_else(invalid)?;
                Self::DeviceReport(
                    id.parse().map_err(|_| invalid())?,
                    epoch.parse().map_err(|_| invalid())?,
                )
            }
            "device-presence" => Self::DevicePresence(rest.parse().map_err(|_| invalid())?),
            "token" => Self::Token(rest.parse().map_err(|_| invalid())?),
            "project" => Self::Project(rest.parse().map_err(|_| invalid())?),
            "operation" => Self::Operation(rest.parse().map_err(|_| invalid())?),
            "run" => {
                let (operation, device) = rest.split_once('/').ok_or_else(invalid)?;
                Self::Run(
                    operation.parse().map_err(|_| invalid())?,
                    device.parse().map_err(|_| invalid())?,
                )
            }
            "session" => {
                let (session, device) = rest.split_once('/').ok_or_else(invalid)?;
                Self::Session(
                    session.parse().map_err(|_| invalid())?,
                    device.parse().map_err(|_| invalid())?,
                )
            }
            "name" => Self::Name(rest.parse().map_err(|_| invalid())?),
            _ => return Err(invalid()),
        };
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_name_round_trips() {
        let id = "0198c0de-7000-7abc-8def-0123456789ab";
        for text in [
            format!("device/{id}"),
            format!("device-report/{id}/3"),
            format!("device-presence/{id}"),
            format!("token/{id}"),
            "project/plant-7".to_owned(),
            format!("operation/{id}"),
            format!("run/{id}/{id}"),
            format!("session/{id}/{id}"),
            "name/robot-7".to_owned(),
        ] {
            assert_eq!(text.parse::<StreamName>().map(|s| s.to_string()), Ok(text));
        }
        for bad in ["", "device", "device/x", "device-report/x/1", "run/x", "nope/1"] {
            assert!(bad.parse::<StreamName>().is_err(), "{bad:?} was taken");
        }
    }
}
