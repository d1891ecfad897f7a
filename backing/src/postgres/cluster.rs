//! The cluster's files: created once and atomically, and owned by the user that the server runs as.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;

use super::error::PostgresError;
use super::options::Tuning;
use crate::child::OneShot;
use crate::files;
use crate::run_as::RunAs;

/// The only user, and its database.
pub(super) const USER: &str = "muster";

/// The folders of one PostgreSQL server.
pub(super) struct Cluster<'a> {
    pub(super) dir: &'a Path,
    pub(super) run_as: Option<&'a RunAs>,
}

impl Cluster<'_> {
    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Returns the password of the user `muster`, which is created at first use and stored next to
    /// the data.
    pub(super) fn password(&self) -> Result<String, PostgresError> {
        let path = self.dir.join("password");
        files::read_or_create_secret(&path).map_err(|source| PostgresError::File {
            attempt: "read or create the password",
            path,
            source,
        })
    }

    /// Returns the major version that has created the data; `None` if there is no data yet.
    pub(super) fn major(&self) -> Result<Option<u32>, PostgresError> {
        let path = self.data().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse() {
                Ok(major) => Ok(Some(major)),
                Err(_) => Err(PostgresError::NoCluster { dir: self.data() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.data().exists() => {
                Err(PostgresError::NoCluster { dir: self.data() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PostgresError::File { attempt: "read", path, source }),
        }
    }

    /// Creates the data folder with initdb, first under another name: an interrupted start leaves
    /// no incomplete cluster.
    pub(super) async fn create(
        &self,
        bin: &Path,
        password: &str,
        tuning: Tuning,
    ) -> Result<(), PostgresError> {
        let new = self.dir.join("data.new");
        let file_error = |attempt, path: &Path, source| PostgresError::File {
            attempt,
            path: path.into(),
            source,
        };
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("remove", &new, error));
            }
            _ => {}
        }
        files::make_private_dir(&new)
            .map_err(|source| file_error("create the folder", &new, source))?;
        let password_file = self.dir.join("password.initdb");
        files::write_private(&password_file, password.as_bytes())
            .map_err(|source| file_error("write", &password_file, source))?;
        if let Some(user) = self.run_as {
            for path in [&new, &password_file] {
                user.chown(path)
                    .map_err(|source| file_error("change the owner of", path, source))?;
            }
        }
        let stdin =
            File::open(&password_file).map_err(|source| file_error("open", &password_file, source));
        let made = self.initdb(bin, &new, stdin?, tuning).await;
        // The password remains in its own file; a leftover of this one is private, too.
        let _ = fs::remove_file(&password_file);
        made?;
        fs::rename(&new, self.data())
            .and_then(|()| File::open(self.dir)?.sync_all())
            .map_err(|source| file_error("move to its final path", &new, source))
    }

    async fn initdb(
        &self,
        bin: &Path,
        new: &Path,
        password: File,
        tuning: Tuning,
    ) -> Result<(), PostgresError> {
        let mut args: Vec<OsString> = [
            "--username",
            USER,
            "--auth=scram-sha-256",
            // As an open file: the user who reads it may not be able to traverse the path.
            "--pwfile=/dev/stdin",
            "--data-checksums",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
            "-D",
        ]
        .map(Into::into)
        .into();
        args.push(data_argument(new, self.run_as));
        if tuning == Tuning::Throwaway {
            args.push("--no-sync".into());
        }
        let one_shot = OneShot {
            name: "initdb",
            program: bin.join("initdb"),
            args,
            stdin: Some(password),
            open_dir: self.run_as.map(|_| new.to_path_buf()),
            run_as: self.run_as.cloned(),
            timeout: Duration::from_secs(120),
        };
        one_shot.run().await.map(drop).map_err(PostgresError::Initdb)
    }

    /// Changes the owner of the data to the user that the server runs as, if it differs: the data
    /// was restored from a backup, or root has created it under another name.
    pub(super) fn chown_data(&self) -> Result<(), PostgresError> {
        let data = self.data();
        let file_error =
            |attempt, source| PostgresError::File { attempt, path: data.clone(), source };
        let owner = fs::metadata(&data).map_err(|source| file_error("inspect", source))?.uid();
        match self.run_as {
            Some(user) if user.uid != owner => {
                tracing::info!(
                    data = %data.display(),
                    user = user.name,
                    "changing the owner of PostgreSQL's data to the user that it runs as"
                );
                user.chown_tree(&data).map_err(|source| file_error("change the owner of", source))
            }
            None if owner != Uid::effective().as_raw() => {
                Err(PostgresError::ForeignData { data, owner })
            }
            _ => Ok(()),
        }
    }
}

/// Returns the argument for the data folder: its path, or, if the server runs as another user, the
/// file descriptor that it inherits (other users cannot traverse `/root`, where a clone may be).
pub(super) fn data_argument(data: &Path, run_as: Option<&RunAs>) -> OsString {
    match run_as {
        Some(_) => "/proc/self/fd/3".into(),
        None => data.as_os_str().to_owned(),
    }
}
