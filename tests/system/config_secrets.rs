//! Secret config variables: only their device gets the value.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use muster_tests::agent::AgentProcess;
use muster_tests::{System, wait};
use reqwest::Method;
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const SECRET: &str = "planted-marker-hunter2";
const SECOND: &str = "planted-marker-of-a-token";

/// The files below a folder that contain this text.
fn files_with(folder: &Path, text: &str) -> String {
    let found = Command::new("grep").args(["-rlaF", text]).arg(folder).output().unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_config_variable_is_readable_only_by_its_device() {
    let system = System::start().await;
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    // A token gives one to new devices.
    let body = json!({"name": "with a secret", "config": {"secret.key": SECOND}});
    let token = system.api.post("/api/v1/enrollment-tokens", &body).await;
    let token = token["secret"].as_str().unwrap();
    let mut agent = AgentProcess::enroll(scratch.path(), &system.api.url, token, "robot");
    agent.start();
    let device = "robot";
    let config = agent.data.join("config.json");
    let arrives = async |text: &str| {
        wait::until("the device's config", WAIT_TIMEOUT, || async {
            std::fs::read_to_string(&config).ok()?.contains(text).then_some(())
        })
        .await;
    };
    arrives(SECOND).await;

    // A secret is not accepted as an argument.
    let (code, _, err) =
        system.muster(&["device", "config", device, &format!("secret.db={SECRET}")]);
    assert!(code == 2 && err.contains("@FILE") && !err.contains(SECRET), "{err}");
    let change = format!("secret.db=@{}", file.display());
    let (code, _, err) = system.muster(&["device", "config", device, &change, "greeting=hello"]);
    assert_eq!(code, 0, "{err}");
    arrives(SECRET).await;
    arrives("hello").await;
    let path = format!("/api/v1/devices/{device}");
    let shown = system.api.get(&path).await;
    let vars = &shown["config"]["vars"];
    assert_eq!(vars["greeting"], "hello");
    assert!(vars["secret.db"].as_str().unwrap().starts_with("sealed:v1:"), "{vars}");
    let (_, printed, _) = system.muster(&["device", "config", device]);
    assert!(printed.contains("secret.db (secret)"), "{printed}");

    // No API response contains it, not even for an admin.
    let viewer = json!({"name": "viewer", "role": "viewer"});
    let viewer = system.api.post("/api/v1/tokens", &viewer).await;
    let viewer = system.api.with_token(viewer["secret"].as_str().unwrap());
    for api in [&viewer, &system.api] {
        for path in [
            path.clone(),
            format!("{path}/events?include=record&limit=500"),
            "/api/v1/events?include=record&limit=500".to_owned(),
            "/api/v1/events?type=DeviceConfigSet,EnrollmentTokenCreated".to_owned(),
            "/api/v1/enrollment-tokens".to_owned(),
        ] {
            let (_, response) = api.send(Method::GET, &path, None).await;
            let text = response.to_string();
            assert!(!text.contains(SECRET) && !text.contains(SECOND), "{path}: {text}");
        }
    }
    let events: Vec<Value> = system.api.list("/api/v1/events?type=DeviceConfigSet").await;
    assert!(events.iter().any(|event| event["data"]["set"]["secret.db"].is_string()), "{events:?}");

    // The servers' files do not contain it either.
    for folder in ["postgres", "influx", "nats", "keys"] {
        let folder = system.dir().join(folder);
        for text in [SECRET, SECOND] {
            assert_eq!(files_with(&folder, text), "", "{}", folder.display());
        }
    }
    // A sealed value cannot be set as a value, and a long one is refused.
    for (value, rule) in [("sealed:v1:AAAA", "sealed"), (&"x".repeat(3_001), "3000")] {
        let body = json!({"vars": {"secret.db": value}});
        let (status, problem) =
            system.api.send(Method::PATCH, &format!("{path}/config"), Some(&body)).await;
        assert!(status == 400 && problem.to_string().contains(rule), "{problem}");
    }
}
