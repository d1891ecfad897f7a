//! The source of an upload: a file, opened within the policy's bounds, or the archive of a folder.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_schemas::events::Upload;

use super::archive::{self, Limits};
use super::progress::Progress;
use crate::files::{Bounds, is_virtual};
use crate::operations::sent_file::Sent;

/// An open file, with its identity.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) sent: Sent,
    file: Arc<File>,
    /// Location that is checked again at the end; `None` for an archive that the agent has created.
    location: Option<(Bounds, String)>,
}

const CHANGED: &str = "the file changed during the upload and was discarded; upload a copy of it";

impl Source {
    /// Opens the requested source. A folder is packed into `archive`.
    pub(super) fn open(
        bounds: &Bounds,
        upload: &Upload,
        archive: &Path,
        limits: &Limits,
        progress: &Progress<'_>,
    ) -> Result<Self, String> {
        let path = &upload.path;
        let failed = |error: &dyn std::fmt::Display| format!("failed to read {path}: {error}");
        let found = bounds.find(path, true).map_err(|error| failed(&error))?;
        let is_folder = found.metadata().map_err(|error| failed(&error))?.is_dir();
        if is_folder {
            if upload.remove_source {
                return Err(format!("{path} is a folder; the source is removed only for a file"));
            }
            let name = name_of(path, "home");
            archive::pack(bounds, path, &name, archive, limits, progress)?;
            let file = File::open(archive).map_err(|error| failed(&error))?;
            let found = file.metadata().map_err(|error| failed(&error))?;
            let sent = Sent::new(&found, format!("{name}.tar.gz"), true);
            return Ok(Self { sent, file: Arc::new(file), location: None });
        }
        if upload.remove_source {
            let itself = bounds.find(path, false).and_then(|it| Ok(it.metadata()?));
            if itself.map_err(|error| failed(&error))?.is_symlink() {
                let reason =
                    "is a symbolic link; give the path of the file itself to remove the source";
                return Err(format!("{path} {reason}"));
            }
        }
        let file = bounds.open(path).map_err(|error| failed(&error))?;
        if is_virtual(&file) {
            if upload.remove_source {
                let reason = "is a virtual file of the kernel and cannot be removed";
                return Err(format!("{path} {reason}"));
            }
            let copied = archive::copy(&file, archive, limits, progress);
            let copied = copied.and_then(|file| Ok((file.metadata()?, file)));
            let (found, file) = copied.map_err(|error| failed(&error))?;
            let sent = Sent { is_copy: true, ..Sent::new(&found, name_of(path, "file"), false) };
            return Ok(Self { sent, file: Arc::new(file), location: None });
        }
        let found = file.metadata().map_err(|error| failed(&error))?;
        let sent = Sent::new(&found, name_of(path, "file"), false);
        if sent.bytes > upload.limit() {
            let (bytes, limit) = (sent.bytes, upload.limit());
            return Err(format!("{path} has {bytes} bytes, more than the limit of {limit}"));
        }
        let location = Some((bounds.clone(), path.clone()));
        Ok(Self { sent, file: Arc::new(file), location })
    }

    /// Opens the source that an earlier agent process started to send.
    pub(super) fn reopen(
        bounds: &Bounds,
        path: &str,
        archive: &Path,
        sent: Sent,
    ) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("failed to read {path}: {error}");
        let (file, location) = if sent.is_folder || sent.is_copy {
            (File::open(archive).map_err(|error| failed(&error))?, None)
        } else {
            let file = bounds.open(path).map_err(|error| failed(&error))?;
            (file, Some((bounds.clone(), path.to_owned())))
        };
        let source = Self { sent, file: Arc::new(file), location };
        source.check()?;
        Ok(source)
    }

    /// Checks that the open file is unchanged.
    pub(super) fn check(&self) -> Result<(), String> {
        let found = self.file.metadata().map_err(|error| error.to_string())?;
        if self.sent.is_same(&found) { Ok(()) } else { Err(CHANGED.to_owned()) }
    }

    /// Checks that the path still leads to the unchanged file.
    pub(super) fn check_location(&self) -> Result<(), String> {
        self.check()?;
        let Some((bounds, path)) = &self.location else { return Ok(()) };
        let found = bounds.find(path, true).and_then(|it| Ok(it.metadata()?));
        match found {
            Ok(found) if self.sent.is_same(&found) => Ok(()),
            _ => Err(CHANGED.to_owned()),
        }
    }

    /// Reads up to `length` bytes at an offset.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let left = self.sent.bytes.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(length);
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(CHANGED.to_owned())
            }
            Err(error) => Err(format!("failed to read it: {error}")),
        }
    }
}

/// Returns the last component of a path, for display.
fn name_of(path: &str, home: &str) -> String {
    let last = PathBuf::from(path);
    let last = last.file_name().map(|name| name.to_string_lossy().into_owned());
    last.unwrap_or_else(|| home.to_owned())
}
