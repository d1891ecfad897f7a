//! The SFTP server: each request is limited to the bounds of the order that opened the channel.
//!
//! In addition to version 3 of the protocol it supports OpenSSH's `posix-rename`, `fsync` and
//! `limits`, and [`SFTP_SHA256`], which compares a copy with the file on disk.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirEntry, File, Metadata, OpenOptions, Permissions, ReadDir};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use muster_schemas::wire::{MAX_SFTP_HASH_BYTES, MAX_SFTP_IO_BYTES, SFTP_SHA256};
use russh_sftp::protocol::{
    Attrs, Data, ExtendedReply, File as Named, FileAttributes, Handle, Name, OpenFlags, Packet,
    Status, StatusCode, Version,
};
use russh_sftp::server::Handler;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
use sha2::{Digest, Sha256};

use super::bounds::{Bounds, Failure, FileResult, is_virtual};
use super::deadline::{DATA_TIMEOUT, run_in_thread};
use super::extended::RequestFields;
use crate::subprocess::HELPER_TIMEOUT;

/// Maximum number of open files and folders.
const MAX_HANDLES: usize = 64;
/// Maximum number of names in one response.
const MAX_NAMES: usize = 128;
/// Maximum size of a packet, in bytes: the data of one write, and its header.
pub(crate) const MAX_PACKET: u32 = MAX_SFTP_IO_BYTES + 8192;

const RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const LIMITS: &str = "limits@openssh.com";

/// The requests of one client.
#[derive(Debug)]
pub(crate) struct Server {
    bounds: Arc<Bounds>,
    handles: BTreeMap<String, OpenHandle>,
    next: u64,
}

#[derive(Debug)]
enum OpenHandle {
    File(Arc<File>, Arc<str>),
    Folder(Option<Names>, Arc<str>),
}

/// The names in a folder that were not sent yet.
#[derive(Debug)]
struct Names {
    entries: ReadDir,
    is_virtual: bool,
}

fn ok_status(id: u32) -> Status {
    Status {
        id,
        status_code: StatusCode::Ok,
        error_message: String::new(),
        language_tag: String::new(),
    }
}

/// Returns the attributes of a file. `is_virtual`: the reported size is meaningless and replaced by
/// 0, as for files in `/proc`; the client reads such a file to its end.
fn attributes(metadata: &Metadata, is_virtual: bool) -> FileAttributes {
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    FileAttributes {
        size: Some(if is_virtual && metadata.is_file() { 0 } else { metadata.size() }),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        permissions: Some(metadata.mode()),
        atime: Some(seconds(metadata.atime())),
        mtime: Some(seconds(metadata.mtime())),
        ..FileAttributes::default()
    }
}

fn mode(attrs: &FileAttributes, otherwise: u32) -> u32 {
    attrs.permissions.map_or(otherwise, |mode| mode & 0o7777)
}

/// Changes the attributes of the file at this path, except its size. Does not open the file, which
/// could have side effects or block.
fn set(path: &Path, attrs: &FileAttributes) -> FileResult<()> {
    // Before the mode: a change of the owner clears set-user-id.
    if attrs.uid.is_some() || attrs.gid.is_some() {
        std::os::unix::fs::chown(path, attrs.uid, attrs.gid)?;
    }
    if attrs.permissions.is_some() {
        std::fs::set_permissions(path, Permissions::from_mode(mode(attrs, 0)))?;
    }
    if let (Some(atime), Some(mtime)) = (attrs.atime, attrs.mtime) {
        let at = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        let times = Timestamps { last_access: at(atime), last_modification: at(mtime) };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?;
    }
    Ok(())
}

fn open(bounds: &Bounds, name: &str, flags: OpenFlags, attrs: &FileAttributes) -> FileResult<File> {
    let write = flags.intersects(OpenFlags::WRITE | OpenFlags::APPEND);
    if !write {
        return bounds.open(name);
    }
    bounds.check_write()?;
    let read = flags.contains(OpenFlags::READ);
    match bounds.find(name, true) {
        Ok(_) if flags.contains(OpenFlags::EXCLUDE) => {
            Err(io::Error::from(io::ErrorKind::AlreadyExists).into())
        }
        Ok(found) => {
            let append = flags.contains(OpenFlags::APPEND);
            let mut options = OpenOptions::new();
            let file = found.reopen(options.read(read).write(!append).append(append))?;
            if flags.contains(OpenFlags::TRUNCATE) {
                file.set_len(0)?;
            }
            Ok(file)
        }
        Err(Failure::Io(error))
            if error.kind() == io::ErrorKind::NotFound && flags.contains(OpenFlags::CREATE) =>
        {
            let location = bounds.locate(name)?;
            let access = if read { OFlags::RDWR } else { OFlags::WRONLY };
            let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(mode(attrs, 0o644));
            Ok(rustix::fs::openat(location.folder, &location.name, flags, mode)?.into())
        }
        Err(failure) => Err(failure),
    }
}

/// Returns the number of hashed bytes of a part of a file, followed by their hash.
fn hash(file: &File, offset: u64, length: u64) -> FileResult<Vec<u8>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut counted = 0;
    while counted < length {
        let most = usize::try_from(length - counted).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read_at(&mut buffer[..most], offset + counted)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        counted += count as u64;
    }
    let mut response = counted.to_be_bytes().to_vec();
    response.extend(hasher.finalize());
    Ok(response)
}

fn name_entry(entry: &DirEntry, is_virtual: bool) -> Option<Named> {
    // An entry that was deleted meanwhile is omitted.
    let metadata = entry.metadata().ok()?;
    // A name that is not UTF-8 cannot be represented; a request for the listed name gets "no such
    // file".
    Some(Named::new(entry.file_name().to_string_lossy(), attributes(&metadata, is_virtual)))
}

impl Server {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds: Arc::new(bounds), handles: BTreeMap::new(), next: 0 }
    }

    fn insert_handle(&mut self, opened: OpenHandle) -> FileResult<String> {
        if self.handles.len() >= MAX_HANDLES {
            let message = format!("the limit of {MAX_HANDLES} open files is reached");
            return Err(Failure::Invalid(message));
        }
        self.next += 1;
        let handle = self.next.to_string();
        self.handles.insert(handle.clone(), opened);
        Ok(handle)
    }

    /// Returns an open file, and the path by which it was opened.
    fn file(&self, handle: &str) -> FileResult<(Arc<File>, Arc<str>)> {
        match self.handles.get(handle) {
            Some(OpenHandle::File(file, path)) => Ok((Arc::clone(file), Arc::clone(path))),
            _ => Err(Failure::Invalid("no such file is open".to_owned())),
        }
    }

    /// Runs a function within the bounds, at this path.
    async fn run<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Bounds) -> FileResult<T> + Send + 'static,
    ) -> FileResult<T> {
        let bounds = Arc::clone(&self.bounds);
        run_in_thread(path, HELPER_TIMEOUT, move || work(&bounds)).await
    }

    /// Runs a change within the bounds, at this path.
    async fn change(
        &self,
        id: u32,
        path: &str,
        work: impl FnOnce(&Bounds) -> FileResult<()> + Send + 'static,
    ) -> FileResult<Status> {
        self.bounds.check_write()?;
        self.run(path, work).await.map(|()| ok_status(id))
    }

    async fn metadata(&self, id: u32, path: String, follow: bool) -> FileResult<Attrs> {
        let named = path.clone();
        let attrs = self.run(&named, move |bounds| {
            let found = bounds.find(&path, follow)?;
            Ok(attributes(&found.metadata()?, found.is_virtual()))
        });
        Ok(Attrs { id, attrs: attrs.await? })
    }

    /// Renames a file. `replace`: whether the target may exist.
    async fn rename_path(
        &self,
        id: u32,
        from: String,
        to: String,
        replace: bool,
    ) -> FileResult<Status> {
        let named = to.clone();
        self.change(id, &named, move |bounds| {
            let (from, to) = (bounds.locate(&from)?, bounds.locate(&to)?);
            if replace {
                rustix::fs::renameat(from.folder, &from.name, to.folder, &to.name)?;
            } else {
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                rustix::fs::renameat_with(from.folder, &from.name, to.folder, &to.name, flags)?;
            }
            Ok(())
        })
        .await
    }

    async fn remove_path(&self, id: u32, path: String, flags: AtFlags) -> FileResult<Status> {
        let named = path.clone();
        self.change(id, &named, move |bounds| {
            let location = bounds.locate(&path)?;
            Ok(rustix::fs::unlinkat(location.folder, &location.name, flags)?)
        })
        .await
    }
}

impl Handler for Server {
    type Error = Failure;

    fn unimplemented(&self) -> Failure {
        Failure::Io(io::ErrorKind::Unsupported.into())
    }

    async fn init(&mut self, _: u32, _: HashMap<String, String>) -> FileResult<Version> {
        let mut version = Version::new();
        for name in [RENAME, FSYNC, LIMITS, SFTP_SHA256] {
            version.extensions.insert(name.to_owned(), "1".to_owned());
        }
        Ok(version)
    }

    async fn open(
        &mut self,
        id: u32,
        filename: String,
        pflags: OpenFlags,
        attrs: FileAttributes,
    ) -> FileResult<Handle> {
        let path: Arc<str> = filename.as_str().into();
        let file = self.run(&path, move |bounds| open(bounds, &filename, pflags, &attrs));
        let opened = OpenHandle::File(Arc::new(file.await?), Arc::clone(&path));
        Ok(Handle { id, handle: self.insert_handle(opened)? })
    }

    async fn close(&mut self, id: u32, handle: String) -> FileResult<Status> {
        let closed = self.handles.remove(&handle);
        closed.ok_or_else(|| Failure::Invalid("no such file is open".to_owned()))?;
        Ok(ok_status(id))
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, len: u32) -> FileResult<Data> {
        let (file, path) = self.file(&handle)?;
        let data = run_in_thread(&path, DATA_TIMEOUT, move || {
            let mut data = vec![0; len.min(MAX_SFTP_IO_BYTES) as usize];
            let count = file.read_at(&mut data, offset)?;
            if count == 0 && len > 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            data.truncate(count);
            Ok(data)
        });
        Ok(Data { id, data: data.await? })
    }

    async fn write(
        &mut self,
        id: u32,
        handle: String,
        offset: u64,
        data: Vec<u8>,
    ) -> FileResult<Status> {
        let (file, path) = self.file(&handle)?;
        run_in_thread(&path, DATA_TIMEOUT, move || Ok(file.write_all_at(&data, offset)?)).await?;
        Ok(ok_status(id))
    }

    async fn lstat(&mut self, id: u32, path: String) -> FileResult<Attrs> {
        self.metadata(id, path, false).await
    }

    async fn stat(&mut self, id: u32, path: String) -> FileResult<Attrs> {
        self.metadata(id, path, true).await
    }

    async fn fstat(&mut self, id: u32, handle: String) -> FileResult<Attrs> {
        let (file, path) = self.file(&handle)?;
        let attrs = run_in_thread(&path, HELPER_TIMEOUT, move || {
            Ok(attributes(&file.metadata()?, is_virtual(&*file)))
        });
        Ok(Attrs { id, attrs: attrs.await? })
    }

    async fn setstat(
        &mut self,
        id: u32,
        path: String,
        attrs: FileAttributes,
    ) -> FileResult<Status> {
        let named = path.clone();
        self.change(id, &named, move |bounds| {
            let found = bounds.find(&path, true)?;
            if let Some(size) = attrs.size {
                found.reopen(OpenOptions::new().write(true))?.set_len(size)?;
            }
            set(&found.path(), &attrs)
        })
        .await
    }

    async fn fsetstat(
        &mut self,
        id: u32,
        handle: String,
        attrs: FileAttributes,
    ) -> FileResult<Status> {
        use std::os::fd::AsRawFd;
        let (file, path) = self.file(&handle)?;
        self.change(id, &path, move |_| {
            if let Some(size) = attrs.size {
                file.set_len(size)?;
            }
            set(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), &attrs)
        })
        .await
    }

    async fn opendir(&mut self, id: u32, path: String) -> FileResult<Handle> {
        let named: Arc<str> = path.as_str().into();
        let names = self.run(&named, move |bounds| {
            let found = bounds.find(&path, true)?;
            let entries = std::fs::read_dir(found.path())?;
            Ok(Names { entries, is_virtual: found.is_virtual() })
        });
        let opened = OpenHandle::Folder(Some(names.await?), Arc::clone(&named));
        Ok(Handle { id, handle: self.insert_handle(opened)? })
    }

    async fn readdir(&mut self, id: u32, handle: String) -> FileResult<Name> {
        let Some(OpenHandle::Folder(kept, path)) = self.handles.get_mut(&handle) else {
            return Err(Failure::Invalid("no such folder is open".to_owned()));
        };
        let Some(mut names) = kept.take() else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        };
        let (files, rest) = run_in_thread(path, HELPER_TIMEOUT, move || {
            let mut files = Vec::new();
            let mut is_end = true;
            for entry in names.entries.by_ref() {
                files.extend(name_entry(&entry?, names.is_virtual));
                if files.len() >= MAX_NAMES {
                    is_end = false;
                    break;
                }
            }
            Ok((files, (!is_end).then_some(names)))
        })
        .await?;
        if files.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        *kept = rest;
        Ok(Name { id, files })
    }

    async fn remove(&mut self, id: u32, filename: String) -> FileResult<Status> {
        self.remove_path(id, filename, AtFlags::empty()).await
    }

    async fn rmdir(&mut self, id: u32, path: String) -> FileResult<Status> {
        self.remove_path(id, path, AtFlags::REMOVEDIR).await
    }

    async fn mkdir(&mut self, id: u32, path: String, attrs: FileAttributes) -> FileResult<Status> {
        let named = path.clone();
        self.change(id, &named, move |bounds| {
            let location = bounds.locate(&path)?;
            let mode = Mode::from_raw_mode(mode(&attrs, 0o755));
            Ok(rustix::fs::mkdirat(location.folder, &location.name, mode)?)
        })
        .await
    }

    async fn realpath(&mut self, id: u32, path: String) -> FileResult<Name> {
        let named = path.clone();
        let real = self.run(&named, move |bounds| bounds.real(&path));
        let real = real.await?.to_string_lossy().into_owned();
        Ok(Name { id, files: vec![Named::dummy(real)] })
    }

    async fn rename(&mut self, id: u32, oldpath: String, newpath: String) -> FileResult<Status> {
        self.rename_path(id, oldpath, newpath, false).await
    }

    async fn readlink(&mut self, id: u32, path: String) -> FileResult<Name> {
        let named = path.clone();
        let target = self.run(&named, move |bounds| {
            let location = bounds.locate(&path)?;
            Ok(rustix::fs::readlinkat(location.folder, &location.name, Vec::new())?)
        });
        let target = target.await?.to_string_lossy().into_owned();
        Ok(Name { id, files: vec![Named::dummy(target)] })
    }

    /// Uses OpenSSH's order of arguments: the link's target is first.
    async fn symlink(&mut self, id: u32, target: String, link: String) -> FileResult<Status> {
        let named = link.clone();
        self.change(id, &named, move |bounds| {
            let location = bounds.locate(&link)?;
            Ok(rustix::fs::symlinkat(target.as_str(), location.folder, &location.name)?)
        })
        .await
    }

    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> FileResult<Packet> {
        let mut fields = RequestFields(&data);
        let reply = |data| Packet::ExtendedReply(ExtendedReply { id, data });
        match request.as_str() {
            RENAME => {
                let (from, to) = (fields.text()?, fields.text()?);
                Ok(self.rename_path(id, from, to, true).await?.into())
            }
            FSYNC => {
                let (file, path) = self.file(&fields.text()?)?;
                run_in_thread(&path, DATA_TIMEOUT, move || Ok(file.sync_all()?)).await?;
                Ok(ok_status(id).into())
            }
            LIMITS => {
                let most = u64::from(MAX_SFTP_IO_BYTES);
                let limits = [u64::from(MAX_PACKET), most, most, MAX_HANDLES as u64];
                Ok(reply(limits.iter().flat_map(|limit| limit.to_be_bytes()).collect()))
            }
            SFTP_SHA256 => {
                let (file, path) = self.file(&fields.text()?)?;
                let (offset, length) = (fields.number()?, fields.number()?);
                if length > MAX_SFTP_HASH_BYTES {
                    let message = format!("a hash covers at most {MAX_SFTP_HASH_BYTES} bytes");
                    return Err(Failure::Invalid(message));
                }
                let hash = run_in_thread(&path, DATA_TIMEOUT, move || hash(&file, offset, length));
                Ok(reply(hash.await?))
            }
            _ => Err(self.unimplemented()),
        }
    }
}
