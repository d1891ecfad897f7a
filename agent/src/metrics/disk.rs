//! `disk`: space and inodes of each mounted file system, like Telegraf with its usual `ignore_fs`.
//!
//! Only file systems that the kernel itself manages on a local disk are sampled. Querying one of
//! another machine (NFS, SMB) or of a program (all of FUSE, including `fuseblk`) blocks
//! indefinitely if that does not respond, and no timeout helps; the same applies to mounts below
//! one. Block devices' traffic is in [`super::diskio`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use muster_schemas::metrics::Point;
use nix::sys::statvfs::{Statvfs, statvfs};

use super::collect::Collect;
use super::source::{CollectError, Files};
use super::value::percent;

const MOUNTINFO: &str = "proc/self/mountinfo";

/// File systems on local disks.
const LOCAL_FILE_SYSTEMS: &[&str] = &[
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfs", "hfsplus", "jffs2", "jfs",
    "minix", "msdos", "nilfs2", "ntfs", "ntfs3", "reiserfs", "ubifs", "ufs", "vfat", "xfs", "zfs",
];
/// File systems that depend only on the kernel, and are not reported.
const VIRTUAL_FILE_SYSTEMS: &[&str] = &[
    "tmpfs",
    "devtmpfs",
    "devfs",
    "iso9660",
    "overlay",
    "aufs",
    "squashfs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cramfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "erofs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "nfsd",
    "none",
    "proc",
    "pstore",
    "ramfs",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
    "udf",
];

/// One line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Major and minor number of the file system.
    device: String,
    /// The mounted folder of the file system; other than `/` for a bind mount.
    folder: String,
    /// The mount point; bytes that are not UTF-8 are written as `\xff`.
    path: String,
    /// The mount point as raw bytes.
    raw_path: Vec<u8>,
    is_read_only: bool,
    fstype: String,
    source: String,
}

/// Stateless.
pub(super) struct Disk;

impl Collect for Disk {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        let mounts: Vec<Mount> =
            files.escaped_text(MOUNTINFO)?.lines().filter_map(Mount::parse).collect();
        if mounts.is_empty() {
            return Err(files.malformed(MOUNTINFO, "a single mount"));
        }
        for mount in reported_mounts(mounts) {
            let path = files.path("").join(mount.location());
            // A mount that no longer exists, or is not accessible, is omitted.
            if let Some(point) = usage(&path).and_then(|usage| mount.point(&usage)) {
                points.push(point);
            }
        }
        Ok(())
    }
}

impl Mount {
    /// Parses `36 35 98:0 /folder /path rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
    /// (proc_pid_mountinfo(5)).
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(2);
        let (device, folder, path, options) =
            (left.next()?, left.next()?, left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (fstype, source) = (right.next()?, right.next()?);
        Some(Self {
            device: device.to_owned(),
            folder: printable(&unescape(folder)),
            path: printable(&unescape(path)),
            raw_path: unescape(path),
            is_read_only: options.split(',').any(|option| option == "ro"),
            fstype: fstype.to_owned(),
            source: printable(&unescape(source)),
        })
    }

    /// The mount point, relative to `/`.
    fn location(&self) -> &Path {
        let path = Path::new(OsStr::from_bytes(&self.raw_path));
        path.strip_prefix("/").unwrap_or(path)
    }

    fn point(&self, usage: &Usage) -> Option<Point> {
        if usage.total == 0 {
            return None;
        }
        Some(
            Point::new("disk")
                .tag("path", self.path.clone())
                .tag("device", self.source.trim_start_matches("/dev/"))
                .tag("fstype", self.fstype.clone())
                .tag("mode", if self.is_read_only { "ro" } else { "rw" })
                .field("total", usage.total)
                .field("free", usage.free)
                .field("used", usage.used)
                // As df(1): space that is reserved for root is on neither side.
                .field("used_percent", percent(usage.used, usage.used.saturating_add(usage.free)))
                .field("inodes_total", usage.inodes_total)
                .field("inodes_free", usage.inodes_free)
                .field("inodes_used", usage.inodes_total.saturating_sub(usage.inodes_free))
                .field(
                    "inodes_used_percent",
                    percent(
                        usage.inodes_total.saturating_sub(usage.inodes_free),
                        usage.inodes_total,
                    ),
                ),
        )
    }
}

/// Bytes and inodes; `free` is available to unprivileged users.
struct Usage {
    total: u64,
    free: u64,
    used: u64,
    inodes_total: u64,
    inodes_free: u64,
}

fn usage(path: &Path) -> Option<Usage> {
    // A file as mount point is a container's bind mount (/etc/hosts), not a file system to report.
    if !path.is_dir() {
        return None;
    }
    statvfs(path).ok().as_ref().map(Usage::from)
}

impl From<&Statvfs> for Usage {
    fn from(stat: &Statvfs) -> Self {
        // The types differ by platform: u64 here, u32 on 32-bit ARM.
        #[expect(clippy::useless_conversion, reason = "not useless on 32-bit platforms")]
        let wide = |value| -> u64 { u64::from(value) };
        let block = wide(stat.fragment_size());
        let (blocks, blocks_free) = (wide(stat.blocks()), wide(stat.blocks_free()));
        Self {
            total: blocks.saturating_mul(block),
            free: wide(stat.blocks_available()).saturating_mul(block),
            used: blocks.saturating_sub(blocks_free).saturating_mul(block),
            inodes_total: wide(stat.files()),
            inodes_free: wide(stat.files_free()),
        }
    }
}

/// Returns the mounts to report, by path: real file systems, each at its original mount point, and
/// `/` of any type (in a container, or on a read-only image, it is an overlay).
fn reported_mounts(mounts: Vec<Mount>) -> Vec<Mount> {
    let mut by_path = BTreeMap::new();
    for mount in mounts {
        // A later mount on the same path hides the earlier one.
        by_path.insert(mount.path.clone(), mount);
    }
    // Sorted by path: a parent mount precedes the mounts in it.
    let mut silent: Vec<String> = Vec::new();
    let mut real: Vec<Mount> = Vec::new();
    for mount in by_path.into_values() {
        let is_local = LOCAL_FILE_SYSTEMS.contains(&mount.fstype.as_str());
        if !(is_local || VIRTUAL_FILE_SYSTEMS.contains(&mount.fstype.as_str()) || mount.path == "/")
        {
            silent.push(mount.path);
        } else if (is_local || mount.path == "/")
            && !silent.iter().any(|above| Path::new(&mount.path).starts_with(above))
        {
            real.push(mount);
        }
    }
    let is_bind = |mount: &Mount| {
        // Subvolumes of btrfs are mounted by folder and are not bind mounts.
        mount.path != "/" && mount.folder != "/" && mount.fstype != "btrfs"
    };
    let whole: Vec<String> =
        real.iter().filter(|mount| !is_bind(mount)).map(|mount| mount.device.clone()).collect();
    real.into_iter().filter(|mount| !is_bind(mount) || !whole.contains(&mount.device)).collect()
}

/// Decodes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(text: &str) -> Vec<u8> {
    if !text.contains('\\') {
        return text.as_bytes().to_vec();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Formats a path as text: bytes that are not UTF-8 are written as `\xff`.
fn printable(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_file_systems_are_reported_with_their_names() {
        let cases: &[(&str, &[&str])] = &[
            ("22 1 254:0 / / rw - ext4 /dev/vda rw", &["/"]),
            // A container: the root is an overlay, and files are bind-mounted.
            (
                "1 0 0:50 / / rw - overlay overlay rw\n2 1 8:1 /c/hosts /etc/hosts rw - ext4 /dev/sda1 rw",
                &["/", "/etc/hosts"],
            ),
            // A bind mount of a file system that is already reported.
            (
                "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:1 /srv /mnt/srv rw - ext4 /dev/sda1 rw",
                &["/"],
            ),
            (
                "1 0 0:20 /@ / rw - btrfs /dev/sda2 rw\n2 1 0:20 /@home /home rw - btrfs /dev/sda2 rw",
                &["/", "/home"],
            ),
            // Hidden by a later mount; pseudo file systems; file systems of other machines.
            (
                "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /a rw - ext4 /dev/sdb rw\n3 1 0:9 / /a rw - tmpfs tmpfs rw\n4 1 0:8 / /n rw - nfs4 server:/x rw\n5 1 0:7 / /f rw - fuse.sshfs x rw\n6 1 0:6 / /proc rw - proc proc rw",
                &["/"],
            ),
            // File systems of programs (FUSE), with the mounts below them.
            (
                "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:9 / /f rw - fuse x rw\n3 1 0:8 / /n rw - fuseblk /dev/sdc1 rw\n4 2 8:2 / /f/disk rw - ext4 /dev/sdb rw\n5 1 8:3 / /files rw - ext4 /dev/sdd rw",
                &["/", "/files"],
            ),
            (
                "garbage\n1 2\n1 0 8:1 / /with\\040space ro shared:1 - xfs /dev/sdc1 rw",
                &["/with space"],
            ),
        ];
        for (text, paths) in cases {
            let mounts = reported_mounts(text.lines().filter_map(Mount::parse).collect());
            let found: Vec<&str> = mounts.iter().map(|mount| mount.path.as_str()).collect();
            assert_eq!(found, *paths, "{text}");
        }
    }

    #[test]
    fn a_mount_point_that_is_not_utf8_or_has_a_line_end_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let proc_self = folder.path().join("proc/self");
        std::fs::create_dir_all(&proc_self).unwrap();
        let line = b"1 0 8:1 / /m\\012n\xff\x1b rw - ext4 /dev/sda1 rw\n";
        std::fs::write(proc_self.join("mountinfo"), line).unwrap();
        let mount_point = folder.path().join(OsStr::from_bytes(b"m\nn\xff\x1b"));
        std::fs::create_dir(&mount_point).unwrap();
        let mut points = Vec::new();
        Disk.collect(&mut Files::new(folder.path()), &mut points).unwrap();
        let paths: Vec<&str> = points
            .iter()
            .filter_map(|it| it.tags.get(&"path".into()).map(String::as_str))
            .collect();
        assert_eq!(paths, ["/m_n\\xff_"]);
    }

    #[test]
    fn escapes_are_decoded_and_broken_ones_kept() {
        for (text, expected) in
            [("a", "a"), ("a\\040b", "a b"), ("\\134", "\\"), ("\\0", "\\0"), ("\\999", "\\999")]
        {
            assert_eq!(printable(&unescape(text)), expected);
        }
    }
}
