//! Grafana's queries: every query of the shipped dashboards and alert rules finds rows in real
//! stores that a real agent has filled, as the users that Grafana authenticates as, which have no
//! other rights. Grafana itself does not run: the tests fill in its variables in the same way.

mod queries;
mod stores;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_schemas::Timestamp;
use muster_schemas::metrics::{MetricBatch, Point};
use muster_tests::agent::AgentProcess;
use muster_tests::text::has_line;
use muster_tests::{SimDevice, System, wait};
use serde_json::{Value, json};

use queries::{Choice, Dashboard, PanelQuery, Store, rules};
use stores::Stores;

const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

/// Measurements that a virtual machine may not have; a simulated device has them.
const HARDWARE: &[&str] = &["battery", "temp", "wireless", "diskio", "net", "swap"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("grafana")
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A system with a real agent that measures every second and accepts an application's points, a
/// simulated device with hardware that this machine may lack, and one that went offline.
struct Scene {
    system: System,
    _agent: AgentProcess,
    _cart: SimDevice,
    udp: u16,
    ids: BTreeMap<&'static str, String>,
    _dir: tempfile::TempDir,
}

impl Scene {
    async fn set(retention: Option<&str>) -> Self {
        let system = System::start().await;
        if let Some(retention) = retention {
            let (code, _, err) =
                system.muster(&["project", "set", "default", "--retention", retention]);
            assert_eq!(code, 0, "{err}");
            // Wait, so that all metrics measured below go to the project's own bucket.
            wait::until("the store to follow", WAIT_TIMEOUT, || async {
                let has_retention = |fields: &Value| fields["retention"].is_string();
                has_line(&system.output(), "INFO", "muster_ingest::metrics", has_retention)
                    .then_some(())
            })
            .await;
        }
        let dir = tempfile::tempdir().unwrap();
        let token = system.api.enrollment_token(3).await;
        let mut agent = AgentProcess::enroll(dir.path(), &system.api.url, &token, "robot");
        agent.start();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let vars =
            json!({"vars": {"metrics.interval": "1s", "metrics.udp": udp, "metrics.json": false}});
        system.api.patch("/api/v1/devices/robot/config", &vars).await;
        let (code, _, err) = system.muster(&["device", "label", "robot", "site=a"]);
        assert_eq!(code, 0, "{err}");

        let cart = SimDevice::join(&system.api, &system.ca(), &token, "cart").await;
        cart.publish_raw(bytes::Bytes::from_static(b"garbage")).await;
        let gone = SimDevice::join(&system.api, &system.ca(), &token, "gone").await;
        gone.nats.drain().await.unwrap();
        let id = async |name: &str| {
            let device = system.api.get(&format!("/api/v1/devices/{name}")).await;
            device["id"].as_str().unwrap().to_owned()
        };
        let ids = BTreeMap::from([
            ("robot", id("robot").await),
            ("cart", cart.id()),
            ("gone", gone.id()),
        ]);
        measure(&cart).await;
        Self { system, _agent: agent, _cart: cart, udp, ids, _dir: dir }
    }

    /// Sends an application's points to the agent on the robot, on the documented port.
    fn application_writes(&self, n: u64) {
        let lines = format!(
            "queue,name=orders length={n}i\n\
             docker_container_cpu,container_name=shop,container_image=shop:1 usage_percent=1.5\n\
             docker_container_mem,container_name=shop,container_image=shop:1 usage={n}000i\n"
        );
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // The port is closed until the agent has its config.
        let _ = socket.send_to(lines.as_bytes(), ("127.0.0.1", self.udp));
    }

    fn choice(&self, is_multiple: bool, devices: &[&str]) -> Choice {
        Choice {
            labels: Vec::new(),
            devices: devices.iter().map(|name| self.ids[name].clone()).collect(),
            is_multiple,
            plain: BTreeMap::from([
                ("project".to_owned(), "default".to_owned()),
                ("measurement".to_owned(), "queue".to_owned()),
                ("field".to_owned(), "length".to_owned()),
                ("by".to_owned(), "name".to_owned()),
            ]),
        }
    }

    /// All devices together; or, on a dashboard of one device, each separately, the real one first.
    fn choices(&self, dashboard: &Dashboard) -> Vec<Choice> {
        if dashboard.is_multiple() {
            vec![self.choice(true, &["robot", "cart", "gone"])]
        } else {
            ["robot", "cart", "gone"].map(|name| self.choice(false, &[name])).into()
        }
    }
}

/// Sends a minute of metrics of a device with all kinds of hardware, which is hot, full and almost
/// discharged.
async fn measure(cart: &SimDevice) {
    let time = Timestamp::from(SystemTime::now());
    let data = |used: f64| {
        let point = Point::new("disk").tag("path", "/data").tag("mode", "rw");
        point.field("used_percent", used)
    };
    let hours_ago = time.plus_micros(-5 * 3_600_000_000);
    cart.measure(&MetricBatch { time: hours_ago, points: vec![data(60.0)] }).await;
    for n in 0..7_i64 {
        let points = vec![
            Point::new("battery")
                .tag("name", "BAT0")
                .field("percent", 10.0)
                .field("energy_rate", 9.5),
            Point::new("temp").tag("sensor", "cpu").field("temp", 91.0),
            Point::new("mem").field("used_percent", 95.0),
            data(97.0),
            Point::new("wireless").tag("interface", "wlan0").field("level", -60 - n),
            Point::new("diskio")
                .tag("name", "sda")
                .field("read_bytes", n * 4096)
                .field("write_bytes", n * 8192),
            Point::new("net")
                .tag("interface", "eth0")
                .field("bytes_recv", n * 1000)
                .field("bytes_sent", n * 500)
                .field("err_in", n)
                .field("err_out", n)
                .field("drop_in", n)
                .field("drop_out", n),
            Point::new("swap").field("used", n * 1024).field("total", 1_i64 << 30),
        ];
        let time = time.plus_micros((n - 6) * 10_000_000);
        cart.measure(&MetricBatch { time, points }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_every_dashboard_and_rule_finds_rows() {
    every_query_finds_rows(None).await;
}

/// With a retention, metrics go to the project's own bucket, which Grafana queries, too.
#[tokio::test(flavor = "multi_thread")]
async fn every_query_finds_rows_of_a_project_with_its_own_retention() {
    every_query_finds_rows(Some("30d")).await;
}

async fn every_query_finds_rows(retention: Option<&str>) {
    let scene = Scene::set(retention).await;
    let target = tempfile::tempdir().unwrap();
    let provisioning = target.path().join("provisioning");
    let data = scene.system.dir();
    let (code, out, err) = scene.system.muster(&[
        "grafana",
        "export",
        provisioning.to_str().unwrap(),
        "--data",
        data.to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("systemctl restart grafana-server"), "{out}");
    let stores = Stores::open(&provisioning.join("datasources/muster.yaml")).await;
    let any = "SELECT * FROM \"cpu\" LIMIT 1";
    if retention.is_some() {
        let shared = stores.query(Store::Influx, any).await.unwrap();
        assert!(shared.is_empty(), "{shared:?}");
    } else {
        wait::until("metrics in the shared place", Duration::from_secs(60), || async {
            let shared = stores.query(Store::Influx, any).await.unwrap();
            (!shared.is_empty()).then_some(())
        })
        .await;
    }

    let dashboards = Dashboard::all(&provisioning.join("dashboards/muster"));
    assert_eq!(dashboards.len(), 4);
    for dashboard in &dashboards {
        the_lists_offer_what_there_is(&scene, &stores, dashboard).await;
    }
    let mut open: Vec<(PanelQuery, Vec<Choice>)> = Vec::new();
    for dashboard in &dashboards {
        let choices = scene.choices(dashboard);
        open.extend(dashboard.queries().into_iter().map(|it| (it, choices.clone())));
    }
    let any = scene.choice(true, &["robot"]);
    let rules = rules(&provisioning.join("alerting/muster.yaml"));
    open.extend(rules.into_iter().map(|rule| (rule.query, vec![any.clone()])));
    assert!(open.len() > 70, "only {} queries were found", open.len());

    // Some queries need time (a rate needs two points) and are repeated.
    let started_at = std::time::Instant::now();
    let mut round = 0;
    while !open.is_empty() {
        round += 1;
        scene.application_writes(round);
        let mut left = Vec::new();
        for (question, choices) in open {
            if !finds_rows(&scene, &stores, &question, &choices).await {
                left.push((question, choices));
            }
        }
        open = left;
        let places: Vec<_> =
            open.iter().map(|(it, _)| format!("{}: {}", it.location, it.text)).collect();
        assert!(started_at.elapsed() < WAIT_TIMEOUT, "no rows for:\n{}", places.join("\n"));
        if !open.is_empty() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    the_right_rules_fire(&scene, &stores, &provisioning).await;
    grafana_may_read_its_views_and_nothing_else(&stores).await;
}

/// Asserts that exactly the rules for the existing problems fire.
async fn the_right_rules_fire(scene: &Scene, stores: &Stores, provisioning: &Path) {
    let choice = scene.choice(true, &["robot"]);
    let mut firing = BTreeSet::new();
    for rule in rules(&provisioning.join("alerting/muster.yaml")) {
        let query = choice.fill(&rule.query, now());
        for row in stores.query(rule.query.store, &query).await.unwrap() {
            let value: f64 = row.last().unwrap().parse().unwrap();
            if rule.is_crossed_by(value) {
                firing.insert(rule.title.clone());
            }
        }
    }
    let expected = [
        "Battery low",
        "Dead letters",
        "Disk almost full",
        "Disk filling",
        "Memory low",
        "Temperature high",
    ];
    assert_eq!(firing.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

async fn finds_rows(
    scene: &Scene,
    stores: &Stores,
    question: &PanelQuery,
    choices: &[Choice],
) -> bool {
    for choice in choices {
        let query = choice.fill(question, now());
        let rows = stores.query(question.store, &query).await;
        let rows = rows.unwrap_or_else(|error| panic!("{}: {error}: {query}", question.location));
        if rows.is_empty() {
            continue;
        }
        // Measurements of every machine must come from the real agent.
        if question.store == Store::Influx && !choice.is_multiple {
            let is_real = choice.devices[0] == scene.ids["robot"];
            let names =
                HARDWARE.iter().any(|name| question.text.contains(&format!("FROM \"{name}\"")));
            assert!(is_real || names, "{} has no rows of the real agent", question.location);
        }
        return true;
    }
    false
}

/// Asserts that the lists at the top offer the project, its labels, and the devices with them.
async fn the_lists_offer_what_there_is(scene: &Scene, stores: &Stores, dashboard: &Dashboard) {
    for variable in dashboard.variables() {
        let name = variable["name"].as_str().unwrap();
        let location = format!("{}: variable {name}", dashboard.name);
        let question = PanelQuery {
            store: queries::store(&variable["datasource"], &location),
            text: variable["query"].as_str().unwrap().to_owned(),
            span: 900,
            location: location.clone(),
        };
        let choice = scene.choice(true, &["robot", "cart", "gone"]);
        let expected = match name {
            "project" => "default",
            "label" => "site=a",
            "device" | "measurement" | "field" | "by" => {
                choice.plain.get(name).map_or("robot", |it| it)
            }
            other => panic!("{location}: what is {other}?"),
        };
        let mut n = 0;
        wait::until(&location, WAIT_TIMEOUT, || {
            n += 1;
            scene.application_writes(n);
            let query = choice.fill(&question, now());
            let (stores, store) = (&stores, question.store);
            async move {
                let rows = stores.query(store, &query).await.unwrap();
                rows.iter().any(|row| row[0] == expected).then_some(())
            }
        })
        .await;
        if name == "device" {
            let one = Choice { labels: vec!["site=a", "site=b"], ..choice };
            let query = one.fill(&question, now());
            let rows = stores.query(Store::Postgres, &query).await.unwrap();
            assert_eq!(rows, [["robot".to_owned(), scene.ids["robot"].clone()]], "{query}");
        } else if name == "measurement" {
            // The regular expression excludes the agent's own measurements.
            let regex = variable["regex"].as_str().unwrap();
            let names = regex.strip_prefix("/^(?!(?:").and_then(|it| it.strip_suffix(")$).+$/"));
            let names: BTreeSet<_> = names.unwrap().split('|').collect();
            let query = choice.fill(&question, now());
            let rows = stores.query(Store::Influx, &query).await.unwrap();
            let shown: Vec<_> =
                rows.iter().filter(|row| !names.contains(row[0].as_str())).collect();
            assert_eq!(shown, [&["queue".to_owned()]]);
        }
    }
}

async fn grafana_may_read_its_views_and_nothing_else(stores: &Stores) {
    let ask = async |query: &str| stores.query(Store::Postgres, query).await;
    ask("SET default_transaction_read_only = off").await.unwrap();
    for table in
        ["events", "device_keys", "dead_letters", "streams", "heads", "devices_v5", "tokens_v2"]
    {
        let error = ask(&format!("SELECT * FROM public.{table} LIMIT 1")).await.unwrap_err();
        assert!(
            error.contains("permission denied") || error.contains("does not exist"),
            "{table}: {error}"
        );
    }
    for forbidden in [
        "SELECT record FROM events",
        "INSERT INTO grafana.projects (project) VALUES ('x')",
        "UPDATE grafana.dead_letters SET cause = 'x'",
        "DELETE FROM grafana.events",
        "CREATE TABLE public.mine (x int)",
        "CREATE VIEW grafana.mine AS SELECT 1",
        "DROP VIEW grafana.events",
        "ALTER ROLE muster_grafana SUPERUSER",
        "CREATE ROLE another",
        "SET ROLE muster",
        "SELECT pg_read_file('/etc/passwd')",
    ] {
        let error = ask(forbidden).await.unwrap_err();
        let is_refused =
            ["permission denied", "must be", "cannot"].iter().any(|it| error.contains(it));
        assert!(is_refused, "{forbidden}: {error}");
    }
    // No view shows a record, a salt or a key.
    let columns = ask("SELECT table_name || '.' || column_name FROM information_schema.columns \
                       WHERE table_schema = 'grafana' AND (data_type = 'bytea' OR data_type LIKE 'json%')");
    assert_eq!(columns.await.unwrap(), Vec::<Vec<String>>::new());
    for forbidden in [
        "DROP MEASUREMENT \"cpu\"",
        "CREATE DATABASE \"mine\"",
        "SHOW USERS",
        "DELETE FROM \"cpu\"",
    ] {
        let error = stores.query(Store::Influx, forbidden).await.unwrap_err();
        assert!(
            error.contains("not authorized") || error.contains("requires admin"),
            "{forbidden}: {error}"
        );
    }
}

#[test]
fn dashboards_are_well_formed() {
    let dashboards = Dashboard::all(&folder().join("dashboards"));
    let uids: BTreeSet<_> =
        dashboards.iter().map(|it| it.json["uid"].as_str().unwrap().to_owned()).collect();
    assert_eq!(uids.len(), dashboards.len());
    for dashboard in &dashboards {
        let name = &dashboard.name;
        assert_eq!(dashboard.json["uid"], format!("muster-{name}"));
        let mut ids = BTreeSet::new();
        let mut cells = BTreeSet::new();
        for panel in dashboard.panels() {
            let title = &panel["title"];
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: {title}: its id is not its own"
            );
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{name}: {title} is too wide");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(cells.insert((x, y)), "{name}: {title} lies on another panel");
                }
            }
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            let ids: BTreeSet<_> = targets.iter().map(|it| it["refId"].to_string()).collect();
            assert_eq!(ids.len(), targets.len(), "{name}: {title}: a refId is there twice");
        }
        // Links point to existing dashboards.
        let text = dashboard.json.to_string();
        for link in text.split("\"/d/").skip(1) {
            let uid = link.split('/').next().unwrap();
            assert!(uids.contains(uid), "{name} links to {uid}");
        }
        // Each variable in a query exists.
        let variables: BTreeSet<_> =
            dashboard.variables().iter().map(|it| it["name"].as_str().unwrap()).collect();
        for question in dashboard.queries() {
            for variable in ["project", "label", "device", "measurement", "field", "by"] {
                let is_used = question.text.contains(&format!("${variable}"));
                assert!(
                    !is_used || variables.contains(variable),
                    "{}: ${variable}",
                    question.location
                );
            }
        }
    }
    // The fleet's dashboard links to that of a device.
    let fleet = dashboards.iter().find(|it| it.name == "fleet").unwrap().json.to_string();
    assert!(fleet.contains(
        "/d/muster-device/device?var-project=${project}&var-device=${__data.fields.device}"
    ));
}

#[test]
fn the_variables_of_the_files_are_documented() {
    let docs = std::fs::read_to_string(folder().join("../docs/grafana.md")).unwrap();
    for file in ["datasources/muster.yaml", "dashboards/muster.yaml"] {
        let text = std::fs::read_to_string(folder().join("provisioning").join(file)).unwrap();
        for variable in text.split("${").skip(1) {
            let name = variable.split('}').next().unwrap();
            assert!(
                docs.contains(&format!("`{name}`")),
                "{file}: {name} is not in docs/grafana.md"
            );
        }
    }
}

/// The labels in a rule's text are in the result of its query, and its panel exists.
#[test]
fn rules_reference_existing_panels() {
    let dashboards = Dashboard::all(&folder().join("dashboards"));
    for rule in rules(&folder().join("provisioning/alerting/muster.yaml")) {
        for label in rule.texts.split(".Labels.").skip(1) {
            let label = label.split(' ').next().unwrap();
            assert!(rule.query.text.contains(label), "{}: .Labels.{label}", rule.title);
        }
        let shown = dashboards.iter().find(|it| it.json["uid"] == rule.panel.0).unwrap();
        let is_there = shown.panels().iter().any(|panel| panel["id"] == rule.panel.1);
        assert!(is_there, "{}: the panel {:?} is not there", rule.title, rule.panel);
        assert!(!rule.texts.contains('$'), "{}: Grafana takes $ for a variable", rule.title);
    }
}

#[test]
fn a_rule_file_with_an_error_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let alerting = dir.path().join("alerting");
    std::fs::create_dir(&alerting).unwrap();
    let good = std::fs::read_to_string(folder().join("provisioning/alerting/muster.yaml")).unwrap();
    let bad = good.replacen("condition: B", "condition: Z", 1);
    std::fs::write(alerting.join("mine.yaml"), bad).unwrap();
    let check = |dir: &Path| {
        std::process::Command::new(muster_tests::binaries::binary("muster"))
            .args(["grafana", "check"])
            .arg(dir)
            .output()
            .unwrap()
    };
    let checked = check(dir.path());
    let message = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{message}");
    for part in ["mine.yaml", "'Device offline'", "condition", "'Z'"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(check(&folder()).status.success());
}
