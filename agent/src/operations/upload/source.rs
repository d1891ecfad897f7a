//! The source of an upload: a file, opened within the policy's bounds, or the archive of a folder.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_schemas::events::Upload;

use super::archive::{self, ArchiveError, Limits};
use super::progress::Progress;
use crate::files::{Bounds, Failure, is_virtual};
use crate::operations::sent_file::Sent;

/// The reason why the source cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// It could not be opened.
    #[error("failed to read {path}: {source}")]
    Open { path: String, source: Failure },
    #[error("{0} is a folder; the source is removed only for a file")]
    RemovesFolder(String),
    #[error("{0} is a symbolic link; give the path of the file itself to remove the source")]
    RemovesLink(String),
    #[error("{0} is a virtual file of the kernel and cannot be removed")]
    RemovesVirtual(String),
    #[error("{path} has {bytes} bytes, more than the limit of {limit}")]
    TooLarge { path: String, bytes: u64, limit: u64 },
    #[error("the file changed during the upload and was discarded; upload a copy of it")]
    Changed,
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The open file's metadata could not be read.
    #[error(transparent)]
    Metadata(io::Error),
    /// The open file's content could not be read.
    #[error("failed to read it: {0}")]
    Content(io::Error),
}

impl SourceError {
    /// Returns a function that adds the path to an error, for `map_err`.
    fn at<E: Into<Failure>>(path: &str) -> impl Fn(E) -> Self {
        move |error| Self::Open { path: path.to_owned(), source: error.into() }
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

impl Source {
    /// Opens the requested source. A folder is packed into `archive`.
    pub(super) fn open(
        bounds: &Bounds,
        upload: &Upload,
        archive: &Path,
        limits: &Limits,
        progress: &Progress<'_>,
    ) -> Result<Self, SourceError> {
        let path = &upload.path;
        let found = bounds.find(path, true).map_err(SourceError::at(path))?;
        if found.metadata().map_err(SourceError::at(path))?.is_dir() {
            if upload.remove_source {
                return Err(SourceError::RemovesFolder(path.clone()));
            }
            return Self::pack_folder(bounds, path, archive, limits, progress);
        }
        if upload.remove_source {
            let itself = bounds.find(path, false).and_then(|it| Ok(it.metadata()?));
            if itself.map_err(SourceError::at(path))?.is_symlink() {
                return Err(SourceError::RemovesLink(path.clone()));
            }
        }
        let file = bounds.open(path).map_err(SourceError::at(path))?;
        if is_virtual(&file) {
            if upload.remove_source {
                return Err(SourceError::RemovesVirtual(path.clone()));
            }
            return Self::copy_file(&file, path, archive, limits, progress);
        }
        let found = file.metadata().map_err(SourceError::at(path))?;
        let sent = Sent::new(&found, name_of(path, "file"), false);
        let (bytes, limit) = (sent.bytes, upload.limit());
        if bytes > limit {
            return Err(SourceError::TooLarge { path: path.clone(), bytes, limit });
        }
        let location = Some((bounds.clone(), path.clone()));
        Ok(Self { sent, file: Arc::new(file), location })
    }

    /// Packs a folder into `archive`.
    fn pack_folder(
        bounds: &Bounds,
        path: &str,
        archive: &Path,
        limits: &Limits,
        progress: &Progress<'_>,
    ) -> Result<Self, SourceError> {
        let name = name_of(path, "home");
        archive::pack(bounds, path, &name, archive, limits, progress)?;
        let file = File::open(archive).map_err(SourceError::at(path))?;
        let found = file.metadata().map_err(SourceError::at(path))?;
        let sent = Sent::new(&found, format!("{name}.tar.gz"), true);
        Ok(Self { sent, file: Arc::new(file), location: None })
    }

    /// Copies a virtual file, whose size is unknown before it is read, into `archive`.
    fn copy_file(
        file: &File,
        path: &str,
        archive: &Path,
        limits: &Limits,
        progress: &Progress<'_>,
    ) -> Result<Self, SourceError> {
        let copied = archive::copy(file, archive, limits, progress);
        let copied = copied.and_then(|file| Ok((file.metadata()?, file)));
        let (found, file) = copied.map_err(SourceError::at(path))?;
        let sent = Sent { is_copy: true, ..Sent::new(&found, name_of(path, "file"), false) };
        Ok(Self { sent, file: Arc::new(file), location: None })
    }

    /// Opens the source that an earlier agent process started to send.
    pub(super) fn reopen(
        bounds: &Bounds,
        path: &str,
        archive: &Path,
        sent: Sent,
    ) -> Result<Self, SourceError> {
        let (file, location) = if sent.is_folder || sent.is_copy {
            (File::open(archive).map_err(SourceError::at(path))?, None)
        } else {
            let file = bounds.open(path).map_err(SourceError::at(path))?;
            (file, Some((bounds.clone(), path.to_owned())))
        };
        let source = Self { sent, file: Arc::new(file), location };
        source.check()?;
        Ok(source)
    }

    /// Checks that the open file is unchanged.
    pub(super) fn check(&self) -> Result<(), SourceError> {
        let found = self.file.metadata().map_err(SourceError::Metadata)?;
        if self.sent.is_same(&found) { Ok(()) } else { Err(SourceError::Changed) }
    }

    /// Checks that the path still leads to the unchanged file.
    pub(super) fn check_location(&self) -> Result<(), SourceError> {
        self.check()?;
        let Some((bounds, path)) = &self.location else { return Ok(()) };
        let found = bounds.find(path, true).and_then(|it| Ok(it.metadata()?));
        match found {
            Ok(found) if self.sent.is_same(&found) => Ok(()),
            _ => Err(SourceError::Changed),
        }
    }

    /// Reads up to `length` bytes at an offset.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, SourceError> {
        let left = self.sent.bytes.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(length);
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(SourceError::Changed),
            Err(error) => Err(SourceError::Content(error)),
        }
    }
}

/// Returns the last component of a path, for display.
fn name_of(path: &str, home: &str) -> String {
    let last = PathBuf::from(path);
    let last = last.file_name().map(|name| name.to_string_lossy().into_owned());
    last.unwrap_or_else(|| home.to_owned())
}
