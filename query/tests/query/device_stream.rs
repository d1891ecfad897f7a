//! The stream of a list of devices.

use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, header};
use futures::StreamExt;
use muster_schemas::events::{
    ApiTokenRevoked, DeviceDeleted, DeviceLabelsChanged, DeviceRenamed, Role,
};
use muster_schemas::wire::ApiTokenText;
use muster_schemas::{DeviceId, StreamName};
use serde_json::{Map, Value, json};

use crate::support::{ExtraServers, World};

const TIMEOUT: Duration = Duration::from_secs(20);

/// A client that applies the messages as docs/device-stream.md describes.
pub(crate) struct Client {
    body: BodyDataStream,
    text: String,
    pub(crate) order: Vec<String>,
    pub(crate) devices: Map<String, Value>,
    total: u64,
    counts: Value,
    messages: usize,
}

impl Client {
    pub(crate) async fn open(world: &World, query: &str) -> Self {
        Self::open_as(world, query, &world.admin).await
    }

    async fn open_as(world: &World, query: &str, token: &str) -> Self {
        let request = Request::get(format!("/api/v1/devices/stream{query}"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        let response = world.request(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
            order: Vec::new(),
            devices: Map::new(),
            total: 0,
            counts: Value::Null,
            messages: 0,
        }
    }

    /// Applies the next message with data; returns its event; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let mut lines = message.lines();
                    lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
                };
                let (event, data) = (field("event:"), field("data:"));
                self.text = rest.to_owned();
                let (Some(event), Some(data)) = (event, data) else { continue };
                self.apply(&event, &serde_json::from_str(&data).unwrap());
                return Some(event);
            }
            let chunk =
                tokio::time::timeout(TIMEOUT, self.body.next()).await.expect("a message")?;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }

    fn apply(&mut self, event: &str, data: &Value) {
        if event == "end" {
            return;
        }
        self.messages += 1;
        assert_eq!(data["kind"], event);
        let items = data["items"].as_array().unwrap();
        let id = |item: &Value| item["id"].as_str().unwrap().to_owned();
        if event == "window" {
            self.devices.clear();
            self.order = items.iter().map(id).collect();
        }
        for item in items {
            let known = self.devices.entry(id(item)).or_insert_with(|| json!({}));
            known.as_object_mut().unwrap().extend(item.as_object().unwrap().clone());
        }
        if let Some(order) = data["order"].as_array() {
            self.order = order.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
            let order = &self.order;
            self.devices.retain(|id, _| order.contains(id));
        }
        self.total = data["total_count"].as_u64().unwrap_or(self.total);
        if data["status_counts"].is_object() {
            self.counts = data["status_counts"].clone();
        }
    }

    fn shown(&self) -> (Vec<Value>, u64) {
        (self.order.iter().map(|id| self.devices[id].clone()).collect(), self.total)
    }

    /// Reads messages until the client has what a list returns.
    async fn wait_for_list(&mut self, world: &World, list: &str, window: std::ops::Range<usize>) {
        let started = Instant::now();
        loop {
            let page = world.show(&format!("/api/v1/devices?limit=1000{list}")).await;
            let all = page["items"].as_array().unwrap().clone();
            let total = all.len() as u64;
            let items = all.into_iter().skip(window.start).take(window.len()).collect::<Vec<_>>();
            if self.shown() == (items, total) {
                return;
            }
            assert!(started.elapsed() < TIMEOUT, "{list}: {:#?}", self.shown());
            self.next().await.expect("a message");
        }
    }
}

async fn label(world: &World, id: DeviceId, value: &str) {
    let set = [("n".parse().unwrap(), value.parse().unwrap())].into();
    let labels = DeviceLabelsChanged { set, removed: Vec::new() };
    world.server(StreamName::Device(id), labels).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_applies_the_changes_has_what_a_list_returns() {
    let world = World::new(ExtraServers::default()).await;
    let mut ids = Vec::new();
    for n in 0..12 {
        ids.push(world.register(&format!("robot-{n:02}"), &[("env", "prod")]).await);
    }
    world.wait("/api/v1/devices/robot-11", |_| true).await;
    let mut all = Client::open(&world, "?limit=5&offset=3").await;
    let mut newest = Client::open(&world, "?sort=-created_at&limit=3").await;
    let mut selected = Client::open(&world, "?selector=n=1&sort=-last_seen_at").await;
    assert_eq!(all.next().await.as_deref(), Some("window"));
    assert_eq!((all.order.len(), all.total), (5, 12));
    assert_eq!(all.counts, json!({"registered": 12}));
    for step in 0..6 {
        match step {
            0 => label(&world, ids[4], "1").await,
            1 => {
                let (name, previous) = ("zebra".parse().unwrap(), "robot-04".parse().unwrap());
                world.server(StreamName::Device(ids[4]), DeviceRenamed { name, previous }).await;
            }
            2 => drop(world.enroll(ids[5]).await),
            3 => drop(world.connect(ids[5]).await),
            4 => {
                let name = "robot-00".parse().unwrap();
                world.server(StreamName::Device(ids[0]), DeviceDeleted { name }).await;
            }
            _ => {
                label(&world, ids[5], "1").await;
                label(&world, ids[4], "2").await;
                world.register("another", &[]).await;
            }
        }
        all.wait_for_list(&world, "", 3..8).await;
        newest.wait_for_list(&world, "&sort=-created_at", 0..3).await;
        selected.wait_for_list(&world, "&selector=n=1&sort=-last_seen_at", 0..50).await;
    }
    assert_eq!(all.counts, json!({"registered": 11, "online": 1}));
    world.stop.cancel();
    while let Some(event) = all.next().await {
        assert!(["change", "end"].contains(&event.as_str()), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_sent_at_most_twice_a_second_with_the_requested_fields() {
    let world = World::new(ExtraServers::default()).await;
    let id = world.register("robot", &[]).await;
    world.wait("/api/v1/devices/robot", |_| true).await;
    let mut client = Client::open(&world, "?fields=labels").await;
    let mut without = Client::open(&world, "?fields=name").await;
    client.next().await.unwrap();
    without.next().await.unwrap();
    let item = client.devices.values().next().unwrap().as_object().unwrap();
    assert_eq!(item.keys().collect::<Vec<_>>(), ["id", "labels"]);
    let started = Instant::now();
    let writes = async {
        for n in 0..100 {
            label(&world, id, &n.to_string()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reads = async {
        while client.devices.values().next().unwrap()["labels"]["n"] != "99" {
            client.next().await.unwrap();
        }
    };
    tokio::join!(writes, reads);
    let allowed = 2 + started.elapsed().as_millis() as usize / 500;
    assert!(client.messages <= allowed, "{} of {allowed}", client.messages);
    // Nothing that this client shows has changed.
    let more = tokio::time::timeout(Duration::from_millis(700), without.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_list_ends_with_its_token() {
    let world = World::new(ExtraServers::default()).await;
    let viewer = world.token("default", Role::Viewer).await;
    let mut client = Client::open_as(&world, "", &viewer).await;
    assert_eq!(client.next().await.as_deref(), Some("window"));
    let id = viewer.parse::<ApiTokenText>().unwrap().id;
    world.server(StreamName::Token(id), ApiTokenRevoked {}).await;
    let mut last = None;
    while let Some(event) = client.next().await {
        last = Some(event);
    }
    assert_eq!(last.as_deref(), Some("end"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_are_refused_and_slots_are_released() {
    let world = World::new(ExtraServers::default()).await;
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("offset=1000001", "offset"),
        ("fields=name,statsu", "fields"),
        ("selector=statsu=online", "selector"),
        ("status=onlin", "status"),
        ("sort=size", "sort"),
        ("cursor=x", "cursor"),
    ] {
        let refused = world.get(&format!("/api/v1/devices/stream?{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
        assert_eq!(refused.body["errors"][0]["parameter"], parameter, "{query}");
    }
    let viewer = world.token("default", Role::Viewer).await;
    let path = "/api/v1/devices/stream?project=plant-a";
    assert_eq!(world.get_with(path, &viewer, &[]).await.status, 403);
    // Each token has 100 slots: 2,000 opened and cut streams need none afterwards.
    for round in 0..40 {
        let clients: Vec<Client> = futures::stream::iter(0..50)
            .then(|n| Client::open(&world, if n % 2 == 0 { "" } else { "?limit=7" }))
            .collect()
            .await;
        assert_eq!(clients.len(), 50, "round {round}");
    }
    let all: Vec<Client> =
        futures::stream::iter(0..100).then(|_| Client::open(&world, "")).collect().await;
    let refused = world.get("/api/v1/devices/stream").await;
    assert_eq!((all.len(), refused.status), (100, 429));
}
