//! Copies to the device.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use muster_schemas::wire::FILE_PART_SUFFIX;
use russh_sftp::protocol::{FileAttributes, OpenFlags};

use super::blocks::{CountedBytes, Direction, FilePair};
use super::job::CopyJob;
use super::link::{CopyError, Session};
use super::progress::{Copied, CopyResult};
use super::tree::{
    Entry, FileMetadata, INCOMPLETE, Kind, Skipped, is_part, list_local, remote_metadata,
};

/// Copies all `sources` to `target`, or into it if it is a folder.
pub(super) async fn send_all(
    work: &CopyJob,
    sources: &[&Path],
    target: &str,
) -> Result<Vec<CopyResult>> {
    let device = &work.link.device;
    let wants_folder = sources.len() > 1 || target.ends_with('/');
    let found = work.link.with_reconnect(&work.progress, async |session| {
        let found = remote_metadata(session, target).await?;
        let is_there = found.is_some_and(|facts| facts.kind == Kind::Folder);
        // A folder with an interrupted copy is resumed, not copied into.
        let is_incomplete = is_there
            && !wants_folder
            && remote_metadata(session, &marker_of(target)).await?.is_some();
        let is_new = found.is_none() && !wants_folder;
        let is_folder = match found {
            Some(facts) => facts.kind == Kind::Folder,
            None if wants_folder => create_folder(session, target).await.map(|()| true)?,
            None => false,
        };
        // Resolves a link to its target, so that the link is kept.
        let real = session.require("failed to find it", session.sftp.realpath(target)).await?;
        let real = real.files.into_iter().next().map(|file| file.filename);
        let real = real.ok_or_else(|| anyhow!("the device did not report its path"))?;
        let kind = match (is_folder, is_new) {
            (true, _) if is_incomplete => Target::Incomplete,
            (true, _) => Target::Folder,
            (false, true) => Target::New,
            (false, false) => Target::Other,
        };
        Ok((kind, real))
    });
    let (kind, real) = found.await.with_context(|| format!("{device}:{target}"))?;
    let is_folder = matches!(kind, Target::Folder | Target::Incomplete);
    if wants_folder && !is_folder {
        return Err(anyhow!("{device}:{target} is not a folder"));
    }
    let mut done = Vec::new();
    for source in sources {
        let (entries, skipped) = list_local(source)?;
        if entries.first().is_some_and(|entry| entry.metadata.kind == Kind::Other) {
            bail!("{} is neither a file nor a folder", source.display());
        }
        let is_tree = entries.first().is_some_and(|entry| entry.metadata.kind == Kind::Folder);
        let goes_on = is_tree && kind == Target::Incomplete;
        let root = match source.file_name().and_then(|name| name.to_str()) {
            Some(name) if is_folder && !goes_on => format!("{}/{name}", real.trim_end_matches('/')),
            // Also for `.` and `..`: their content.
            _ => real.clone(),
        };
        let marker = (goes_on || (is_tree && kind == Target::New)).then(|| marker_of(&root));
        let tree = Tree { work, source, entries, root, marker };
        done.extend(tree.copy(skipped).await?);
    }
    Ok(done)
}

/// State of the target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Does not exist; the copy gets this name.
    New,
    /// A folder to copy into.
    Folder,
    /// A folder with an interrupted copy.
    Incomplete,
    /// A file.
    Other,
}

/// Returns the path of the marker file of an incomplete folder.
fn marker_of(folder: &str) -> String {
    format!("{}/{INCOMPLETE}", folder.trim_end_matches('/'))
}

/// A file, or a folder with all it contains, and its path on the device.
struct Tree<'a> {
    work: &'a CopyJob,
    source: &'a Path,
    entries: Vec<Entry>,
    root: String,
    /// Path of the marker file, for a folder that is incomplete while it is copied.
    marker: Option<String>,
}

impl Tree<'_> {
    async fn copy(self, skipped: Skipped) -> Result<Vec<CopyResult>> {
        for left in self.entries.iter().filter(|entry| is_part(entry)) {
            let path = left.below(&self.root);
            let progress = &self.work.progress;
            progress.print(format!("{path} is left over from an interrupted copy: skipped"));
        }
        self.create_folders().await?;
        let mut done = self.copy_files().await?;
        for entry in self.of(Kind::Link) {
            done.push(self.copy_link(entry).await);
        }
        for entry in self.of(Kind::Other) {
            let path = self.local_path(entry);
            let progress = &self.work.progress;
            progress.print(format!("{} is not a file, folder or link: skipped", path.display()));
        }
        done.extend(skipped.into_iter().map(Err));
        if let Some(marker) = self.marker.as_ref().filter(|_| done.iter().all(Result::is_ok)) {
            let removed = self.work.link.with_reconnect(&self.work.progress, async |session| {
                session.find("failed to remove it", session.sftp.remove(marker)).await
            });
            removed.await.with_context(|| format!("{}:{marker}", self.work.link.device))?;
        }
        self.set_folder_modes().await?;
        Ok(done)
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.metadata.kind == kind && !is_part(entry))
    }

    fn local_path(&self, entry: &Entry) -> PathBuf {
        match entry.path.as_str() {
            "" => self.source.to_owned(),
            path => self.source.join(path),
        }
    }

    /// Names the entry on the device, for errors.
    fn remote_name(&self, entry: &Entry) -> String {
        format!("{}:{}", self.work.link.device, entry.below(&self.root))
    }

    async fn create_folders(&self) -> Result<()> {
        let link = &self.work.link;
        for folder in self.of(Kind::Folder) {
            let path = folder.below(&self.root);
            let created = link.with_reconnect(&self.work.progress, async |session| {
                create_folder(session, &path).await
            });
            created.await.with_context(|| self.remote_name(folder))?;
            let Some(marker) = self.marker.as_ref().filter(|_| folder.path.is_empty()) else {
                continue;
            };
            let marked = link.with_reconnect(&self.work.progress, async |session| {
                let flags = OpenFlags::WRITE | OpenFlags::CREATE;
                let open = session.sftp.open(marker, flags, FileAttributes::empty());
                let handle = session.require("failed to open it", open).await?.handle;
                session.require("failed to close it", session.sftp.close(&handle)).await
            });
            marked.await.with_context(|| format!("{}:{marker}", link.device))?;
        }
        Ok(())
    }

    async fn copy_files(&self) -> Result<Vec<CopyResult>> {
        let work = self.work;
        let files: Vec<&Entry> = self.of(Kind::File).collect();
        work.progress.add_total(files.iter().map(|entry| entry.metadata.size).sum());
        let copied = work.copy_each(files, async |entry: &Entry| {
            let (from, to) = (self.local_path(entry), entry.below(&self.root));
            let copied = work.link.with_reconnect(&work.progress, async |session| {
                file(work, session, &from, &to).await
            });
            copied.await.with_context(|| self.remote_name(entry))
        });
        copied.await
    }

    async fn copy_link(&self, entry: &Entry) -> CopyResult {
        let path = entry.below(&self.root);
        let target = std::fs::read_link(self.local_path(entry));
        let target = target.with_context(|| self.remote_name(entry))?;
        let target = target.to_string_lossy();
        let created = self.work.link.with_reconnect(&self.work.progress, async |session| {
            create_link(session, &target, &path).await
        });
        created.await.with_context(|| self.remote_name(entry))
    }

    /// Sets the modes after everything was copied: the innermost first, because a folder may become
    /// read-only.
    async fn set_folder_modes(&self) -> Result<()> {
        let folders = self.entries.iter().rev();
        for folder in folders.filter(|entry| entry.metadata.kind == Kind::Folder) {
            let (path, metadata) = (folder.below(&self.root), &folder.metadata);
            let set = self.work.link.with_reconnect(&self.work.progress, async |session| {
                let set = session.sftp.setstat(&path, metadata.attributes());
                session.require("failed to set its mode", set).await
            });
            set.await.with_context(|| self.remote_name(folder))?;
        }
        Ok(())
    }
}

/// Creates a folder if it does not exist. Its mode is set after its content was copied.
async fn create_folder(session: &Session, path: &str) -> Result<(), CopyError> {
    match remote_metadata(session, path).await? {
        Some(facts) if facts.kind == Kind::Folder => Ok(()),
        Some(_) => Err(anyhow!("it exists and is not a folder").into()),
        None => {
            let attrs = FileAttributes { permissions: Some(0o700), ..FileAttributes::empty() };
            session.require("failed to create the folder", session.sftp.mkdir(path, attrs)).await?;
            Ok(())
        }
    }
}

async fn create_link(session: &Session, target: &str, path: &str) -> Result<Copied, CopyError> {
    let there = session.find("failed to inspect it", session.sftp.lstat(path)).await?;
    match there.map(|there| FileMetadata::from(&there.attrs).kind) {
        Some(Kind::Link) => {
            let read =
                session.require("failed to read a link", session.sftp.readlink(path)).await?;
            if read.files.first().is_some_and(|file| file.filename == target) {
                return Ok(Copied::Unchanged);
            }
            session.require("failed to remove a link", session.sftp.remove(path)).await?;
        }
        Some(_) => return Err(anyhow!("it exists and is not a link").into()),
        None => {}
    }
    // OpenSSH's argument order: the link's target is first.
    session.require("failed to create a link", session.sftp.symlink(target, path)).await?;
    Ok(Copied::Complete { bytes: 0 })
}

async fn file(
    work: &CopyJob,
    session: &Session,
    from: &Path,
    to: &str,
) -> Result<Copied, CopyError> {
    work.progress.name(to);
    let file = File::open(from).with_context(|| format!("failed to read {}", from.display()))?;
    let metadata = file.metadata().context("failed to inspect it")?;
    let facts = FileMetadata::from(&metadata);
    let mut counted = CountedBytes::new(&work.progress);
    match remote_metadata(session, to).await? {
        Some(there) if there.kind == Kind::Folder => {
            return Err(anyhow!("it exists and is a folder").into());
        }
        Some(there) if !work.again && there.is_unchanged(&facts) => {
            counted.add(facts.size);
            counted.is_complete = true;
            return Ok(Copied::Unchanged);
        }
        _ => {}
    }
    let part = format!("{to}{FILE_PART_SUFFIX}");
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let attrs = FileAttributes { permissions: Some(0o600), ..FileAttributes::empty() };
    let open = session.sftp.open(&part, flags, attrs);
    let handle = session.require("failed to open it", open).await?.handle;
    let (handle_of, pace, size) = (handle.as_str(), &work.rate_limit, facts.size);
    let mut both =
        FilePair { session, handle: handle_of, file: &file, size, rate_limit: pace, counted };
    let copied = write(&mut both, &facts).await;
    let closed = session.require("failed to close it", session.sftp.close(&handle)).await;
    let bytes = match copied {
        Ok(bytes) => bytes,
        Err(CopyError::Lost) => return Err(CopyError::Lost),
        Err(failed) => {
            // Do not leave a partial file on a disk that may be full.
            let _ = session.find("failed to remove it", session.sftp.remove(&part)).await;
            return Err(failed);
        }
    };
    closed?;
    session.rename(&part, to).await?;
    if !file.metadata().is_ok_and(|now| FileMetadata::from(&now).is_unchanged(&facts)) {
        work.progress.print(format!("{} was changed while it was copied", from.display()));
    }
    both.counted.is_complete = true;
    Ok(Copied::Complete { bytes })
}

/// Writes the missing part; it is on the disk when this returns.
async fn write(pair: &mut FilePair<'_>, metadata: &FileMetadata) -> Result<u64, CopyError> {
    let FilePair { session, handle, .. } = *pair;
    let there = session.require("failed to inspect it", session.sftp.fstat(handle)).await?;
    let at = pair.equal_prefix(there.attrs.size.unwrap_or(0)).await?;
    pair.resize_remote(at).await?;
    let bytes = pair.copy(at, Direction::Send).await?;
    session.require("failed to write", session.sftp.fsync(handle)).await?;
    session
        .require("failed to set its mode", session.sftp.fsetstat(handle, metadata.attributes()))
        .await?;
    Ok(bytes)
}
