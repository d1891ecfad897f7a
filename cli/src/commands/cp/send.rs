//! Copies to the device.

use std::fs::File;
use std::path::Path;

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
        let copied = tree(work, source, (entries, skipped), &root, marker.as_deref()).await?;
        done.extend(copied);
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

async fn tree(
    work: &CopyJob,
    source: &Path,
    (entries, skipped): (Vec<Entry>, Skipped),
    root: &str,
    marker: Option<&str>,
) -> Result<Vec<CopyResult>> {
    let link = &work.link;
    let has_kind = |kind| move |entry: &&Entry| entry.metadata.kind == kind && !is_part(entry);
    let of = |kind| entries.iter().filter(has_kind(kind));
    for left in entries.iter().filter(|entry| is_part(entry)) {
        let path = left.below(root);
        work.progress.print(format!("{path} is left over from an interrupted copy: skipped"));
    }
    let local_path = |entry: &Entry| match entry.path.as_str() {
        "" => source.to_owned(),
        path => source.join(path),
    };
    let there = |entry: &Entry| format!("{}:{}", link.device, entry.below(root));
    for folder in of(Kind::Folder) {
        let path = folder.below(root);
        let made = link
            .with_reconnect(&work.progress, async |session| create_folder(session, &path).await);
        made.await.with_context(|| there(folder))?;
        if let Some(marker) = marker.filter(|_| folder.path.is_empty()) {
            let marked = link.with_reconnect(&work.progress, async |session| {
                let flags = OpenFlags::WRITE | OpenFlags::CREATE;
                let open = session.sftp.open(marker, flags, FileAttributes::empty());
                let handle = session.require("failed to open it", open).await?.handle;
                session.require("failed to close it", session.sftp.close(&handle)).await
            });
            marked.await.with_context(|| format!("{}:{marker}", link.device))?;
        }
    }
    let files: Vec<&Entry> = of(Kind::File).collect();
    work.progress.add_total(files.iter().map(|entry| entry.metadata.size).sum());
    let mut done = work
        .copy_each(files, async |entry: &Entry| {
            let (from, to) = (local_path(entry), entry.below(root));
            let copied = link.with_reconnect(&work.progress, async |session| {
                file(work, session, &from, &to).await
            });
            copied.await.with_context(|| there(entry))
        })
        .await?;
    for entry in of(Kind::Link) {
        let path = entry.below(root);
        let made = match std::fs::read_link(local_path(entry)) {
            Ok(target) => {
                let target = target.to_string_lossy();
                link.with_reconnect(&work.progress, async |session| {
                    create_link(session, &target, &path).await
                })
                .await
            }
            Err(error) => Err(error.into()),
        };
        done.push(made.with_context(|| there(entry)));
    }
    for entry in of(Kind::Other) {
        let path = local_path(entry);
        work.progress.print(format!("{} is not a file, folder or link: skipped", path.display()));
    }
    done.extend(skipped.into_iter().map(Err));
    if let Some(marker) = marker.filter(|_| done.iter().all(Result::is_ok)) {
        let removed = link.with_reconnect(&work.progress, async |session| {
            session.find("failed to remove it", session.sftp.remove(marker)).await
        });
        removed.await.with_context(|| format!("{}:{marker}", link.device))?;
    }
    for folder in entries.iter().rev().filter(|entry| entry.metadata.kind == Kind::Folder) {
        let (path, facts) = (folder.below(root), &folder.metadata);
        let set = link.with_reconnect(&work.progress, async |session| {
            let set = session.sftp.setstat(&path, facts.attributes());
            session.require("failed to set its mode", set).await
        });
        set.await.with_context(|| there(folder))?;
    }
    Ok(done)
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
