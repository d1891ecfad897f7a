//! Packs a folder as a tar archive with gzip, within the policy's bounds.
//!
//! Symbolic links are packed as links and not followed; sockets, pipes and devices are left out. A
//! file that changes during packing has the size in the archive that it had when it was found.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::progress::Progress;
use crate::files::Bounds;
use crate::store::free_bytes;

/// Minimum free disk space, in bytes: reserved for the agent.
const MIN_FREE_BYTES: u64 = 256 << 20;
/// Number of bytes between checks of the free space.
const FREE_SPACE_CHECK_INTERVAL_BYTES: u64 = 4 << 20;
/// Maximum size of a file of `/proc`, `/sys` and similar file systems, in bytes.
const MAX_VIRTUAL_BYTES: u64 = 16 << 20;
/// Maximum depth of nested folders.
const MAX_DEPTH: usize = 100;

/// A folder could not be archived.
#[derive(Debug, thiserror::Error)]
#[error("failed to archive {path}: {source}")]
pub(super) struct ArchiveError {
    path: String,
    source: io::Error,
}

/// Limits of an archive's size.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    max_bytes: u64,
    disk: PathBuf,
}

impl Limits {
    pub(super) fn new(max_bytes: u64, disk: &Path) -> Self {
        Self { max_bytes, disk: disk.to_owned() }
    }

    fn check_disk(&self) -> io::Result<()> {
        if free_bytes(&self.disk).is_some_and(|free| free < MIN_FREE_BYTES) {
            let message = "the device's disk has no space for the archive";
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        Ok(())
    }
}

/// A writer that counts, reports progress, and fails beyond the limits.
struct LimitedWriter<'a, 'p> {
    file: BufWriter<File>,
    written: u64,
    checked_at: u64,
    limits: &'a Limits,
    progress: &'a Progress<'p>,
}

impl Write for LimitedWriter<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limits = self.limits;
        self.progress.report_progress()?;
        self.written += bytes.len() as u64;
        if self.written > limits.max_bytes {
            let message = format!("it is larger than the limit of {} bytes", limits.max_bytes);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        if self.written >= self.checked_at {
            limits.check_disk()?;
            self.checked_at = self.written + FREE_SPACE_CHECK_INTERVAL_BYTES;
        }
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Packs the folder at `path`, as `name`, into the file `archive`, which is on disk when this
/// returns; on failure the file is deleted.
pub(super) fn pack(
    bounds: &Bounds,
    path: &str,
    name: &str,
    archive: &Path,
    limits: &Limits,
    progress: &Progress<'_>,
) -> Result<(), ArchiveError> {
    let packed = try_pack(bounds, path, name, archive, limits, progress);
    packed.map_err(|source| {
        let _ = std::fs::remove_file(archive);
        ArchiveError { path: path.to_owned(), source }
    })
}

fn try_pack(
    bounds: &Bounds,
    path: &str,
    name: &str,
    archive: &Path,
    limits: &Limits,
    progress: &Progress<'_>,
) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(archive)?;
    let file = BufWriter::with_capacity(256 * 1024, file);
    let sink = LimitedWriter { file, written: 0, checked_at: 0, limits, progress };
    let mut builder = Builder::new(GzEncoder::new(sink, Compression::fast()));
    add(bounds, Path::new(path), Path::new(name), &mut builder, 0, progress)?;
    let mut sink = builder.into_inner()?.finish()?;
    sink.flush()?;
    progress.report_syncing(path)?;
    let file = sink.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()
}

fn to_io_error(failure: impl std::fmt::Display) -> io::Error {
    io::Error::other(failure.to_string())
}

/// Copies the contents of a file of unknown size into `archive`, which is on disk when this
/// returns.
pub(super) fn copy(
    file: &File,
    archive: &Path,
    limits: &Limits,
    progress: &Progress<'_>,
) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.create(true).read(true).write(true).truncate(true).mode(0o600);
    let copy = BufWriter::with_capacity(256 * 1024, options.open(archive)?);
    let mut sink = LimitedWriter { file: copy, written: 0, checked_at: 0, limits, progress };
    io::copy(&mut &*file, &mut sink)?;
    let copy = sink.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    copy.sync_all()?;
    Ok(copy)
}

/// Adds the entry at a path. An entry that no longer exists was deleted meanwhile, which is not an
/// error.
fn add<W: Write>(
    bounds: &Bounds,
    path: &Path,
    name: &Path,
    builder: &mut Builder<W>,
    depth: usize,
    progress: &Progress<'_>,
) -> io::Result<()> {
    progress.report_path(&path.to_string_lossy())?;
    // The requested folder may be behind a link; inside it, no link is followed.
    let found = match bounds.find(path, depth == 0) {
        Ok(found) => found,
        Err(crate::files::Failure::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(());
        }
        Err(failure) => return Err(to_io_error(failure)),
    };
    let metadata = found.metadata()?;
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    let kind = metadata.file_type();
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        return builder.append_link(&mut header, name, found.target()?);
    }
    if kind.is_file() {
        // If it was replaced by a link meanwhile, the link can only lead to a file within the
        // bounds.
        let file = match bounds.open(path) {
            Ok(file) => file,
            Err(failure) => return Err(to_io_error(format!("{}: {failure}", path.display()))),
        };
        if found.is_virtual() {
            // Its size is known only after it was read.
            let mut bytes = Vec::new();
            let read = file.take(MAX_VIRTUAL_BYTES).read_to_end(&mut bytes);
            // Some of these files cannot be read at all, which must not fail the archive.
            if read.is_err() {
                return Ok(());
            }
            header.set_size(bytes.len() as u64);
            return builder.append_data(&mut header, name, bytes.as_slice());
        }
        header.set_size(metadata.len());
        let padded = file.chain(io::repeat(0)).take(metadata.len());
        return builder.append_data(&mut header, name, padded);
    }
    if !kind.is_dir() {
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        return Err(io::Error::other(format!("{} is nested too deeply", path.display())));
    }
    header.set_entry_type(EntryType::Directory);
    header.set_size(0);
    builder.append_data(&mut header, name, io::empty())?;
    let mut names = std::fs::read_dir(found.path())?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    for child in names {
        add(bounds, &path.join(&child), &name.join(&child), builder, depth + 1, progress)?;
    }
    Ok(())
}
