//! The image in a real container engine, on a base made by debootstrap. The test starts the engine;
//! where none can run (it requires root), the test is skipped with a message.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use muster_backing::influx::Credentials;
use muster_backing::ports::free_port;
use muster_tests::fleet::Fleet;
use muster_tests::{SimDevice, wait};

use super::engine::{Engine, IMAGE, base, text};
use super::file::{File, root};

const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn the_image_runs_read_only_without_root_and_a_role_in_it_takes_over() {
    let Some(base) = base() else {
        eprintln!("skipped: there is no base for an image; as root: scripts/deps test");
        return;
    };
    let engine = match Engine::start(false).await {
        Ok(engine) => engine,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    engine.build(&base, IMAGE);

    // Only volumes, which are new, are writable, and the user is not root.
    let written = engine.run(&["--rm", "--network", "none"], &["sh", "-c", "id -u; touch /x"]);
    assert!(!written.status.success() && text(&written).starts_with("10001\n"), "{written:?}");

    // `prepare` with the volumes of the file, twice.
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

/// Ingest in a container, with the file's command and environment, takes over from a process.
async fn a_container_takes_over(engine: &Engine, file: &File) {
    let mut fleet = Fleet::start().await;
    let token = fleet.api.enrollment_token(1).await;
    let mut device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "sim").await;
    device.chain.record_many(20);
    device.sync(WAIT_TIMEOUT).await;

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
    device.sync(WAIT_TIMEOUT).await;
    crate::faults::assert_complete(&fleet.api, &[device]).await;
    let output = engine.succeeds(&["stop", "--time", "10", "ingest"]);
    assert!(output.contains("ingest"), "{output}");
    let code = engine.succeeds(&["inspect", "--format", "{{.State.ExitCode}}", "ingest"]);
    assert_eq!(code.trim(), "0", "{}", engine.succeeds(&["logs", "ingest"]));
}

#[test]
fn compose_accepts_the_file() {
    let found = [("docker-compose", &[][..]), ("/usr/bin/docker", &["compose"][..])]
        .into_iter()
        .find(|(program, args)| {
            let version = Command::new(program).args(*args).arg("version").output();
            version.is_ok_and(|output| output.status.success())
        });
    let Some((program, args)) = found else {
        eprintln!("skipped: there is no docker compose; as root: scripts/deps test");
        return;
    };
    let checked =
        Command::new(program).args(args).args(["config", "--quiet"]).current_dir(root()).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(checked.stderr.is_empty(), "{}", text(&checked));
}
