//! The user that a server runs as: the current one, or an unprivileged one for PostgreSQL under
//! root.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

/// An unprivileged user from the system's user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl RunAs {
    /// `None` without root privileges, which need no other user; otherwise the user `postgres`, or
    /// `nobody` if that does not exist.
    pub(crate) fn for_postgres() -> io::Result<Option<Self>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                return Ok(Some(Self {
                    name: user.name,
                    uid: user.uid.as_raw(),
                    gid: user.gid.as_raw(),
                }));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "this system has neither a user postgres nor a user nobody",
        ))
    }

    /// Changes the owner of one file or folder to this user.
    pub(crate) fn chown(&self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }

    /// Changes the owner of a folder and all its contents to this user. Links are not followed.
    pub(crate) fn chown_tree(&self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.uid), Some(self.gid))?;
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.chown_tree(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// Returns the first folder of `path` that this user cannot traverse, if any. Only the
    /// permissions for others are checked, because they apply to such a user.
    pub(crate) fn inaccessible_dir(&self, path: &Path) -> Option<PathBuf> {
        path.ancestors()
            .skip(1)
            .filter(|folder| {
                fs::metadata(folder).is_ok_and(|meta| {
                    let needed = if meta.uid() == self.uid { 0o100 } else { 0o001 };
                    meta.permissions().mode() & needed == 0
                })
            })
            .last()
            .map(Path::to_path_buf)
    }
}
