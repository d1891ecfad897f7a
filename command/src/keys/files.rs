//! Secret files: made once, whole or not at all, readable by their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use muster_schemas::Timestamp;

use super::{KeyError, unusable};

fn failed<'a>(
    attempted: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> KeyError + 'a {
    move |source| KeyError::File { attempted, path: path.to_owned(), source }
}

/// Makes a folder that only its owner can enter.
pub(super) fn make_private_dir(dir: &Path) -> Result<(), KeyError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("make the folder", dir))
}

/// Writes a file whole or not at all: two processes that start at once end up with one content.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("write", &temporary))?;
    file.write_all(bytes).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("write", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("write", path))?;
    if let Some(dir) = path.parent() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))?;
    }
    Ok(())
}

/// Reads a file, or makes it.
pub(super) fn load_or_make(
    path: &Path,
    make: impl FnOnce() -> Result<Vec<u8>, KeyError>,
) -> Result<Vec<u8>, KeyError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            write_private(path, &make()?)?;
            // What stands there now counts: another process may have been quicker.
            fs::read(path).map_err(failed("read", path))
        }
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Reads 32 secret bytes, or makes them.
pub(super) fn load_or_make_seed(path: &Path) -> Result<[u8; 32], KeyError> {
    let bytes = load_or_make(path, || {
        let seed: [u8; 32] = rand::random();
        Ok(seed.to_vec())
    })?;
    bytes.try_into().map_err(|_| unusable(path, "it is not 32 bytes long"))
}

/// Reads 32 secret bytes that are there.
pub(super) fn read_seed(path: &Path) -> Result<[u8; 32], KeyError> {
    let bytes = fs::read(path).map_err(failed("read", path))?;
    bytes.try_into().map_err(|_| unusable(path, "it is not 32 bytes long"))
}

/// When a file was written.
pub(super) fn modified(path: &Path) -> Result<Timestamp, KeyError> {
    fs::metadata(path)
        .and_then(|file| file.modified())
        .map(Timestamp::from)
        .map_err(failed("look at", path))
}
