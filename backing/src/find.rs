//! Locates the servers' binaries; `scripts/deps` installs them where this module searches.
//!
//! The order is: the environment variable, `PATH`, Debian's folders, the user's cache. Nothing is
//! downloaded or installed here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

/// A binary was not found.
#[derive(Debug, Error)]
pub enum FindError {
    /// The environment variable of the binary does not name an executable.
    #[error("{variable} is {}, which is not an executable {binary}; correct or unset it", path.display())]
    Override {
        /// The environment variable.
        variable: &'static str,
        /// Name of the binary.
        binary: &'static str,
        /// Value of the variable.
        path: PathBuf,
    },
    /// The binary is not in any location.
    #[error("failed to find {what} (searched {searched}); run `make deps`, or set {variable}")]
    Missing {
        /// The binary, with its version if that matters.
        what: String,
        /// The locations, in the order of the search.
        searched: String,
        /// The environment variable that would name it.
        variable: &'static str,
    },
}

/// The search path of the binaries. Everything except tests uses [`SearchPath::from_env`].
#[derive(Debug, Clone, Default)]
pub struct SearchPath {
    /// `MUSTER_NATS_SERVER`: the nats-server binary.
    pub nats_server: Option<PathBuf>,
    /// `MUSTER_POSTGRES_BIN`: the folder with `postgres` and `initdb`.
    pub postgres_bin: Option<PathBuf>,
    /// `MUSTER_INFLUXD`: the influxd binary.
    pub influxd: Option<PathBuf>,
    /// `PATH`.
    pub path: OsString,
    /// The folder with one folder per major version of PostgreSQL, in Debian's layout.
    pub postgres_versions: PathBuf,
    /// The folder that `scripts/deps` fills, if it can be determined.
    pub cache: Option<PathBuf>,
}

impl SearchPath {
    /// Returns the search path from this process's environment.
    pub fn from_env() -> Self {
        let variable =
            |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = variable("MUSTER_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("muster")))
            .or_else(|| variable("HOME").map(|folder| folder.join(".cache/muster")));
        Self {
            nats_server: variable("MUSTER_NATS_SERVER"),
            postgres_bin: variable("MUSTER_POSTGRES_BIN"),
            influxd: variable("MUSTER_INFLUXD"),
            path: env::var_os("PATH").unwrap_or_default(),
            postgres_versions: PathBuf::from("/usr/lib/postgresql"),
            cache,
        }
    }

    /// Finds the nats-server binary.
    ///
    /// # Errors
    /// When it is not found; the error lists the locations.
    pub fn nats_server(&self) -> Result<PathBuf, FindError> {
        self.binary("nats-server", "MUSTER_NATS_SERVER", self.nats_server.as_deref())
    }

    /// Finds the influxd binary (InfluxDB 1.x or 2.x).
    ///
    /// # Errors
    /// When it is not found; the error lists the locations.
    pub fn influxd(&self) -> Result<PathBuf, FindError> {
        self.binary("influxd", "MUSTER_INFLUXD", self.influxd.as_deref())
    }

    /// Finds the folder with PostgreSQL's binaries. `major` is the version of an existing data
    /// folder and is then required: another one cannot read the files.
    ///
    /// # Errors
    /// When it is not found; the error lists the locations.
    pub fn postgres_bin(&self, major: Option<u32>) -> Result<PathBuf, FindError> {
        const VARIABLE: &str = "MUSTER_POSTGRES_BIN";
        let serves = |bin: &Path| {
            is_executable(&bin.join("postgres"))
                && is_executable(&bin.join("initdb"))
                && major.is_none_or(|requested| postgres_major(bin) == Some(requested))
        };
        if let Some(bin) = &self.postgres_bin {
            return if is_executable(&bin.join("postgres")) && is_executable(&bin.join("initdb")) {
                Ok(bin.clone())
            } else {
                Err(FindError::Override {
                    variable: VARIABLE,
                    binary: "postgres and initdb",
                    path: bin.clone(),
                })
            };
        }
        let on_path = env::split_paths(&self.path)
            .map(|folder| folder.join("postgres"))
            .filter(|file| is_executable(file))
            .filter_map(|file| Some(fs::canonicalize(file).ok()?.parent()?.to_path_buf()));
        let in_cache = self.cache.iter().map(|cache| cache.join("postgresql/bin"));
        on_path
            .chain(self.debian_postgres_bins())
            .chain(in_cache)
            .find(|bin| serves(bin))
            .map(|bin| fs::canonicalize(&bin).unwrap_or(bin))
            .ok_or_else(|| FindError::Missing {
                what: major.map_or("PostgreSQL".into(), |major| {
                    format!("PostgreSQL {major}, which the existing data requires,")
                }),
                searched: self.describe_search(
                    &[format!("{}/*/bin", self.postgres_versions.display())],
                    "postgresql/bin",
                ),
                variable: VARIABLE,
            })
    }

    /// Returns Debian's bin folders, the newest major version first.
    fn debian_postgres_bins(&self) -> Vec<PathBuf> {
        let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(&self.postgres_versions)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
            })
            .collect();
        versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
        versions.into_iter().map(|(_, bin)| bin).collect()
    }

    fn binary(
        &self,
        name: &'static str,
        variable: &'static str,
        override_path: Option<&Path>,
    ) -> Result<PathBuf, FindError> {
        if let Some(path) = override_path {
            return if is_executable(path) {
                Ok(path.to_path_buf())
            } else {
                Err(FindError::Override { variable, binary: name, path: path.to_path_buf() })
            };
        }
        env::split_paths(&self.path)
            .chain(self.cache.iter().map(|cache| cache.join("bin")))
            .map(|folder| folder.join(name))
            .find(|file| is_executable(file))
            .map(|file| fs::canonicalize(&file).unwrap_or(file))
            .ok_or_else(|| FindError::Missing {
                what: name.into(),
                searched: self.describe_search(&[], "bin"),
                variable,
            })
    }

    fn describe_search(&self, more: &[String], in_cache: &str) -> String {
        let cache = match &self.cache {
            Some(cache) => cache.join(in_cache).display().to_string(),
            None => "there is no cache folder, because HOME is not set".into(),
        };
        [vec!["PATH".into()], more.to_vec(), vec![cache]].concat().join(", ")
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Returns the major version: `postgres (PostgreSQL) 15.18 (Debian …)` → 15.
pub(crate) fn postgres_major(bin: &Path) -> Option<u32> {
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_once("(PostgreSQL) ")?.1;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests;
