//! Uploads of files from devices to the server: the real agent, the real servers, the command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_tests::agent::AgentProcess;
use muster_tests::api::Api;
use muster_tests::fleet::Fleet;
use muster_tests::{System, wait};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(90);
const UPLOADS: &str = "/api/v1/uploads";

/// Starts a system with one agent, `robot`, with this policy.
async fn start(policy: &str) -> (System, AgentProcess, tempfile::TempDir) {
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    std::fs::write(&file, policy).unwrap();
    let token = system.api.enrollment_token(1).await;
    let variables = [("MUSTER_AGENT_POLICY", file.to_str().unwrap())];
    let mut agent =
        AgentProcess::enroll_with(dir.path(), &system.api.url, &token, "robot", &variables);
    agent.start();
    online(&system.api).await;
    (system, agent, dir)
}

async fn online(api: &Api) {
    wait::until("the agent to be online", WAIT_TIMEOUT, || async {
        (api.get("/api/v1/devices/robot").await["status"] == "online").then_some(())
    })
    .await;
}

async fn request_upload(api: &Api, path: &Path, more: Value) -> String {
    let mut action = json!({"kind": "upload", "path": path});
    action.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body = json!({"target": {"kind": "devices", "devices": ["robot"]}, "action": action});
    api.post("/api/v1/operations", &body).await["id"].as_str().unwrap().to_owned()
}

fn at(id: &str) -> String {
    format!("{UPLOADS}/{id}/robot")
}

/// Waits until the upload fulfills `is_so`, and returns it.
async fn until(api: &Api, id: &str, description: &str, is_done: impl Fn(&Value) -> bool) -> Value {
    wait::until(description, WAIT_TIMEOUT, || async {
        let (status, found) = api.try_send(Method::GET, &at(id), None).await?;
        (status == 200 && is_done(&found)).then_some(found)
    })
    .await
}

async fn stored(api: &Api, id: &str) -> Value {
    until(api, id, "it to be stored", |it| it["status"] == "stored").await
}

/// Incompressible bytes.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn file(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The number of blobs of an upload.
fn blobs(system: &System, id: &str) -> usize {
    let runs = system.dir().join("blobs/default/runs").join(id);
    let devices = std::fs::read_dir(runs).into_iter().flatten().flatten();
    devices
        .flat_map(|device| std::fs::read_dir(device.path().join("file")).into_iter().flatten())
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_a_folder_are_uploaded_listed_and_downloaded() {
    let (system, _agent, dir) = start("").await;
    let bytes = noise(3_000_000);
    let path = file(&dir, "app log.bin", &bytes);
    let path = path.to_str().unwrap();
    let (code, out, err) = system.muster(&["upload", "start", "robot", path, "--keep", "30d"]);
    assert_eq!(code, 0, "{err}");
    for part in ["robot", "stored", "app log.bin"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let listed = system.api.list(&format!("{UPLOADS}?device=robot&status=stored")).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let id = listed[0]["operation"].as_str().unwrap().to_owned();
    assert!(err.contains(&id), "{err}");
    assert_eq!(listed[0]["received_bytes"], 3_000_000);
    assert!(listed[0]["expires_at"].is_string());
    for (filter, count) in
        [("status=sending", 0), ("path=/nowhere", 0), ("status=stored,erased", 1)]
    {
        assert_eq!(system.api.list(&format!("{UPLOADS}?{filter}")).await.len(), count, "{filter}");
    }
    let (code, out, err) = system.muster(&["upload", "list"]);
    assert!(code == 0 && out.contains("stored") && out.contains("2.86 MiB"), "{out}{err}");
    let (code, out, _) = system.muster(&["upload", "show", &id]);
    let shown = system.api.get(&at(&id)).await;
    assert!(code == 0 && out.contains(shown["explanation"].as_str().unwrap()), "{out}");
    let copy = dir.path().join("copy");
    let copied = copy.to_str().unwrap();
    let (code, _, err) = system.muster(&["upload", "get", &id, "robot", "-o", copied]);
    assert_eq!(code, 0, "{err}");
    assert!(std::fs::read(&copy).unwrap() == bytes);
    let (code, _, err) = system.muster(&["upload", "get", &id, "-o", copied]);
    assert!(code == 2 && err.contains(copied), "{err}");

    let content = format!("{}/content", at(&id));
    let (status, headers, body) = system.api.raw(&content, &[]).await;
    assert_eq!((status, body.len()), (200, 3_000_000));
    assert_eq!(headers["content-length"], "3000000");
    let named = headers["content-disposition"].to_str().unwrap();
    assert!(named.contains("filename=\"app log.bin\""), "{named}");
    let (status, headers, body) = system.api.raw(&content, &[("range", "bytes=1000-2000")]).await;
    assert_eq!((status, body.as_slice()), (206, &bytes[1000..=2000]));
    assert_eq!(headers["content-range"], "bytes 1000-2000/3000000");
    let (status, _, body) = system.api.raw(&content, &[("range", "bytes=2999000-")]).await;
    assert_eq!((status, body.as_slice()), (206, &bytes[2_999_000..]));
    let tag = headers["etag"].to_str().unwrap().to_owned();
    for (expected, if_range) in [(206, tag.as_str()), (200, "\"other\"")] {
        let part = [("range", "bytes=1-2"), ("if-range", if_range)];
        assert_eq!(system.api.raw(&content, &part).await.0, expected, "{if_range}");
    }
    let (status, headers, body) = system.api.raw(&content, &[("range", "bytes=3000000-")]).await;
    assert_eq!((status, &headers["content-range"]), (416, &"bytes */3000000".parse().unwrap()));
    assert!(String::from_utf8_lossy(&body).contains("/problems/range-not-satisfiable"));

    let folder = dir.path().join("logs");
    std::fs::create_dir_all(folder.join("old")).unwrap();
    std::fs::write(folder.join("old/a.log"), "aaa").unwrap();
    let (code, out, err) = system.muster(&["upload", "start", "robot", folder.to_str().unwrap()]);
    assert!(code == 0 && out.contains("logs.tar.gz"), "{out}{err}");
    let id = system.api.list(UPLOADS).await[0]["operation"].as_str().unwrap().to_owned();
    let archive = dir.path().join("logs.tar.gz");
    let (code, _, err) = system.muster(&["upload", "get", &id, "-o", archive.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let listed = std::process::Command::new("tar").arg("tzf").arg(&archive).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("logs/old/a.log"));
    let (code, _, err) = system.muster(&["upload", "start", "robot", "/no/such/file"]);
    assert!(code == 125 && err.contains("No such file"), "{err}");

    // A damaged file is not returned in full.
    let device = system.api.get("/api/v1/devices/robot").await["id"].as_str().unwrap().to_owned();
    let listed = system.api.list(&format!("{UPLOADS}?path={}", encoded(path))).await;
    let id = listed[0]["operation"].as_str().unwrap();
    let pieces = system.dir().join("blobs/default/runs").join(id).join(device).join("file");
    let mut files = std::fs::read_dir(&pieces).unwrap().flatten().map(|entry| entry.path());
    let first = files.find(|path| path.to_str().unwrap().contains("000000000000-")).unwrap();
    let length = std::fs::metadata(&first).unwrap().len();
    let mut damaged = std::fs::OpenOptions::new().write(true).open(&first).unwrap();
    damaged.write_all(b"damaged").unwrap();
    assert_eq!(std::fs::metadata(&first).unwrap().len(), length);
    let (_, _, body) = system.api.raw(&content, &[]).await;
    assert!(body.len() < 3_000_000, "{}", body.len());
    std::fs::remove_file(&first).unwrap();
    assert_eq!(system.api.status(&content).await, 410);
}

fn encoded(path: &str) -> String {
    path.replace('/', "%2F").replace(' ', "%20")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_is_enforced_and_an_upload_is_canceled() {
    let policy = tempfile::tempdir().unwrap();
    let inside = policy.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let rules = format!("[files]\nroots = ['{}']\n", inside.display());
    let (system, _agent, dir) = start(&rules).await;
    let secret = file(&dir, "secret", b"hush");
    std::os::unix::fs::symlink(&secret, inside.join("link")).unwrap();
    for path in [&secret, &inside.join("link")] {
        let (code, _, err) = system.muster(&["upload", "start", "robot", path.to_str().unwrap()]);
        assert!(code == 125 && err.contains("[files] roots"), "{code}: {err}");
    }
    let large = inside.join("large");
    std::fs::write(&large, noise(400_000)).unwrap();
    let id = request_upload(&system.api, &large, json!({"max_bytes_per_second": 20_000})).await;
    let some = until(&system.api, &id, "some of it to be there", |it| {
        it["status"] == "sending" && it["received_bytes"].as_u64() > Some(0)
    })
    .await;
    assert_eq!(some["size_bytes"], 400_000);
    assert_eq!(system.api.status(&format!("{}/content", at(&id))).await, 409);
    let (code, out, err) = system.muster(&["upload", "cancel", &id, "--yes"]);
    assert_eq!((code, out.lines().count()), (0, 1), "{err}");
    let ended = until(&system.api, &id, "it to be canceled", |it| it["status"] == "canceled").await;
    let (_, out, _) = system.muster(&["upload", "show", &id]);
    assert!(out.contains(ended["explanation"].as_str().unwrap()), "{out}");
    // The received part is useless.
    wait::until("its blobs to be erased", WAIT_TIMEOUT, || async {
        (blobs(&system, &id) == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_files_are_replaced_expire_and_are_deleted() {
    let (system, _agent, dir) = start("").await;
    let api = &system.api;
    let path = file(&dir, "state", b"one");
    let first = request_upload(api, &path, json!({})).await;
    stored(api, &first).await;
    std::fs::write(&path, "two").unwrap();
    let second = request_upload(api, &path, json!({"replace": true})).await;
    stored(api, &second).await;
    let erased = until(api, &first, "it to be replaced", |it| it["status"] == "erased").await;
    assert_eq!(erased["erase_cause"], "replaced");
    assert_eq!(blobs(&system, &first), 0);
    assert_eq!(api.status(&format!("{}/content", at(&first))).await, 410);
    let third = request_upload(api, &path, json!({"expires_in_seconds": 1})).await;
    let erased = until(api, &third, "its time to be over", |it| it["status"] == "erased").await;
    assert_eq!(erased["erase_cause"], "kept");
    assert!(blobs(&system, &second) > 0);
    let (code, out, err) = system.muster(&["upload", "delete", &second, "--yes"]);
    assert_eq!((code, out.as_str()), (0, "erased\n"), "{err}");
    assert_eq!(blobs(&system, &second), 0);
    let erased = until(api, &second, "it to be erased", |it| it["status"] == "erased").await;
    assert_eq!(erased["erase_cause"], "asked");
    let removed = request_upload(api, &path, json!({"remove_source": true})).await;
    stored(api, &removed).await;
    assert!(!path.exists());
    // An unknown operation is not found, nor is one that is not an upload.
    let nowhere = format!("{UPLOADS}/0198c0de-7000-7abc-8def-0123456789ab/robot");
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(api.send(method, &nowhere, None).await.0, 404);
    }
    let body = json!({"target": {"kind": "devices", "devices": ["robot"]}, "action": {"kind": "exec", "argv": ["true"]}});
    let exec = api.post("/api/v1/operations", &body).await["id"].as_str().unwrap().to_owned();
    assert_eq!(api.send(Method::DELETE, &at(&exec), None).await.0, 404);
    for (action, field) in [
        (json!({"kind": "upload", "path": ""}), "/action/path"),
        (json!({"kind": "upload", "path": "/x", "max_bytes": 0}), "/action/max_bytes"),
        (
            json!({"kind": "upload", "path": "/x", "expires_in_seconds": 0}),
            "/action/expires_in_seconds",
        ),
        (
            json!({"kind": "upload", "path": "/x", "max_bytes_per_second": 1}),
            "/action/max_bytes_per_second",
        ),
    ] {
        let body = json!({"target": {"kind": "devices", "devices": ["robot"]}, "action": action});
        let (status, problem) = api.send(Method::POST, "/api/v1/operations", Some(&body)).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &field.into()), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_link_works_without_a_token_for_one_file_until_it_expires() {
    let (system, mut agent, dir) = start("").await;
    let api = &system.api;
    // The device is offline: it sends the file when it reconnects.
    agent.kill9();
    wait::until("the device to be offline", WAIT_TIMEOUT, || async {
        (api.get("/api/v1/devices/robot").await["status"] == "offline").then_some(())
    })
    .await;
    let path = file(&dir, "report", b"the report");
    let id = request_upload(api, &path, json!({})).await;
    let waits = until(api, &id, "it to be listed", |it| it["status"] == "waiting").await;
    assert!(waits["explanation"].to_string().contains("offline"), "{waits}");
    let link = format!("{}/link", at(&id));
    let made = api.post(&link, &json!({"expires_in_seconds": 600})).await;
    let url = made["url"].as_str().unwrap();
    let nobody = api.with_token("");
    assert_eq!(nobody.status(url).await, 409, "it is not stored yet");
    // The server cannot store it for now: a folder blocks the path.
    let device = waits["device"]["id"].as_str().unwrap();
    let folder = system.dir().join("blobs/default/runs").join(&id).join(device).join("file");
    std::fs::create_dir_all(folder.join("salt")).unwrap();
    agent.start();
    let stalled = until(api, &id, "it to stall", |it| it["problem"].is_string()).await;
    std::fs::remove_dir(folder.join("salt")).unwrap();
    stored(api, &id).await;
    let stalls = api.list("/api/v1/events?type=UploadStalled").await;
    assert_eq!((stalls.len(), &stalls[0]["data"]["reason"]), (1, &stalled["problem"]));
    let (status, _, body) = nobody.raw(url, &[]).await;
    assert_eq!((status, body.as_slice()), (200, &b"the report"[..]));
    let (status, _, body) = nobody.raw(url, &[("range", "bytes=4-")]).await;
    assert_eq!((status, body.as_slice()), (206, &b"report"[..]));

    let other = request_upload(api, &path, json!({})).await;
    stored(api, &other).await;
    let simple = |id: &str| id.replace('-', "");
    for tampered in [
        url.replace(&simple(&id), &simple(&other)),
        format!("{}a", &url[..url.len() - 1]),
        format!("{url}a"),
        "/api/v1/downloads/msd_default".to_owned(),
    ] {
        if tampered != url {
            assert_eq!(nobody.status(&tampered).await, 404, "{tampered}");
        }
    }
    let (status, _) =
        api.send(Method::POST, &link, Some(&json!({"expires_in_seconds": 604_801}))).await;
    assert_eq!(status, 400);
    let short = api.post(&link, &json!({"expires_in_seconds": 1})).await;
    wait::until("the link to expire", WAIT_TIMEOUT, || async {
        (nobody.status(short["url"].as_str().unwrap()).await == 410).then_some(())
    })
    .await;
    // The log contains who created the link, but not its secret.
    let events = api.list("/api/v1/events?type=DownloadLinkMade&include=record").await;
    assert_eq!(events.len(), 2);
    assert!(events[0]["actor"].as_str().unwrap().starts_with("token:"), "{events:?}");
    let secret = url.rsplit('_').next().unwrap();
    assert!(!json!(events).to_string().contains(secret));
    let (code, out, err) = system.muster(&["upload", "link", &id, "--expires", "1h"]);
    assert!(
        code == 0 && out.starts_with(&api.url) && out.contains("/downloads/msd_"),
        "{out}{err}"
    );
    assert_eq!(nobody.status(url).await, 200);
    assert_eq!(api.send(Method::DELETE, &at(&id), None).await.0, 200);
    assert_eq!(nobody.status(url).await, 410);
    assert_eq!(
        api.send(Method::POST, &link, Some(&json!({"expires_in_seconds": 60}))).await.0,
        410
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_survives_a_kill_of_the_agent_and_of_every_role() {
    let mut fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut agent = fleet.robot(dir.path()).await;
    let bytes = noise(50_000_000);
    let path = file(&dir, "large", &bytes);
    let id = request_upload(&fleet.api, &path, json!({"max_bytes_per_second": 8_000_000})).await;
    let beyond = async |fleet: &Fleet, least: u64| {
        until(&fleet.api, &id, "some more of it to be there", |it| {
            it["received_bytes"].as_u64().is_some_and(|bytes| bytes >= least)
        })
        .await
    };
    beyond(&fleet, 1_000_000).await;
    agent.kill9();
    agent.start();
    beyond(&fleet, 10_000_000).await;
    fleet.command.kill9_and_restart();
    beyond(&fleet, 20_000_000).await;
    fleet.query.kill9_and_restart();
    fleet.wait_until_ready().await;
    fleet.nats.child().stop().await.unwrap();
    fleet.nats.child().restart().await.unwrap();
    stored(&fleet.api, &id).await;
    let (status, _, body) = fleet.api.raw(&format!("{}/content", at(&id)), &[]).await;
    assert_eq!(status, 200);
    assert!(body == bytes, "{} bytes", body.len());
    let events = fleet.api.list("/api/v1/events?type=RunStarted,RunSucceeded").await;
    assert_eq!(events.len(), 2, "{events:?}");
    // Another process's listener serves links, too.
    let made =
        fleet.api.post(&format!("{}/link", at(&id)), &json!({"expires_in_seconds": 60})).await;
    let nobody = fleet.api.with_token("");
    let (status, _, body) = nobody.raw(made["url"].as_str().unwrap(), &[]).await;
    assert!(status == 200 && body == bytes);
    crate::faults::assert_rebuild_equals_live(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_generated_on_read_are_stored_completely() {
    use std::os::unix::ffi::OsStrExt;
    let (system, _agent, dir) = start("").await;
    let get = |id: &str| {
        let to = dir.path().join(id);
        let args = ["upload", "get", id, "robot", "-o", to.to_str().unwrap()];
        let (code, _, err) = system.muster(&args);
        assert_eq!(code, 0, "{err}");
        std::fs::read(to).unwrap()
    };
    for path in ["/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"] {
        let id = request_upload(&system.api, Path::new(path), json!({})).await;
        stored(&system.api, &id).await;
        assert_eq!(get(&id), std::fs::read(path).unwrap(), "{path}");
    }
    // In a folder, a name that is not UTF-8 is archived unchanged.
    let odd = dir.path().join("odd");
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join(std::ffi::OsStr::from_bytes(b"bad-\xff")), "x").unwrap();
    std::fs::write(odd.join("good"), "good").unwrap();
    let id = request_upload(&system.api, &odd, json!({})).await;
    stored(&system.api, &id).await;
    let archive = dir.path().join("odd.tar.gz");
    std::fs::write(&archive, get(&id)).unwrap();
    let listed = std::process::Command::new("tar").arg("tzf").arg(&archive).output().unwrap();
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(names.contains("odd/good") && names.contains("odd/bad-\\377"), "{names}");
}

/// A download that is under way when its token is revoked breaks off, although the client reads
/// slowly; the last one is by a token that stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_ends_with_its_token() {
    let (system, _agent, dir) = start("").await;
    // More than what the connection buffers.
    let size = 12 << 20;
    let path = file(&dir, "large.bin", &noise(size));
    let id = request_upload(&system.api, &path, json!({})).await;
    stored(&system.api, &id).await;
    let made = system.api.post("/api/v1/tokens", &json!({"name": "op", "role": "operator"})).await;
    let operator = system.api.with_token(made["secret"].as_str().unwrap());
    let ca = std::fs::read(system.ca()).unwrap();
    let http = reqwest::Client::builder()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&ca).unwrap())
        .http1_only()
        .build()
        .unwrap();
    let download = |api: &Api| {
        let request = http.get(format!("{}{}/content", api.url, at(&id)));
        request.bearer_auth(&api.token).send()
    };
    let mut of_operator = download(&operator).await.unwrap();
    let mut of_admin = download(&system.api).await.unwrap();
    assert_eq!((of_operator.status(), of_admin.status()), (StatusCode::OK, StatusCode::OK));
    let token = made["id"].as_str().unwrap();
    let revoked = system.api.send(Method::DELETE, &format!("/api/v1/tokens/{token}"), None).await;
    assert!((200..300).contains(&revoked.0), "{revoked:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut bytes = 0;
    let ended = loop {
        match of_operator.chunk().await {
            Ok(Some(chunk)) => bytes += chunk.len(),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert!(ended.is_err() && bytes < size, "{bytes} bytes of {size}, {ended:?}");
    let mut bytes = 0;
    while let Some(chunk) = of_admin.chunk().await.unwrap() {
        bytes += chunk.len();
    }
    assert_eq!(bytes, size);
}
