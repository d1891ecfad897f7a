//! The image in a real container engine, on a base made by debootstrap. The engine is the test's own;
//! where none can run (it needs root), the test says so and is skipped.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use muster_backing::influx::Credentials;
use muster_backing::ports::free_port;
use muster_tests::binaries::binary;
use muster_tests::fleet::Fleet;
use muster_tests::{SimDevice, wait};

use super::file::{File, root};

const PATIENCE: Duration = Duration::from_secs(90);
const IMAGE: &str = "muster:test";
/// As docker-compose.yml runs every container; the file is held to these by a test of its own.
const HELD_DOWN: [&str; 7] = [
    "--read-only",
    "--user",
    "10001:10001",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges:true",
];

fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// dockerd in a folder of its own.
struct Engine {
    dockerd: Child,
    dir: tempfile::TempDir,
}

impl Engine {
    /// Starts it; the reason when that cannot be.
    async fn start() -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let said = std::fs::File::create(at("said")).unwrap();
        // It ends with this test, however that ends.
        let dockerd = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "dockerd"])
            .arg(format!("--host=unix://{}", at("docker.sock").display()))
            .arg(format!("--data-root={}", at("data").display()))
            .arg(format!("--exec-root={}", at("exec").display()))
            .arg(format!("--pidfile={}", at("pid").display()))
            // No network of its own: containers use the machine's, or none.
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false"])
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
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
        let said = std::fs::read_to_string(engine.dir.path().join("said")).unwrap_or_default();
        let last = said.lines().last().unwrap_or("it says nothing").to_owned();
        Err(format!("dockerd cannot run here: {last}"))
    }

    fn docker(&self, args: &[&str]) -> std::io::Result<Output> {
        // Another program of this name may come first on PATH.
        let docker = Path::new("/usr/bin/docker");
        let docker = if docker.exists() { docker } else { Path::new("docker") };
        Command::new(docker)
            .arg(format!("--host=unix://{}/docker.sock", self.dir.path().display()))
            .args(args)
            .env("DOCKER_BUILDKIT", "0")
            .output()
    }

    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.docker(args).unwrap();
        assert!(output.status.success(), "docker {args:?}: {}", text(&output));
        text(&output)
    }

    /// The image, of the Dockerfile and the binaries under test, on the base.
    fn build(&self, base: &Path) {
        self.succeeds(&["import", base.to_str().unwrap(), "muster-base:test"]);
        let context = self.dir.path().join("context");
        std::fs::create_dir(&context).unwrap();
        for name in ["muster", "muster-agent"] {
            std::fs::copy(binary(name), context.join(name)).unwrap();
        }
        let file = root().join("Dockerfile");
        let base = "BASE_IMAGE=muster-base:test";
        let (file, context) = (file.to_str().unwrap(), context.to_str().unwrap());
        self.succeeds(&[
            "build",
            "--network",
            "none",
            "--target",
            "prebuilt",
            "--build-arg",
            base,
            "--tag",
            IMAGE,
            "--file",
            file,
            context,
        ]);
    }

    fn run(&self, more: &[&str], command: &[&str]) -> Output {
        let mut args = vec!["run"];
        args.extend(HELD_DOWN);
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
        // What is still mounted would keep the folder.
        for mounted in ["exec/netns/default", "data"] {
            let path = self.dir.path().join(mounted);
            let _ = Command::new("umount").args(["-q", "-l"]).arg(path).output();
        }
    }
}

/// A Debian as `scripts/deps test` makes it.
fn base() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("MUSTER_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("muster")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/muster")))?;
    Some(cache.join("debian-base.tar")).filter(|base| base.exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_runs_read_only_without_root_and_a_role_in_it_takes_over() {
    let Some(base) = base() else {
        eprintln!("skipped: there is no base for an image; as root: scripts/deps test");
        return;
    };
    let engine = match Engine::start().await {
        Ok(engine) => engine,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    engine.build(&base);

    // Nothing can be written but volumes, which are new, and nobody is root.
    let written = engine.run(&["--rm", "--network", "none"], &["sh", "-c", "id -u; touch /x"]);
    assert!(!written.status.success() && text(&written).starts_with("10001\n"), "{written:?}");

    // `prepare` with the volumes that the file gives it, twice.
    let file = File::read();
    let (_, prepare) = file.services().find(|(name, _)| *name == "prepare").unwrap();
    let volumes: Vec<&str> =
        prepare["volumes"].as_sequence().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    let mut args = vec!["--rm", "--network", "none"];
    args.extend(volumes.iter().flat_map(|volume| ["--volume", volume]));
    let service = file.service("prepare");
    let command: Vec<&str> = service.command.iter().map(String::as_str).collect();
    let list = ["sh", "-c", "cd /var/lib/muster && find . -type f -exec sha256sum {} + | sort -k2"];
    let mut lists = Vec::new();
    for _ in 0..2 {
        let done = engine.run(&args, &command);
        assert!(done.status.success(), "{}", text(&done));
        lists.push(text(&engine.run(&args, &list)));
    }
    for file in ["nats/nats-server.conf", "query/nats.creds", "postgres/server.key"] {
        assert!(lists[0].contains(&format!("./{file}\n")), "{file} is not in {}", lists[0]);
    }
    let secrets = |list: &str| -> Vec<String> {
        list.lines().filter(|line| !line.ends_with(".pem")).map(str::to_owned).collect()
    };
    assert_eq!(secrets(&lists[0]), secrets(&lists[1]));

    a_container_takes_over(&engine, &file).await;
}

/// Role ingest in a container takes over from one in a process, with the file's command and environment.
async fn a_container_takes_over(engine: &Engine, file: &File) {
    let mut fleet = Fleet::start().await;
    let token = fleet.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "sim").await;
    device.chain.record_many(20);
    device.settle(PATIENCE).await;

    let keys = fleet.dir().join("handed-out");
    let copied = Command::new("cp")
        .arg("-r")
        .args([fleet.dir().join("keys/roles/ingest"), keys.clone()])
        .status();
    assert!(copied.unwrap().success());
    std::fs::write(keys.join("postgres-url"), fleet.postgres.connection_url()).unwrap();
    let given = Command::new("chown").args(["-R", "10001:10001"]).arg(&keys).status();
    assert!(given.unwrap().success());

    let influx = fleet.influx.url();
    let port = free_port().unwrap();
    let mut service = file.service("ingest").translated(&[
        ("nats:4222".to_owned(), format!("127.0.0.1:{}", fleet.nats.port())),
        ("http://influxdb:8086".to_owned(), influx),
        ("0.0.0.0:8443".to_owned(), format!("127.0.0.1:{port}")),
    ]);
    service.environment.remove("MUSTER_INFLUX_TOKEN_FILE");
    let mut variables = String::new();
    for (name, value) in &service.environment {
        writeln!(variables, "{name}={value}").unwrap();
    }
    if let Credentials::Password { user, password } = fleet.influx.credentials() {
        writeln!(variables, "MUSTER_INFLUX_USER={user}\nMUSTER_INFLUX_PASSWORD={password}")
            .unwrap();
    }
    let env_file = fleet.dir().join("environment");
    std::fs::write(&env_file, variables).unwrap();
    let mount = format!("{}:/var/lib/muster/ingest:ro", keys.display());
    let command: Vec<&str> = service.command.iter().map(String::as_str).collect();
    let started = engine.run(
        &[
            "--detach",
            "--name",
            "ingest",
            "--network",
            "host",
            "--volume",
            &mount,
            "--env-file",
            env_file.to_str().unwrap(),
        ],
        &command,
    );
    assert!(started.status.success(), "{}", text(&started));
    wait::until("the container to be healthy", Duration::from_secs(60), || async {
        let health = engine.docker(&["exec", "ingest", "muster", "health"]).unwrap();
        health.status.success().then_some(())
    })
    .await;
    fleet.ingest.kill9();
    device.chain.record_many(20);
    device.settle(PATIENCE).await;
    crate::faults::assert_complete(&fleet.api, &[device]).await;
    let said = engine.succeeds(&["stop", "--time", "10", "ingest"]);
    assert!(said.contains("ingest"), "{said}");
    let code = engine.succeeds(&["inspect", "--format", "{{.State.ExitCode}}", "ingest"]);
    assert_eq!(code.trim(), "0", "{}", engine.succeeds(&["logs", "ingest"]));
}

#[test]
fn compose_takes_the_file() {
    let known = [("docker-compose", &[][..]), ("/usr/bin/docker", &["compose"][..])]
        .into_iter()
        .find(|(program, args)| {
            let version = Command::new(program).args(*args).arg("version").output();
            version.is_ok_and(|output| output.status.success())
        });
    let Some((program, args)) = known else {
        eprintln!("skipped: there is no docker compose; as root: scripts/deps test");
        return;
    };
    let checked =
        Command::new(program).args(args).args(["config", "--quiet"]).current_dir(root()).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(checked.stderr.is_empty(), "{}", text(&checked));
}
