//! A project has its own metric retention: applied in the store, from the first point or later, and
//! queries find the metrics from before and after a change.

use std::time::{Duration, SystemTime};

use muster_schemas::metrics::{MetricBatch, Point};
use muster_schemas::{Retention, Timestamp};
use muster_tests::{Api, SimDevice, System, wait};
use reqwest::Method;
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
const DAY_MICROS: i64 = 86_400_000_000;

/// The InfluxDB of a `muster up`, queried as its administrator.
struct Store {
    http: reqwest::Client,
    url: String,
    password: String,
}

impl Store {
    fn open(system: &System) -> Self {
        let ports = std::fs::read(system.dir().join("ports.json")).unwrap();
        let ports: Value = serde_json::from_slice(&ports).unwrap();
        let password = std::fs::read_to_string(system.dir().join("influx/password")).unwrap();
        Self {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            url: format!("http://127.0.0.1:{}/query", ports["influx"]),
            password: password.trim().to_owned(),
        }
    }

    /// The values of all series.
    async fn query(&self, query: &str) -> Vec<Value> {
        // It may be restarting.
        let body: Value = wait::until("InfluxDB", WAIT_TIMEOUT, || async {
            let request = self.http.post(&self.url).query(&[("db", "muster"), ("q", query)]);
            let request = request.basic_auth("muster", Some(&self.password));
            let response = request.send().await.ok()?;
            if response.status().is_success() { response.json().await.ok() } else { None }
        })
        .await;
        let series = body["results"][0]["series"].as_array().cloned().unwrap_or_default();
        series.iter().flat_map(|it| it["values"].as_array().unwrap().clone()).collect()
    }

    /// The number of points of `sim` in a policy, or, for an empty one, in the shared bucket.
    async fn count(&self, policy: &str) -> u64 {
        let rows = self.query(&format!("SELECT count(n) FROM {policy}\"sim\"")).await;
        rows.first().and_then(|row| row[1].as_u64()).unwrap_or(0)
    }

    /// Waits until a policy has this duration.
    async fn wait_for_policy(&self, policy: &str, duration: &str) {
        wait::until(&format!("{policy} of {duration}"), WAIT_TIMEOUT, || async {
            let policies = self.query("SHOW RETENTION POLICIES").await;
            let is_expected =
                |row: &&Value| row[0] == policy && row[1] == duration && row[4] == false;
            policies.iter().find(is_expected).map(drop)
        })
        .await;
    }
}

/// The only device of a project.
struct Robot<'a> {
    project: &'a str,
    device: SimDevice,
    sent: i64,
}

impl<'a> Robot<'a> {
    async fn join(system: &System, project: &'a str) -> Self {
        let path = format!("/api/v1/enrollment-tokens?project={project}");
        let made = system.api.post(&path, &json!({"name": "test", "max_uses": 1})).await;
        let token = made["secret"].as_str().unwrap();
        let device = SimDevice::join(&system.api, &system.ca(), token, "robot").await;
        Self { project, device, sent: 0 }
    }

    /// Measures one point, tagged with the last digit of its number.
    async fn measure(&mut self, time: Timestamp) {
        self.sent += 1;
        let point = Point::new("sim").tag("digit", (self.sent % 10).to_string());
        let points = vec![point.field("n", self.sent)];
        self.device.measure(&MetricBatch { time, points }).await;
    }

    /// The values that the API returns, by tag.
    async fn read(&self, api: &Api) -> Vec<(String, i64)> {
        let path = format!(
            "/api/v1/devices/robot/metrics?project={}&field=sim.n&fn=sum&since=1h&step=1h",
            self.project
        );
        let response = api.try_send(Method::GET, &path, None).await.unwrap_or_default().1;
        let mut found: Vec<(String, i64)> = response["series"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|series| {
                let points = series["points"].as_array().unwrap();
                let tag = series["tags"]["digit"].as_str().unwrap_or_default();
                (tag.to_owned(), points.iter().filter_map(|it| it["value"].as_i64()).sum())
            })
            .collect();
        found.sort();
        found
    }

    /// Waits until the API returns all points, each in the series of its tag.
    async fn wait_until_readable(&self, api: &Api) {
        let expected: Vec<(String, i64)> =
            (1..=self.sent).map(|n| ((n % 10).to_string(), n)).collect();
        wait::until(&format!("all points of {}", self.project), WAIT_TIMEOUT, || async {
            (self.read(api).await == expected).then_some(())
        })
        .await;
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retention_of_a_project_is_applied() {
    let mut system = System::start().await;
    let api = system.api.clone();
    let store = Store::open(&system);
    let (code, out, err) = system.muster(&["project", "create", "short", "--retention", "30d"]);
    assert_eq!(code, 0, "{out}{err}");
    api.post("/api/v1/projects", &json!({"id": "plain"})).await;
    store.wait_for_policy("project-short", "720h0m0s").await;

    // Two projects with separate buckets, and queries use the right one.
    let mut short = Robot::join(&system, "short").await;
    let mut plain = Robot::join(&system, "plain").await;
    for robot in [&mut short, &mut plain] {
        robot.measure(now()).await;
        robot.measure(now()).await;
    }
    for robot in [&short, &plain] {
        robot.wait_until_readable(&api).await;
    }
    let counted = [
        store.count("").await,
        store.count("\"project-short\".").await,
        store.count("\"project-plain\".").await,
    ];
    assert_eq!(counted, [0, 2, 2]);
    let fields = api.get("/api/v1/devices/robot/metrics/fields?project=short").await;
    let sim = fields["items"].as_array().unwrap().iter().find(|it| it["name"] == "sim").unwrap();
    assert_eq!((&sim["fields"]["n"], &sim["tags"]), (&json!("integer"), &json!(["digit"])));

    // Points older than the retention are dropped, without those of the same batch.
    let old = now().plus_micros(-40 * DAY_MICROS);
    let points = vec![Point::new("sim").tag("digit", "old").field("n", 1_000_i64)];
    short.device.measure(&MetricBatch { time: old, points }).await;
    short.measure(now()).await;
    short.wait_until_readable(&api).await;
    assert_eq!(store.count("\"project-short\".").await, 3);
    assert!(api.list("/api/v1/dead-letters?project=short").await.is_empty());

    // A change takes effect in the store.
    api.patch("/api/v1/projects/short", &json!({"retention": "13w"})).await;
    store.wait_for_policy("project-short", "2184h0m0s").await;
    wait::until("the project to show it", WAIT_TIMEOUT, || async {
        (api.get("/api/v1/projects/short").await["retention"] == "91d").then_some(())
    })
    .await;
    let (_, out, _) = system.muster(&["project", "list"]);
    assert!(out.contains("91d") && out.contains("default"), "{out}");

    // A project without a retention: its bucket gets one, and keeps the existing metrics.
    let (code, out, err) = system.muster(&["project", "set", "plain", "--retention", "1d"]);
    assert_eq!(code, 0, "{out}{err}");
    store.wait_for_policy("project-plain", "24h0m0s").await;
    wait_until_written_to(&store, &mut plain, "\"project-plain\".").await;
    plain.wait_until_readable(&api).await;

    // After a power failure the retention is loaded before the first metrics are processed.
    system.kill();
    system.restart().await;
    let store = Store::open(&system);
    let shared = store.count("").await;
    short.measure(now()).await;
    short.wait_until_readable(&system.api).await;
    assert_eq!(store.count("").await, shared);

    // Back to the default: the bucket has the store's retention again.
    system.api.patch("/api/v1/projects/plain", &json!({"retention": "default"})).await;
    store.wait_for_policy("project-plain", "0s").await;
    wait_until_written_to(&store, &mut plain, "\"project-plain\".").await;
    plain.wait_until_readable(&system.api).await;
    let types = system.api.list("/api/v1/events?project=system&type=ProjectRetentionSet").await;
    assert_eq!(types.len(), 4, "{types:?}");
}

/// The store has the policy a moment before ingest uses it: measures until a point is in it.
async fn wait_until_written_to(store: &Store, robot: &mut Robot<'_>, policy: &str) {
    let before = store.count(policy).await;
    for _ in 0..8 {
        robot.measure(now()).await;
        for _ in 0..10 {
            if store.count(policy).await > before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    panic!("no point of {} goes to '{policy}'", robot.project);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_retention_is_rejected() {
    let system = System::start().await;
    let api = &system.api;
    for wrong in [json!("0d"), json!("1h"), json!("10000d"), json!(""), json!(30), json!("forever")]
    {
        let body = json!({"id": "x", "retention": wrong});
        let (status, problem) = api.send(Method::POST, "/api/v1/projects", Some(&body)).await;
        assert_eq!(status, 400, "{wrong}: {problem}");
        let body = json!({"retention": wrong});
        let path = "/api/v1/projects/default";
        let (status, problem) = api.send(Method::PATCH, path, Some(&body)).await;
        assert_eq!(status, 400, "{wrong}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], "/retention", "{problem}");
    }
    let (code, _, err) = system.muster(&["project", "set", "default", "--retention", "0d"]);
    assert!(code == 2 && err.contains(Retention::RULE), "{code}: {err}");
    let (code, _, err) = system.muster(&["project", "set", "nowhere", "--retention", "2d"]);
    assert_eq!(code, 3, "{err}");
    // A request without a change makes no event; the version is the same.
    let before = api.get("/api/v1/projects/default").await;
    api.patch("/api/v1/projects/default", &json!({"retention": "default"})).await;
    assert_eq!(api.get("/api/v1/projects/default").await["version"], before["version"]);
}
