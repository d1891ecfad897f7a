//! Identity of a file that is uploaded: each agent process that continues the upload must find the
//! same file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// Identity of a file at the start of its upload; in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Time of the last modification, in seconds and nanoseconds.
    pub(super) changed: (i64, i64),
    pub(super) bytes: u64,
    /// Name of the file on the server.
    pub(super) name: String,
    /// Whether it is the archive of a folder.
    pub(super) is_folder: bool,
    /// Whether it is a copy of a file that the kernel generates on reading, such as those of
    /// `/proc`.
    #[serde(default)]
    pub(super) is_copy: bool,
}

impl Sent {
    pub(super) fn new(found: &Metadata, name: String, is_folder: bool) -> Self {
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
