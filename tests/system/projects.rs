//! Projects: each has separate devices, names, tokens and a log, and no access to another.

use std::time::Duration;

use muster_schemas::ConfigVersion;
use muster_schemas::events::DeviceConfigApplied;
use muster_tests::{Api, SimDevice, System, wait};
use reqwest::Method;
use serde_json::json;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

async fn enrollment_token(api: &Api, project: &str) -> String {
    let path = format!("/api/v1/enrollment-tokens?project={project}");
    let made = api.post(&path, &json!({"name": "test", "max_uses": 5})).await;
    made["secret"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_are_isolated_even_with_equal_device_names() {
    let system = System::start().await;
    let api = &system.api;
    let mut devices = Vec::new();
    for id in ["plant-a", "plant-b"] {
        api.post("/api/v1/projects", &json!({"id": id, "title": format!("Plant {id}")})).await;
        let token = enrollment_token(api, id).await;
        let mut device = SimDevice::join(api, &system.ca(), &token, "robot").await;
        device.chain.record_many(3);
        device.sync(WAIT_TIMEOUT).await;
        devices.push(device);
    }
    let [one, other] = devices.as_mut_slice() else { panic!("two devices") };
    for (project, device) in [("plant-a", &*one), ("plant-b", &*other)] {
        let listed = wait::until("the device in its project", WAIT_TIMEOUT, || async {
            let listed = api.list(&format!("/api/v1/devices?project={project}")).await;
            (!listed.is_empty()).then_some(listed)
        })
        .await;
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!((&listed[0]["name"], &listed[0]["id"]), (&json!("robot"), &json!(device.id())));
    }
    assert!(api.list("/api/v1/devices").await.is_empty(), "and none in the default project");

    // A change in one has no effect in the other; an id does not exist in another project.
    let foreign = format!("/api/v1/devices/{}?project=plant-b", one.id());
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(api.send(method.clone(), &foreign, None).await.0, 404, "{method}");
    }
    let (status, _) = api.send(Method::DELETE, "/api/v1/devices/robot?project=plant-a", None).await;
    assert_eq!(status, 200);
    let kept = api.get("/api/v1/devices/robot?project=plant-b").await;
    assert_ne!(kept["status"], "deleted");

    // At the broker, a device cannot publish on another project's subjects.
    let subject = format!("muster.plant-a.{}.evt", other.id());
    let event = DeviceConfigApplied { version: ConfigVersion(9), errors: Default::default() };
    let sealed = other.chain.record(&event.into()).bytes;
    other.nats.publish(subject, sealed).await.unwrap();
    other.sync(WAIT_TIMEOUT).await;
    // (The deleted device's disconnect may be appended to plant-a's log meanwhile.)
    let events = api.list("/api/v1/events?project=plant-a&order=asc").await;
    assert!(!events.is_empty());
    assert!(!events.iter().any(|event| event.to_string().contains(&other.id())), "{events:?}");
    assert!(api.list("/api/v1/dead-letters").await.is_empty());

    // A token with a replaced project is valid in neither.
    let token = enrollment_token(api, "plant-a").await.replacen("plant-a", "plant-b", 1);
    let key = muster_schemas::SigningKey::from_seed(&[5; 32]);
    let body =
        muster_tests::sim::enroll_body(&key, &nkeys::KeyPair::new_user(), &token, "intruder");
    let rejection =
        api.with_token("").send(Method::POST, "/api/v1/device/enroll", Some(&body)).await;
    assert!(matches!(rejection.0, 401 | 403), "{rejection:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_project_is_read_only() {
    let system = System::start().await;
    let api = &system.api;
    api.post("/api/v1/projects", &json!({"id": "old", "title": "Old plant"})).await;
    let again = json!({"id": "old"});
    assert_eq!(api.send(Method::POST, "/api/v1/projects", Some(&again)).await.0, 409);
    api.post("/api/v1/devices?project=old", &json!({"name": "robot"})).await;
    let token = enrollment_token(api, "old").await;
    api.patch("/api/v1/projects/old", &json!({"title": "Older plant", "status": "archived"})).await;

    let change = json!({"name": "another"});
    let rejection = api.send(Method::POST, "/api/v1/devices?project=old", Some(&change)).await;
    assert_eq!(rejection.0, 409, "{rejection:?}");
    let key = muster_schemas::SigningKey::from_seed(&[6; 32]);
    let body = muster_tests::sim::enroll_body(&key, &nkeys::KeyPair::new_user(), &token, "late");
    let rejection =
        api.with_token("").send(Method::POST, "/api/v1/device/enroll", Some(&body)).await;
    assert_eq!(rejection.0, 409, "{rejection:?}");
    let shown = wait::until("the archived project", WAIT_TIMEOUT, || async {
        let shown = api.get("/api/v1/projects/old").await;
        (shown["status"] == "archived").then_some(shown)
    })
    .await;
    assert_eq!(shown["title"], "Older plant");
    assert_eq!(api.list("/api/v1/devices?project=old").await.len(), 1, "it is read as before");

    api.patch("/api/v1/projects/old", &json!({"status": "active"})).await;
    api.post("/api/v1/devices?project=old", &change).await;
    for wrong in ["", "Plant", "system", "a".repeat(41).as_str()] {
        let body = json!({"id": wrong});
        let (status, problem) = api.send(Method::POST, "/api/v1/projects", Some(&body)).await;
        assert_eq!(status, 400, "{wrong:?}: {problem}");
    }
    assert_eq!(api.send(Method::GET, "/api/v1/devices?project=nowhere", None).await.0, 404);
}
