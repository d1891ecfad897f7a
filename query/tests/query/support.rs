//! A query role over its own PostgreSQL, and helpers that append to its log.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, header};
use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_blobs::{BlobLocation, Blobs};
use muster_eventlog::{
    Append, ConnectOptions, EventLog, Expected, LogOptions, NewEvent, StreamAppend,
};
use muster_metric_store::StoreSettings;
use muster_query::{Query, QueryOptions};
use muster_schemas::events::{
    ApiTokenCreated, DeviceConnected, DeviceEnrolled, DeviceInventoryReported, DeviceNameReserved,
    DeviceRegistered, Role,
};
use muster_schemas::names::{DeviceName, Labels};
use muster_schemas::wire::ApiTokenText;
use muster_schemas::{
    DeviceEnvelope, DeviceId, Epoch, Event, Hash, ProjectId, Seq, SigningKey, StreamName,
    Timestamp, TokenId,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) log: EventLog,
    pub(crate) router: Router,
    pub(crate) query: Query,
    pub(crate) admin: String,
    pub(crate) stop: CancellationToken,
    postgres: Postgres,
    _dir: TempDir,
}

/// Servers of a test in addition to PostgreSQL; those that are not set are unavailable.
#[derive(Default)]
pub(crate) struct ExtraServers {
    pub(crate) nats: Option<String>,
    pub(crate) influx: Option<StoreSettings>,
}

pub(crate) struct TestResponse {
    pub(crate) status: u16,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: Value,
}

impl World {
    pub(crate) async fn new(with: ExtraServers) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let postgres = Postgres::start(PostgresOptions {
            tuning: Tuning::Throwaway,
            ..PostgresOptions::new(dir.path())
        })
        .await
        .unwrap();
        let connect = ConnectOptions::new(postgres.connection_url());
        let log = EventLog::open(&connect, LogOptions::default()).await.unwrap();
        for project in ["system", "default"] {
            log.ensure_project(&project.parse().unwrap()).await.unwrap();
        }
        let nats = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .connect(with.nats.unwrap_or_else(|| "nats://127.0.0.1:1".into()))
            .await
            .unwrap();
        let stop = CancellationToken::new();
        let query = Query::start(QueryOptions {
            log: log.clone(),
            nats,
            blobs: Blobs::open(&BlobLocation::Folder(dir.path().join("blobs"))).unwrap(),
            key: None,
            streams_per_token: muster_query::DEFAULT_STREAMS_PER_TOKEN,
            walks_per_minute: muster_query::DEFAULT_WALKS_PER_MINUTE,
            influx: with
                .influx
                .unwrap_or_else(|| StoreSettings::new("http://127.0.0.1:1", "muster")),
            stop: stop.clone(),
        })
        .await
        .unwrap();
        let (router, _) = query.router().split_for_parts();
        let router = router
            .fallback(muster_api::fallback::not_found)
            .method_not_allowed_fallback(muster_api::fallback::method_not_allowed);
        let mut world =
            Self { log, router, query, admin: String::new(), stop, postgres, _dir: dir };
        world.admin = world.token("system", Role::Admin).await;
        world
    }

    /// The address of its PostgreSQL, for another process.
    pub(crate) fn database(&self) -> ConnectOptions {
        ConnectOptions::new(self.postgres.connection_url())
    }

    pub(crate) async fn token(&self, project: &str, role: Role) -> String {
        let token = ApiTokenText {
            project: project.parse().unwrap(),
            id: TokenId(Uuid::now_v7()),
            secret: *Uuid::new_v4().as_bytes().repeat(2).first_chunk().unwrap(),
        };
        let created = ApiTokenCreated {
            name: "test".parse().unwrap(),
            secret: Hash::of(&token.secret),
            role,
            expires_at: None,
        };
        let append = one(StreamName::Token(token.id), &created.into(), now());
        self.log.append(&token.project, append).await.unwrap();
        token.to_string()
    }

    /// Appends to the log of `default`; returns the position.
    pub(crate) async fn append(&self, append: Append) -> u64 {
        let project = ProjectId::default_project();
        self.log.append(&project, append).await.unwrap().last.get()
    }

    pub(crate) async fn server(&self, stream: StreamName, event: impl Into<Event>) -> u64 {
        self.append(one(stream, &event.into(), now())).await
    }

    pub(crate) async fn register(&self, name: &str, labels: &[(&str, &str)]) -> DeviceId {
        let id = DeviceId(Uuid::now_v7());
        self.register_as(id, name, labels).await;
        id
    }

    pub(crate) async fn register_as(&self, id: DeviceId, name: &str, labels: &[(&str, &str)]) {
        let name: DeviceName = name.parse().unwrap();
        let labels: Labels = labels
            .iter()
            .map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let registered = DeviceRegistered { name: name.clone(), labels, fingerprint: None };
        self.server(StreamName::Device(id), registered).await;
        self.server(StreamName::Name(name), DeviceNameReserved { device: id }).await;
    }

    pub(crate) async fn enroll(&self, id: DeviceId) -> u64 {
        let key = key();
        let enrolled = DeviceEnrolled {
            epoch: Epoch(1),
            signing_key: key.public().to_cose_key(),
            fingerprint: key.public().thumbprint(),
            nats_key: "U".into(),
            token: None,
            hostname: Some("host".into()),
            machine: None,
            macs: Vec::new(),
        };
        self.server(StreamName::Device(id), enrolled).await
    }

    pub(crate) async fn connect(&self, id: DeviceId) -> u64 {
        let connected =
            DeviceConnected { connection: "N/1".into(), address: Some("10.0.0.7".into()) };
        self.server(StreamName::DevicePresence(id), connected).await
    }

    /// Appends an event that the device has signed.
    pub(crate) async fn report(&self, id: DeviceId, seq: u64, event: impl Into<Event>) -> u64 {
        let event = event.into();
        let envelope = DeviceEnvelope {
            project: ProjectId::default_project(),
            device: id,
            epoch: Epoch(1),
            seq: Seq(seq),
            prev: Hash::ZERO,
            boot: Uuid::nil(),
            mono: seq,
            time: now(),
            kind: event.kind().into(),
            version: event.version(),
            data: event.encode(),
        };
        let sealed = envelope.seal(&key());
        let tip = Some(Hash::of(&sealed));
        let mut append = Append::by_actor(format!("device:{id}"));
        append.streams.push(StreamAppend {
            stream: StreamName::DeviceReport(id, Epoch(1)),
            expected: Expected::Any,
            events: vec![NewEvent::sealed(&event, now(), sealed.into())],
            tip,
        });
        self.append(append).await
    }

    pub(crate) async fn request(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a request as an admin, for the newest state of the log.
    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        let head = self.log.head(&ProjectId::default_project()).await.unwrap();
        let head = head.unwrap().position.to_string();
        self.get_with(path, &self.admin, &[("muster-min-position", &head)]).await
    }

    /// Sends a request, and expects status 200.
    pub(crate) async fn show(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        response.body
    }

    pub(crate) async fn get_with(
        &self,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
    ) -> TestResponse {
        // Characters of selectors that a URI cannot have.
        let path =
            path.replace('<', "%3C").replace('>', "%3E").replace('[', "%5B").replace(']', "%5D");
        let mut request =
            Request::get(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.request(request.body(Body::empty()).unwrap()).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), 10_000_000).await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        TestResponse { status, headers, body }
    }

    /// Repeats a request until the response is as expected.
    pub(crate) async fn wait(&self, path: &str, is_expected: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            let response = self.get(path).await;
            if response.status == 200 && is_expected(&response.body) {
                return response.body;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{path} never was as wanted: {}", self.get(path).await.body);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn one(stream: StreamName, event: &Event, time: Timestamp) -> Append {
    Append::by_actor("test").stream(stream, Expected::Any, vec![NewEvent::server(event, time)])
}

pub(crate) fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

pub(crate) fn inventory(os: &str) -> DeviceInventoryReported {
    DeviceInventoryReported {
        agent_version: "0.1.0".into(),
        hostname: Some("Host\0Name".into()),
        os_name: Some(os.into()),
        arch: Some("x86_64".into()),
        ..DeviceInventoryReported::default()
    }
}

/// Returns the names of a page's items.
pub(crate) fn names(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["name"].as_str().unwrap()).collect()
}
