//! The log over HTTP: pages, one event, the events of one device, and the live stream.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use futures::StreamExt;
use muster_schemas::events::Role;
use serde_json::Value;

use crate::support::{ExtraServers, World, inventory};

fn positions(page: &Value) -> Vec<u64> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["position"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_in_pages_by_authorized_tokens() {
    let world = World::new(ExtraServers::default()).await;
    let viewer = world.token("default", Role::Viewer).await; // 1
    let id = world.register("robot", &[]).await; // 2, 3
    world.enroll(id).await; // 4
    world.connect(id).await; // 5
    for seq in 1..=5 {
        world.report(id, seq, inventory("Debian")).await; // 6 to 10
    }
    world.register("other", &[]).await; // 11, 12

    for (path, expected) in [
        ("events?limit=3", vec![12, 11, 10]),
        ("events?limit=3&order=asc", vec![1, 2, 3]),
        ("events?order=asc&after=3&until=5", vec![4, 5]),
        ("events?after=10", vec![12, 11]),
        ("events?until=2", vec![2, 1]),
        ("events?type=DeviceConnected,DeviceEnrolled", vec![5, 4]),
        ("events?type=ApiTokenCreated", vec![1]),
        ("events?device=robot&order=asc&limit=3", vec![2, 4, 5]),
        ("devices/robot/events", vec![10, 9, 8, 7, 6, 5, 4, 2]),
        ("devices/robot/events?type=DeviceConnected", vec![5]),
        ("devices/robot/events?order=asc&after=5&limit=2", vec![6, 7]),
    ] {
        assert_eq!(positions(&world.show(&format!("/api/v1/{path}")).await), expected, "{path}");
    }
    for path in [
        "events?",
        "events?order=asc&",
        "devices/robot/events?",
        "devices/robot/events?order=asc&type=DeviceInventoryReported&",
    ] {
        let all = world.show(&format!("/api/v1/{path}limit=1000")).await;
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = world.show(&format!("/api/v1/{path}limit=2{cursor}")).await;
            paged.extend(positions(&page));
            let Some(next) = page["next"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(paged, positions(&all), "{path}");
    }

    let event = world.show("/api/v1/events/6?include=record").await;
    assert_eq!((&event["sealed"], &event["version"]), (&true.into(), &1.into()));
    assert_eq!(event["data"]["os_name"], "Debian");
    assert!(event["record_base64"].as_str().unwrap().len() > 100);
    assert_eq!(event["stream"], format!("device-report/{id}/1"));
    let registered = world.show("/api/v1/events/2").await;
    assert_eq!(registered["data"]["name"], "robot");
    assert!(registered.get("record_base64").is_none());

    // Viewers must not read events about tokens.
    let as_viewer = async |path: &str| world.get_with(path, &viewer, &[]).await;
    assert_eq!(as_viewer("/api/v1/events/1").await.status, 404);
    assert_eq!(as_viewer("/api/v1/events/2").await.status, 200);
    assert_eq!(as_viewer("/api/v1/events?type=ApiTokenCreated").await.status, 403);
    let seen = as_viewer("/api/v1/events?order=asc&limit=1").await.body;
    assert_eq!(positions(&seen), [2]);
    for (path, status) in [
        ("events/0", 404),
        ("events/999", 404),
        ("events/x", 404),
        ("events?type=Nope", 400),
        ("events?order=up", 400),
        ("events?cursor=x", 400),
        ("events/2?include=all", 400),
    ] {
        assert_eq!(world.get(&format!("/api/v1/{path}")).await.status, status, "{path}");
    }
}

/// Reads a live stream up to a position; returns the received positions.
async fn follow(world: &World, query: &str, last_event_id: Option<u64>, until: u64) -> Vec<u64> {
    let mut request = Request::get(format!("/api/v1/events/stream{query}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", world.admin));
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id.to_string());
    }
    let response = world.request(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body().into_data_stream();
    let mut text = String::new();
    let mut seen = Vec::new();
    while !seen.contains(&until) {
        let chunk = tokio::time::timeout(Duration::from_secs(20), body.next()).await;
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap().unwrap()).unwrap());
        // The first message has the position at which the stream starts.
        let ids = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok());
        seen = ids.skip(1).collect();
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_delivers_every_event_and_resumes() {
    let world = World::new(ExtraServers::default()).await;
    let id = world.register("robot", &[]).await; // 1, 2
    world.enroll(id).await; // 3
    let other = world.register("other", &[]).await; // 4, 5
    // The stream resolves the name with the read model.
    world.wait("/api/v1/devices/other", |_| true).await;
    let writer = async {
        for seq in 1..=600 {
            world.report(id, seq, inventory("Debian")).await; // 6 to 605
        }
        world.connect(id).await; // 606
        world.connect(other).await // 607
    };
    let (live, from_one, resumed, connections, of_other, last) = tokio::join!(
        follow(&world, "?after=5", None, 607),
        follow(&world, "?after=0", None, 607),
        follow(&world, "?after=0", Some(4), 607),
        follow(&world, "?after=0&type=DeviceConnected", None, 607),
        follow(&world, "?after=0&device=other", None, 607),
        writer,
    );
    assert_eq!(last, 607);
    assert_eq!(live, (6..=607).collect::<Vec<u64>>());
    assert_eq!(from_one, (1..=607).collect::<Vec<u64>>());
    assert_eq!(resumed, (5..=607).collect::<Vec<u64>>());
    assert_eq!(connections, [606, 607]);
    assert_eq!(of_other, [4, 607]);

    // The stream ends when the server stops.
    let request = Request::get("/api/v1/events/stream")
        .header(header::AUTHORIZATION, format!("Bearer {}", world.admin))
        .body(Body::empty())
        .unwrap();
    let body = world.request(request).await.into_body();
    world.stop.cancel();
    let rest = axum::body::to_bytes(body, 1000);
    tokio::time::timeout(Duration::from_secs(10), rest).await.unwrap().unwrap();
}
