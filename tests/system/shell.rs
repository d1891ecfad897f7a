//! A shell on the real agent: by the command line and by websockets, detached and attached,
//! watched, recorded, refused; and its content is encrypted on the broker.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use muster_agent::channels::UNKNOWN_END;
use muster_backing::postgres::Tuning;
use muster_tests::binaries::binary;
use muster_tests::fleet::Fleet;
use muster_tests::socket::Socket;
use muster_tests::{Robot, System, wait};
use reqwest::Method;
use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const SHELL: &str = "/api/v1/devices/robot/shell?cols=100&rows=30";

async fn session(
    system: &System,
    id: &str,
    description: &str,
    is_done: impl Fn(&Value) -> bool,
) -> Value {
    let path = format!("/api/v1/sessions/{id}");
    wait::until(description, WAIT_TIMEOUT, || async {
        let (status, found) = system.api.send(Method::GET, &path, None).await;
        (status == 200 && is_done(&found)).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_shell_is_recorded_and_replayed() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let (code, out, err) = system.muster(&["shell", "robot", "--", "echo $((6*7)) süß; exit 5"]);
    assert_eq!(code, 5, "{out}{err}");
    assert!(out.contains("42 süß"), "{out}");
    let listed = system.api.list("/api/v1/sessions").await;
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let ended = session(&system, &id, "it to be ended", |one| one["status"] == "ended").await;
    assert_eq!((&ended["exit_code"], &ended["recorded"]), (&5.into(), &true.into()), "{ended}");
    let (code, cast, err) = system.muster(&["shell", "play", &id, "--cast"]);
    assert_eq!(code, 0, "{err}");
    let header: Value = serde_json::from_str(cast.lines().next().unwrap()).unwrap();
    assert_eq!(header["version"], 2);
    assert!(cast.contains("42 süß"), "{cast}");
    let (code, out, _) = system.muster(&["shell", "play", &id, "--speed", "100"]);
    assert!(code == 0 && out.contains("42 süß"), "{out}");
    let (_, out, _) = system.muster(&["shell", "search", "42 s"]);
    assert!(out.contains(&id), "{out}");
    for kind in ["SessionRequested", "SessionRecorded", "SessionEnded"] {
        assert!(
            !system.api.list(&format!("/api/v1/events?type={kind}")).await.is_empty(),
            "{kind}"
        );
    }

    // An altered piece is reported, and so is a missing one.
    let folder = system.dir().join("blobs/default/sessions").join(&id);
    let piece = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&piece).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&piece, &bytes).unwrap();
    let path = format!("/api/v1/sessions/{id}/recording");
    for damage in ["altered", "missing"] {
        let (code, _, err) = system.muster(&["shell", "play", &id]);
        assert!(code != 0 && err.contains(&id), "{damage}: {err}");
        assert_eq!(system.api.status(&path).await, 410, "{damage}");
        let _ = std::fs::remove_file(&piece);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_its_websocket_and_can_be_shared_read_only() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let (api, ca) = (&system.api, system.ca());
    let mut first = Socket::open(api, &ca, SHELL, &[]).await.unwrap();
    let id = first.wait_for_message("opened").await["session"].as_str().unwrap().to_owned();
    first.send("stty size; echo mark-$((40+2))\r").await;
    first.wait_for_output("mark-42").await;
    first.wait_for_output("30 100").await;
    // The connection is lost.
    drop(first);
    session(&system, &id, "it to be left", |one| one["client_count"] == 0).await;
    let attach = format!("/api/v1/devices/robot/sessions/{id}/attach?cols=100&rows=30");
    let mut second = Socket::open(api, &ca, &attach, &[]).await.unwrap();
    second.wait_for_output("mark-42").await;
    let mut watching = Socket::open(api, &ca, &format!("{attach}&watch=true"), &[]).await.unwrap();
    watching.wait_for_output("mark-42").await;
    watching.send("echo not-typed\r").await;
    second.send("echo both-$((1+1))\r").await;
    second.wait_for_output("both-2").await;
    watching.wait_for_output("both-2").await;
    assert!(!String::from_utf8_lossy(&second.output).contains("not-typed"));
    let open = session(&system, &id, "two to be attached", |one| one["client_count"] == 2).await;
    assert_eq!(open["attachment_count"], 3);
    let (code, out, _) = system.muster(&["shell", "list"]);
    assert!(code == 0 && out.contains(&id) && out.contains("open"), "{out}");

    // Ctrl-C takes effect immediately, despite pending output.
    second.send("yes\r").await;
    second.wait_for_output("y\r\ny\r\ny").await;
    second.send("\x03").await;
    second.send("echo after-$((2+2))\r").await;
    second.wait_for_output("after-4").await;
    let (code, _, err) = system.muster(&["shell", "end", &id, "--yes"]);
    assert_eq!(code, 0, "{err}");
    while second.next().await {}
    session(&system, &id, "it to be ended", |one| one["status"] == "ended").await;
    let again = Socket::open(api, &ca, &attach, &[]).await.unwrap_err();
    assert_eq!(again.0, 410, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unauthorized_shell_is_rejected_and_recorded() {
    let Robot { system, agent: _agent, dir: _dir } =
        Robot::start("[shell]\nenabled = false\n[ports]\nallow = []\n").await;
    let ca = system.ca();
    let rejection = Socket::open(&system.api, &ca, SHELL, &[]).await.unwrap_err();
    assert_eq!(rejection.0, 403);
    assert!(rejection.1["detail"].to_string().contains("policy.toml"), "{rejection:?}");
    let events = system.api.list("/api/v1/events?type=SessionRefused").await;
    assert_eq!(events.len(), 1, "{events:?}");
    let tcp = "/api/v1/devices/robot/tcp?port=22";
    assert_eq!(Socket::open(&system.api, &ca, tcp, &[]).await.unwrap_err().0, 403);

    let origin = [("origin", "https://evil.example")];
    let rejection = Socket::open(&system.api, &ca, SHELL, &origin).await.unwrap_err();
    assert!(rejection.1["detail"].to_string().contains("evil.example"), "{rejection:?}");
    let nobody = system.api.with_token("");
    assert_eq!(Socket::open(&nobody, &ca, SHELL, &[]).await.unwrap_err().0, 401);
    let made = system.api.post("/api/v1/tokens", &json!({"name": "v", "role": "viewer"})).await;
    let viewer = system.api.with_token(made["secret"].as_str().unwrap());
    assert_eq!(Socket::open(&viewer, &ca, SHELL, &[]).await.unwrap_err().0, 403);
    let made = system.api.post("/api/v1/tokens", &json!({"name": "o", "role": "operator"})).await;
    let operator = system.api.with_token(made["secret"].as_str().unwrap());
    let unrecorded = format!("{SHELL}&record=false");
    let rejection = Socket::open(&operator, &ca, &unrecorded, &[]).await.unwrap_err();
    assert!(rejection.1["detail"].to_string().contains("record=false"), "{rejection:?}");
    for (path, field) in [
        ("/api/v1/devices/robot/shell?cols=0", "cols"),
        ("/api/v1/devices/robot/shell?grace_seconds=0", "grace_seconds"),
        ("/api/v1/devices/robot/tcp?port=0", "port"),
    ] {
        let rejection = Socket::open(&system.api, &ca, path, &[]).await.unwrap_err();
        assert_eq!(
            (rejection.0, &rejection.1["errors"][0]["parameter"]),
            (400, &field.into()),
            "{path}"
        );
    }
    let id = "0198c0de-7003-7abc-8def-0123456789ab";
    let nowhere = format!("/api/v1/devices/robot/sessions/{id}/attach");
    assert_eq!(Socket::open(&system.api, &ca, &nowhere, &[]).await.unwrap_err().0, 404);
    assert_eq!(system.api.status(SHELL).await, 400, "without an upgrade");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_sees_no_plaintext_of_a_shell_and_it_survives_a_role_s_kill() {
    let recorded = [("MUSTER_RECORD_SHELLS", "everyone")];
    let mut fleet = Fleet::start_with(Tuning::Small, &recorded).await;
    let dir = tempfile::tempdir().unwrap();
    let _agent = fleet.robot(dir.path()).await;
    // An intruder on the broker receives all messages.
    let spy = fleet.broker().await;
    let mut received = spy.subscribe("muster.>").await.unwrap();
    wait::flush(&spy).await;
    let ca = fleet.ca();
    // With this setting even an admin's shell is recorded.
    let unrecorded = format!("{SHELL}&record=false");
    assert_eq!(Socket::open(&fleet.api, &ca, &unrecorded, &[]).await.unwrap_err().0, 403);
    // Through query's listener, which forwards to the command process.
    let mut shell = Socket::open(&fleet.api, &ca, SHELL, &[]).await.unwrap();
    let id = shell.wait_for_message("opened").await["session"].as_str().unwrap().to_owned();
    shell.send("echo very-$((0))-secret\r").await;
    shell.wait_for_output("very-0-secret").await;
    let mut messages = 0;
    while let Ok(Some(message)) =
        tokio::time::timeout(Duration::from_millis(500), received.next()).await
    {
        messages += usize::from(message.subject.contains(".ch."));
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        assert!(!text.contains("secret") && !text.contains("very-"), "{}: {text}", message.subject);
    }
    assert!(messages > 2, "nothing was heard of it at all");

    let path = "/api/v1/devices/robot/files?path=/tmp";
    let mut files = Socket::open(&fleet.api, &ca, path, &[]).await.unwrap();
    let files = files.wait_for_message("opened").await["session"].as_str().unwrap().to_owned();
    fleet.command.kill9_and_restart();
    while shell.next().await {}
    fleet.wait_until_ready().await;
    let attach = format!("/api/v1/devices/robot/sessions/{id}/attach?cols=100&rows=30");
    let mut again = Socket::open(&fleet.api, &ca, &attach, &[]).await.unwrap();
    again.wait_for_output("very-0-secret").await;
    again.send("echo still-$((1))-here\r").await;
    again.wait_for_output("still-1-here").await;

    // The sessions of the killed process are recorded as ended or detached.
    let wait_for_session = async |id: &str, what: &str, is_expected: fn(&Value) -> bool| {
        let path = format!("/api/v1/sessions/{id}");
        wait::until(what, WAIT_TIMEOUT, || async {
            let one = fleet.api.get(&path).await;
            is_expected(&one).then_some(one)
        })
        .await
    };
    let files =
        wait_for_session(&files, "the files to be closed", |one| one["status"] == "ended").await;
    assert!(files["reason"].is_string(), "{files}");
    drop(again);
    let shell =
        wait_for_session(&id, "no client to be attached", |one| one["client_count"] == 0).await;
    assert_eq!(
        (&shell["status"], &shell["attachment_count"]),
        (&"open".into(), &2.into()),
        "{shell}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_shell_survives_a_role_restart_and_a_log_outage() {
    let mut fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let _agent = fleet.robot(dir.path()).await;
    let output = dir.path().join("said");
    let file = std::fs::File::create(&output).unwrap();
    let mut shell = Command::new(binary("muster"))
        .args(["shell", "robot"])
        .env("MUSTER_URL", &fleet.api.url)
        .env("MUSTER_TOKEN", &fleet.api.token)
        .env("MUSTER_CA", fleet.ca())
        .env("XDG_CONFIG_HOME", dir.path())
        .stdin(Stdio::piped())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let mut keys = shell.stdin.take().unwrap();
    let mut types = |line: &str| keys.write_all(line.as_bytes()).unwrap();
    let shows = async |expected: &str| {
        wait::until(expected, WAIT_TIMEOUT, || async {
            let text = String::from_utf8_lossy(&std::fs::read(&output).unwrap()).into_owned();
            text.contains(expected).then_some(())
        })
        .await;
    };
    types("echo one-$((1))-one\n");
    shows("one-1-one").await;
    fleet.command.stop();
    fleet.command.restart();
    wait::until("the shell to be attached again", WAIT_TIMEOUT, || async {
        let (_, sessions) = fleet.api.try_send(Method::GET, "/api/v1/sessions", None).await?;
        (sessions["items"][0]["attachment_count"] == 2).then_some(())
    })
    .await;
    types("echo two-$((2))-two\n");
    shows("two-2-two").await;
    // For longer than a piece of the recording waits to be written.
    fleet.postgres.child().stop().await.unwrap();
    types("echo three-$((3))-three\n");
    tokio::time::sleep(Duration::from_secs(8)).await;
    fleet.postgres.child().restart().await.unwrap();
    types("echo four-$((4))-four\n");
    shows("four-4-four").await;
    types("exit 7\n");
    let code = wait::until("the shell to end", WAIT_TIMEOUT, || {
        let ended = shell.try_wait().unwrap();
        async move { ended }
    })
    .await;
    assert_eq!(code.code(), Some(7));
    let listed = fleet.api.list("/api/v1/sessions").await;
    let path = format!("/api/v1/sessions/{}/recording", listed[0]["id"].as_str().unwrap());
    let (status, _, cast) = fleet.api.raw(&path, &[]).await;
    let cast = String::from_utf8_lossy(&cast).into_owned();
    assert!(status == 200 && cast.contains("three-3") && cast.contains("four-4"), "{cast}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_detached_shell_is_recorded() {
    let Robot { system, mut agent, dir: _dir } = Robot::start("").await;
    let opened = async |line: &str| {
        let mut shell = Socket::open(&system.api, &system.ca(), SHELL, &[]).await.unwrap();
        shell.send(line).await;
        shell.wait_for_output("ready").await;
        shell.messages[0]["session"].as_str().unwrap().to_owned()
    };
    let is_ended = |one: &Value| one["status"] == "ended";
    // The program ends while no client is attached.
    let id = opened("echo rea''dy; sleep 2; exit 4\r").await;
    let ended = session(&system, &id, "it to be ended", is_ended).await;
    assert_eq!((&ended["exit_code"], &ended["client_count"]), (&4.into(), &0.into()), "{ended}");
    // The agent is killed, and with it the shell.
    let id = opened("echo rea''dy\r").await;
    session(&system, &id, "it to be left", |one| one["client_count"] == 0).await;
    agent.kill9();
    agent.start();
    let ended = session(&system, &id, "it to be ended", is_ended).await;
    assert_eq!(ended["reason"], UNKNOWN_END, "{ended}");
    let (code, out, _) = system.muster(&["shell", "list", "--json"]);
    assert_eq!((code, out.trim()), (0, "[]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_is_recorded_on_request() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let mut ids = Vec::new();
    for more in ["", "&record_input=true"] {
        let path = format!("{SHELL}{more}");
        let mut shell = Socket::open(&system.api, &system.ca(), &path, &[]).await.unwrap();
        let line =
            "stty -echo; echo rea''dy; read word; stty echo; echo got $word | tr a-z A-Z; exit\r";
        shell.send(line).await;
        shell.wait_for_output("ready").await;
        shell.send("geheim süß\r").await;
        shell.wait_for_output("GOT GEHEIM").await;
        ids.push(shell.messages[0]["session"].as_str().unwrap().to_owned());
    }
    for (id, is_there) in ids.iter().zip([false, true]) {
        let ended = session(&system, id, "it to be ended", |one| one["status"] == "ended").await;
        assert_eq!(ended["input_recorded"], is_there, "{ended}");
        let (_, cast, _) = system.muster(&["shell", "play", id, "--cast"]);
        let typed: String = cast
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event[1] == "i")
            .map(|event| event[2].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(typed.contains("geheim süß\r"), is_there, "{cast}");
        assert_eq!(cast.contains("geheim"), is_there, "{cast}");
    }
    let path = format!("{SHELL}&record=false&record_input=true");
    let rejection = Socket::open(&system.api, &system.ca(), &path, &[]).await.unwrap_err();
    assert_eq!(rejection.0, 400, "{rejection:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_open_sessions() {
    let Robot { system, agent: _agent, dir } = Robot::start("").await;
    let ca = system.ca();
    let made = system.api.post("/api/v1/tokens", &json!({"name": "op", "role": "operator"})).await;
    let operator = system.api.with_token(made["secret"].as_str().unwrap());
    let mut shell = Socket::open(&operator, &ca, SHELL, &[]).await.unwrap();
    let id = shell.wait_for_message("opened").await["session"].as_str().unwrap().to_owned();
    let ticks = dir.path().join("ticks");
    let program =
        format!("(while sleep 0.1; do echo tick >>{}; done); echo never\r", ticks.display());
    shell.send(&program).await;
    let tcp = "/api/v1/devices/robot/files?path=/etc";
    let mut files = Socket::open(&operator, &ca, tcp, &[]).await.unwrap();
    files.wait_for_message("opened").await;
    let size = || std::fs::metadata(&ticks).map_or(0, |file| file.len());
    wait::until("the program to run", WAIT_TIMEOUT, || async { (size() > 0).then_some(()) }).await;
    // The token also follows a run that takes longer than this test.
    let action = json!({"kind": "exec", "argv": ["sleep", "120"]});
    let request = json!({"target": {"kind": "devices", "devices": ["robot"]}, "action": action});
    let operation = operator.post("/api/v1/operations", &request).await["id"].clone();
    let run = format!("/api/v1/operations/{}/runs/robot", operation.as_str().unwrap());
    wait::until("the run to be shown", WAIT_TIMEOUT, || async {
        (operator.send(Method::GET, &run, None).await.0 == 200).then_some(())
    })
    .await;
    let follower = operator.clone();
    let output =
        tokio::spawn(
            async move { follower.raw(&format!("{run}/output?follow=true"), &[]).await.0 },
        );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!output.is_finished());

    let token = made["id"].as_str().unwrap();
    let (status, _) =
        system.api.send(Method::DELETE, &format!("/api/v1/tokens/{token}"), None).await;
    assert!((200..300).contains(&status), "{status}");
    // Both websockets end, and the shell on the device ends, too.
    while shell.next().await {}
    while files.next().await {}
    let followed = tokio::time::timeout(Duration::from_secs(8), output).await;
    assert_eq!(followed.expect("the output goes on").unwrap(), 200);
    session(&system, &id, "it to be ended", |one| one["status"] == "ended").await;
    wait::until("the program to be gone", WAIT_TIMEOUT, || async {
        let before = size();
        tokio::time::sleep(Duration::from_secs(1)).await;
        (size() == before).then_some(())
    })
    .await;
}

/// Shells without an attached client end with the token that opened them, however long their grace
/// time; a restart of the servers forgets none. One that another token has attached to ends, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_detached_shells() {
    let Robot { mut system, agent: _agent, dir } = Robot::start("").await;
    let ca = system.ca();
    let made = system.api.post("/api/v1/tokens", &json!({"name": "op", "role": "operator"})).await;
    let operator = system.api.with_token(made["secret"].as_str().unwrap());
    let grace = format!("{SHELL}&grace_seconds=86400");
    let mut shells = Vec::new();
    for (number, api) in [&operator, &operator, &system.api].into_iter().enumerate() {
        let ticks = dir.path().join(format!("ticks-{number}"));
        let mut shell = Socket::open(api, &ca, &grace, &[]).await.unwrap();
        let id = shell.wait_for_message("opened").await["session"].as_str().unwrap().to_owned();
        shell.send(&format!("while sleep 0.1; do echo tick >>{}; done\r", ticks.display())).await;
        wait::until("the program to run", WAIT_TIMEOUT, || async {
            std::fs::metadata(&ticks).is_ok_and(|file| file.len() > 0).then_some(())
        })
        .await;
        drop(shell);
        session(&system, &id, "it to be left", |one| one["client_count"] == 0).await;
        shells.push((id, ticks));
    }
    system.stop().await;
    system.restart().await;
    muster_tests::robot::online(&system.api).await;
    let attach = format!("/api/v1/devices/robot/sessions/{}/attach", shells[1].0);
    let mut other = Socket::open(&system.api, &ca, &attach, &[]).await.unwrap();
    other.wait_for_message("attached").await;

    let token = made["id"].as_str().unwrap();
    let revoked = system.api.send(Method::DELETE, &format!("/api/v1/tokens/{token}"), None).await;
    assert!((200..300).contains(&revoked.0), "{revoked:?}");
    let started_at = std::time::Instant::now();
    let size = |file: &std::path::Path| std::fs::metadata(file).unwrap().len();
    for (id, ticks) in &shells[..2] {
        wait::until("the program to be gone", WAIT_TIMEOUT, || async {
            let before = size(ticks);
            tokio::time::sleep(Duration::from_secs(1)).await;
            (size(ticks) == before).then_some(())
        })
        .await;
        session(&system, id, "it to be ended", |one| one["status"] == "ended").await;
    }
    println!(
        "ended within {:?} (with a second to see that nothing is written)",
        started_at.elapsed()
    );
    while other.next().await {}
    // The shell of a token that is valid continues.
    let before = size(&shells[2].1);
    wait::until("the other program to go on", WAIT_TIMEOUT, || async {
        (size(&shells[2].1) > before).then_some(())
    })
    .await;
}
