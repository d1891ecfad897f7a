//! A read that follows the response to a write sees the write, from any client.

use std::time::{Duration, Instant};

use muster_tests::api::Api;
use muster_tests::fleet::Fleet;
use muster_tests::{System, wait};
use reqwest::Method;
use serde_json::json;

/// Writes of each kind.
const WRITES: u32 = 100;
/// Writes that another query process reads.
const WRITES_OF_OTHERS: u32 = 300;

async fn check(writer: &Api, reader: &Api) {
    let device = "/api/v1/devices/robot";
    let (status, made) =
        writer.send(Method::POST, "/api/v1/devices", Some(&json!({"name": "robot"}))).await;
    assert_eq!((status, &made["status"]), (201, &"registered".into()), "{made}");
    for number in 0..WRITES {
        let value = format!("v{number}");
        let changed = writer.patch(device, &json!({"labels": {"n": value}})).await;
        assert_eq!(changed["labels"]["n"], value.as_str(), "the response to write {number}");
        let read = reader.get(device).await;
        assert_eq!(read["labels"]["n"], value.as_str(), "a stale read after write {number}");
        let found = reader.list(&format!("/api/v1/devices?selector=n={value}")).await;
        assert_eq!(found.len(), 1, "a stale list after write {number}");

        let name = format!("token {number}");
        let body = json!({"name": name, "role": "viewer"});
        let token = writer.post("/api/v1/tokens", &body).await;
        assert_eq!((&token["name"], &token["status"]), (&name.into(), &"active".into()));
        let listed = reader.get("/api/v1/tokens?limit=1").await;
        assert_eq!(listed["items"][0]["id"], token["id"], "a stale list of tokens");
        let path = format!("/api/v1/tokens/{}", token["id"].as_str().unwrap());
        let (_, revoked) = writer.send(Method::DELETE, &path, None).await;
        assert_eq!(revoked["status"], "revoked");
        assert_eq!(reader.get(&path).await["status"], "revoked");
    }
    let (status, deleted) = writer.send(Method::DELETE, device, None).await;
    assert_eq!((status, &deleted["status"]), (200, &"deleted".into()), "{deleted}");
    // The client that does not wait gets the position.
    let prefer = [("prefer", "respond-async")];
    let body = json!({"name": "other"});
    let (status, made) = writer.send_with(Method::POST, "/api/v1/devices", &body, &prefer).await;
    assert_eq!(status, 202, "{made}");
    assert!(made["position"].is_u64() && made["id"].is_string(), "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_see_the_writes_of_others_in_one_process() {
    let system = System::start().await;
    let reader = system.api.with_token(&system.api.token);
    check(&system.api, &reader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_see_the_writes_of_others_with_a_process_for_each_role() {
    let fleet = Fleet::start().await;
    let reader = fleet.api.with_token(&fleet.api.token);
    check(&fleet.api, &reader).await;
}

/// The processes share nothing but PostgreSQL and the broker. The second one serves requests that
/// name no position.
#[tokio::test(flavor = "multi_thread")]
async fn reads_of_another_query_process_see_the_writes() {
    let fleet = Fleet::start().await;
    let other = fleet.start_another("query");
    let reader = Api::new(&other.url(), &fleet.api.token, &fleet.ca());
    wait::until("the second query process", Duration::from_secs(60), || async {
        let ready = reader.try_send(Method::GET, "/readyz", None).await?;
        (ready.0 == 200).then_some(())
    })
    .await;
    let device = "/api/v1/devices/robot";
    let made = fleet.api.post("/api/v1/devices", &json!({"name": "robot"})).await;
    assert_eq!(reader.get(device).await["id"], made["id"]);
    let mut stale = 0;
    for number in 0..WRITES_OF_OTHERS {
        let value = format!("v{number}");
        fleet.api.patch(device, &json!({"labels": {"n": value}})).await;
        let read = reader.get(device).await;
        let found = reader.list(&format!("/api/v1/devices?selector=n={value}")).await;
        stale += u32::from(read["labels"]["n"] != value.as_str() || found.len() != 1);
    }
    assert_eq!(stale, 0, "stale reads of {WRITES_OF_OTHERS}");

    // A token that one process revokes is refused by the other one within a second.
    let body = json!({"name": "short", "role": "viewer"});
    let token = fleet.api.post("/api/v1/tokens", &body).await;
    let holder = reader.with_token(token["secret"].as_str().unwrap());
    let status = async || holder.send(Method::GET, device, None).await.0;
    for _ in 0..50 {
        assert_eq!(status().await, 200);
    }
    let path = format!("/api/v1/tokens/{}", token["id"].as_str().unwrap());
    fleet.api.send(Method::DELETE, &path, None).await;
    let revoked_at = Instant::now();
    while status().await == 200 {
        assert!(revoked_at.elapsed() < Duration::from_secs(1), "a revoked token is accepted");
    }
}
