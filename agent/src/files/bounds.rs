//! The accessible paths: the folders that the device's owner allows, restricted to the path of one
//! order.
//!
//! A path is opened without side effects (`O_PATH`), the kernel returns its real location, and only
//! after a check is it used, through the open descriptor: a link that is replaced meanwhile has no
//! effect.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use muster_schemas::wire::FILE_PART_SUFFIX;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::policy::{Policy, PolicyError};
use crate::run_as::agent_user;
use crate::subprocess::unresponsive_message;

/// Maximum length of a path, in bytes.
const MAX_PATH_BYTES: usize = 4096;

pub(super) type FileResult<T> = Result<T, Failure>;

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The access is denied.
    #[error(transparent)]
    Denied(#[from] AccessDenied),
    /// The request is invalid.
    #[error("{0}")]
    Invalid(String),
    /// A file system does not respond.
    #[error("{}", unresponsive_message(.0))]
    Unresponsive(String),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The reason why an access is denied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessDenied {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("{path} is not in {granted}, to which this request is limited")]
    OutsideGrant { path: String, granted: String },
    #[error("this request is read-only")]
    ReadOnly,
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        Self::Denied(error.into())
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// The paths that one order may access.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    policy: Policy,
    /// Real paths of the policy's roots; no limit if absent.
    roots: Option<Vec<PathBuf>>,
    /// The requested file, or the folder with all its contents: its real path, and the named path,
    /// which may be a link to it.
    grants: Vec<PathBuf>,
    write: bool,
    /// Base of relative paths.
    home: PathBuf,
}

/// An existing, accessible file that is not opened for reading or writing yet.
#[derive(Debug)]
pub(crate) struct FoundFile {
    fd: OwnedFd,
    /// Real path of the file.
    pub(super) real: PathBuf,
}

/// A location in a folder, where a file may exist or be created.
#[derive(Debug)]
pub(super) struct Location {
    pub(super) folder: OwnedFd,
    pub(super) name: OsString,
}

impl Bounds {
    /// Computes what an order for `path` may access on this device, by its current policy.
    ///
    /// # Errors
    /// When the policy forbids it, or the path is invalid.
    pub(crate) fn new(policy: Policy, path: &str, write: bool) -> Result<Self, Failure> {
        let own = agent_user();
        let roots = policy.allows_files(&own.name, write)?;
        let roots = roots.map(|roots| roots.iter().map(|root| real_path(root)).collect());
        if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains('\0') {
            let reason = format!("a path must be 1 to {MAX_PATH_BYTES} bytes without NUL");
            return Err(Failure::Invalid(reason));
        }
        let named = own.home.join(path);
        let real = real_path(&named);
        if real.components().any(|part| matches!(part, Component::ParentDir)) {
            let reason = format!("a folder in '{path}' does not exist");
            return Err(Failure::Invalid(reason));
        }
        let location = match (named.parent(), named.components().next_back()) {
            (Some(folder), Some(Component::Normal(name))) => Some(real_path(folder).join(name)),
            _ => None,
        };
        let mut bounds = Self { policy, roots, grants: Vec::new(), write, home: own.home };
        bounds.check_roots(&real)?;
        let is_allowed =
            |location: &PathBuf| *location != real && bounds.check_roots(location).is_ok();
        let location = location.filter(is_allowed);
        bounds.grants = [Some(real), location].into_iter().flatten().collect();
        Ok(bounds)
    }

    /// Returns the absolute path.
    fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        self.home.join(path)
    }

    fn check_roots(&self, real: &Path) -> Result<(), Failure> {
        match &self.roots {
            Some(roots) if !roots.iter().any(|root| real.starts_with(root)) => {
                Err(self.policy.out_of_roots(real).into())
            }
            _ => Ok(()),
        }
    }

    /// Checks whether this real path is accessible.
    fn check(&self, real: &Path) -> Result<(), Failure> {
        let is_granted = |grant: &PathBuf| {
            // A file that is being written has a temporary name next to its final one.
            let mut part = grant.clone().into_os_string();
            part.push(FILE_PART_SUFFIX);
            real.starts_with(grant) || real == Path::new(&part)
        };
        if !self.grants.iter().any(is_granted) {
            let granted = self.grants.first().map(|grant| grant.display().to_string());
            let (path, granted) = (real.display().to_string(), granted.unwrap_or_default());
            return Err(AccessDenied::OutsideGrant { path, granted }.into());
        }
        self.check_roots(real)
    }

    /// Checks whether this order may write at all.
    ///
    /// # Errors
    /// When the order is for reading.
    pub(super) fn check_write(&self) -> Result<(), Failure> {
        if self.write {
            return Ok(());
        }
        Err(AccessDenied::ReadOnly.into())
    }

    /// Finds the file at a path. `follow`: resolves a symbolic link.
    ///
    /// # Errors
    /// When it does not exist or is not accessible.
    pub(crate) fn find(
        &self,
        path: impl AsRef<Path>,
        follows_links: bool,
    ) -> Result<FoundFile, Failure> {
        let more = if follows_links { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::PATH | OFlags::CLOEXEC | more;
        let fd = rustix::fs::openat(CWD, self.absolute(path), flags, Mode::empty())?;
        let found = FoundFile { real: path_of(&fd)?, fd };
        self.check(&found.real)?;
        Ok(found)
    }

    /// Returns the location that a path names; its last component is not followed.
    ///
    /// # Errors
    /// When its folder does not exist, or the location is not accessible.
    pub(super) fn locate(&self, path: &str) -> Result<Location, Failure> {
        let path = self.absolute(path);
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Err(Failure::Invalid(format!("{} does not name a file", path.display())));
        };
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
        self.check(&path_of(&folder)?.join(name))?;
        Ok(Location { folder, name: name.to_owned() })
    }

    /// Deletes a file, not the target of a link at its location, if `is_match` recognizes it.
    ///
    /// # Errors
    /// When the order is for reading only, or the file does not exist, is not accessible, or is
    /// another file.
    pub(crate) fn remove_file(
        &self,
        path: &str,
        is_match: impl FnOnce(&std::fs::Metadata) -> bool,
    ) -> Result<(), Failure> {
        self.check_write()?;
        let location = self.locate(path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&location.folder, &location.name, flags, Mode::empty())?;
        if !is_match(&File::from(fd).metadata()?) {
            return Err(Failure::Invalid(format!("{path} was replaced by another file")));
        }
        Ok(rustix::fs::unlinkat(&location.folder, &location.name, AtFlags::empty())?)
    }

    /// Returns the real path, as far as its components exist.
    ///
    /// # Errors
    /// When it is not accessible.
    pub(super) fn real(&self, path: &str) -> Result<PathBuf, Failure> {
        let real = real_path(&self.absolute(path));
        self.check(&real)?;
        Ok(real)
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it does not exist, is not accessible, or is not a regular file.
    pub(crate) fn open(&self, path: impl AsRef<Path>) -> Result<File, Failure> {
        self.find(path, true)?.reopen(OpenOptions::new().read(true))
    }
}

impl FoundFile {
    /// Whether its file system generates files when they are read, regardless of the reported size.
    pub(crate) fn is_virtual(&self) -> bool {
        is_virtual(&self.fd)
    }

    /// Reads its metadata.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn metadata(&self) -> io::Result<std::fs::Metadata> {
        // Describes the descriptor itself, even if it is a link.
        File::from(self.fd.try_clone()?).metadata()
    }

    /// Returns the target of a symbolic link, as it is stored.
    ///
    /// # Errors
    /// The system's, also when it is not a link.
    pub(crate) fn target(&self) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.fd, "", Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// Returns the path through the open descriptor, which cannot be replaced.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// Opens it.
    ///
    /// # Errors
    /// When it is not a regular file: a device or a pipe could have side effects, or block.
    pub(super) fn reopen(&self, options: &mut OpenOptions) -> Result<File, Failure> {
        let kind = self.metadata()?.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "a folder" } else { "not a regular file" };
            return Err(Failure::Invalid(format!("{} is {what}", self.real.display())));
        }
        Ok(options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(self.path())?)
    }

    /// Whether it is the same file on the same device as another one.
    #[cfg(test)]
    fn is(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let (one, other) = (self.metadata().unwrap(), std::fs::metadata(path).unwrap());
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }
}

/// The kernel's file systems that generate files when they are read (statfs(2)).
const VIRTUAL_FILE_SYSTEMS: [u32; 9] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
    0x6265_6570, // configfs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
];

/// Whether the file is on such a file system.
pub(crate) fn is_virtual(fd: impl std::os::fd::AsFd) -> bool {
    // The magic numbers have 32 bits; the type of the field depends on the platform.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the lower 32 bits, of whichever type the platform has"
    )]
    let kind = |found: rustix::fs::StatFs| found.f_type as u32;
    rustix::fs::fstatfs(fd).is_ok_and(|found| VIRTUAL_FILE_SYSTEMS.contains(&kind(found)))
}

/// Returns the path of an open file.
fn path_of(fd: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Returns the real path, as far as its components exist.
fn real_path(path: &Path) -> PathBuf {
    let mut rest: Vec<&OsStr> = Vec::new();
    let mut there = path;
    loop {
        if let Ok(mut real) = there.canonicalize() {
            real.extend(rest.iter().rev());
            return real;
        }
        match (there.parent(), there.components().next_back()) {
            (Some(parent), Some(last)) => {
                rest.push(last.as_os_str());
                there = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn policy(dir: &Path, text: &str) -> Policy {
        let file = dir.join("policy.toml");
        std::fs::write(&file, text).unwrap();
        Policy::load(&file).unwrap()
    }

    #[test]
    fn only_the_requested_path_is_accessible() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let text = |name: &str| at(name).to_str().unwrap().to_owned();
        std::fs::create_dir_all(at("logs/old")).unwrap();
        std::fs::write(at("logs/a"), "a").unwrap();
        std::fs::write(at("secret"), "s").unwrap();
        symlink(at("secret"), at("logs/out")).unwrap();
        symlink("../a", at("logs/old/in")).unwrap();
        symlink("..", at("logs/up")).unwrap();
        let bounds = Bounds::new(Policy::default(), &text("logs"), true).unwrap();
        assert!(bounds.find(text("logs/a"), true).unwrap().is(&at("logs/a")));
        assert!(bounds.find(text("logs/old/in"), true).unwrap().is(&at("logs/a")));
        for path in
            ["logs/out", "secret", "logs/../secret", "logs/up/secret", "logs/old/../../secret"]
        {
            let failure = bounds.find(text(path), true).unwrap_err();
            assert!(matches!(&failure, Failure::Denied(_)), "{path}: {failure}");
            assert!(bounds.open(text(path)).is_err());
        }
        // A link itself may be inspected, moved and deleted.
        assert!(bounds.find(text("logs/out"), false).unwrap().metadata().unwrap().is_symlink());
        assert!(bounds.locate(&text("logs/new")).is_ok());
        for path in ["logs/up/new", "new", "logs/..", "logs/none/new"] {
            assert!(bounds.locate(&text(path)).is_err(), "{path}");
        }
        assert!(bounds.locate(&text("logs")).is_ok());
        assert!(bounds.locate(&text("logs.muster-part")).is_ok());
        assert!(bounds.locate(&text("logs.muster-part/x")).is_err());
        assert!(bounds.locate("/").is_err());
    }

    #[test]
    fn the_roots_of_the_policy_override_every_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("data/app")).unwrap();
        std::fs::write(dir.path().join("data/app/a"), "a").unwrap();
        symlink("/etc", dir.path().join("data/etc")).unwrap();
        let shown = dir.path().display();
        let rules = policy(dir.path(), &format!("[files]\nroots = ['{shown}/data']"));
        let new = |path: &str| Bounds::new(rules.clone(), path, true);
        assert!(new(&format!("{shown}/data/app/a")).is_ok());
        assert!(new(&format!("{shown}/data/new/deep")).is_ok());
        for path in [
            "/etc/hostname",
            "/",
            &format!("{shown}/data/etc/hostname"),
            &format!("{shown}/data/../x"),
            &format!("{shown}/data/none/../../../x"),
            &format!("{shown}/database"),
        ] {
            let failure = new(path).unwrap_err();
            assert!(
                matches!(failure, Failure::Denied(_) | Failure::Invalid(_)),
                "{path}: {failure}"
            );
        }
        let message = new("/etc/hostname").unwrap_err().to_string();
        assert!(message.contains("[files] roots") && message.contains("policy.toml"), "{message}");
        for path in ["", "a\0b", &"x".repeat(5000)] {
            assert!(matches!(new(path), Err(Failure::Invalid(_))));
        }
        let read_only = policy(dir.path(), "[files]\nwrite = false");
        assert!(Bounds::new(read_only.clone(), "/tmp", false).is_ok());
        let message = Bounds::new(read_only, "/tmp", true).unwrap_err().to_string();
        assert!(message.contains("[files] write = false"), "{message}");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let bounds = Bounds::new(Policy::default(), "/", false).unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in ["/dev/null", "/", pipe.to_str().unwrap()] {
            let failure = bounds.open(path).unwrap_err();
            assert!(matches!(failure, Failure::Invalid(_)), "{path}: {failure}");
        }
        assert!(bounds.check_write().is_err());
    }
}
