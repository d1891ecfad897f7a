//! Reads small files of `/proc` and `/sys` below a root folder into one reused buffer.
//!
//! Bytes that are not UTF-8 become U+FFFD: malformed data must reach the parsers, which refuse it,
//! and must not end the round.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Maximum size that is read of a file, in bytes: `/proc/stat` of a 512-core machine is 200 KB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The reason why a collector has nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The content of a file differs from the kernel's documentation.
    #[error("{path} does not contain {expected}; check that the kernel provides it")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The expected content.
        expected: &'static str,
    },
    /// A system call failed.
    #[error("failed to read {what} from the kernel")]
    Call {
        /// The requested value.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// The files of one machine, or of a fixture folder with the same structure.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Files {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), path: PathBuf::new(), bytes: Vec::with_capacity(8192) }
    }

    /// Returns the path of a file or folder: `relative` has no leading `/`.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Reads a whole file as text, which is valid until the next read.
    pub(crate) fn text(
        &mut self,
        relative: &str,
    ) -> Result<std::borrow::Cow<'_, str>, CollectError> {
        self.path.clear();
        self.path.push(&self.root);
        self.path.push(relative);
        match read_into(&self.path, &mut self.bytes) {
            Ok(()) => Ok(String::from_utf8_lossy(&self.bytes)),
            Err(source) => Err(CollectError::Read { path: self.path.clone(), source }),
        }
    }

    /// Reads a whole file as text in which each byte that is not UTF-8 is written as `\ooo`, like
    /// the kernel's escapes of spaces in tables of paths.
    pub(crate) fn escaped_text(&mut self, relative: &str) -> Result<String, CollectError> {
        self.text(relative)?;
        let mut text = String::with_capacity(self.bytes.len());
        for chunk in self.bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|byte| format!("\\{byte:03o}")));
        }
        Ok(text)
    }

    /// Reads a file that a machine may lack: `None` if it does not exist.
    pub(crate) fn text_if_present(
        &mut self,
        relative: &str,
    ) -> Result<Option<std::borrow::Cow<'_, str>>, CollectError> {
        match self.text(relative) {
            Ok(text) => Ok(Some(text)),
            Err(CollectError::Read { source, .. }) if is_absent(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a one-line file without its line end; `None` if it cannot be read or is empty.
    pub(crate) fn line(&mut self, relative: &str) -> Option<String> {
        let text = self.text(relative).ok()?;
        let line = text.lines().next().unwrap_or_default().trim_matches(['\0', ' ', '\t']);
        (!line.is_empty()).then(|| line.to_owned())
    }

    /// Reads a file with one number; `None` if it cannot be read or contains none.
    pub(crate) fn number(&mut self, relative: &str) -> Option<f64> {
        self.text(relative).ok()?.trim().parse().ok().filter(|number: &f64| number.is_finite())
    }

    /// Returns the names in a folder, sorted; empty if the folder does not exist.
    pub(crate) fn names(&self, relative: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(relative)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn malformed(&self, relative: &str, expected: &'static str) -> CollectError {
        CollectError::Malformed { path: self.path(relative), expected }
    }
}

/// Whether the file does not exist, or, with some drivers of `/sys`, there is no such device or no
/// data now.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(code) if code == nix::libc::ENODEV || code == nix::libc::ENODATA)
}

/// Reads a file into a buffer that keeps its capacity.
///
/// Uses `O_NONBLOCK`, because a sensor whose hardware sleeps would otherwise delay the round.
pub(crate) fn read_into(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    let file: File =
        OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    // Not `read_to_end` on the file itself: that first queries the size and position, two system
    // calls that return nothing useful for files of /proc.
    file.take(MAX_FILE_BYTES).read_to_end(bytes)?;
    Ok(())
}
