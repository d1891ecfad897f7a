//! Paths as they are written on the command line.

use std::path::PathBuf;

use crate::exit::Misused;

/// Where a file is, or becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On this machine.
    Here(PathBuf),
    /// On a device.
    Device {
        /// Its name or id.
        device: String,
        /// A path there; `.` is where the agent's user is at home.
        path: String,
    },
}

impl Place {
    /// Reads `PATH`, or `DEVICE:PATH`. A colon behind a slash is a part of a name here.
    pub(super) fn read(text: &str) -> Result<Self, Misused> {
        let Some((device, path)) = text.split_once(':').filter(|(device, _)| !device.contains('/'))
        else {
            if text.is_empty() {
                return Err(Misused("an empty path is no path; . is this folder".to_owned()));
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

/// A number of bytes as people write it: `4096`, `500KiB`, `1MiB`, `2GB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size; write for example 500KiB, 10MiB or 2GB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_sizes_read_as_written() {
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
        for (text, bytes) in [("1", 1), ("2K", 2048), ("3MB", 3_000_000), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in ["", "0", "x", "1.5M", "1TB", "99999999999999999999", "-1"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
