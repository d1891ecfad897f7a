//! The data folder: accessible only to its owner, locked by the agent that uses it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::StoreError;

/// A data folder that no other agent uses. The lock ends with the process, in any case.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

fn file_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::File { attempted: operation, path: path.to_owned(), source }
}

/// Maximum time to wait for the lock: `muster-agent status` holds it briefly while no agent runs.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// Locks the file, or returns the reason why it is not locked.
fn lock_with_timeout(file: &File) -> Result<(), TryLockError> {
    let started_at = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if started_at.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(50));
            }
            outcome => return outcome,
        }
    }
}

impl Folder {
    /// Locks the folder; creates it if it is missing.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another agent uses it; or when it cannot be created or read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(file_error("create the data folder", path))?;
        }
        check_not_foreign(path)?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(file_error("open", &lock))?;
        match lock_with_timeout(&file) {
            Ok(()) => {
                // Only the process that holds the lock sets the mode: another one may be reading
                // the folder.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
                    .map_err(file_error("set the mode of", path))?;
                Ok(Self { path: path.to_owned(), _lock: file })
            }
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(file_error("lock", &lock)(source)),
        }
    }

    /// Path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the database file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        Self::database_in(&self.path)
    }

    /// Path of a folder's database file, which may not exist.
    #[must_use]
    pub fn database_in(path: &Path) -> PathBuf {
        path.join("agent.redb")
    }

    /// Returns the free space of its file system, in bytes; `None` if the kernel does not report
    /// it.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        free_bytes(&self.path)
    }
}

/// Refuses a folder that is open to others and contains only files of other programs: closing it
/// would lock them out.
fn check_not_foreign(path: &Path) -> Result<(), StoreError> {
    let look = |path: &Path| std::fs::metadata(path).map_err(file_error("inspect", path));
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
    // A new file system has a folder `lost+found`.
    let is_own = |entry: &std::io::Result<std::fs::DirEntry>| {
        entry.as_ref().is_ok_and(|entry| entry.file_name() == "lost+found")
    };
    let mut entries = std::fs::read_dir(path).map_err(file_error("read", path))?;
    match entries.find(|entry| !is_own(entry)) {
        None => Ok(()),
        Some(_) => Err(StoreError::Foreign { path: path.to_owned(), mode }),
    }
}

/// Returns the space below `path` that is available to an unprivileged process, in bytes.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    #[allow(clippy::useless_conversion, reason = "both are 32 bits wide on some machines")]
    let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
    blocks.checked_mul(size)
}
