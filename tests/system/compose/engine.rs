//! A container engine of the tests, with the image under test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use muster_tests::binaries::binary;

use super::file::root;

pub(super) const IMAGE: &str = "muster:test";
/// Restrictions of every container in docker-compose.yml; another test checks the file for them.
const RESTRICTIONS: [&str; 7] = [
    "--read-only",
    "--user",
    "10001:10001",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges:true",
];

pub(super) fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// dockerd with a separate folder.
pub(super) struct Engine {
    dockerd: Child,
    dir: tempfile::TempDir,
}

impl Engine {
    /// Starts it; returns the reason if it cannot run. With networks it has a separate network
    /// namespace, so that neither virtual networks nor firewall rules affect this machine's;
    /// without, containers use the machine's network, or none.
    pub(super) async fn start(has_networks: bool) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let output = std::fs::File::create(at("said")).unwrap();
        // Ends together with this test, even if the test is killed.
        let mut dockerd = Command::new("setpriv");
        dockerd.args(["--pdeathsig", "TERM", "--"]);
        if has_networks {
            let start = "ip link set lo up && exec dockerd --bridge=none \"$@\"";
            dockerd.args(["unshare", "--net", "--", "sh", "-c", start, "dockerd"]);
        } else {
            dockerd.args(["dockerd", "--bridge=none", "--iptables=false", "--ip-forward=false"]);
        }
        let dockerd = dockerd
            .arg(format!("--host=unix://{}", at("docker.sock").display()))
            .arg(format!("--data-root={}", at("data").display()))
            .arg(format!("--exec-root={}", at("exec").display()))
            .arg(format!("--pidfile={}", at("pid").display()))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .map_err(|error| format!("dockerd does not start: {error}"))?;
        let mut engine = Self { dockerd, dir };
        for _ in 0..100 {
            if engine.docker(&["version"]).is_ok_and(|output| output.status.success()) {
                return Ok(engine);
            }
            if engine.dockerd.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let output = std::fs::read_to_string(engine.dir.path().join("said")).unwrap_or_default();
        let last = output.lines().last().unwrap_or("it says nothing").to_owned();
        Err(format!("dockerd cannot run here: {last}"))
    }

    /// The URL of its socket.
    pub(super) fn address(&self) -> String {
        format!("unix://{}/docker.sock", self.dir.path().display())
    }

    /// Its folder.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn docker(&self, args: &[&str]) -> std::io::Result<Output> {
        // Another program of this name may be first on PATH.
        let docker = Path::new("/usr/bin/docker");
        let docker = if docker.exists() { docker } else { Path::new("docker") };
        Command::new(docker)
            .arg(format!("--host={}", self.address()))
            .args(args)
            .env("DOCKER_BUILDKIT", "0")
            .output()
    }

    pub(super) fn succeeds(&self, args: &[&str]) -> String {
        let output = self.docker(args).unwrap();
        assert!(output.status.success(), "docker {args:?}: {}", text(&output));
        text(&output)
    }

    /// Builds the image from the Dockerfile and the binaries under test, on the base.
    pub(super) fn build(&self, base: &Path, image: &str) {
        self.succeeds(&["import", base.to_str().unwrap(), "muster-base:test"]);
        let context = self.dir.path().join("context");
        std::fs::create_dir(&context).unwrap();
        for name in ["muster", "muster-agent"] {
            std::fs::copy(binary(name), context.join(name)).unwrap();
        }
        let context = context.to_str().unwrap();
        let build = |file: &str, args: &[&str], tag: &str| {
            let file = root().join(file);
            let fixed = ["build", "--network", "none", "--file", file.to_str().unwrap()];
            self.succeeds(&[&fixed, args, &["--tag", tag, context]].concat());
        };
        let on_base = ["--target", "base", "--build-arg", "BASE_IMAGE=muster-base:test"];
        build("Dockerfile", &on_base, "muster-base");
        build("Dockerfile.prebuilt", &[], image);
    }

    pub(super) fn run(&self, more: &[&str], command: &[&str]) -> Output {
        let mut args = vec!["run"];
        args.extend(RESTRICTIONS);
        args.extend(more);
        args.push(IMAGE);
        args.extend(command);
        self.docker(&args).unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Ok(running) = self.docker(&["ps", "--quiet"]) {
            for id in String::from_utf8_lossy(&running.stdout).split_whitespace() {
                let _ = self.docker(&["rm", "--force", id]);
            }
        }
        muster_tests::system::signal(self.dockerd.id(), "TERM");
        let _ = self.dockerd.wait();
        // Remaining mounts would prevent the deletion of the folder.
        for mounted in ["exec/netns/default", "data"] {
            let path = self.dir.path().join(mounted);
            let _ = Command::new("umount").args(["-q", "-l"]).arg(path).output();
        }
    }
}

/// A file that `scripts/deps` has put into the cache.
pub(super) fn cached(name: &str) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("MUSTER_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("muster")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/muster")))?;
    Some(cache.join(name)).filter(|file| file.exists())
}

/// A Debian as `scripts/deps test` makes it.
pub(super) fn base() -> Option<PathBuf> {
    cached("debian-base.tar")
}
