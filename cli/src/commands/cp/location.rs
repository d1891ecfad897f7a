//! Paths in arguments.

use std::path::PathBuf;

use crate::exit::UsageError;

/// Source or target of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// A path on this machine.
    Local(PathBuf),
    /// A path on a device.
    Device {
        /// Name or id of the device.
        device: String,
        /// Path on the device; `.` is the home of the agent's user.
        path: String,
    },
}

impl Location {
    /// Parses `PATH`, or `DEVICE:PATH`. A colon after a slash is part of a local name.
    pub(super) fn parse(text: &str) -> Result<Self, UsageError> {
        let Some((device, path)) = text.split_once(':').filter(|(device, _)| !device.contains('/'))
        else {
            if text.is_empty() {
                return Err(UsageError("the path is empty; write . for this folder".to_owned()));
            }
            return Ok(Self::Local(text.into()));
        };
        if device.is_empty() {
            return Err(UsageError(format!(
                "'{text}' names no device; write DEVICE:PATH, or ./{text}"
            )));
        }
        let path = if path.is_empty() { "." } else { path };
        Ok(Self::Device { device: device.to_owned(), path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_parsed() {
        let there = |device: &str, path: &str| Location::Device {
            device: device.to_owned(),
            path: path.to_owned(),
        };
        for (text, location) in [
            ("a", Location::Local("a".into())),
            ("./a:b", Location::Local("./a:b".into())),
            ("/a:b/c", Location::Local("/a:b/c".into())),
            ("robot:/var/log", there("robot", "/var/log")),
            ("robot:a:b", there("robot", "a:b")),
            ("robot:", there("robot", ".")),
        ] {
            assert_eq!(Location::parse(text).unwrap(), location, "{text}");
        }
        assert!(Location::parse(":/a").is_err());
        assert!(Location::parse("").is_err());
    }
}
