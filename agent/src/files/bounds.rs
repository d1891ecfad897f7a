//! What may be reached: the folders that the device's owner allows, and of these what one order is
//! about.
//!
//! A path is opened without any effect (`O_PATH`), the kernel is asked where that is, and only then
//! is it used, through what was opened: a link that is exchanged meanwhile changes nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use muster_schemas::wire::FILE_PART_SUFFIX;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::operations::{Policy, run_as};
use crate::subprocess::no_answer;

/// Longer paths are none.
const LONGEST: usize = 4096;

/// What was asked is not possible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It may not be, and why.
    #[error("{0}")]
    Denied(String),
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A file system does not answer.
    #[error("{}", no_answer(.0))]
    Silent(String),
    /// The system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// What one order may reach.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    policy: Policy,
    /// Where the roots of the policy really are; no limit when absent.
    roots: Option<Vec<PathBuf>>,
    /// The file, or the folder with all that is in it, that was asked for: where it really is, and
    /// the place that was named, which may be a link to it.
    grants: Vec<PathBuf>,
    write: bool,
    /// Where paths begin that do not begin with `/`.
    home: PathBuf,
}

/// A file that is there and may be reached, not opened for anything yet.
#[derive(Debug)]
pub(crate) struct Found {
    fd: OwnedFd,
    /// Where it really is.
    pub(super) real: PathBuf,
}

/// A place in a folder, where a file may be or become.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: OwnedFd,
    pub(super) name: OsString,
}

impl Bounds {
    /// What an order for `path` may reach on this device, as its policy is now.
    ///
    /// # Errors
    /// When the policy forbids it, or it is no path.
    pub(crate) fn new(policy: Policy, path: &str, write: bool) -> Result<Self, Failure> {
        let own = run_as(None).map_err(Failure::Invalid)?;
        let roots = policy.allows_files(&own.name, write).map_err(Failure::Denied)?;
        let roots = roots.map(|roots| roots.iter().map(|root| really(root)).collect());
        if path.is_empty() || path.len() > LONGEST || path.contains('\0') {
            let words = format!("a path is 1 to {LONGEST} bytes without a NUL");
            return Err(Failure::Invalid(words));
        }
        let named = own.home.join(path);
        let real = really(&named);
        if real.components().any(|part| matches!(part, Component::ParentDir)) {
            let words = format!("'{path}' leads through folders that are not there");
            return Err(Failure::Invalid(words));
        }
        let place = match (named.parent(), named.components().next_back()) {
            (Some(folder), Some(Component::Normal(name))) => Some(really(folder).join(name)),
            _ => None,
        };
        let mut bounds = Self { policy, roots, grants: Vec::new(), write, home: own.home };
        bounds.check_roots(&real)?;
        let is_allowed = |place: &PathBuf| *place != real && bounds.check_roots(place).is_ok();
        let place = place.filter(is_allowed);
        bounds.grants = [Some(real), place].into_iter().flatten().collect();
        Ok(bounds)
    }

    /// The path as the system takes it.
    fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        self.home.join(path)
    }

    fn check_roots(&self, real: &Path) -> Result<(), Failure> {
        match &self.roots {
            Some(roots) if !roots.iter().any(|root| real.starts_with(root)) => {
                Err(Failure::Denied(self.policy.out_of_roots(real)))
            }
            _ => Ok(()),
        }
    }

    /// May what really is here be reached?
    fn check(&self, real: &Path) -> Result<(), Failure> {
        let is_granted = |grant: &PathBuf| {
            // What is being written stands beside its place until it is whole.
            let mut part = grant.clone().into_os_string();
            part.push(FILE_PART_SUFFIX);
            real.starts_with(grant) || real == Path::new(&part)
        };
        if !self.grants.iter().any(is_granted) {
            let (real, grant) = (real.display(), self.grants.first().map(|grant| grant.display()));
            let grant = grant.map(|grant| grant.to_string()).unwrap_or_default();
            let words = format!("{real} is not in {grant}, which this order is about");
            return Err(Failure::Denied(words));
        }
        self.check_roots(real)
    }

    /// Is anything to be changed at all?
    ///
    /// # Errors
    /// When the order is for reading.
    pub(super) fn check_write(&self) -> Result<(), Failure> {
        if self.write {
            return Ok(());
        }
        Err(Failure::Denied("this order is for reading alone".to_owned()))
    }

    /// What is at a path. `follow`: where it is a symbolic link, what it leads to.
    ///
    /// # Errors
    /// When there is nothing, or it may not be reached.
    pub(crate) fn find(&self, path: impl AsRef<Path>, follow: bool) -> Result<Found, Failure> {
        let more = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::PATH | OFlags::CLOEXEC | more;
        let fd = rustix::fs::openat(CWD, self.absolute(path), flags, Mode::empty())?;
        let found = Found { real: place_of(&fd)?, fd };
        self.check(&found.real)?;
        Ok(found)
    }

    /// The place that a path names; the last part of it is not followed.
    ///
    /// # Errors
    /// When its folder is not there, or the place may not be reached.
    pub(super) fn place(&self, path: &str) -> Result<Place, Failure> {
        let path = self.absolute(path);
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Err(Failure::Invalid(format!("{} names no file", path.display())));
        };
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
        self.check(&place_of(&folder)?.join(name))?;
        Ok(Place { folder, name: name.to_owned() })
    }

    /// Removes a file, not what a link at its place leads to, when `is_it` knows it.
    ///
    /// # Errors
    /// When this is for reading alone, it is not there, may not be reached, or is another file.
    pub(crate) fn remove_file(
        &self,
        path: &str,
        is_it: impl FnOnce(&std::fs::Metadata) -> bool,
    ) -> Result<(), Failure> {
        self.check_write()?;
        let place = self.place(path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&place.folder, &place.name, flags, Mode::empty())?;
        if !is_it(&File::from(fd).metadata()?) {
            return Err(Failure::Invalid(format!("{path} is another file now")));
        }
        Ok(rustix::fs::unlinkat(&place.folder, &place.name, AtFlags::empty())?)
    }

    /// Where a path really leads, as far as it is there.
    ///
    /// # Errors
    /// When that may not be reached.
    pub(super) fn real(&self, path: &str) -> Result<PathBuf, Failure> {
        let real = really(&self.absolute(path));
        self.check(&real)?;
        Ok(real)
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it is not there, may not be reached, or is no regular file.
    pub(crate) fn open(&self, path: impl AsRef<Path>) -> Result<File, Failure> {
        self.find(path, true)?.reopen(OpenOptions::new().read(true))
    }
}

impl Found {
    /// Is it on a file system whose files are made as they are read, whatever size they name?
    pub(crate) fn is_virtual(&self) -> bool {
        is_virtual(&self.fd)
    }

    /// What can be said of it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn metadata(&self) -> io::Result<std::fs::Metadata> {
        // Says what the descriptor is, be it a link.
        File::from(self.fd.try_clone()?).metadata()
    }

    /// Where a symbolic link leads, as it is written.
    ///
    /// # Errors
    /// The system's, also when it is no link.
    pub(crate) fn target(&self) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.fd, "", Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// The way to it that cannot be exchanged.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// Opens it.
    ///
    /// # Errors
    /// When it is no regular file: a device or a pipe would do things, or never answer.
    pub(super) fn reopen(&self, options: &mut OpenOptions) -> Result<File, Failure> {
        let kind = self.metadata()?.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "a folder" } else { "no regular file" };
            return Err(Failure::Invalid(format!("{} is {what}", self.real.display())));
        }
        Ok(options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(self.path())?)
    }

    /// Is it on the same device and the same file as this one?
    #[cfg(test)]
    fn is(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let (one, other) = (self.metadata().unwrap(), std::fs::metadata(path).unwrap());
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }
}

/// The kernel's file systems whose files are made as they are read (statfs(2)).
const VIRTUAL: [u32; 9] = [
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

/// Is it on such a file system?
pub(crate) fn is_virtual(fd: impl std::os::fd::AsFd) -> bool {
    // The magic numbers have 32 bits; the type of the field depends on the platform.
    rustix::fs::fstatfs(fd).is_ok_and(|found| VIRTUAL.contains(&(found.f_type as u32)))
}

/// Where an open file is.
fn place_of(fd: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Where a path really leads, as far as it is there.
fn really(path: &Path) -> PathBuf {
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
    fn what_was_asked_for_is_all_that_is_reached() {
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
            assert!(
                matches!(&failure, Failure::Denied(words) if words.contains("this order is about")),
                "{path}: {failure}"
            );
            assert!(bounds.open(text(path)).is_err());
        }
        // A link itself may be seen, moved and removed.
        assert!(bounds.find(text("logs/out"), false).unwrap().metadata().unwrap().is_symlink());
        assert!(bounds.place(&text("logs/new")).is_ok());
        for path in ["logs/up/new", "new", "logs/..", "logs/none/new"] {
            assert!(bounds.place(&text(path)).is_err(), "{path}");
        }
        assert!(bounds.place(&text("logs")).is_ok());
        assert!(bounds.place(&text("logs.muster-part")).is_ok());
        assert!(bounds.place(&text("logs.muster-part/x")).is_err());
        assert!(bounds.place("/").is_err());
    }

    #[test]
    fn roots_are_the_owners_last_word() {
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
        let words = new("/etc/hostname").unwrap_err().to_string();
        assert!(words.contains("[files] roots") && words.contains("policy.toml"), "{words}");
        for path in ["", "a\0b", &"x".repeat(5000)] {
            assert!(matches!(new(path), Err(Failure::Invalid(_))));
        }
        let read_only = policy(dir.path(), "[files]\nwrite = false");
        assert!(Bounds::new(read_only.clone(), "/tmp", false).is_ok());
        let words = Bounds::new(read_only, "/tmp", true).unwrap_err().to_string();
        assert!(words.contains("[files] write = false"), "{words}");
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
