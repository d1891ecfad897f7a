//! A folder, packed as a tar archive, compressed by gzip, within the policy's bounds.
//!
//! Symbolic links are packed as what they are, and followed nowhere; sockets, pipes and devices are
//! left out. A file that changes while it is packed is as long in the archive as it was found.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::worker::Progress;
use crate::files::Bounds;
use crate::store::free_bytes;

/// So many bytes of the disk are left alone: what the agent itself needs.
const LEFT_FREE: u64 = 256 << 20;
/// The free space is looked at again after so many bytes.
const LOOK_AFTER: u64 = 4 << 20;
/// The most that is packed of one file of `/proc`, `/sys` and the like, in bytes.
const MAX_VIRTUAL_BYTES: u64 = 16 << 20;
/// Folders in folders, at most.
const DEEPEST: usize = 100;

/// How large an archive may become.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    most: u64,
    disk: PathBuf,
}

impl Limits {
    pub(super) fn new(most: u64, disk: &Path) -> Self {
        Self { most, disk: disk.to_owned() }
    }

    fn check_disk(&self) -> io::Result<()> {
        if free_bytes(&self.disk).is_some_and(|free| free < LEFT_FREE) {
            let words = "there is no room on the device's disk to pack it";
            return Err(io::Error::new(io::ErrorKind::StorageFull, words));
        }
        Ok(())
    }
}

/// Counts, reports progress, and fails when it is too much.
struct Bounded<'a, 'p> {
    file: BufWriter<File>,
    written: u64,
    looked: u64,
    limits: &'a Limits,
    progress: &'a Progress<'p>,
}

impl Write for Bounded<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limits = self.limits;
        self.progress.beat()?;
        self.written += bytes.len() as u64;
        if self.written > limits.most {
            let words = format!("it is larger than the {} bytes that are asked for", limits.most);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
        }
        if self.written >= self.looked {
            limits.check_disk()?;
            self.looked = self.written + LOOK_AFTER;
        }
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Packs the folder at `path`, as `name`, into the file `archive`, which is on the disk when this
/// returns; nothing is left of it when it fails.
pub(super) fn pack(
    bounds: &Bounds,
    path: &str,
    name: &str,
    archive: &Path,
    limits: &Limits,
    progress: &Progress<'_>,
) -> Result<(), String> {
    let packed = try_pack(bounds, path, name, archive, limits, progress);
    packed.map_err(|error| {
        let _ = std::fs::remove_file(archive);
        format!("{path} cannot be packed: {error}")
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
    let sink = Bounded { file, written: 0, looked: 0, limits, progress };
    let mut builder = Builder::new(GzEncoder::new(sink, Compression::fast()));
    add(bounds, Path::new(path), Path::new(name), &mut builder, 0, progress)?;
    let mut sink = builder.into_inner()?.finish()?;
    sink.flush()?;
    progress.syncing(path)?;
    let file = sink.file.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()
}

fn refused(failure: impl std::fmt::Display) -> io::Error {
    io::Error::other(failure.to_string())
}

/// Copies what can be read of a file whose size is not known before, into `archive`; it is on the
/// disk when this returns.
pub(super) fn copy(
    file: &File,
    archive: &Path,
    limits: &Limits,
    progress: &Progress<'_>,
) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.create(true).read(true).write(true).truncate(true).mode(0o600);
    let copy = BufWriter::with_capacity(256 * 1024, options.open(archive)?);
    let mut sink = Bounded { file: copy, written: 0, looked: 0, limits, progress };
    io::copy(&mut &*file, &mut sink)?;
    let copy = sink.file.into_inner().map_err(|error| error.into_error())?;
    copy.sync_all()?;
    Ok(copy)
}

/// Adds what is at a path. What is gone by now was removed meanwhile: that is no failure.
fn add<W: Write>(
    bounds: &Bounds,
    path: &Path,
    name: &Path,
    builder: &mut Builder<W>,
    depth: usize,
    progress: &Progress<'_>,
) -> io::Result<()> {
    progress.at(&path.to_string_lossy())?;
    // The folder that was asked for may be behind a link; in it, none is followed.
    let found = match bounds.find(path, depth == 0) {
        Ok(found) => found,
        Err(crate::files::Failure::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(());
        }
        Err(failure) => return Err(refused(failure)),
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
        // Were it exchanged for a link by now, that would lead to within the bounds.
        let file = match bounds.open(path) {
            Ok(file) => file,
            Err(failure) => return Err(refused(format!("{}: {failure}", path.display()))),
        };
        if found.is_virtual() {
            // Its size is known only when it was read.
            let mut bytes = Vec::new();
            let read = file.take(MAX_VIRTUAL_BYTES).read_to_end(&mut bytes);
            // Some of them cannot be read at all, which is no fault of the others.
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
    if depth >= DEEPEST {
        return Err(io::Error::other(format!("{} is too deep", path.display())));
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
