//! The data folder: made for its owner alone, locked by the one agent that uses it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::StoreError;

/// A data folder that no other agent uses. The lock goes with the process, however it ends.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

fn failed<'a>(
    attempted: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::File { attempted, path: path.to_owned(), source }
}

/// How long another's lock is waited for: `muster-agent status` holds it for a moment while no agent
/// runs.
const PATIENCE: Duration = Duration::from_secs(3);

/// Locks the file, or says why not.
fn patiently_lock(file: &File) -> Result<(), TryLockError> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            outcome => return outcome,
        }
    }
}

impl Folder {
    /// Makes the folder when it is missing, and takes it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another agent has it; or when it cannot be made or read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(failed("make the data folder", path))?;
        }
        refuse_foreign(path)?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(failed("open", &lock))?;
        match patiently_lock(&file) {
            Ok(()) => {
                // Only the one who has the folder mends its mode: another one may be reading it.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
                    .map_err(failed("set the mode of", path))?;
                Ok(Self { path: path.to_owned(), _lock: file })
            }
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &lock)(source)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database's file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        Self::database_in(&self.path)
    }

    /// The file of a folder's database, whether it is there or not.
    #[must_use]
    pub fn database_in(path: &Path) -> PathBuf {
        path.join("agent.redb")
    }

    /// The free space of its file system, in bytes; `None` when the kernel does not tell.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        free_bytes(&self.path)
    }
}

/// Refuses a folder that is open to others and holds files, none of them an agent's: closing it would
/// lock out other programs.
fn refuse_foreign(path: &Path) -> Result<(), StoreError> {
    let look = |path: &Path| std::fs::metadata(path).map_err(failed("look at", path));
    let owner = look(path)?.uid();
    // Root can use the folder of any user, who could then replace its files.
    let user = std::fs::metadata("/proc/self").map_or(owner, |process| process.uid());
    if owner != user {
        return Err(StoreError::OtherOwner { path: path.to_owned(), owner, user });
    }
    let mode = look(path)?.permissions().mode() & 0o7777;
    if mode & 0o066 == 0 || Folder::database_in(path).exists() || path.join("lock").exists() {
        return Ok(());
    }
    // A new file system has its own folder.
    let is_own = |entry: &std::io::Result<std::fs::DirEntry>| {
        entry.as_ref().is_ok_and(|entry| entry.file_name() == "lost+found")
    };
    let mut entries = std::fs::read_dir(path).map_err(failed("read", path))?;
    match entries.find(|entry| !is_own(entry)) {
        None => Ok(()),
        Some(_) => Err(StoreError::Foreign { path: path.to_owned(), mode }),
    }
}

/// What an unprivileged process may still write below `path`, in bytes.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    #[allow(clippy::useless_conversion, reason = "both are 32 bits wide on some machines")]
    let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
    blocks.checked_mul(size)
}

/// Replaces a file whole or not at all; its owner alone can read it.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The name is in the folder, which has to reach the disk too.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(failed("write", path))
}
