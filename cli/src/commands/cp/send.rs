//! Copies to the device.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use muster_schemas::wire::FILE_PART_SUFFIX;
use russh_sftp::protocol::{FileAttributes, OpenFlags};

use super::blocks::{Both, Counted, Way};
use super::link::{Session, Trouble};
use super::progress::Copied;
use super::tree::{Entry, Facts, INCOMPLETE, Kind, Skipped, facts_there, here, is_part};
use super::{Done, Work};

/// Copies all `sources` to `target`, or into it if it is a folder.
pub(super) async fn all(work: &Work, sources: &[&Path], target: &str) -> Result<Vec<Done>> {
    let device = &work.link.device;
    let wants_folder = sources.len() > 1 || target.ends_with('/');
    let found = work.link.lasting(&work.progress, async |session| {
        let found = facts_there(session, target).await?;
        let is_there = found.is_some_and(|facts| facts.kind == Kind::Folder);
        // A folder with an interrupted copy is resumed, not copied into.
        let is_incomplete =
            is_there && !wants_folder && facts_there(session, &mark_of(target)).await?.is_some();
        let is_new = found.is_none() && !wants_folder;
        let is_folder = match found {
            Some(facts) => facts.kind == Kind::Folder,
            None if wants_folder => make_folder(session, target).await.map(|()| true)?,
            None => false,
        };
        // Resolves a link to its target, so that the link is kept.
        let real = session.need("failed to find it", session.sftp.realpath(target)).await?;
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
        let (entries, skipped) = here(source)?;
        if entries.first().is_some_and(|entry| entry.facts.kind == Kind::Other) {
            bail!("{} is neither a file nor a folder", source.display());
        }
        let is_tree = entries.first().is_some_and(|entry| entry.facts.kind == Kind::Folder);
        let goes_on = is_tree && kind == Target::Incomplete;
        let root = match source.file_name().and_then(|name| name.to_str()) {
            Some(name) if is_folder && !goes_on => format!("{}/{name}", real.trim_end_matches('/')),
            // Also for `.` and `..`: their content.
            _ => real.clone(),
        };
        let mark = (goes_on || (is_tree && kind == Target::New)).then(|| mark_of(&root));
        let copied = tree(work, source, (entries, skipped), &root, mark.as_deref()).await?;
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
fn mark_of(folder: &str) -> String {
    format!("{}/{INCOMPLETE}", folder.trim_end_matches('/'))
}

async fn tree(
    work: &Work,
    source: &Path,
    (entries, skipped): (Vec<Entry>, Skipped),
    root: &str,
    mark: Option<&str>,
) -> Result<Vec<Done>> {
    let link = &work.link;
    let is_of = |kind| move |entry: &&Entry| entry.facts.kind == kind && !is_part(entry);
    let of = |kind| entries.iter().filter(is_of(kind));
    for left in entries.iter().filter(|entry| is_part(entry)) {
        let path = left.below(root);
        work.progress.say(format!("{path} is left over from an interrupted copy: skipped"));
    }
    let place = |entry: &Entry| match entry.path.as_str() {
        "" => source.to_owned(),
        path => source.join(path),
    };
    let there = |entry: &Entry| format!("{}:{}", link.device, entry.below(root));
    for folder in of(Kind::Folder) {
        let path = folder.below(root);
        let made = link.lasting(&work.progress, async |session| make_folder(session, &path).await);
        made.await.with_context(|| there(folder))?;
        if let Some(mark) = mark.filter(|_| folder.path.is_empty()) {
            let marked = link.lasting(&work.progress, async |session| {
                let flags = OpenFlags::WRITE | OpenFlags::CREATE;
                let open = session.sftp.open(mark, flags, FileAttributes::empty());
                let handle = session.need("failed to open it", open).await?.handle;
                session.need("failed to close it", session.sftp.close(&handle)).await
            });
            marked.await.with_context(|| format!("{}:{mark}", link.device))?;
        }
    }
    let files: Vec<&Entry> = of(Kind::File).collect();
    work.progress.expect(files.iter().map(|entry| entry.facts.size).sum());
    let mut done = work
        .each(files, async |entry: &Entry| {
            let (from, to) = (place(entry), entry.below(root));
            let copied =
                link.lasting(&work.progress, async |session| file(work, session, &from, &to).await);
            copied.await.with_context(|| there(entry))
        })
        .await?;
    for entry in of(Kind::Link) {
        let path = entry.below(root);
        let made = match std::fs::read_link(place(entry)) {
            Ok(target) => {
                let target = target.to_string_lossy();
                link.lasting(&work.progress, async |session| {
                    make_link(session, &target, &path).await
                })
                .await
            }
            Err(error) => Err(error.into()),
        };
        done.push(made.with_context(|| there(entry)));
    }
    for entry in of(Kind::Other) {
        let path = place(entry);
        work.progress.say(format!("{} is not a file, folder or link: skipped", path.display()));
    }
    done.extend(skipped.into_iter().map(Err));
    if let Some(mark) = mark.filter(|_| done.iter().all(Result::is_ok)) {
        let removed = link.lasting(&work.progress, async |session| {
            session.find("failed to remove it", session.sftp.remove(mark)).await
        });
        removed.await.with_context(|| format!("{}:{mark}", link.device))?;
    }
    for folder in entries.iter().rev().filter(|entry| entry.facts.kind == Kind::Folder) {
        let (path, facts) = (folder.below(root), &folder.facts);
        let set = link.lasting(&work.progress, async |session| {
            let set = session.sftp.setstat(&path, facts.attributes());
            session.need("failed to set its mode", set).await
        });
        set.await.with_context(|| there(folder))?;
    }
    Ok(done)
}

/// Creates a folder if it does not exist. Its mode is set after its content was copied.
async fn make_folder(session: &Session, path: &str) -> Result<(), Trouble> {
    match facts_there(session, path).await? {
        Some(facts) if facts.kind == Kind::Folder => Ok(()),
        Some(_) => Err(anyhow!("it exists and is not a folder").into()),
        None => {
            let attrs = FileAttributes { permissions: Some(0o700), ..FileAttributes::empty() };
            session.need("failed to create the folder", session.sftp.mkdir(path, attrs)).await?;
            Ok(())
        }
    }
}

async fn make_link(session: &Session, target: &str, path: &str) -> Result<Copied, Trouble> {
    let there = session.find("failed to inspect it", session.sftp.lstat(path)).await?;
    match there.map(|there| Facts::from(&there.attrs).kind) {
        Some(Kind::Link) => {
            let read = session.need("failed to read a link", session.sftp.readlink(path)).await?;
            if read.files.first().is_some_and(|file| file.filename == target) {
                return Ok(Copied::Same);
            }
            session.need("failed to remove a link", session.sftp.remove(path)).await?;
        }
        Some(_) => return Err(anyhow!("it exists and is not a link").into()),
        None => {}
    }
    // OpenSSH's argument order: the link's target is first.
    session.need("failed to create a link", session.sftp.symlink(target, path)).await?;
    Ok(Copied::Whole { bytes: 0 })
}

async fn file(work: &Work, session: &Session, from: &Path, to: &str) -> Result<Copied, Trouble> {
    work.progress.name(to);
    let file = File::open(from).with_context(|| format!("failed to read {}", from.display()))?;
    let metadata = file.metadata().context("failed to inspect it")?;
    let facts = Facts::from(&metadata);
    let mut counted = Counted::new(&work.progress);
    match facts_there(session, to).await? {
        Some(there) if there.kind == Kind::Folder => {
            return Err(anyhow!("it exists and is a folder").into());
        }
        Some(there) if !work.again && there.is_like(&facts) => {
            counted.step(facts.size);
            counted.is_whole = true;
            return Ok(Copied::Same);
        }
        _ => {}
    }
    let part = format!("{to}{FILE_PART_SUFFIX}");
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let attrs = FileAttributes { permissions: Some(0o600), ..FileAttributes::empty() };
    let open = session.sftp.open(&part, flags, attrs);
    let handle = session.need("failed to open it", open).await?.handle;
    let (handle_of, pace, size) = (handle.as_str(), &work.pace, facts.size);
    let mut both = Both { session, handle: handle_of, file: &file, size, pace, counted };
    let copied = write(&mut both, &facts).await;
    let closed = session.need("failed to close it", session.sftp.close(&handle)).await;
    let bytes = match copied {
        Ok(bytes) => bytes,
        Err(Trouble::Lost) => return Err(Trouble::Lost),
        Err(failed) => {
            // Do not leave a partial file on a disk that may be full.
            let _ = session.find("failed to remove it", session.sftp.remove(&part)).await;
            return Err(failed);
        }
    };
    closed?;
    session.rename(&part, to).await?;
    if !file.metadata().is_ok_and(|now| Facts::from(&now).is_like(&facts)) {
        work.progress.say(format!("{} was changed while it was copied", from.display()));
    }
    both.counted.is_whole = true;
    Ok(Copied::Whole { bytes })
}

/// Writes the missing part; it is on the disk when this returns.
async fn write(both: &mut Both<'_>, facts: &Facts) -> Result<u64, Trouble> {
    let Both { session, handle, .. } = *both;
    let there = session.need("failed to inspect it", session.sftp.fstat(handle)).await?;
    let at = both.kept(there.attrs.size.unwrap_or(0)).await?;
    both.cut_there(at).await?;
    let bytes = both.copy(at, Way::Send).await?;
    session.need("failed to write", session.sftp.fsync(handle)).await?;
    session
        .need("failed to set its mode", session.sftp.fsetstat(handle, facts.attributes()))
        .await?;
    Ok(bytes)
}
