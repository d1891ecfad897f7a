//! Blobs in an S3 bucket: output, files, recordings and private input, as in a folder; a bucket
//! that is unavailable, and one that refuses the credentials.

use std::time::Duration;

use muster_backing::postgres::Tuning;
use muster_tests::bucket::Bucket;
use muster_tests::fleet::Fleet;
use muster_tests::socket::Socket;
use muster_tests::text::has_line;
use muster_tests::wait;
use reqwest::Method;
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const OPERATIONS: &str = "/api/v1/operations";

async fn request_operation(fleet: &Fleet, action: Value) -> String {
    let body = json!({"target": {"kind": "devices", "devices": ["robot"]}, "action": action});
    fleet.api.post(OPERATIONS, &body).await["id"].as_str().unwrap().to_owned()
}

async fn until(fleet: &Fleet, path: &str, is_done: impl Fn(&Value) -> bool) -> Value {
    wait::until(path, WAIT_TIMEOUT, || async {
        let (status, found) = fleet.api.try_send(Method::GET, path, None).await?;
        (status == 200 && is_done(&found)).then_some(found)
    })
    .await
}

async fn output(fleet: &Fleet, id: &str) -> Value {
    let run = format!("{OPERATIONS}/{id}/runs/robot");
    until(fleet, &run, |run| run["status"] == "succeeded").await;
    let (status, text) =
        fleet.api.send(Method::GET, &format!("{run}/output?follow=true"), None).await;
    assert_eq!(status, 200, "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_stores_and_erases_the_same_blobs_as_a_folder() {
    let mut bucket = Bucket::start().await;
    let variables = bucket.variables();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let fleet = Fleet::start_with(Tuning::Small, &variables).await;
    let dir = tempfile::tempdir().unwrap();
    let mut agent = fleet.robot(dir.path()).await;

    // A role logs an error and exits if the credentials are rejected or the bucket does not exist.
    for (name, value, why) in [
        ("AWS_SECRET_ACCESS_KEY", "another", "SignatureDoesNotMatch"),
        ("MUSTER_BLOBS", "s3://nowhere", "NoSuchBucket"),
    ] {
        let mut changed = variables.clone();
        changed.push((name, value));
        let mut role = fleet.start_another_with("command", &changed);
        wait::until("the role to end", WAIT_TIMEOUT, || {
            let has_ended = role.has_ended();
            async move { has_ended.then_some(()) }
        })
        .await;
        let log = role.output();
        assert!(log.contains("--blobs") && log.contains(why), "{name}: {log}");
    }

    // Private input is stored until the operation has ended.
    let line = "cat; echo $WORD";
    let action = json!({"kind": "shell", "command": line, "stdin_base64": "dHlwZWQg", "env": {"WORD": "süß"}});
    let id = request_operation(&fleet, action).await;
    assert_eq!(output(&fleet, &id).await, "typed süß\n");
    let names = |folder: String| {
        let bucket = &bucket;
        async move { bucket.names(&format!("muster/default/{folder}")).await.unwrap() }
    };
    wait::until("what is private to be erased", WAIT_TIMEOUT, || async {
        names(format!("operations/{id}")).await.is_empty().then_some(())
    })
    .await;
    assert!(!names(format!("runs/{id}")).await.is_empty());

    // A file in several pieces, read in full and in part; after its deletion no piece remains.
    let bytes: Vec<u8> = (0..1_500_000_u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect();
    let file = dir.path().join("run.bag");
    std::fs::write(&file, &bytes).unwrap();
    let id = request_operation(&fleet, json!({"kind": "upload", "path": file})).await;
    let upload = format!("/api/v1/uploads/{id}/robot");
    let stored = until(&fleet, &upload, |upload| upload["status"] == "stored").await;
    let device = stored["device"]["id"].as_str().unwrap();
    let pieces = format!("runs/{id}/{device}/file");
    assert!(names(pieces.clone()).await.len() > 4);
    let content = format!("{upload}/content");
    let (status, _, whole) = fleet.api.raw(&content, &[]).await;
    assert!(status == 200 && whole == bytes, "{status}, {} bytes", whole.len());
    let (status, _, part) = fleet.api.raw(&content, &[("range", "bytes=400000-900000")]).await;
    assert!(status == 206 && part == bytes[400_000..=900_000], "{status}, {} bytes", part.len());
    fleet.api.send(Method::DELETE, &upload, None).await;
    wait::until("the file to be erased", WAIT_TIMEOUT, || async {
        names(pieces.clone()).await.is_empty().then_some(())
    })
    .await;

    // A recorded shell.
    let path = "/api/v1/devices/robot/shell?cols=80&rows=24";
    let mut shell = Socket::open(&fleet.api, &fleet.ca(), path, &[]).await.unwrap();
    let session = shell.wait_for_message("opened").await["session"].as_str().unwrap().to_owned();
    shell.send("echo $((6*7)) said; exit\r").await;
    shell.wait_for_output("42 said").await;
    let session = format!("/api/v1/sessions/{session}");
    until(&fleet, &session, |session| session["status"] == "ended").await;
    let (status, _, cast) = fleet.api.raw(&format!("{session}/recording"), &[]).await;
    assert!(status == 200 && String::from_utf8_lossy(&cast).contains("42 said"), "{status}");

    // The bucket becomes unavailable: a program's output waits on its device, and an order with
    // private input waits, too; nothing else waits, not even a device that reconnects.
    agent.kill9();
    until(&fleet, "/api/v1/devices/robot", |device| device["status"] == "offline").await;
    let private = json!({"kind": "shell", "command": "echo $WORD", "env": {"WORD": "later"}});
    let private = request_operation(&fleet, private).await;
    bucket.stop();
    agent.start();
    let id = request_operation(&fleet, json!({"kind": "shell", "command": "echo kept"})).await;
    let run = format!("{OPERATIONS}/{id}/runs/robot");
    until(&fleet, &run, |run| run["status"] == "succeeded").await;
    let waits = fleet.api.get(&format!("{OPERATIONS}/{private}/runs/robot")).await;
    assert!(["requested", "dispatched"].contains(&waits["status"].as_str().unwrap()), "{waits}");
    let mut another = fleet.start_another_with("query", &variables);
    wait::until("a role to start all the same", WAIT_TIMEOUT * 2, || {
        let is_ready = has_line(&another.output(), "WARN", "muster_server::serve", |fields| {
            fields.to_string().contains("s3://fleet/muster")
        });
        async move { is_ready.then_some(()) }
    })
    .await;
    assert!(!another.has_ended(), "{}", another.output());
    drop(another);
    bucket.restart().await;
    wait::until("the output to arrive", WAIT_TIMEOUT * 2, || async {
        let (_, text) = fleet.api.try_send(Method::GET, &format!("{run}/output"), None).await?;
        (text == "kept\n").then_some(())
    })
    .await;
    assert_eq!(output(&fleet, &private).await, "later\n");
}
