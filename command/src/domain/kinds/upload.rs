//! Uploads of a file.

use muster_schemas::events::Upload;
use muster_schemas::wire::MAX_UPLOAD_BYTES;

use super::rules::{Kind, Timeouts, invalid};
use crate::domain::Rejection;

/// Timeouts of uploads: at most 30 days.
const TIMEOUTS: Timeouts =
    Timeouts { default_secs: Timeouts::SHORT.max_secs, max_secs: 30 * Timeouts::SHORT.max_secs };
/// Maximum length of a path, in bytes.
const MAX_PATH_BYTES: usize = 4096;
/// Minimum rate limit of an upload, in bytes per second.
const MIN_BYTES_PER_SECOND: u64 = 1024;

impl Kind for &Upload {
    fn timeouts(&self) -> Timeouts {
        TIMEOUTS
    }

    fn check(&self) -> Result<(), Rejection> {
        check_upload(self)
    }
}

fn check_upload(upload: &Upload) -> Result<(), Rejection> {
    let path = &upload.path;
    if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains('\0') {
        let rule = format!("must be 1 to {MAX_PATH_BYTES} bytes without a NUL");
        let shown = path.chars().take(80).collect::<String>();
        return Err(invalid("action.path", rule, shown));
    }
    if upload.keep_seconds == Some(0) {
        return Err(invalid("action.expires_in_seconds", "must be at least 1", "0"));
    }
    if !(1..=MAX_UPLOAD_BYTES).contains(&upload.limit()) {
        let rule = format!("must be from 1 to {MAX_UPLOAD_BYTES}");
        return Err(invalid("action.max_bytes", rule, upload.limit().to_string()));
    }
    match upload.bytes_per_second {
        Some(speed) if speed < MIN_BYTES_PER_SECOND => {
            let rule = format!("must be at least {MIN_BYTES_PER_SECOND}");
            Err(invalid("action.max_bytes_per_second", rule, speed.to_string()))
        }
        _ => Ok(()),
    }
}
