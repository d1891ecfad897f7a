//! Lists the files to copy, on either side: folders before their content.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use muster_schemas::wire::FILE_PART_SUFFIX;
use russh_sftp::protocol::FileAttributes;

use super::link::{CopyError, Session};

/// Bits of a mode for the type of a file.
const TYPE_BITS: u32 = 0o170_000;
/// Bits of a mode for the permissions.
const PERMISSION_BITS: u32 = 0o7777;

/// Type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket, which cannot be copied.
    Other,
}

/// Metadata of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileMetadata {
    pub(super) kind: Kind,
    /// Size in bytes.
    pub(super) size: u64,
    /// Permissions.
    pub(super) permissions: u32,
    /// Modification time, in whole seconds since 1970.
    pub(super) modified: u32,
}

impl FileMetadata {
    fn new(mode: u32, size: u64, modified: u32) -> Self {
        let kind = match mode & TYPE_BITS {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Folder,
            0o120_000 => Kind::Link,
            _ => Kind::Other,
        };
        Self { kind, size, permissions: mode & PERMISSION_BITS, modified }
    }

    /// Whether size and time are equal.
    pub(super) fn is_unchanged(&self, other: &Self) -> bool {
        (self.kind, self.size, self.modified) == (other.kind, other.size, other.modified)
    }

    /// Returns the attributes to set on the device.
    pub(super) fn attributes(&self) -> FileAttributes {
        FileAttributes {
            permissions: Some(self.permissions),
            atime: Some(self.modified),
            mtime: Some(self.modified),
            ..FileAttributes::default()
        }
    }
}

impl From<&FileAttributes> for FileMetadata {
    fn from(attrs: &FileAttributes) -> Self {
        let mode = attrs.permissions.unwrap_or_default();
        Self::new(mode, attrs.size.unwrap_or_default(), attrs.mtime.unwrap_or_default())
    }
}

impl From<&Metadata> for FileMetadata {
    fn from(metadata: &Metadata) -> Self {
        let changed = u32::try_from(metadata.mtime().max(0)).unwrap_or(u32::MAX);
        Self::new(metadata.mode(), metadata.len(), changed)
    }
}

/// A file in a tree.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Path in the tree, separated by `/`; empty for the root.
    pub(super) path: String,
    pub(super) metadata: FileMetadata,
}

impl Entry {
    /// Returns its path below this root.
    pub(super) fn below(&self, root: &str) -> String {
        match self.path.as_str() {
            "" => root.to_owned(),
            path => format!("{}/{path}", root.trim_end_matches('/')),
        }
    }
}

/// Whether it is the partial file of an interrupted copy.
pub(super) fn is_part(entry: &Entry) -> bool {
    entry.metadata.kind == Kind::File && entry.path.ends_with(FILE_PART_SUFFIX)
}

/// Whether a name from a device is safe to use as a file name on this machine.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Returns the metadata at this path of the device; follows links.
pub(super) async fn remote_metadata(
    session: &Session,
    path: &str,
) -> Result<Option<FileMetadata>, CopyError> {
    let found = session.find("failed to inspect it", session.sftp.stat(path)).await?;
    Ok(found.map(|found| FileMetadata::from(&found.attrs)))
}

/// Name of the marker file of an incomplete folder.
pub(super) const INCOMPLETE: &str = FILE_PART_SUFFIX;

/// Reasons why files of a tree are not copied.
pub(super) type Skipped = Vec<anyhow::Error>;

/// Lists everything at this path of the device, and the errors of what cannot be copied.
pub(super) async fn list_remote(
    session: &Session,
    root: &str,
) -> Result<(Vec<Entry>, Skipped), CopyError> {
    let mut skipped = Vec::new();
    let facts = remote_metadata(session, root).await?;
    let facts = facts.ok_or_else(|| anyhow!("there is no {root} on the device"))?;
    let mut all = vec![Entry { path: String::new(), metadata: facts }];
    let mut at = 0;
    while let Some(folder) = all.get(at).cloned() {
        at += 1;
        if folder.metadata.kind != Kind::Folder {
            continue;
        }
        let path = folder.below(root);
        let opened = session.require("failed to open a folder", session.sftp.opendir(path)).await?;
        loop {
            let names =
                session.find("failed to read a folder", session.sftp.readdir(&opened.handle));
            let Some(names) = names.await? else { break };
            for file in names.files {
                if matches!(file.filename.as_str(), "." | "..") {
                    continue;
                }
                if !is_name(&file.filename) {
                    let message =
                        format!("the device names a file '{}'", file.filename.escape_debug());
                    return Err(anyhow!(message).into());
                }
                let path = join(&folder.path, &file.filename);
                // The device substitutes this character for bytes that are not UTF-8.
                if file.filename.contains(char::REPLACEMENT_CHARACTER) {
                    skipped.push(anyhow!("{root}/{path} has a name that is not UTF-8"));
                    continue;
                }
                all.push(Entry { path, metadata: FileMetadata::from(&file.attrs) });
            }
        }
        session.require("failed to close a folder", session.sftp.close(&opened.handle)).await?;
    }
    Ok((all, skipped))
}

/// Lists everything at this path of this machine, and the errors of what cannot be copied.
pub(super) fn list_local(root: &Path) -> Result<(Vec<Entry>, Skipped)> {
    let mut skipped = Vec::new();
    let shown = root.display();
    let metadata = std::fs::metadata(root).with_context(|| format!("failed to inspect {shown}"))?;
    let mut all = vec![Entry { path: String::new(), metadata: FileMetadata::from(&metadata) }];
    let mut at = 0;
    while let Some(folder) = all.get(at).cloned() {
        at += 1;
        if folder.metadata.kind != Kind::Folder {
            continue;
        }
        let path = root.join(&folder.path);
        let wrong = || format!("failed to read the folder {}", path.display());
        for entry in std::fs::read_dir(&path).with_context(wrong)? {
            let entry = entry.with_context(wrong)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                skipped.push(anyhow!("{} has a name that is not UTF-8", entry.path().display()));
                continue;
            };
            let facts = FileMetadata::from(&entry.metadata().with_context(wrong)?);
            all.push(Entry { path: join(&folder.path, name), metadata: facts });
        }
    }
    Ok((all, skipped))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_tree_is_listed_with_folders_before_their_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/c"), "12345").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("a/l")).unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"a/odd-\xff");
        std::fs::write(dir.path().join(odd), "x").unwrap();
        let (all, skipped) = list_local(dir.path()).unwrap();
        assert!(skipped.len() == 1 && skipped[0].to_string().contains("odd-"));
        let index_of = |path: &str| all.iter().position(|entry| entry.path == path).unwrap();
        assert!(
            index_of("") < index_of("a")
                && index_of("a") < index_of("a/b")
                && index_of("a/b") < index_of("a/b/c")
        );
        assert_eq!(all[index_of("a/b/c")].metadata.size, 5);
        assert_eq!(all[index_of("a/l")].metadata.kind, Kind::Link);
        assert_eq!(all[index_of("a/b/c")].below("/x/"), "/x/a/b/c");
        assert_eq!(all[0].below("/x"), "/x");
        assert!(list_local(&dir.path().join("none")).is_err());
        for bad in ["", ".", "..", "a/b", "a\0"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name("a b") && is_name("..a"));
    }
}
