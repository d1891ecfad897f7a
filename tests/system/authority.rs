//! Rows inserted into the database by an intruder have no authority: no access, no order to a
//! device, and `muster doctor` reports them.

use std::time::Duration;

use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_eventlog::{Append, ConnectOptions, EventLog, Expected, LogOptions, NewEvent};
use muster_schemas::events::{
    Action, ApiTokenCreated, DeviceLabelsChanged, Exec, OperationRequested, Program,
    RequestedTarget, Role, RunRequested,
};
use muster_schemas::wire::ApiTokenText;
use muster_schemas::{
    DeviceId, Event, Hash, OperationId, ProjectId, SigningKey, StreamName, StreamVersion,
    Timestamp, TokenId, codec,
};
use muster_tests::binaries::binary;
use muster_tests::fleet::Fleet;
use muster_tests::text::has_number;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

/// The log as opened by an intruder who has a URL of PostgreSQL, and no key.
async fn intruder(url: &str) -> EventLog {
    EventLog::open(&ConnectOptions::new(url), LogOptions::default()).await.unwrap()
}

async fn forge(log: &EventLog, project: &ProjectId, stream: StreamName, at: u64, event: Event) {
    let event = NewEvent::server(&event, now());
    let append = Append::by_actor("system").stream(
        stream,
        Expected::Version(StreamVersion(at)),
        vec![event],
    );
    log.append(project, append).await.unwrap();
}

pub(crate) async fn sql(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The result of the authority check of `muster doctor`.
fn doctor(url: &str, keys: &std::path::Path) -> Value {
    let output = std::process::Command::new(binary("muster"))
        .env("MUSTER_POSTGRES_URL", url)
        .args(["--json", "doctor", "--keys"])
        .arg(keys)
        .output()
        .unwrap();
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    checks.into_iter().find(|check| check["name"] == "authority").unwrap()
}

fn admin_token() -> (ApiTokenText, Event) {
    let text = ApiTokenText {
        project: ProjectId::system(),
        id: TokenId(Uuid::now_v7()),
        secret: rand::random(),
    };
    let created = ApiTokenCreated {
        name: "forged".parse().unwrap(),
        secret: Hash::of(&text.secret),
        role: Role::Admin,
        expires_at: None,
    };
    (text, created.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_token_grants_no_access_and_the_doctor_reports_it() {
    let fleet = Fleet::start().await;
    let url = fleet.postgres.connection_url();
    let found = doctor(&url, fleet.keys().dir());
    assert!(found["remedy"].is_null(), "{found}");

    let log = intruder(&fleet.database_url("ingest")).await;
    let (token, created) = admin_token();
    let stream = StreamName::Token(token.id);
    forge(&log, &ProjectId::system(), stream.clone(), 0, created).await;
    let forged = fleet.api.with_token(&token.to_string());
    let status = |path: &'static str| {
        let forged = forged.clone();
        async move { forged.send(Method::GET, path, None).await.0 }
    };
    assert_eq!(status("/api/v1/devices").await, 401);
    // A request that query forwards to command is refused, too.
    let body = json!({"name": "x", "role": "admin"});
    assert_eq!(forged.send(Method::POST, "/api/v1/tokens", Some(&body)).await.0, 401);

    // A genuine proof that is copied to the forged row is valid only for its original row.
    let client = sql(&url).await;
    let copied = client
        .execute(
            "UPDATE events SET authority = (SELECT authority FROM events
                 WHERE project = 'system' AND type = 'ApiTokenCreated' AND authority IS NOT NULL
                 ORDER BY position LIMIT 1)
             WHERE project = 'system' AND stream = $1",
            &[&stream.to_string()],
        )
        .await
        .unwrap();
    assert_eq!(copied, 1);
    assert_eq!(status("/api/v1/devices?limit=1").await, 401);

    // A genuine token with a changed row is invalid. It was not used before: a verified token
    // is cached.
    let body = json!({"name": "viewer", "role": "viewer"});
    let path = "/api/v1/tokens?project=default";
    let mut statuses = Vec::new();
    for is_changed in [false, true] {
        let viewer = fleet.api.send(Method::POST, path, Some(&body)).await.1;
        let text: ApiTokenText = viewer["secret"].as_str().unwrap().parse().unwrap();
        let created = ApiTokenCreated {
            name: "viewer".parse().unwrap(),
            secret: Hash::of(&text.secret),
            role: if is_changed { Role::Admin } else { Role::Viewer },
            expires_at: None,
        };
        let record = Event::from(created).encode();
        let changed = client
            .execute(
                "UPDATE events SET record = $2 WHERE project = 'default' AND stream = $1",
                &[&StreamName::Token(text.id).to_string(), &record],
            )
            .await
            .unwrap();
        assert_eq!(changed, 1);
        let bearer = fleet.api.with_token(&text.to_string());
        statuses.push(bearer.send(Method::GET, "/api/v1/devices?limit=1", None).await.0);
    }
    assert_eq!(statuses, [200, 401]);

    // A forged label is not shown, and selects nothing.
    let body = json!({"name": "lamp"});
    let lamp = fleet.api.send(Method::POST, "/api/v1/devices", Some(&body)).await.1;
    let device: DeviceId = lamp["id"].as_str().unwrap().parse().unwrap();
    let label = DeviceLabelsChanged {
        set: [("env".parse().unwrap(), "prod".parse().unwrap())].into(),
        removed: Vec::new(),
    };
    let default = ProjectId::default_project();
    forge(&log, &default, StreamName::Device(device), 1, label.into()).await;
    let body = json!({"labels": {"site": "a"}});
    let (status, _) = fleet.api.send(Method::PATCH, "/api/v1/devices/lamp", Some(&body)).await;
    assert_eq!(status, 200);
    let shown = muster_tests::wait::until("the label", Duration::from_secs(20), || async {
        let shown = fleet.api.get("/api/v1/devices/lamp").await;
        (shown["labels"]["site"] == "a").then_some(shown)
    })
    .await;
    assert_eq!(shown["labels"], json!({"site": "a"}));

    let found = doctor(&url, fleet.keys().dir());
    let text = found["found"].as_str().unwrap();
    assert!(has_number(text, 3) && text.contains("ApiTokenCreated"), "{found}");
    assert!(!found["remedy"].is_null(), "{found}");
    // Query's key folder is sufficient for this check.
    let found = doctor(&url, &fleet.keys().dir().join("roles/query"));
    assert!(has_number(found["found"].as_str().unwrap(), 3), "{found}");
}

fn touch(path: &std::path::Path) -> OperationRequested {
    OperationRequested {
        action: Action::Exec(Exec {
            program: Program::Argv(vec!["touch".into(), path.display().to_string()]),
            cwd: None,
            user: None,
            env: Vec::new(),
            background: false,
        }),
        target: RequestedTarget::Devices(vec!["robot".into()]),
        devices: 1,
        private: None,
        timeout_ms: 60_000,
        expires_at: now().plus_micros(600_000_000),
        at_once: 10,
        stop_after: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_operation_reaches_no_device() {
    let fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let _robot = fleet.robot(dir.path()).await;
    let api = &fleet.api;
    let url = fleet.database_url("command");
    let device: DeviceId =
        api.get("/api/v1/devices/robot").await["id"].as_str().unwrap().parse().unwrap();
    let (log, project) = (intruder(&url).await, ProjectId::default_project());

    // In the log.
    let logged = dir.path().join("logged");
    let id = OperationId(Uuid::now_v7());
    forge(&log, &project, StreamName::Operation(id), 0, touch(&logged).into()).await;
    forge(&log, &project, StreamName::Run(id, device), 0, RunRequested {}.into()).await;

    // In the work queue, not in the log.
    let listed = dir.path().join("listed");
    let id = Uuid::now_v7();
    let client = sql(&url).await;
    client
        .execute(
            "INSERT INTO dispatch_v2_operations (project, operation, actor, requested)
             VALUES ('default', $1, 'token:x', $2)",
            &[&id, &codec::encode(&touch(&listed))],
        )
        .await
        .unwrap();
    client
        .execute(
            "INSERT INTO dispatch_v2_runs (project, operation, device, state, version, since)
             VALUES ('default', $1, $2, 'requested', 1, 1)",
            &[&id, &device.0],
        )
        .await
        .unwrap();

    // When these two have ended, one after the other, the dispatcher has processed the work queue
    // twice: runs with private input are dispatched only from there.
    for _ in 0..2 {
        let body = json!({
            "action": {"kind": "exec", "argv": ["true"], "env": {"X": "y"}},
            "target": {"kind": "devices", "devices": ["robot"]},
        });
        let (status, made) = api.send(Method::POST, "/api/v1/operations", Some(&body)).await;
        assert_eq!(status, 201, "{made}");
        let path = format!("/api/v1/operations/{}", made["id"].as_str().unwrap());
        muster_tests::wait::until("the operation", Duration::from_secs(60), || async {
            // The read model may not have it yet.
            let (_, shown) = api.send(Method::GET, &path, None).await;
            (shown["status"] == "finished").then_some(())
        })
        .await;
    }
    assert!(!logged.exists() && !listed.exists());
    let dispatched: i64 = client
        .query_one("SELECT count(*) FROM events WHERE type = 'RunDispatched'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(dispatched, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_token_is_in_the_database() {
    let fleet = Fleet::start().await;
    let enrollment = fleet.api.enrollment_token(1).await;
    let made = fleet.api.post("/api/v1/tokens", &json!({"name": "x", "role": "admin"})).await;
    let admin: ApiTokenText = made["secret"].as_str().unwrap().parse().unwrap();
    let enrollment: muster_schemas::wire::EnrollmentTokenText = enrollment.parse().unwrap();
    let client = sql(&fleet.database_url("query")).await;
    for secret in [admin.secret, enrollment.secret] {
        let hash = Hash::of(&secret).0.to_vec();
        let count = async |bytes: &[u8]| -> i64 {
            let sql = "SELECT count(*) FROM events WHERE position($1 IN record) > 0";
            client.query_one(sql, &[&bytes]).await.unwrap().get(0)
        };
        assert_eq!((count(&hash).await, count(&secret).await), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_user_has_exactly_the_rights_of_its_role() {
    let fleet = Fleet::start().await;
    let assert_denied = async |role: &str, statement: &str| {
        let client = sql(&fleet.database_url(role)).await;
        let error = client.batch_execute(statement).await.unwrap_err();
        let code = error.code().map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{role}: {statement}: {error:?}");
    };
    let event = "INSERT INTO events (project, position, stream, stream_version, type,
        schema_version, occurred_at, recorded_at, actor, record, salt)
        VALUES ('system', 9999, 'token/x', 1, 'ApiTokenCreated', 1, 0, now(), 'x', '', '')";
    for statement in [
        event,
        "UPDATE heads SET position = 0",
        "UPDATE streams SET version = 0",
        "INSERT INTO device_keys SELECT * FROM device_keys",
        "DELETE FROM dead_letters",
        "UPDATE dispatch_v2_runs SET state = 'requested'",
        "SELECT muster_ensure_project('forged')",
    ] {
        assert_denied("query", statement).await;
    }
    for role in ["ingest", "command", "query"] {
        for statement in [
            "UPDATE events SET actor = 'x'",
            "DELETE FROM events",
            "TRUNCATE events",
            "CREATE TABLE x ()",
            "CREATE TEMPORARY TABLE events ()",
            "CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE ROLE x",
            "COPY events TO PROGRAM 'id'",
            "ALTER TABLE events ADD COLUMN x int",
        ] {
            assert_denied(role, statement).await;
        }
    }
    for statement in [
        "UPDATE devices_v5 SET name = 'x'",
        "INSERT INTO device_marks SELECT * FROM device_marks",
        "UPDATE nats_revocations SET revoked_at = now()",
        "DELETE FROM nats_revocations",
    ] {
        assert_denied("ingest", statement).await;
    }
    let log = intruder(&fleet.database_url("query")).await;
    let (token, created) = admin_token();
    let append = Append::by_actor("system").stream(
        StreamName::Token(token.id),
        Expected::Version(StreamVersion::ZERO),
        vec![NewEvent::server(&created, now())],
    );
    log.append(&ProjectId::system(), append).await.unwrap_err();
    // An advisory lock of another user blocks no append.
    let client = sql(&fleet.database_url("query")).await;
    client
        .batch_execute("SELECT pg_advisory_lock(hashtextextended('muster-append:default', 0))")
        .await
        .unwrap();
    let made = fleet.api.enrollment_token(1);
    tokio::time::timeout(Duration::from_secs(10), made).await.unwrap();
    // Query reports the use of a token, and command records it.
    muster_tests::wait::until("the use of the token", Duration::from_secs(20), || async {
        let tokens = fleet.api.list("/api/v1/tokens?project=system").await;
        tokens.iter().any(|token| !token["last_used_at"].is_null()).then_some(())
    })
    .await;
}

/// Ingest maintains the table of keys, so its database user can write one there.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_device_key_is_not_accepted() {
    let fleet = Fleet::start().await;
    let token = fleet.api.enrollment_token(1).await;
    let enrolled = muster_tests::sim::enroll(&fleet.api, &token, "robot").await;
    let (project, device) = (enrolled.response.project.clone(), enrolled.response.device);
    let renew = async |key: &SigningKey| {
        muster_tests::sim::renew(&fleet.api, key, &project, device).await.0
    };
    assert_eq!(renew(&enrolled.key).await, 200);

    let forged = SigningKey::from_seed(&[9; 32]);
    let (key, fingerprint) = (forged.public().to_cose_key(), forged.thumbprint().0.to_vec());
    let client = sql(&fleet.database_url("ingest")).await;
    let change = async |statement: &str, values: &[&(dyn ToSql + Sync)]| {
        assert_eq!(client.execute(statement, values).await.unwrap(), 1, "{statement}");
    };
    // In addition to the device's own key.
    let insert = "INSERT INTO device_keys (project, device, fingerprint, public_key, epoch)
        SELECT project, device, $1, $2, epoch FROM device_keys WHERE device = $3";
    change(insert, &[&fingerprint, &key, &device.0]).await;
    assert_eq!((renew(&forged).await, renew(&enrolled.key).await), (401, 200));
    // As the newest rotated key: the event at that position grants nothing.
    let rotated = "UPDATE device_keys SET rotation_position = 1 WHERE fingerprint = $1";
    change(rotated, &[&fingerprint]).await;
    assert_eq!(renew(&forged).await, 401);
    // Under the fingerprint of the device's own key.
    let own = enrolled.key.thumbprint().0.to_vec();
    change("UPDATE device_keys SET public_key = $1 WHERE fingerprint = $2", &[&key, &own]).await;
    assert_eq!(renew(&forged).await, 401);

    // A revoked device stays revoked, also if the table states otherwise.
    let body = json!({"reason": "stolen"});
    fleet.api.post(&format!("/api/v1/devices/{device}/revoke"), &body).await;
    let restored = "UPDATE device_keys SET revoked = false, public_key = $1 WHERE fingerprint = $2";
    change(restored, &[&enrolled.key.public().to_cose_key(), &own]).await;
    assert_eq!(renew(&enrolled.key).await, 401);
}

/// A Unix socket as a URL without a host names it, in front of a server that listens by TCP.
fn socket(dir: &std::path::Path, port: u16) {
    let listener = tokio::net::UnixListener::bind(dir.join(".s.PGSQL.5432")).unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server.unwrap()).await;
            });
        }
    });
}

/// The database may be reached by a Unix socket, whose URL has no host: bootstrap makes the users of
/// the roles, and each role's URL leads to the database by the same socket.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_can_be_reached_by_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let options = PostgresOptions {
        tuning: Tuning::Throwaway,
        ..PostgresOptions::new(dir.path().join("postgres"))
    };
    let postgres = Postgres::start(options).await.unwrap();
    let by_tcp: reqwest::Url = postgres.connection_url().parse().unwrap();
    socket(dir.path(), by_tcp.port().unwrap());
    let (user, password) = (by_tcp.username(), by_tcp.password().unwrap());
    let (database, host) = (by_tcp.path(), dir.path().display());
    let url = format!("postgresql://{database}?host={host}&user={user}&password={password}");
    let keys = dir.path().join("keys");
    let bootstrap = |url: &str| {
        let mut command = tokio::process::Command::new(binary("muster"));
        command.env("MUSTER_POSTGRES_URL", url).args(["bootstrap", "--keys"]).arg(&keys);
        command.output()
    };
    let done = bootstrap(&url).await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for file in ["postgres-url-command", "roles/ingest/postgres-url", "roles/query/postgres-url"] {
        let url = std::fs::read_to_string(keys.join(file)).unwrap();
        assert!(url.contains("host=") && !url.contains(password), "{file}");
        let log = EventLog::open(&ConnectOptions::new(url.trim()), LogOptions::default()).await;
        assert!(log.unwrap().head(&ProjectId::default_project()).await.unwrap().is_some());
    }
    // A user before an empty host is no URL; the error has the right form.
    let output = bootstrap(&format!("postgres://{user}@{database}?host={host}")).await.unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && message.contains("postgresql:///database?host="),
        "{message}"
    );
}
