//! `muster simulate`: a fleet enrolls, runs, and ends, and the log has all its events.

use std::process::{Command, Output};

use muster_simulate::Profile;
use muster_tests::System;
use muster_tests::binaries::binary;
use serde_json::Value;

fn simulate(system: &System, args: &[&str]) -> Output {
    Command::new(binary("muster"))
        .env("MUSTER_TOKEN", &system.api.token)
        .args(["simulate", "--url", &system.api.url, "--ca"])
        .arg(system.ca())
        .args(args)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_fleet_runs_and_its_devices_are_deleted() {
    let system = System::start().await;
    let output = simulate(
        &system,
        &["--devices", "20", "--profile", "busy", "--for", "12s", "--prefix", "ghost", "--json"],
    );
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["joined"], &summary["differing"]), (&20.into(), &0.into()), "{summary}");
    assert_eq!(summary["errors"], serde_json::json!({}), "{summary}");
    let events = summary["events"].as_u64().unwrap();
    assert!(events > 0 && summary["committed"] == events, "{summary}");
    assert!(summary["points"].as_u64() >= Some(20 * 12), "{summary}");

    let logged = system.api.list("/api/v1/events?type=DeviceConfigApplied").await;
    assert_eq!(logged.len() as u64, events);
    let left = system.api.list("/api/v1/devices?selector=name!=vm").await;
    let ghosts = left.iter().filter(|one| one["name"].to_string().contains("ghost")).count();
    assert_eq!(ghosts, 0, "{left:?}");
    assert!(system.api.list("/api/v1/dead-letters").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_simulations_are_reported() {
    let system = System::start().await;
    for (args, code, named) in [
        (&["--devices", "0"][..], 2, vec!["1..=100000"]),
        (&["--profile", "lazy"], 2, Profile::ALL.iter().map(|profile| profile.name).collect()),
    ] {
        let output = simulate(&system, args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(named.iter().all(|name| message.contains(name)), "{args:?}: {message}");
    }
}
