//! A folder, packed as a tar archive, compressed by gzip, within the policy's bounds.
//!
//! Symbolic links are packed as what they are, and followed nowhere; sockets, pipes and devices are
//! left out. A file that changes while it is packed is as long in the archive as it was found.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use crate::files::Bounds;
use crate::store::free_bytes;

/// So many bytes of the disk are left alone: what the agent itself needs.
const LEFT_FREE: u64 = 256 << 20;
/// The free space is looked at again after so many bytes.
const LOOK_AFTER: u64 = 4 << 20;
/// Folders in folders, at most.
const DEEPEST: usize = 100;

/// How large an archive may become, and whether anybody still wants it.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    most: u64,
    disk: PathBuf,
    is_left: Arc<AtomicBool>,
}

/// While it is there, somebody wants the archive.
#[derive(Debug)]
pub(super) struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Limits {
    pub(super) fn new(most: u64, disk: &Path) -> Self {
        Self { most, disk: disk.to_owned(), is_left: Arc::default() }
    }

    pub(super) fn guard(&self) -> Guard {
        Guard(Arc::clone(&self.is_left))
    }

    fn check_disk(&self) -> io::Result<()> {
        if free_bytes(&self.disk).is_some_and(|free| free < LEFT_FREE) {
            let words = "there is no room on the device's disk to pack it";
            return Err(io::Error::new(io::ErrorKind::StorageFull, words));
        }
        Ok(())
    }
}

/// Counts, and fails when it is too much, or wanted by nobody.
struct Bounded<'a> {
    file: BufWriter<File>,
    written: u64,
    looked: u64,
    limits: &'a Limits,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limits = self.limits;
        if limits.is_left.load(Ordering::Relaxed) {
            return Err(io::Error::other("it was canceled"));
        }
        self.written += bytes.len() as u64;
        if self.written > limits.most {
            let words =
                format!("its archive is larger than the {} bytes that are asked for", limits.most);
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
) -> Result<(), String> {
    let packed = try_pack(bounds, path, name, archive, limits);
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
) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(archive)?;
    let file = BufWriter::with_capacity(256 * 1024, file);
    let sink = Bounded { file, written: 0, looked: 0, limits };
    let mut builder = Builder::new(GzEncoder::new(sink, Compression::fast()));
    add(bounds, Path::new(path), Path::new(name), &mut builder, 0)?;
    let mut sink = builder.into_inner()?.finish()?;
    sink.flush()?;
    let file = sink.file.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()
}

fn refused(failure: impl std::fmt::Display) -> io::Error {
    io::Error::other(failure.to_string())
}

/// Adds what is at a path. What is gone by now was removed meanwhile: that is no failure.
fn add<W: Write>(
    bounds: &Bounds,
    path: &Path,
    name: &Path,
    builder: &mut Builder<W>,
    depth: usize,
) -> io::Result<()> {
    let Some(text) = path.to_str() else {
        return Err(io::Error::other(format!("{} is no UTF-8", path.display())));
    };
    // The folder that was asked for may be behind a link; in it, none is followed.
    let found = match bounds.find(text, depth == 0) {
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
        let file = match bounds.open(text) {
            Ok(file) => file,
            Err(failure) => return Err(refused(format!("{}: {failure}", path.display()))),
        };
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
        add(bounds, &path.join(&child), &name.join(&child), builder, depth + 1)?;
    }
    Ok(())
}
