//! `muster doctor` finds no problem on a healthy server, and reports each problem with a fix.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use muster_backing::influx::Credentials;
use muster_tests::System;
use muster_tests::binaries::binary;
use muster_tests::fleet::Fleet;
use serde_json::Value;

/// `muster doctor` with these arguments; secrets are passed in the environment.
fn command(args: &[String]) -> Command {
    let mut command = Command::new(binary("muster"));
    command.arg("doctor");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg
            .strip_prefix("--")
            .filter(|name| ["postgres-url", "influx-password"].contains(name))
        {
            Some(name) => {
                let variable = format!("MUSTER_{}", name.replace('-', "_").to_uppercase());
                command.env(variable, args.next().unwrap());
            }
            None => {
                command.arg(arg);
            }
        }
    }
    command
}

/// Runs it with these arguments; returns the exit code and the checks.
fn doctor(args: &[String]) -> (i32, Vec<Value>) {
    let output = command(args).arg("--json").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let checks = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{message}"));
    (output.status.code().unwrap(), checks)
}

fn failed_checks(checks: &[Value]) -> Vec<&str> {
    let failed = checks.iter().filter(|check| !check["remedy"].is_null());
    failed.map(|check| check["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_reports_the_problems_of_a_server() {
    let fleet = Fleet::start().await;
    let keys = fleet.keys().dir().to_owned();
    let mut args: Vec<String> = [
        "--postgres-url",
        &fleet.database_url("command"),
        "--nats-url",
        &format!("tls://127.0.0.1:{}", fleet.nats.port()),
        "--influx-url",
        &fleet.influx.url(),
        "--keys",
        keys.to_str().unwrap(),
        "--listen",
        fleet.api.url.trim_start_matches("https://"),
    ]
    .map(str::to_owned)
    .to_vec();
    if let Credentials::Password { user, password } = fleet.influx.credentials() {
        args.extend(["--influx-user", user, "--influx-password", password].map(str::to_owned));
    }
    let (code, checks) = doctor(&args);
    assert_eq!((code, failed_checks(&checks)), (0, vec![]), "{checks:#?}");
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    for name in ["keys", "certificate", "disk", "PostgreSQL", "clock", "tables", "broker", "API"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }

    // A key that other users can read.
    let open = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    open(&keys, 0o755);
    open(&keys.join("nats-operator.seed"), 0o644);
    assert_eq!(failed_checks(&doctor(&args).1), ["keys"]);
    open(&keys, 0o700);

    // A message that cannot be attributed to a device.
    let token = fleet.api.enrollment_token(1).await;
    let sim = muster_tests::SimDevice::join(&fleet.api, &fleet.ca(), &token, "sim").await;
    sim.publish_raw(bytes::Bytes::from_static(b"garbage")).await;
    muster_tests::wait::until("a dead letter", std::time::Duration::from_secs(30), || async {
        (!fleet.api.list("/api/v1/dead-letters").await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(failed_checks(&doctor(&args).1), ["dead letters"]);

    fleet.influx.child().stop().await.unwrap();
    assert_eq!(failed_checks(&doctor(&args).1), ["dead letters", "InfluxDB"]);
    fleet.nats.child().stop().await.unwrap();
    fleet.postgres.child().stop().await.unwrap();
    let (code, checks) = doctor(&args);
    assert_eq!(code, 1);
    assert_eq!(failed_checks(&checks), ["PostgreSQL", "broker", "InfluxDB", "API"], "{checks:#?}");
    // As text.
    let output = command(&args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("FAIL PostgreSQL"), "{text}");
    for check in checks.iter().filter(|check| check["name"] == "PostgreSQL") {
        assert!(text.contains(check["remedy"].as_str().unwrap()), "{check}: {text}");
    }
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_checks_a_muster_up() {
    let system = System::start().await;
    let data = system.dir().display().to_string();
    let (code, checks) = doctor(&["--data".to_owned(), data]);
    assert_eq!((code, failed_checks(&checks)), (0, vec![]), "{checks:#?}");
    assert!(checks.iter().any(|check| check["name"] == "API"), "{checks:#?}");
}
