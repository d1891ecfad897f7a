//! The source of an upload: a file, opened within the policy's bounds, or the archive of a folder.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use muster_schemas::events::Upload;
use serde::{Deserialize, Serialize};

use super::archive::{self, Limits};
use super::name_of;
use super::worker::Progress;
use crate::files::{Bounds, is_virtual};

/// Identity of a file at the start of its upload; in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::operations) struct Sent {
    device: u64,
    inode: u64,
    /// Time of the last modification, in seconds and nanoseconds.
    changed: (i64, i64),
    pub(super) bytes: u64,
    /// Name of the file on the server.
    pub(super) name: String,
    /// Whether it is the archive of a folder.
    pub(super) is_folder: bool,
    /// Whether it is a copy of a file that the kernel generates on reading, such as those of
    /// `/proc`.
    #[serde(default)]
    is_copy: bool,
}

impl Sent {
    fn new(found: &Metadata, name: String, is_folder: bool) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.mtime(), found.mtime_nsec()),
            bytes: found.len(),
            name,
            is_folder,
            is_copy: false,
        }
    }

    /// Whether this is the same, unchanged file.
    pub(super) fn is_same(&self, found: &Metadata) -> bool {
        let found = Self::new(found, self.name.clone(), self.is_folder);
        *self == Self { is_copy: self.is_copy, ..found }
    }
}

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
