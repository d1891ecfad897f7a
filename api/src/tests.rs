//! The conventions of the API as a client sees them, over a real event log.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use futures::future::join_all;
use futures::{StreamExt, stream};
use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_eventlog::{Append, ConnectOptions, EventLog, Expected, LogOptions, NewEvent};
use muster_schemas::events::{ApiTokenCreated, ApiTokenRevoked, Role};
use muster_schemas::wire::ApiTokenText;
use muster_schemas::{Event, Hash, StreamName, Timestamp, TokenId};
use tokio::sync::Notify;
use tower::ServiceExt;
use uuid::Uuid;

use crate::auth::{Administer, ReadAll, ReadDevices, WriteDevices, end_with_token};
use crate::{Allowed, ApiState, Json, Scope};

async fn append(log: &EventLog, token: &ApiTokenText, event: Event) {
    let append = Append::by_actor("test").stream(
        StreamName::Token(token.id),
        Expected::Any,
        vec![NewEvent::server(&event, Timestamp(0))],
    );
    log.append(&token.project, append).await.unwrap();
}

async fn token(log: &EventLog, project: &str, role: Role, end: Option<Timestamp>) -> ApiTokenText {
    let token = ApiTokenText {
        project: project.parse().unwrap(),
        id: TokenId(Uuid::now_v7()),
        secret: *Uuid::new_v4().as_bytes().repeat(2).first_chunk().unwrap(),
    };
    let created = ApiTokenCreated {
        name: "test".parse().unwrap(),
        secret: Hash::of(&token.secret),
        role,
        expires_at: end,
    };
    append(log, &token, created.into()).await;
    token
}

async fn show<P>(scope: Scope<P>) -> String {
    format!("{} {}", scope.principal.role, scope.project)
}

fn router(log: EventLog) -> Router {
    Router::new()
        .route("/read", get(show::<ReadDevices>))
        .route("/write", get(show::<WriteDevices>))
        .route("/all", get(show::<ReadAll>))
        .route("/admin", get(show::<Administer>))
        .route(
            "/who",
            get(|allowed: Allowed<ReadDevices>| async move { allowed.principal.actor() }),
        )
        .route("/echo", post(|Json(number): Json<u8>| async move { Json(number) }))
        .with_state(ApiState::new(log))
}

async fn send(router: &Router, path: &str, bearer: &str) -> (StatusCode, String, String) {
    let mut request = Request::get(path);
    if !bearer.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let request = request.body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let challenge = response.headers().get(header::WWW_AUTHENTICATE).cloned();
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
    (
        status,
        String::from_utf8(body.to_vec()).unwrap(),
        challenge.map_or(String::new(), |value| value.to_str().unwrap().to_owned()),
    )
}

/// Creates a log with the projects `system`, `default` and `other`.
async fn event_log(dir: &std::path::Path) -> (Postgres, EventLog) {
    let options = PostgresOptions { tuning: Tuning::Throwaway, ..PostgresOptions::new(dir) };
    let postgres = Postgres::start(options).await.unwrap();
    let log =
        EventLog::open(&ConnectOptions::new(postgres.connection_url()), LogOptions::default())
            .await
            .unwrap();
    for project in ["system", "default", "other"] {
        log.ensure_project(&project.parse().unwrap()).await.unwrap();
    }
    (postgres, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_token_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (postgres, log) = event_log(dir.path()).await;
    let router = router(log.clone());
    let viewer = token(&log, "default", Role::Viewer, None).await;
    let operator = token(&log, "other", Role::Operator, None).await;
    let admin = token(&log, "system", Role::Admin, None).await;
    let auditor = token(&log, "default", Role::Auditor, None).await;
    let expired = token(&log, "default", Role::Admin, Some(Timestamp(1))).await;
    let mut forged = admin.clone();
    forged.secret[0] ^= 1;
    let mut foreign = viewer.clone();
    foreign.project = "nowhere".parse().unwrap();

    let text = |token: &ApiTokenText| token.to_string();
    for (path, bearer, status, part) in [
        ("/read", text(&viewer), 200, "viewer default"),
        ("/read?project=default", text(&viewer), 200, "viewer default"),
        ("/read?project=other", text(&viewer), 403, "default"),
        ("/write", text(&viewer), 403, "operator"),
        ("/write", text(&operator), 200, "operator other"),
        ("/all", text(&operator), 403, "auditor"),
        ("/all", text(&auditor), 200, "auditor default"),
        ("/write", text(&auditor), 403, "operator"),
        ("/admin", text(&auditor), 403, "admin"),
        ("/admin", text(&admin), 200, "admin default"),
        ("/admin?project=other", text(&admin), 200, "admin other"),
        ("/admin?project=nowhere", text(&admin), 404, "'nowhere'"),
        ("/admin?project=No", text(&admin), 400, "project"),
        ("/who", text(&admin), 200, &format!("token:{}", admin.id)),
        ("/read", text(&expired), 401, "/problems/unauthorized"),
        ("/read", text(&forged), 401, "/problems/unauthorized"),
        ("/read", text(&foreign), 401, "/problems/unauthorized"),
        ("/read", "mst_nonsense".to_owned(), 401, "/problems/unauthorized"),
        ("/read", String::new(), 401, "Authorization"),
    ] {
        let (got, body, challenge) = send(&router, path, &bearer).await;
        assert_eq!(got.as_u16(), status, "{path}: {body}");
        assert!(body.contains(part), "{path}: {body}");
        assert_eq!(challenge.starts_with("Bearer"), status == 401, "{path}");
    }

    // A revocation takes effect from the next request, although the token is cached.
    append(&log, &viewer, ApiTokenRevoked {}.into()).await;
    assert_eq!(send(&router, "/read", &text(&viewer)).await.0, 401);

    // The use of the admin's token is noted for command to record it.
    let uses = async || {
        let noted = crate::auth::token_uses::token_uses(&log).await.unwrap();
        noted.iter().filter(|noted| noted.token == admin.id).count()
    };
    for _ in 0..200 {
        if uses().await > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(send(&router, "/admin", &text(&admin)).await.0, 200);
    assert_eq!(uses().await, 1);

    let echo = async |content_type: &str, body: String| {
        let request = Request::post("/echo")
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(body))
            .unwrap();
        router.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(echo("application/json; charset=utf-8", "7".into()).await, 200);
    assert_eq!(echo("text/plain", "7".into()).await, 415);
    assert_eq!(echo("application/json", "700".into()).await, 400);
    assert_eq!(echo("application/json", " ".repeat(3_000_000)).await, 413);
    postgres.stop().await.unwrap();
}

/// Any long response ends with its token: one that sends bytes continuously, one that is idle, and
/// one whose client reads again after its token ended. Others continue.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_response_ends_with_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let (postgres, log) = event_log(dir.path()).await;
    let state = ApiState::new(log.clone());
    let busy = async |_: Scope<ReadDevices>| {
        let bytes = stream::repeat_with(|| Ok::<_, Infallible>("x")).then(|bytes| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            bytes
        });
        Body::from_stream(bytes)
    };
    let quiet = async |_: Scope<ReadDevices>| {
        Body::from_stream(stream::pending::<Result<&str, Infallible>>())
    };
    // Takes longer than the interval between checks of a token.
    let started = Arc::new(Notify::new());
    let has_started = Arc::clone(&started);
    let slow = move |_: Scope<ReadDevices>| {
        let has_started = Arc::clone(&has_started);
        async move {
            has_started.notify_one();
            tokio::time::sleep(Duration::from_secs(3)).await;
            "done"
        }
    };
    let router = Router::new()
        .route("/slow", get(slow.clone()).post(slow))
        .route("/busy", get(busy))
        .route("/quiet", get(quiet))
        .layer(from_fn_with_state(state.clone(), end_with_token))
        .with_state(state);
    let open = async |path: &str, token: &ApiTokenText| {
        let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().into_data_stream()
    };
    let soon = Timestamp::from(SystemTime::now() + Duration::from_secs(3));
    let revoked = token(&log, "default", Role::Viewer, None).await;
    let expiring = token(&log, "default", Role::Viewer, Some(soon)).await;
    let valid = token(&log, "default", Role::Viewer, None).await;
    let mut unread = open("/busy", &revoked).await;
    let mut open_until_the_end = Vec::new();
    for path in ["/busy", "/quiet"] {
        for token in [&revoked, &expiring] {
            open_until_the_end.push(open(path, token).await);
        }
    }
    let mut others = open("/busy", &valid).await;
    append(&log, &revoked, ApiTokenRevoked {}.into()).await;
    let revoked_at = Instant::now();
    let ends = open_until_the_end.into_iter().map(|mut body| async move {
        while let Some(bytes) = body.next().await {
            if bytes.is_err() {
                return true;
            }
        }
        false
    });
    let ends = tokio::time::timeout(Duration::from_secs(20), join_all(ends)).await;
    assert_eq!(ends.expect("all of them end"), [true; 4], "each ends with an error");
    println!("the last one ended after {:?}; the limit is 5 s", revoked_at.elapsed());
    // A slow read gets 401, a slow write its result.
    let slow = async |method: &str| {
        let token = token(&log, "default", Role::Viewer, None).await;
        let request = Request::builder().method(method).uri("/slow");
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        let pending = router.clone().oneshot(request.body(Body::empty()).unwrap());
        let revoke = async {
            started.notified().await;
            append(&log, &token, ApiTokenRevoked {}.into()).await;
        };
        tokio::join!(pending, revoke).0.unwrap().status().as_u16()
    };
    assert_eq!(slow("GET").await, 401);
    assert_eq!(slow("POST").await, 200);
    // The first read after a check is due returns an error.
    assert!(unread.next().await.unwrap().is_err());
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(others.next().await.unwrap().is_ok());
    }
    // No token can be revoked while the log cannot be read: open responses continue.
    postgres.stop().await.unwrap();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(others.next().await.unwrap().is_ok());
    }
}
