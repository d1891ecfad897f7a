//! The whole of docker-compose.yml in a real engine, with its health checks.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use muster_tests::wait;

use super::engine::{Engine, base, text};
use super::file::{File, root, with_defaults};
use super::stand_ins;

const PROJECT: &str = "stack";
const WAIT_TIMEOUT: Duration = Duration::from_secs(240);
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// `docker-compose` of that engine with these variables; `None` where there is no compose.
fn compose(engine: &Engine, args: &[&str], variables: &[(&str, &str)]) -> Option<Output> {
    let (program, first) = [("docker-compose", &[][..]), ("/usr/bin/docker", &["compose"][..])]
        .into_iter()
        .find(|(program, first)| {
            let version = Command::new(program).args(*first).arg("version").output();
            version.is_ok_and(|output| output.status.success())
        })?;
    let mut command = Command::new(program);
    command.args(first).args(["--project-name", PROJECT]).args(args).current_dir(root());
    // As the engine's other builds: BuildKit is not everywhere.
    command.env("DOCKER_BUILDKIT", "0").env("COMPOSE_DOCKER_CLI_BUILD", "0");
    command.envs(variables.iter().copied()).env("DOCKER_HOST", engine.address());
    Some(command.output().unwrap())
}

/// State, exit code and health of each service's container.
fn states(engine: &Engine, file: &File) -> BTreeMap<String, String> {
    let health = "{{if .State.Health}}{{.State.Health.Status}}{{end}}";
    let format = format!("{{{{.State.Status}}}} {{{{.State.ExitCode}}}} {health}");
    let state = |name: &str| {
        // The separator depends on compose's version.
        ["_", "-"].into_iter().find_map(|separator| {
            let container = format!("{PROJECT}{separator}{name}{separator}1");
            let found = engine.docker(&["inspect", "--format", &format, &container]).unwrap();
            let is_found = found.status.success();
            is_found.then(|| String::from_utf8_lossy(&found.stdout).trim().to_owned())
        })
    };
    file.services()
        .map(|(name, _)| (name.to_owned(), state(name).unwrap_or_else(|| "absent".to_owned())))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_compose_up_makes_every_service_healthy() {
    let Some(base) = base() else {
        eprintln!("skipped: there is no base for an image; as root: scripts/deps test");
        return;
    };
    let engine = match Engine::start(true).await {
        Ok(engine) => engine,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    let file = File::read();
    let image = |service: &str| {
        let (_, service) = file.services().find(|(name, _)| *name == service).unwrap();
        with_defaults(service["image"].as_str().unwrap())
    };
    engine.build(&base, &image("query"));
    stand_ins::build(&engine, image);
    if !becomes_healthy(&engine, &file, &["up", "--detach", "--no-build"], &[]).await {
        eprintln!("skipped: there is no docker compose; as root: scripts/deps test");
    }
}

/// Starts the file and waits until all of it works; false where there is no compose.
///
/// # Panics
/// When a service does not get healthy.
pub(super) async fn becomes_healthy(
    engine: &Engine,
    file: &File,
    up: &[&str],
    variables: &[(&str, &str)],
) -> bool {
    let compose = |args: &[&str]| compose(engine, args, variables);
    let Some(up) = compose(up) else { return false };
    if !up.status.success() {
        let states = states(engine, file);
        let logs = compose(&["logs", "--tail", "5"]).map(|logs| text(&logs));
        panic!("{}{states:#?}{}", text(&up), logs.unwrap_or_default());
    }
    let expected_state =
        |name: &str, service: &serde_norway::Value| match service["restart"].as_str() {
            Some("no") => (name.to_owned(), "exited 0"),
            _ => (name.to_owned(), "running 0 healthy"),
        };
    let expected: BTreeMap<_, _> =
        file.services().map(|(name, service)| expected_state(name, service)).collect();
    let started_at = Instant::now();
    loop {
        let states = states(engine, file);
        if expected.iter().all(|(name, state)| states[name] == *state) {
            break;
        }
        assert!(started_at.elapsed() < WAIT_TIMEOUT, "not every service is healthy: {states:#?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    // As in docs/compose.md: with the admin's token, the demo agent is a device of the fleet.
    wait::until("the demo agent to be online", WAIT_TIMEOUT, || async {
        let list = "MUSTER_TOKEN_FILE=/var/lib/muster/keys/admin-token \
                    MUSTER_CA=/var/lib/muster/keys/ca.pem MUSTER_URL=https://query:8443 \
                    muster device show demo --json";
        let shown = compose(&["exec", "-T", "command", "sh", "-c", list])?;
        let device: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        (device["status"] == "online").then_some(())
    })
    .await;
    let down = compose(&["down", "--volumes", "--timeout", "5"]).unwrap();
    assert!(down.status.success(), "{}", text(&down));
    true
}
