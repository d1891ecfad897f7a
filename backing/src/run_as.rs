//! Whom a server runs as: ourselves, or, for PostgreSQL when we are root, somebody harmless.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

/// An unprivileged user, taken from the system's user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl RunAs {
    /// `None` when we are no root and so need nobody else; otherwise the user `postgres`, or
    /// `nobody` where there is none.
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

    /// Gives one file or folder to this user.
    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }

    /// Gives a folder and all that is in it to this user. Links are not followed.
    pub(crate) fn own_tree(&self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.uid), Some(self.gid))?;
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.own_tree(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// The first folder on the way to `path` that this user may not pass, if any. Only the mode
    /// for everybody is looked at: that is what such a user has.
    pub(crate) fn barred_at(&self, path: &Path) -> Option<PathBuf> {
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
