//! Copies from the device.

use std::fs::{File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use muster_schemas::wire::FILE_PART_SUFFIX;
use russh_sftp::protocol::{FileAttributes, OpenFlags};
use rustix::fs::OFlags;

use super::blocks::{CountedBytes, Direction, FilePair};
use super::job::CopyJob;
use super::link::{CopyError, Session};
use super::progress::{Copied, CopyResult};
use super::tree::{Entry, FileMetadata, INCOMPLETE, Kind, Skipped, is_part, list_remote};

/// Set-user-id, set-group-id and sticky bits.
const SPECIAL_BITS: u32 = 0o7000;

/// Copies everything at `from` to `target`, or into it if it is a folder. With `several` sources,
/// the target must be a folder.
pub(super) async fn fetch_all(
    work: &CopyJob,
    from: &str,
    target: &Path,
    several: bool,
) -> Result<Vec<CopyResult>> {
    let listed =
        work.link.with_reconnect(&work.progress, async |session| list_remote(session, from).await);
    let (entries, skipped) =
        listed.await.with_context(|| format!("{}:{from}", work.link.device))?;
    if entries.first().is_some_and(|entry| entry.metadata.kind == Kind::Other) {
        bail!("{}:{from} is neither a file nor a folder", work.link.device);
    }
    // A folder with an interrupted copy is resumed, not copied into.
    let marker = target.join(INCOMPLETE);
    let is_tree = entries.first().is_some_and(|entry| entry.metadata.kind == Kind::Folder);
    let is_incomplete = is_tree && !several && marker.exists();
    let is_folder = !is_incomplete
        && (several || target.is_dir() || target.as_os_str().as_encoded_bytes().ends_with(b"/"));
    if is_folder {
        let wrong = || format!("failed to create the folder {}", target.display());
        std::fs::create_dir_all(target).with_context(wrong)?;
    }
    let root = match Path::new(from).file_name() {
        Some(name) if is_folder => target.join(name),
        _ => target.to_owned(),
    };
    let is_new = is_tree && !is_folder && !root.exists();
    let marker = (is_new || is_incomplete).then_some(marker);
    Tree { work, from, entries, root, marker }.copy(skipped).await
}

/// A file, or a folder with all it contains, and its path on this machine.
struct Tree<'a> {
    work: &'a CopyJob,
    from: &'a str,
    entries: Vec<Entry>,
    root: PathBuf,
    /// Path of the marker file, for a folder that is incomplete while it is copied.
    marker: Option<PathBuf>,
}

impl Tree<'_> {
    async fn copy(self, skipped: Skipped) -> Result<Vec<CopyResult>> {
        let work = self.work;
        for left in self.entries.iter().filter(|entry| is_part(entry)) {
            let path = left.below(self.from);
            work.progress.print(format!("{path} is left over from an interrupted copy: skipped"));
        }
        self.create_folders()?;
        let mut done = self.copy_files().await?;
        // After all files, so that none of them is written through a link.
        for entry in self.of(Kind::Link) {
            done.push(self.copy_link(entry).await);
        }
        for entry in self.of(Kind::Other) {
            let path = entry.below(self.from);
            work.progress.print(format!("{path} is not a file, folder or link: skipped"));
        }
        done.extend(skipped.into_iter().map(Err));
        if let Some(marker) = self.marker.as_ref().filter(|_| done.iter().all(Result::is_ok)) {
            std::fs::remove_file(marker)
                .with_context(|| format!("failed to remove {}", marker.display()))?;
        }
        // The innermost first, because a folder may become read-only.
        let folders = self.entries.iter().rev();
        for folder in folders.filter(|entry| entry.metadata.kind == Kind::Folder) {
            let opened = File::open(self.local_path(folder))?;
            finish(&opened, &folder.metadata, work.preserve_special)?;
        }
        Ok(done)
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.metadata.kind == kind && !is_part(entry))
    }

    fn local_path(&self, entry: &Entry) -> PathBuf {
        match entry.path.as_str() {
            "" => self.root.clone(),
            path => self.root.join(path),
        }
    }

    fn create_folders(&self) -> Result<()> {
        for folder in self.of(Kind::Folder) {
            let is_root = folder.path.is_empty();
            create_folder(&self.local_path(folder), is_root)?;
            if let Some(marker) = self.marker.as_ref().filter(|_| is_root) {
                match File::create_new(marker) {
                    // An interrupted copy has left it.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    created => {
                        created.with_context(|| format!("failed to write {}", marker.display()))?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn copy_files(&self) -> Result<Vec<CopyResult>> {
        let work = self.work;
        let files: Vec<&Entry> = self.of(Kind::File).collect();
        work.progress.add_total(files.iter().map(|entry| entry.metadata.size).sum());
        let copied = work.copy_each(files, async |entry: &Entry| {
            let (path, to) = (entry.below(self.from), self.local_path(entry));
            let copied = work.link.with_reconnect(&work.progress, async |session| {
                file(work, session, &path, &entry.metadata, &to).await
            });
            copied.await.with_context(|| format!("{}:{path}", work.link.device))
        });
        copied.await
    }

    async fn copy_link(&self, entry: &Entry) -> CopyResult {
        let path = entry.below(self.from);
        let target = self.work.link.with_reconnect(&self.work.progress, async |session| {
            let read = session.sftp.readlink(&path);
            session.require("failed to read a link", read).await
        });
        let created = target.await.and_then(|target| {
            let target = target.files.first().map(|file| &*file.filename);
            create_link(target, &self.local_path(entry))
        });
        created.with_context(|| format!("{}:{path}", self.work.link.device))
    }
}

/// Creates a folder if it does not exist. `is_root`: the path was given on the command line and may
/// be a link; deeper links come from the device and are not followed.
fn create_folder(path: &Path, is_root: bool) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let there = if is_root { path.metadata() } else { path.symlink_metadata() };
            match there {
                Ok(there) if there.is_dir() => Ok(()),
                _ => bail!("{} exists and is not a folder", path.display()),
            }
        }
        made => made.with_context(|| format!("failed to create the folder {}", path.display())),
    }
}

fn create_link(target: Option<&str>, at: &Path) -> CopyResult {
    let target = target.context("the device did not report the link's target")?;
    match std::fs::read_link(at) {
        Ok(there) if there == Path::new(target) => return Ok(Copied::Unchanged),
        Ok(_) => std::fs::remove_file(at)?,
        Err(_) if at.exists() => bail!("{} exists and is not a link", at.display()),
        Err(_) => {}
    }
    std::os::unix::fs::symlink(target, at)?;
    Ok(Copied::Complete { bytes: 0 })
}

/// Restores permissions and times; the special bits only on request.
fn finish(file: &File, metadata: &FileMetadata, preserve_special: bool) -> Result<()> {
    let rights =
        if preserve_special { metadata.permissions } else { metadata.permissions & !SPECIAL_BITS };
    file.set_permissions(Permissions::from_mode(rights)).context("failed to set its mode")?;
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.modified.into());
    let times = std::fs::FileTimes::new().set_accessed(changed).set_modified(changed);
    file.set_times(times).context("failed to set its time")
}

/// Returns the name of an incomplete file.
fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(FILE_PART_SUFFIX);
    name.into()
}

async fn file(
    work: &CopyJob,
    session: &Session,
    from: &str,
    metadata: &FileMetadata,
    to: &Path,
) -> Result<Copied, CopyError> {
    work.progress.name(from);
    let mut counted = CountedBytes::new(&work.progress);
    if !work.again
        && let Ok(there) = std::fs::metadata(to)
        && FileMetadata::from(&there).is_unchanged(metadata)
    {
        counted.add(metadata.size);
        counted.is_complete = true;
        return Ok(Copied::Unchanged);
    }
    let open = session.sftp.open(from, OpenFlags::READ, FileAttributes::empty());
    let handle = session.require("failed to open it", open).await?.handle;
    let (part_path, shown) = (part_of(to), to.display());
    let part = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&part_path)
        .with_context(|| format!("failed to write {shown}"))?;
    let there = part.metadata().map(|metadata| metadata.len()).unwrap_or(0);
    let (handle_of, pace) = (handle.as_str(), &work.rate_limit);
    let size = metadata.size;
    let mut both =
        FilePair { session, handle: handle_of, file: &part, size, rate_limit: pace, counted };
    let copied = async {
        let at = both.equal_prefix(there).await?;
        part.set_len(at).context("failed to write the local file")?;
        match size {
            0 => both.fetch_to_end().await,
            _ => both.copy(at, Direction::Fetch).await,
        }
    };
    let copied = copied.await;
    let now = session.find("failed to inspect it", session.sftp.fstat(&handle)).await;
    let _ = session.find("failed to close it", session.sftp.close(&handle)).await;
    let bytes = match copied {
        Ok(bytes) => bytes,
        Err(CopyError::Lost) => return Err(CopyError::Lost),
        Err(failed) => {
            // Do not leave a partial file on a disk that may be full.
            let _ = std::fs::remove_file(&part_path);
            return Err(failed);
        }
    };
    if let Some(now) = now?
        && !FileMetadata::from(&now.attrs).is_unchanged(metadata)
    {
        work.progress.print(format!("{from} was changed while it was copied"));
    }
    finish(&part, metadata, work.preserve_special)?;
    // Renamed after the sync, because a file with the right size and time is not copied again.
    part.sync_all().with_context(|| format!("failed to write {shown}"))?;
    std::fs::rename(&part_path, to)
        .with_context(|| format!("failed to rename the copy to {shown}"))?;
    both.counted.is_complete = true;
    Ok(Copied::Complete { bytes })
}
