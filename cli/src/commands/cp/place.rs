//! Paths in arguments.

use std::path::PathBuf;

use crate::exit::Misused;

/// Source or target of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A path on this machine.
    Here(PathBuf),
    /// A path on a device.
    Device {
        /// Name or id of the device.
        device: String,
        /// Path on the device; `.` is the home of the agent's user.
        path: String,
    },
}

impl Place {
    /// Parses `PATH`, or `DEVICE:PATH`. A colon after a slash is part of a local name.
    pub(super) fn read(text: &str) -> Result<Self, Misused> {
        let Some((device, path)) = text.split_once(':').filter(|(device, _)| !device.contains('/'))
        else {
            if text.is_empty() {
                return Err(Misused("the path is empty; write . for this folder".to_owned()));
            }
            return Ok(Self::Here(text.into()));
        };
        if device.is_empty() {
            return Err(Misused(format!(
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
    fn places_read_as_written() {
        let there = |device: &str, path: &str| Place::Device {
            device: device.to_owned(),
            path: path.to_owned(),
        };
        for (text, place) in [
            ("a", Place::Here("a".into())),
            ("./a:b", Place::Here("./a:b".into())),
            ("/a:b/c", Place::Here("/a:b/c".into())),
            ("robot:/var/log", there("robot", "/var/log")),
            ("robot:a:b", there("robot", "a:b")),
            ("robot:", there("robot", ".")),
        ] {
            assert_eq!(Place::read(text).unwrap(), place, "{text}");
        }
        assert!(Place::read(":/a").is_err());
        assert!(Place::read("").is_err());
    }
}
