//! Files and folders between an operator and the real agent: `muster cp`, and OpenSSH's sftp.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_tests::binaries::binary;
use muster_tests::fleet::Fleet;
use muster_tests::text::has_number;
use muster_tests::{Robot, System, wait};
use serde_json::Value;
use sha2::{Digest, Sha256};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes without repetition.
fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_be_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// The contents of a folder: mode, time and content of each entry.
fn all_of(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let what = if metadata.is_symlink() {
                format!("to {}", std::fs::read_link(&path).unwrap().display())
            } else {
                let content = if metadata.is_dir() {
                    folders.push(path.clone());
                    String::new()
                } else {
                    format!("{:x}", Sha256::digest(std::fs::read(&path).unwrap()))
                };
                format!("{:o} {} {content}", metadata.mode() & 0o7777, metadata.mtime())
            };
            found.insert(name, what);
        }
    }
    found
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_copied_both_ways_unchanged() {
    let Robot { system, agent: _agent, dir } = Robot::start("").await;
    let at = |name: &str| dir.path().join(name);
    let from = at("from");
    std::fs::create_dir_all(from.join("deep/er")).unwrap();
    std::fs::write(from.join("empty"), "").unwrap();
    std::fs::write(from.join("large"), bytes(20_000_000, 1)).unwrap();
    std::fs::write(from.join("deep/er/süß und salzig"), "x").unwrap();
    for n in 0..300 {
        std::fs::write(from.join(format!("deep/{n}")), bytes(n * 7, n as u64)).unwrap();
    }
    symlink("../large", from.join("deep/link")).unwrap();
    symlink("/no/where", from.join("dangling")).unwrap();
    mode(&from.join("deep/er/süß und salzig"), 0o4750);
    mode(&from.join("large"), 0o600);
    mode(&from.join("deep/er"), 0o555);
    std::fs::create_dir(at("device")).unwrap();
    let there = format!("robot:{}", at("device").display());
    let copied = |expected: (u64, u64)| {
        let (code, out, err) = system.muster(&["cp", "--json", text(&from), &there]);
        assert_eq!(code, 0, "{err}");
        let result: Value = serde_json::from_str(&out).unwrap();
        let files = (result["files"].as_u64(), result["same"].as_u64());
        assert_eq!(files, (Some(expected.0), Some(expected.1)), "{result}");
    };
    copied((305, 0));
    assert_eq!(all_of(&at("device/from")), all_of(&from));
    let back = format!("{there}/from");
    let kept = at("back");
    let special = ["cp", "--preserve-special", "-j", "8", &back, text(&kept)];
    let (code, _, err) = system.muster(&special);
    assert_eq!(code, 0, "{err}");
    assert_eq!(all_of(&at("back")), all_of(&from));
    // Without the option, the setuid bit of a program is not copied.
    let setuid = format!("{back}/deep/er/süß und salzig");
    let (code, _, err) = system.muster(&["cp", &setuid, text(&at("plain"))]);
    assert_eq!((code, at("plain").metadata().unwrap().mode() & 0o7777), (0, 0o750), "{err}");
    // A second copy skips all files; after a change it copies one file.
    copied((0, 305));
    std::fs::write(from.join("deep/7"), "new").unwrap();
    copied((1, 304));
    assert_eq!(std::fs::read_to_string(at("device/from/deep/7")).unwrap(), "new");
    // One file, by another name; several into a missing folder; a file of /proc.
    let one = format!("{there}/renamed");
    let (code, _, err) = system.muster(&["cp", text(&from.join("large")), &one]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(std::fs::read(at("device/renamed")).unwrap(), bytes(20_000_000, 1));
    let two = [format!("{there}/renamed"), format!("{there}/from/deep/7")];
    let (code, _, err) = system.muster(&["cp", &two[0], &two[1], text(&at("several"))]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(std::fs::read_to_string(at("several/7")).unwrap(), "new");
    let (code, _, err) = system.muster(&["cp", "robot:/proc/version", text(&at("version"))]);
    assert_eq!(code, 0, "{err}");
    let version = std::fs::read_to_string("/proc/version").unwrap();
    assert_eq!(std::fs::read_to_string(at("version")).unwrap(), version);
    // The log contains each session: which path, to write or to read.
    let sessions = system.api.list("/api/v1/sessions").await;
    let is_there = |path: &str, write: bool| {
        sessions.iter().any(|one| {
            let what = &one["access"];
            what["kind"] == "files" && what["path"] == path && what["writable"] == write
        })
    };
    assert!(is_there("/proc/version", false), "{sessions:?}");
    assert!(is_there(text(&at("device")), true), "{sessions:?}");
    mode(&from.join("deep/er"), 0o755);
}

/// `muster cp` as a process that can be killed.
fn copying(url: &str, token: &str, ca: &Path, args: &[&str]) -> Child {
    Command::new(binary("muster"))
        .arg("cp")
        .args(args)
        .env("MUSTER_URL", url)
        .env("MUSTER_TOKEN", token)
        .env("MUSTER_CA", ca)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn wait_for_size(path: &Path, to: u64) {
    wait::until("a part of the file to be there", WAIT_TIMEOUT, || async {
        std::fs::metadata(path).is_ok_and(|part| part.len() >= to).then_some(())
    })
    .await;
}

/// The transferred MiB, from the last line of a copy's output.
fn moved(output: &str) -> f64 {
    let words = output.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!((words[1], words[3]), ("file,", "MiB"), "{output}");
    words[2].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_copy_resumes() {
    let Robot { system, agent: _agent, dir } = Robot::start("").await;
    let at = |name: &str| dir.path().join(name);
    let content = bytes(40 << 20, 2);
    std::fs::write(at("large"), &content).unwrap();
    for (from, to) in [
        (text(&at("large")).to_owned(), format!("robot:{}", at("there").display())),
        (format!("robot:{}", at("large").display()), text(&at("back")).to_owned()),
    ] {
        let target = at(to.rsplit('/').next().unwrap());
        let mut part = target.clone().into_os_string();
        part.push(".muster-part");
        let args = ["--limit", "10MiB", &from, &to];
        let api = &system.api;
        let mut child = copying(&api.url, &api.token, &system.ca(), &args);
        wait_for_size(Path::new(&part), 20 << 20).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!target.exists(), "a file has its name when it is whole");
        // The end of the partial file is damaged.
        let file = std::fs::OpenOptions::new().append(true).open(&part).unwrap();
        (&file).write_all(b"not of this file").unwrap();
        let (code, _, err) = system.muster(&["cp", &from, &to]);
        assert_eq!(code, 0, "{err}");
        assert!(std::fs::read(&target).unwrap() == content, "equal bytes");
        assert!(moved(&err) < 30.0, "{err}");
        assert!(!Path::new(&part).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_survives_restarts_of_the_agent_and_the_server() {
    let mut fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut agent = fleet.robot(dir.path()).await;
    let content = bytes(40 << 20, 3);
    std::fs::write(dir.path().join("large"), &content).unwrap();
    let target = dir.path().join("there");
    let part = dir.path().join("there.muster-part");
    let (from, to) = (dir.path().join("large"), format!("robot:{}", target.display()));
    let args = ["--limit", "8MiB", text(&from), &to];
    let child = copying(&fleet.api.url, &fleet.api.token, &fleet.ca(), &args);
    wait_for_size(&part, 4 << 20).await;
    fleet.command.kill9_and_restart();
    wait_for_size(&part, 16 << 20).await;
    agent.kill9();
    agent.start();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The first session, and one after each interruption.
    wait::until("three sessions", WAIT_TIMEOUT, || async {
        let sessions = fleet.api.list("/api/v1/sessions").await;
        (sessions.iter().filter(|one| one["status"] != "refused").count() >= 3).then_some(())
    })
    .await;
    assert!(std::fs::read(&target).unwrap() == content, "equal bytes");
}

fn fails(system: &System, args: &[&str], named: &str) {
    let mut all = vec!["cp"];
    all.extend(args);
    let (code, _, err) = system.muster(&all);
    assert!(code != 0 && err.contains(named), "{args:?}: {code}, {err}");
}

fn is_misused(system: &System, args: &[&str], named: &str) {
    let mut all = vec!["cp"];
    all.extend(args);
    let (code, _, err) = system.muster(&all);
    assert!(code == 2 && err.contains(named), "{args:?}: {code}, {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_outside_the_policy_are_not_accessible() {
    let robot = Robot::start("").await;
    let at = |name: &str| robot.dir.path().join(name);
    std::fs::create_dir_all(at("data/sub")).unwrap();
    std::fs::write(at("data/ok"), "ok").unwrap();
    std::fs::write(at("secret"), "secret").unwrap();
    symlink(at("secret"), at("data/out")).unwrap();
    symlink("/", at("data/root")).unwrap();
    let data = format!("robot:{}", at("data").display());
    let here = text(&at("here")).to_owned();
    robot.policy(&format!("[files]\nroots = ['{}']\n", at("data").display()));
    let system = &robot.system;
    let assert_denied = |path: String, rule: &str| fails(system, &[&path, &here], rule);
    assert_denied(format!("robot:{}", at("secret").display()), "[files] roots");
    assert_denied("robot:/etc/shadow".to_owned(), "[files] roots");
    assert_denied(format!("{data}/out"), "[files] roots");
    assert_denied(format!("{data}/root/etc/shadow"), "[files] roots");
    assert_denied(format!("{data}/../secret"), "[files] roots");
    let (code, _, err) = system.muster(&["cp", &format!("{data}/none"), &here]);
    assert!(code != 0 && err.contains("/data/none") && !err.contains("[files]"), "{code}: {err}");
    fails(system, &["/etc/hostname", &format!("robot:{}", at("new").display())], "[files] roots");
    fails(system, &["/etc/hostname", &format!("{data}/root/tmp/")], "[files] roots");
    assert!(!at("here").exists() && !at("new").exists());
    // A link in a folder is copied as a link, without its target.
    let (code, _, err) = system.muster(&["cp", &data, text(&at("copy"))]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(std::fs::read_link(at("copy/out")).unwrap(), at("secret"));
    robot.policy("[files]\nwrite = false\n");
    fails(system, &["/etc/hostname", &format!("{data}/new")], "[files] write = false");
    let (code, _, err) = system.muster(&["cp", "--again", &format!("{data}/ok"), &here]);
    assert_eq!(code, 0, "{err}");
    // An operator who may not run arbitrary programs may not write one either.
    robot.policy("[exec]\nallow = ['uptime']\n");
    fails(system, &[&format!("{data}/ok"), &here], "[files] enabled = true");
    robot.policy("[files]\nenabled = false\n");
    fails(system, &[&format!("{data}/ok"), &here], "[files] enabled = false");
    // The log contains each refusal.
    let events = system.api.list("/api/v1/devices/robot/events?type=SessionRefused").await;
    assert!(events.len() >= 10, "{}", events.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_arguments_are_reported() {
    let Robot { system, agent: _agent, dir } = Robot::start("").await;
    let at = |name: &str| text(&dir.path().join(name)).to_owned();
    std::fs::create_dir(at("folder")).unwrap();
    std::fs::write(at("file"), "x").unwrap();
    is_misused(&system, &["a", "b"], "DEVICE:PATH");
    is_misused(&system, &["robot:a", "robot:b"], "");
    is_misused(&system, &[":/a", "b"], "':/a'");
    fails(&system, &["nobody:/a", "b"], "nobody");
    fails(&system, &[&at("none"), "robot:/tmp/x"], "none");
    fails(&system, &["--limit", "fast", "robot:/a", "b"], "512KiB");
    fails(&system, &["-j", "0", "robot:/a", "b"], "0");
    fails(&system, &["robot:/dev/zero", &at("zero")], "/dev/zero");
    let below = format!("robot:{}/file/x", dir.path().display());
    fails(&system, &[&at("file"), &below], "Not a directory");
    fails(&system, &[&at("file"), &at("file"), &format!("robot:{}", at("file"))], &at("file"));
    fails(&system, &["robot:a\nb", &at("x")], "robot");
    // A partial file of an aborted copy is not copied, and does not replace another file.
    std::fs::create_dir(at("left")).unwrap();
    std::fs::write(at("left/x"), "whole").unwrap();
    std::fs::write(at("left/x.muster-part"), "half").unwrap();
    let copy = format!("{}-copy", at("left"));
    let (code, _, err) = system.muster(&["cp", &format!("robot:{}", at("left")), &copy]);
    assert!(code == 0 && err.contains("x.muster-part"), "{err}");
    assert_eq!(std::fs::read_to_string(format!("{copy}/x")).unwrap(), "whole");
    assert_eq!(std::fs::read_dir(&copy).unwrap().count(), 1);
    // A link from a device cannot lead out of the target folder.
    std::fs::remove_dir_all(&copy).unwrap();
    std::fs::create_dir(&copy).unwrap();
    std::fs::create_dir(at("elsewhere")).unwrap();
    symlink(at("elsewhere"), format!("{copy}/sub")).unwrap();
    std::fs::create_dir(at("left/sub")).unwrap();
    std::fs::write(at("left/sub/y"), "y").unwrap();
    std::fs::rename(&copy, at("into")).unwrap();
    std::fs::create_dir(&copy).unwrap();
    std::fs::rename(at("into"), format!("{copy}/left")).unwrap();
    fails(&system, &[&format!("robot:{}", at("left")), &copy], "left/sub");
    assert_eq!(std::fs::read_dir(at("elsewhere")).unwrap().count(), 0);
    // For a link named as target, the file that it points to is written, and the link is kept.
    std::fs::write(at("target"), "old").unwrap();
    symlink("target", at("named")).unwrap();
    let (code, _, err) = system.muster(&["cp", &at("file"), &format!("robot:{}", at("named"))]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(std::fs::read_to_string(at("target")).unwrap(), "x");
    assert_eq!(std::fs::read_link(at("named")).unwrap(), Path::new("target"));
    // If one of several files fails, the others are copied.
    std::fs::write(at("folder/a"), "a").unwrap();
    std::fs::create_dir_all(at("there/folder/a")).unwrap();
    std::fs::write(at("folder/b"), "b").unwrap();
    let there = format!("robot:{}", at("there"));
    let (code, out, err) = system.muster(&["cp", "--json", &at("folder"), &there]);
    let result: Value = serde_json::from_str(&out).unwrap();
    assert!(code != 0 && err.contains("folder/a"), "{err}");
    assert_eq!((&result["files"], &result["problems"][1]), (&1.into(), &Value::Null), "{result}");
    assert!(result["problems"][0].is_string(), "{result}");
    assert_eq!(std::fs::read_to_string(at("there/folder/b")).unwrap(), "b");
}

/// A disk of one megabyte.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(at);
        assert!(mount.status().unwrap().success(), "this test mounts a small disk: it needs root");
        Self(at)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_the_target_unchanged() {
    let Robot { system, agent: _agent, dir } = Robot::start("").await;
    let large = dir.path().join("large");
    std::fs::write(&large, bytes(3_000_000, 4)).unwrap();
    let small = dir.path().join("small");
    let _disk = SmallDisk::mount(&small);
    let there = format!("robot:{}/", small.display());
    fails(&system, &[text(&large), &there], "No space left on device");
    fails(
        &system,
        &[&format!("robot:{}", large.display()), text(&small)],
        "No space left on device",
    );
    assert_eq!(std::fs::read_dir(&small).unwrap().count(), 0);
    std::fs::write(dir.path().join("little"), "x").unwrap();
    let (code, _, err) = system.muster(&["cp", text(&dir.path().join("little")), &there]);
    assert_eq!(code, 0, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_sftp_works_with_a_device() {
    let Robot { system, agent: _agent, dir } = Robot::start("").await;
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("there")).unwrap();
    std::fs::write(at("large"), bytes(5_000_000, 5)).unwrap();
    let batch = format!(
        "cd {there}\nput {large} a\nchmod 640 a\nmkdir sub\nrename a sub/b\nln -s b sub/l\nls -l sub\n\
         get sub/b {back}\nput {large} c\nrm c\npwd\n",
        there = at("there").display(),
        large = at("large").display(),
        back = at("back").display(),
    );
    std::fs::write(at("batch"), batch).unwrap();
    let run = |command: &str| {
        let server = format!("{} sftp {command} robot", binary("muster").display());
        Command::new("sftp")
            .args(["-D", &server, "-b", text(&at("batch"))])
            .env("MUSTER_URL", &system.api.url)
            .env("MUSTER_TOKEN", &system.api.token)
            .env("MUSTER_CA", system.ca())
            .output()
            .unwrap()
    };
    let output = run("");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("-rw-r-----"), "{stdout}");
    assert!(std::fs::read(at("back")).unwrap() == bytes(5_000_000, 5), "equal bytes");
    assert_eq!(std::fs::read_link(at("there/sub/l")).unwrap(), Path::new("b"));
    assert!(!at("there/c").exists());
    let output = run("--read-only");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("ermission denied"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_folder_copy_is_resumed() {
    let Robot { system, agent: _agent, dir } = Robot::start("").await;
    let at = |name: &str| dir.path().join(name);
    let from = at("from");
    std::fs::create_dir_all(from.join("inner")).unwrap();
    for n in 0..40 {
        std::fs::write(from.join(format!("inner/{n}")), bytes(200_000, n)).unwrap();
    }
    let (url, token, ca) = (system.api.url.clone(), system.api.token.clone(), system.ca());
    let there = format!("robot:{}", at("there").display());
    let back = text(&at("back")).to_owned();
    for (source, target, destination) in
        [(text(&from), there.as_str(), at("there")), (&there, &back, at("back"))]
    {
        let args = ["--limit", "1MiB", "--jobs", "1", source, target];
        let mut copy = copying(&url, &token, &ca, &args);
        wait::until("a few files to be there", WAIT_TIMEOUT, || async {
            std::fs::read_dir(destination.join("inner"))
                .is_ok_and(|all| all.count() > 2)
                .then_some(())
        })
        .await;
        copy.kill().unwrap();
        copy.wait().unwrap();
        let (code, out, err) = system.muster(&["cp", "--json", source, target]);
        assert_eq!(code, 0, "{err}");
        let result: Value = serde_json::from_str(&out).unwrap();
        assert!(result["same"].as_u64() > Some(0), "{result}");
        assert_eq!(all_of(&destination), all_of(&from), "and nothing else is in it");
        // After a complete copy the target is an ordinary folder: the next copy goes into it, like
        // cp.
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_files_are_copied_unchanged_or_reported() {
    use std::os::unix::ffi::OsStrExt;
    let Robot { system, agent: _agent, dir } = Robot::start("").await;
    let at = |name: &str| dir.path().join(name);
    // A sparse file: of 300 MB one in the middle is written.
    let sparse = at("sparse");
    let file = std::fs::File::create(&sparse).unwrap();
    file.set_len(300_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes(1_000_000, 1), 150_000_000).unwrap();
    drop(file);
    let there = format!("robot:{}", at("there").display());
    for (from, to, destination) in
        [(text(&sparse), there.as_str(), at("there")), (&there, text(&at("back")), at("back"))]
    {
        let (code, _, err) = system.muster(&["cp", from, to]);
        assert_eq!(code, 0, "{err}");
        assert!(destination.metadata().unwrap().blocks() * 512 < 5_000_000, "it is not sparse");
        let same = Command::new("cmp").arg(&sparse).arg(&destination).status().unwrap();
        assert!(same.success());
    }
    // Files that report a size of one page and contain less.
    let (code, _, err) =
        system.muster(&["cp", "robot:/sys/kernel/mm/transparent_hugepage", text(&at("sys"))]);
    assert_eq!(code, 0, "{err}");
    let name = "transparent_hugepage/enabled";
    let enabled = std::fs::read(Path::new("/sys/kernel/mm").join(name)).unwrap();
    assert_eq!(std::fs::read(at("sys/enabled")).unwrap(), enabled);
    // One name that is not UTF-8.
    std::fs::create_dir(at("odd")).unwrap();
    std::fs::write(at("odd/good"), "good").unwrap();
    std::fs::write(at("odd").join(std::ffi::OsStr::from_bytes(b"bad-\xff")), "x").unwrap();
    let odd = format!("robot:{}", at("odd").display());
    let up = format!("robot:{}", at("up").display());
    for (from, to, destination) in
        [(text(&at("odd")), up.as_str(), at("up")), (&odd, text(&at("down")), at("down"))]
    {
        let (code, _, err) = system.muster(&["cp", from, to]);
        assert!(code == 1 && err.contains("bad-") && has_number(&err, 2), "{err}");
        assert_eq!(std::fs::read_to_string(destination.join("good")).unwrap(), "good");
    }
}
