//! Tokens, dead letters, and the state of the server.

use muster_eventlog::{DeadLetterSource, NewDeadLetter};
use muster_schemas::events::{ApiTokenRevoked, EnrollmentTokenCreated, EnrollmentTokenUsed, Role};
use muster_schemas::wire::ApiTokenText;
use muster_schemas::{DeviceId, Hash, StreamName, Timestamp, TokenId};
use uuid::Uuid;

use crate::support::{ExtraServers, World, names};

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_listed_for_authorized_roles() {
    let world = World::new(ExtraServers::default()).await;
    let viewer = world.token("default", Role::Viewer).await;
    let auditor = world.token("default", Role::Auditor).await;
    let secret = Hash::of(b"secret");
    let id = TokenId(Uuid::now_v7());
    for (number, expires_at) in [(1, i64::MAX), (2, 1), (3, i64::MAX)] {
        let created = EnrollmentTokenCreated {
            name: format!("hall {number}").parse().unwrap(),
            secret,
            expires_at: Timestamp(expires_at),
            uses: 1,
            labels: [("site".parse().unwrap(), "hall".parse().unwrap())].into(),
            device: None,
            approval: false,
            config: Default::default(),
            allow_labels: Default::default(),
        };
        let id = if number == 3 { id } else { TokenId(Uuid::now_v7()) };
        world.server(StreamName::Token(id), created).await;
    }
    let device = DeviceId(Uuid::now_v7());
    world.server(StreamName::Token(id), EnrollmentTokenUsed { device }).await;

    let page = world.show("/api/v1/enrollment-tokens").await;
    assert_eq!(names(&page), ["hall 3", "hall 2", "hall 1"]);
    let statuses: Vec<_> = (0..3).map(|n| page["items"][n]["status"].clone()).collect();
    assert_eq!(statuses, ["used_up", "expired", "active"]);
    assert!(!page.to_string().contains(&secret.to_string()));
    let first = world.show("/api/v1/enrollment-tokens?limit=2").await;
    let next = first["next"].as_str().unwrap();
    let second = world.show(&format!("/api/v1/enrollment-tokens?limit=2&cursor={next}")).await;
    assert_eq!(names(&second), ["hall 1"]);

    let one = format!("/api/v1/enrollment-tokens/{id}");
    assert_eq!(world.show(&one).await["name"], "hall 3");
    let nobody = format!("/api/v1/enrollment-tokens/{}", Uuid::now_v7());
    assert_eq!(world.get(&nobody).await.status, 404);

    let page = world.show("/api/v1/tokens").await;
    assert_eq!(page["items"][0]["role"], "auditor");
    assert_eq!(page["items"][1]["status"], "active");
    let id = viewer.parse::<ApiTokenText>().unwrap().id;
    // The id of an API token does not name an enrollment token.
    assert_eq!(world.get(&format!("/api/v1/enrollment-tokens/{id}")).await.status, 404);
    world.server(StreamName::Token(id), ApiTokenRevoked {}).await;
    assert_eq!(world.show("/api/v1/tokens").await["items"][1]["status"], "revoked");

    let operator = world.token("default", Role::Operator).await;
    let other_viewer = world.token("default", Role::Viewer).await;
    let enrollment = one.trim_start_matches("/api/v1/");
    // Operators create enrollment tokens, and so may read them.
    for (path, for_operator) in [
        ("tokens", 403),
        ("enrollment-tokens", 200),
        (enrollment, 200),
        ("dead-letters", 403),
        ("dead-letters/1", 403),
    ] {
        let path = format!("/api/v1/{path}");
        assert_eq!(world.get_with(&path, &operator, &[]).await.status, for_operator, "{path}");
        assert_eq!(world.get_with(&path, &other_viewer, &[]).await.status, 403, "{path}");
        assert_eq!(world.get_with(&path, &viewer, &[]).await.status, 401, "{path}");
        assert!(matches!(world.get_with(&path, &auditor, &[]).await.status, 200 | 404), "{path}");
    }
    let whoami = world.get_with("/api/v1/whoami", &auditor, &[]).await.body;
    assert_eq!((&whoami["role"], &whoami["project"]), (&"auditor".into(), &"default".into()));
    assert!(world.show("/api/v1/whoami").await["project"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_reports_its_health() {
    let world = World::new(ExtraServers::default()).await;
    let auditor = world.token("default", Role::Auditor).await;
    world.register("robot", &[]).await;
    let dead_letter = |project: Option<&str>, subject: &str| NewDeadLetter {
        source: DeadLetterSource::Events,
        subject: subject.into(),
        project: project.map(str::to_owned),
        cause: "bad_signature",
        detail: "no".into(),
        bytes: vec![1, 2, 3],
    };
    let dead_letters = [
        dead_letter(Some("default"), "a"),
        dead_letter(None, "b"),
        dead_letter(Some("system"), "c"),
    ];
    world.log.store_dead_letters(&dead_letters).await.unwrap();
    let count = |page: &serde_json::Value| page["items"].as_array().unwrap().len();
    assert_eq!(count(&world.show("/api/v1/dead-letters").await), 1);
    assert_eq!(count(&world.show("/api/v1/dead-letters?everywhere=true").await), 3);
    let page = world.show("/api/v1/dead-letters?everywhere=true&limit=2").await;
    let next = page["next"].as_str().unwrap();
    let rest = world.show(&format!("/api/v1/dead-letters?everywhere=true&cursor={next}")).await;
    assert_eq!(rest["items"][0]["subject"], "a");
    assert_eq!(world.show("/api/v1/dead-letters/1").await["content_base64"], "AQID");
    let as_auditor = async |path: &str| world.get_with(path, &auditor, &[]).await.status;
    assert_eq!(as_auditor("/api/v1/dead-letters/1").await, 200);
    assert_eq!(as_auditor("/api/v1/dead-letters/3").await, 404);
    assert_eq!(as_auditor("/api/v1/dead-letters?everywhere=true").await, 403);
    assert_eq!(as_auditor("/api/v1/dead-letters?everywhere=maybe").await, 400);

    let head = world.show("/api/v1/log/head").await;
    // A token, a device, its name, and possibly the use of the token.
    assert!(matches!(head["position"].as_u64(), Some(3 | 4)), "{head}");
    assert_eq!(head["root"].as_str().unwrap().len(), 64);
    let caught_up = |page: &serde_json::Value| {
        let items = page["items"].as_array().unwrap();
        items.len() == 7 && items.iter().all(|item| item["pending_event_count"] == 0)
    };
    let page = world.wait("/api/v1/projections", caught_up).await;
    assert_eq!(
        names(&page),
        [
            "devices_v5",
            "operations_v2",
            "projects_v3",
            "sessions_v2",
            "timeline_v1",
            "tokens_v2",
            "tree_tiles_v1",
        ]
    );

    for path in ["/healthz", "/readyz"] {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        assert_eq!(world.request(request).await.status(), 200, "{path}");
    }
    // A position beyond the end of the log is refused immediately.
    let far = [("muster-min-position", "999")];
    let response = world.get_with("/api/v1/devices", &world.admin, &far).await;
    assert_eq!(response.status, 412);
    assert_eq!(response.body["type"], "/problems/position-not-in-log");
    assert!(response.body["detail"].as_str().unwrap().contains("999"));
    assert_eq!(world.get("/nowhere").await.status, 404);
    assert_eq!(world.get("/nowhere").await.body["type"], "/problems/not-found");
}
