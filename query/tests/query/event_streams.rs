//! Streams of events: resuming, all projects, CloudEvents, and how a stream ends.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, header};
use futures::StreamExt;
use muster_schemas::events::{ApiTokenRevoked, DeviceNameReserved, Role};
use muster_schemas::wire::ApiTokenText;
use muster_schemas::{DeviceId, Event, ProjectId, StreamName};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{ExtraServers, World, now, one};

const TIMEOUT: Duration = Duration::from_secs(20);

/// An open stream.
struct Open {
    body: BodyDataStream,
    text: String,
}

impl Open {
    async fn new(world: &World, query: &str, token: &str, last_event_id: Option<&str>) -> Self {
        let mut request = Request::get(format!("/api/v1/events/stream{query}"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = world.request(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// Returns the next message as its fields; `None` at the end.
    async fn next(&mut self) -> Option<BTreeMap<String, String>> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let fields = message.lines().filter_map(|line| line.split_once(": "));
                let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
                let fields: BTreeMap<String, String> = fields.collect();
                self.text = rest.to_owned();
                return Some(fields);
            }
            let chunk =
                tokio::time::timeout(TIMEOUT, self.body.next()).await.expect("a message")?;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }

    /// Returns the id and the content of the next event.
    async fn event(&mut self) -> (String, Value) {
        loop {
            let mut message = self.next().await.expect("an event");
            if let Some(data) = message.remove("data") {
                let id = message.remove("id").expect("an id");
                return (id, serde_json::from_str(&data).unwrap());
            }
        }
    }
}

/// Appends an event to a project's log.
async fn append(world: &World, project: &str, name: &str) {
    let project: ProjectId = project.parse().unwrap();
    world.log.ensure_project(&project).await.unwrap();
    let device = DeviceId(Uuid::nil());
    let event = Event::from(DeviceNameReserved { device });
    let stream = StreamName::Name(name.parse().unwrap());
    world.log.append(&project, one(stream, &event, now())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_all_projects_resumes_without_a_gap() {
    let world = World::new(ExtraServers::default()).await;
    for project in ["plant-a", "plant-b"] {
        append(&world, project, "before").await;
    }
    world.wait("/api/v1/log/head?project=plant-b", |head| head["position"] == 1).await;
    let query = "?all_projects=true";
    let mut stream = Open::new(&world, query, &world.admin, None).await;
    let first = stream.next().await.unwrap();
    assert_eq!(first["retry"], "2000");
    assert!(first["id"].contains("plant-b:1"), "it resumes before the first event: {first:?}");
    append(&world, "plant-a", "a1").await;
    let (id, event) = stream.event().await;
    assert_eq!((&event["project"], &event["position"]), (&"plant-a".into(), &2.into()));
    drop(stream);
    // While no client is connected, also in a project that did not exist.
    for (project, name) in
        [("plant-b", "b1"), ("plant-c", "c1"), ("plant-a", "a2"), ("plant-b", "b2")]
    {
        append(&world, project, name).await;
    }
    let mut stream = Open::new(&world, query, &world.admin, Some(&id)).await;
    let mut seen = Vec::new();
    let mut id = id;
    for _ in 0..4 {
        let (next, event) = stream.event().await;
        seen.push(format!("{}:{}", event["project"].as_str().unwrap(), event["position"]));
        id = next;
    }
    seen.sort();
    assert_eq!(seen, ["plant-a:3", "plant-b:2", "plant-b:3", "plant-c:1"]);
    let mut stream = Open::new(&world, query, &world.admin, Some(&id)).await;
    append(&world, "plant-c", "c2").await;
    let (_, event) = stream.event().await;
    assert_eq!((&event["project"], &event["position"]), (&"plant-c".into(), &2.into()));

    let path = "/api/v1/events/stream?all_projects=true";
    let viewer = world.token("default", Role::Viewer).await;
    assert_eq!(world.get_with(path, &viewer, &[]).await.status, 403);
    let refused = world.get_with(&format!("{path}&after=3"), &world.admin, &[]).await;
    assert_eq!((refused.status, &refused.body["errors"][0]["parameter"]), (400, &"after".into()));
    for id in ["plant-a:99", "nowhere:1"] {
        let refused = world.get_with(path, &world.admin, &[("last-event-id", id)]).await;
        let expected = (412, &json!("/problems/position-not-in-log"));
        assert_eq!((refused.status, &refused.body["type"]), expected, "{id}");
    }
    let refused = world.get_with(path, &world.admin, &[("last-event-id", "42")]).await;
    assert_eq!(
        (refused.status, &refused.body["errors"][0]["header"]),
        (400, &"Last-Event-ID".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_beyond_the_end_is_refused() {
    let world = World::new(ExtraServers::default()).await;
    world.register("robot", &[]).await; // 1, 2
    let path = "/api/v1/events/stream";
    for (query, id) in [("?after=3", None), ("", Some("3"))] {
        let headers: Vec<_> = id.map(|id| ("last-event-id", id)).into_iter().collect();
        let refused = world.get_with(&format!("{path}{query}"), &world.admin, &headers).await;
        let expected = (412, &json!("/problems/position-not-in-log"));
        assert_eq!((refused.status, &refused.body["type"]), expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_server_ends_gives_the_reason() {
    let world = World::new(ExtraServers::default()).await;
    let viewer = world.token("default", Role::Viewer).await;
    let mut of_viewer = Open::new(&world, "", &viewer, None).await;
    let mut of_admin = Open::new(&world, "", &world.admin, None).await;
    let id = viewer.parse::<ApiTokenText>().unwrap().id;
    world.server(StreamName::Token(id), ApiTokenRevoked {}).await;
    let last = async |stream: &mut Open| {
        let mut last = BTreeMap::new();
        while let Some(message) = stream.next().await {
            last = message;
        }
        last
    };
    let ended = last(&mut of_viewer).await;
    assert_eq!((&*ended["event"], &*ended["data"]), ("end", r#"{"reason":"token_invalid"}"#));
    world.stop.cancel();
    let ended = last(&mut of_admin).await;
    assert_eq!((&*ended["event"], &*ended["data"]), ("end", r#"{"reason":"server_stopping"}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_sent_as_cloud_events() {
    let world = World::new(ExtraServers::default()).await;
    let id = world.register("robot", &[("env", "prod")]).await;
    let query = "?after=0&format=cloudevents&type=DeviceRegistered";
    let (_, event) = Open::new(&world, query, &world.admin, None).await.event().await;
    assert!(event["time"].is_string() && event["recordedtime"].is_string(), "{event}");
    for (attribute, expected) in [
        ("specversion", json!("1.0")),
        ("id", json!("1")),
        ("source", json!("/api/v1/projects/default")),
        ("type", json!("muster.DeviceRegistered")),
        ("subject", json!(format!("device/{id}"))),
        ("datacontenttype", json!("application/json")),
        ("dataschema", json!("urn:muster:event:DeviceRegistered:2")),
        ("sequence", json!("1")),
        ("actor", json!("test")),
        ("data", json!({"name": "robot", "labels": {"env": "prod"}, "fingerprint": null})),
    ] {
        assert_eq!(event[attribute], expected, "{attribute}");
    }
    // Names of attributes have lower-case letters and digits only, and none is null.
    for (name, value) in event.as_object().unwrap() {
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{name}");
        assert!(!value.is_null(), "{name}");
    }
    for query in ["format=xml", "format=cloudevents&include=record"] {
        let refused = world.get(&format!("/api/v1/events/stream?{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
    }
}
