//! What all requests have in common: ids and traces, cross-origin requests, limits, and refusals of
//! websockets.

use muster_tests::System;
use muster_tests::fleet::Fleet;
use muster_tests::socket::Socket;
use reqwest::Method;
use serde_json::json;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_ids_and_traces_that_are_in_the_log() {
    let system = System::start().await;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let sent = [("x-request-id", "my-request-7"), ("traceparent", parent.as_str())];
    let (_, headers, _) = system.api.raw("/api/v1/devices", &sent).await;
    assert_eq!(headers["x-request-id"], "my-request-7");
    let returned = headers["traceparent"].to_str().unwrap();
    assert!(returned.starts_with(&format!("00-{TRACE}-")) && returned != parent, "{returned}");
    let (status, headers, _) = system.api.raw("/api/v1/nowhere", &[("x-request-id", "a b")]).await;
    let own = headers["x-request-id"].to_str().unwrap();
    assert!(status == 404 && own.len() == 36, "a new id instead of an invalid one: {own}");
    assert!(!headers.contains_key("traceparent"));
}

/// A request that query forwards to command keeps its id.
#[tokio::test(flavor = "multi_thread")]
async fn forwarded_requests_keep_their_id() {
    let fleet = Fleet::start().await;
    let headers = [("x-request-id", "forwarded-7")];
    let body = json!({"name": "robot"});
    let (status, made) =
        fleet.api.send_with(Method::POST, "/api/v1/devices", &body, &headers).await;
    assert_eq!(status, 201, "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_may_use_the_api_only_if_it_is_allowed() {
    let origin = "https://dashboard.example.com";
    let preflight = [
        ("origin", origin),
        ("access-control-request-method", "PATCH"),
        ("access-control-request-headers", "authorization,if-match,idempotency-key"),
    ];
    let closed = System::start().await;
    let (_, headers, _) = closed.api.raw("/api/v1/devices", &preflight[..1]).await;
    assert!(!headers.contains_key("access-control-allow-origin"));

    let open = System::start_with(&["--cors-origins", origin]).await;
    let (status, headers, _) = open.api.raw("/api/v1/devices", &preflight[..1]).await;
    assert_eq!(status, 200);
    assert_eq!(headers["access-control-allow-origin"], origin);
    let exposed = headers["access-control-expose-headers"].to_str().unwrap();
    assert!(exposed.contains("muster-position") && exposed.contains("etag"), "{exposed}");
    let (_, headers, _) =
        open.api.raw("/api/v1/devices", &[("origin", "https://evil.example.com")]).await;
    assert!(!headers.contains_key("access-control-allow-origin"));
    // A preflight has no token.
    let request =
        open.api.http.request(Method::OPTIONS, format!("{}/api/v1/devices", open.api.url));
    let request =
        preflight.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let allowed = response.headers()["access-control-allow-headers"].to_str().unwrap().to_owned();
    assert!(allowed.contains("idempotency-key"), "{allowed}");
    assert!(response.headers()["access-control-allow-methods"].to_str().unwrap().contains("PATCH"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_named_in_the_headers() {
    let system = System::start_with(&["--streams-per-token", "1"]).await;
    let stream = format!("{}/api/v1/devices/stream", system.api.url);
    let open = system.api.http.get(stream).bearer_auth(&system.api.token).send().await.unwrap();
    let id = [("x-request-id", "refused-7")];
    let (status, headers, _) = system.api.raw("/api/v1/events/stream", &id).await;
    assert_eq!(status, 429);
    assert_eq!(headers["ratelimit-policy"], "\"streams\";q=1;qu=\"concurrent-requests\"");
    assert_eq!(headers["ratelimit"], "\"streams\";r=0;t=10");
    assert_eq!(headers["retry-after"], "10");
    drop(open);
    let line = system.output().lines().find(|line| line.contains("refused-7")).map(str::to_owned);
    assert!(line.is_some_and(|line| line.contains("a live stream was refused")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_gets_the_reason_of_a_refused_websocket() {
    let system = System::start().await;
    system.api.post("/api/v1/devices", &json!({"name": "robot"})).await;
    let origin = system.api.url.as_str();
    let path = "/api/v1/devices/robot/shell";
    let Err((status, problem)) = Socket::open(&system.api, &system.ca(), path, &[]).await else {
        panic!("a device that has not enrolled has no shell");
    };
    assert_eq!((status, &problem["type"]), (409, &"/problems/device-not-enrolled".into()));
    let nobody = system.api.with_token("");
    let protocols = ("sec-websocket-protocol", "muster.v1, mst_unknown");
    for (api, path, code, reason) in [
        (&system.api, path, 4409, "device-not-enrolled: "),
        (&system.api, "/api/v1/devices/unknown/shell", 4404, "not-found: "),
        (&nobody, path, 4401, "unauthorized: "),
    ] {
        let headers = [("origin", origin), protocols];
        let opened = Socket::open(api, &system.ca(), path, &headers).await;
        let mut socket = opened.expect("a websocket");
        // A browser ends a handshake that selects none of its subprotocols.
        assert_eq!(socket.protocol.as_deref(), Some("muster.v1"));
        let (closed, text) = socket.close_frame().await.expect("a close frame");
        assert_eq!(closed, code, "{text}");
        assert!(text.starts_with(reason), "{text}");
    }
}
