//! docker-compose.yml: it matches its documentation, its roles can run separately, and its image
//! runs with the file's settings.

mod containers;
mod context;
mod engine;
mod file;
mod from_sources;
mod processes;
mod stack;
mod stand_ins;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster_tests::{SimDevice, wait};

use crate::faults::{assert_complete, assert_metrics_complete, assert_rebuilt, load};
use file::{File, with_defaults};
use processes::Composition;

const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

/// Maximum time until another process has taken over the work of a killed one.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(15);

#[test]
fn every_container_has_a_pinned_image_a_health_check_and_restrictions() {
    let file = File::read();
    let mut published = Vec::new();
    for (name, service) in file.services() {
        let image = with_defaults(service["image"].as_str().unwrap());
        let (_, tag) = image.rsplit_once(':').unwrap();
        assert!(tag != "latest" && !tag.is_empty(), "{name}: {image} is not pinned");
        assert_eq!(service["user"].as_str(), Some("10001:10001"), "{name}");
        assert_eq!(service["read_only"].as_bool(), Some(true), "{name}");
        assert_eq!(service["cap_drop"][0].as_str(), Some("ALL"), "{name}");
        assert_eq!(service["security_opt"][0].as_str(), Some("no-new-privileges:true"), "{name}");
        let is_step = service["restart"].as_str() == Some("no");
        assert!(is_step || service["healthcheck"]["test"].is_sequence(), "{name} is not watched");
        for port in service["ports"].as_sequence().into_iter().flatten() {
            published.push(with_defaults(port.as_str().unwrap()));
        }
        for (key, value) in service["environment"].as_mapping().into_iter().flatten() {
            let (key, value) = (key.as_str().unwrap(), value.as_str().unwrap());
            let is_secret = ["PASSWORD", "TOKEN", "SECRET"].iter().any(|word| key.contains(word));
            assert!(!is_secret || value.starts_with("/var/lib/muster/"), "{name}: {key}={value}");
        }
    }
    assert_eq!(published, ["4222:4222", "8443:8443", "127.0.0.1:3000:3000"]);
}

async fn demo_is_online(composition: &Composition) {
    wait::until("the demo agent to be online", WAIT_TIMEOUT, || async {
        let path = "/api/v1/devices/demo";
        let (_, device) = composition.api.try_send(reqwest::Method::GET, path, None).await?;
        (device["status"] == "online").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_or_duplicated_when_one_of_two_containers_of_a_role_is_killed() {
    let mut composition = Composition::up().await;
    let ca = composition.dir().join("keys/ca.pem");
    let token = composition.api.enrollment_token(4).await;
    let go_on = Arc::new(AtomicBool::new(true));
    let mut loads = Vec::new();
    for n in 0..4 {
        let device = SimDevice::join(&composition.api, &ca, &token, &format!("sim-{n}")).await;
        loads.push(tokio::spawn(load(device, go_on.clone())));
    }
    demo_is_online(&composition).await;
    for (role, _) in &composition.roles {
        assert_eq!(role.doctor_problem(), None);
    }
    assert!(composition.dir().join("grafana/provisioning/dashboards/muster/fleet.json").exists());
    // After a restart it is the same device, although its token is for one use.
    composition.agent.kill9();
    composition.agent.start();
    for (first, second) in &mut composition.roles {
        tokio::time::sleep(Duration::from_secs(2)).await;
        first.kill9();
        // The other process is sufficient: it responds, and takes over the work of the killed one.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(second.is_healthy(), "{}", second.output());
    }
    // The remaining command process decides it, requested through the remaining query process.
    wait::until("a change to be taken", TAKEOVER_TIMEOUT, || async {
        let patch = serde_json::json!({"labels": {"site": "a"}});
        let (status, _) = composition
            .api
            .try_send(reqwest::Method::PATCH, "/api/v1/devices/sim-0", Some(&patch))
            .await?;
        (status == 200).then_some(())
    })
    .await;
    for (first, _) in &mut composition.roles {
        first.start();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    go_on.store(false, Ordering::Relaxed);
    let mut done = Vec::new();
    for load in loads {
        done.push(load.await.unwrap());
    }
    for (device, _) in &done {
        device.sync(WAIT_TIMEOUT).await;
    }
    let (devices, times): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    assert_complete(&composition.api, &devices).await;
    for (device, times) in devices.iter().zip(&times) {
        assert_metrics_complete(&composition.api, device, times).await;
    }
    assert_rebuilt(composition.postgres.connection_url()).await;
    demo_is_online(&composition).await;
    // No command was decided twice, and no message was refused.
    let labeled = composition.api.list("/api/v1/events?type=DeviceLabelsChanged").await;
    assert_eq!(labeled.len(), 1, "{labeled:?}");
    assert!(composition.api.list("/api/v1/dead-letters").await.is_empty());
}
