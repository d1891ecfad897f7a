//! Files that hold secrets or configuration: written atomically, readable by their owner only.
//!
//! Invariant: a reader sees the old content or the new content, also after a crash.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {}", path.display())]
pub struct WriteError {
    /// Path of the file.
    pub path: PathBuf,
    /// Cause of the failure.
    pub source: io::Error,
}

/// Replaces a file atomically. Only its owner can read it (mode 0600); it is on the disk when this
/// function returns. Of several concurrent writers, one wins.
///
/// # Errors
/// When the folder does not exist, or the file cannot be written; then the old file is unchanged.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    replace(path, content).map_err(|source| WriteError { path: path.to_owned(), source })
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let mut file = tempfile::Builder::new().prefix(&prefix).suffix(".new").tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The name is in the folder, which must be synced, too.
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_together_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(&path, "old and longer").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_unchanged_and_leaves_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        assert!(write_private(&path, b"new").is_err());
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
        assert!(write_private(&dir.path().join("none/file"), b"new").is_err());
    }

    #[test]
    fn concurrent_writers_leave_one_complete_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::thread::scope(|scope| {
            for letter in b'a'..=b'h' {
                let path = &path;
                scope.spawn(move || write_private(path, &[letter; 10_000]).unwrap());
            }
        });
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 10_000);
        assert!(content.iter().all(|byte| *byte == content[0]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
    }
}
