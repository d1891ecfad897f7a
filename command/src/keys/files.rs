//! Secret files: created once and atomically, readable by their owner only.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use muster_files::write_private;
use muster_schemas::Timestamp;

use super::error::{KeyError, unusable};

fn file_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> KeyError + 'a {
    move |source| KeyError::File { attempted: operation, path: path.to_owned(), source }
}

/// Permissions of group and others.
const OTHERS_MODE: u32 = 0o077;

/// Creates a folder that only its owner can access. If an existing folder is accessible to others
/// and is empty or contains one of `own_files`, their access to it and to its secret files is
/// removed; a folder of other programs is refused.
///
/// # Errors
/// When the folder cannot be created, or is accessible to others and not muster's own.
pub fn make_private_dir(dir: &Path, own_files: &[&str]) -> Result<(), KeyError> {
    let make = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    make.map_err(file_error("create the folder", dir))?;
    let owner = fs::metadata(dir).map_err(file_error("inspect", dir))?.uid();
    // Root can use the folder of any user, who could then replace its files.
    let user = fs::metadata("/proc/self").map_or(owner, |process| process.uid());
    if owner != user {
        return Err(KeyError::OtherOwner { path: dir.to_owned(), owner, user });
    }
    let mode = mode_of(dir)?;
    if mode & OTHERS_MODE != 0 {
        let refuse = |problem: &str| KeyError::OpenToOthers {
            path: dir.to_owned(),
            mode,
            problem: problem.to_owned(),
        };
        let entries = fs::read_dir(dir).map_err(file_error("read the folder", dir))?;
        // A new file system contains this folder.
        let is_empty = entries.flatten().all(|entry| entry.file_name() == "lost+found");
        if !is_empty && !own_files.iter().any(|name| dir.join(name).exists()) {
            return Err(refuse("it contains files of other programs"));
        }
        let closed = fs::set_permissions(dir, Permissions::from_mode(0o700));
        closed.map_err(|error| refuse(&error.to_string()))?;
        tracing::warn!(
            folder = %dir.display(),
            "the folder was accessible to other users (mode {mode:o}); their access was removed"
        );
    }
    restrict_secrets(dir)
}

/// Removes access of others to a folder's secret files: all but certificates and public keys.
pub(super) fn restrict_secrets(dir: &Path) -> Result<(), KeyError> {
    let entries = fs::read_dir(dir).map_err(file_error("read the folder", dir))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_public = path.extension().is_some_and(|ending| ending == "pem" || ending == "pub");
        // Another process may have renamed a temporary file meanwhile.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o7777;
        if is_public || !metadata.is_file() || mode & OTHERS_MODE == 0 {
            continue;
        }
        let closed = fs::set_permissions(&path, Permissions::from_mode(mode & !OTHERS_MODE));
        closed.map_err(|error| KeyError::OpenToOthers {
            path: path.clone(),
            mode,
            problem: error.to_string(),
        })?;
        tracing::warn!(
            file = %path.display(),
            "the file was accessible to other users (mode {mode:o}); their access was removed"
        );
    }
    Ok(())
}

fn mode_of(path: &Path) -> Result<u32, KeyError> {
    let metadata = fs::metadata(path).map_err(file_error("inspect", path))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// Reads a file, or creates it.
pub(super) fn load_or_create(
    path: &Path,
    create: impl FnOnce() -> Result<Vec<u8>, KeyError>,
) -> Result<Vec<u8>, KeyError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            write_private(path, &create()?)?;
            // The file on disk takes precedence: another process may have created it first.
            fs::read(path).map_err(file_error("read", path))
        }
        Err(error) => Err(file_error("read", path)(error)),
    }
}

/// Reads a secret of 32 bytes, or creates it.
pub(super) fn load_or_create_seed(path: &Path) -> Result<[u8; 32], KeyError> {
    let bytes = load_or_create(path, || {
        let seed: [u8; 32] = rand::random();
        Ok(seed.to_vec())
    })?;
    bytes.try_into().map_err(|_| unusable(path, "it is not 32 bytes long"))
}

/// Reads an existing secret of 32 bytes.
pub(super) fn read_seed(path: &Path) -> Result<[u8; 32], KeyError> {
    let bytes = fs::read(path).map_err(file_error("read", path))?;
    bytes.try_into().map_err(|_| unusable(path, "it is not 32 bytes long"))
}

/// Returns when a file was modified.
pub(super) fn modified(path: &Path) -> Result<Timestamp, KeyError> {
    fs::metadata(path)
        .and_then(|file| file.modified())
        .map(Timestamp::from)
        .map_err(file_error("inspect", path))
}
