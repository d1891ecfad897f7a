//! Every subcommand that destroys or interrupts something asks for confirmation.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{Method, Uri};
use clap::{Command, CommandFactory, Parser};
use serde_json::{Value, json};

use super::*;
use crate::args::{Args as Line, run};

/// Subcommands that destroy or interrupt something, each with valid arguments.
const CONFIRMED: &[(&str, &[&str])] = &[
    ("api-token revoke", &["id"]),
    ("context remove", &["kept"]),
    ("device delete", &["robot"]),
    ("device reboot", &["robot", "--detach"]),
    ("device reject", &["robot"]),
    ("device restart-agent", &["robot", "--detach"]),
    ("device revoke", &["robot"]),
    ("operation abort", &["id"]),
    ("operation cancel", &["id", "robot"]),
    ("project archive", &["id"]),
    ("shell end", &["id"]),
    ("token revoke", &["id"]),
    ("upload cancel", &["id"]),
    ("upload delete", &["id"]),
];
/// Subcommands that ask only when a selector matches many devices.
const CONFIRMED_FOR_MANY: &[(&str, &[&str])] = &[
    ("device diagnostics", &["env=prod"]),
    ("device log-level", &["debug", "env=prod"]),
    ("exec", &["env=prod", "--", "true"]),
    ("upload start", &["env=prod", "/etc/hostname"]),
];
/// Subcommands that neither destroy nor interrupt, except what belongs to this command itself.
const HARMLESS: &[&str] = &[
    "api-token create",
    "api-token list",
    "bootstrap",
    "completions",
    "connect",
    "context add",
    "context list",
    "context use",
    "cp",
    "dead-letter list",
    "dead-letter retry",
    "dead-letter show",
    "device accept",
    "device config",
    "device label",
    "device list",
    "device register",
    "device rename",
    "device rotate-key",
    "device show",
    "doctor",
    "events",
    "forward",
    "grafana check",
    "grafana export",
    "grafana user",
    "health",
    "metrics",
    "operation explain",
    "operation list",
    "operation output",
    "operation pause",
    "operation resume",
    "operation runs",
    "operation show",
    "operation wait",
    "prepare",
    "project create",
    "project list",
    "project rename",
    "project restore",
    "project set",
    "replay",
    "selectors",
    "serve",
    "sftp",
    "shell",
    "shell attach",
    "shell list",
    "shell play",
    "shell search",
    "simulate",
    "status",
    "token create",
    "token list",
    "token show",
    "up",
    "upload get",
    "upload link",
    "upload list",
    "upload show",
];

/// Collects the executable subcommands, and whether each has `--yes`.
fn subcommands(command: &Command, path: &str, found: &mut Vec<(String, bool)>) {
    for inner in command.get_subcommands() {
        let path = format!("{path} {}", inner.get_name()).trim_start().to_owned();
        if !inner.has_subcommands() || inner.get_positionals().next().is_some() {
            let asks = inner.get_arguments().any(|argument| argument.get_id() == "yes");
            found.push((path.clone(), asks));
        }
        subcommands(inner, &path, found);
    }
}

#[test]
fn every_subcommand_is_listed_with_or_without_confirmation() {
    let mut found = Vec::new();
    subcommands(&Line::command(), "", &mut found);
    let asking: BTreeSet<&str> =
        CONFIRMED.iter().chain(CONFIRMED_FOR_MANY).map(|(path, _)| *path).collect();
    let harmless: BTreeSet<&str> = HARMLESS.iter().copied().collect();
    for (path, takes_yes) in &found {
        let (asks, harms_none) = (asking.contains(path.as_str()), harmless.contains(path.as_str()));
        assert!(
            asks != harms_none,
            "does `muster {path}` destroy or interrupt anything? List it here, and let it ask"
        );
        assert_eq!(*takes_yes, asks, "`muster {path}` and --yes");
    }
    let known: BTreeSet<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    let listed: BTreeSet<&str> = asking.union(&harmless).copied().collect();
    assert_eq!(listed.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// Returns the fields of a device, a run, an upload and a session.
fn item(id: uuid::Uuid, name: &str) -> Value {
    let time = "2026-11-23T08:00:00Z";
    json!({
        "id": id, "device": {"id": id, "name": name}, "operation": id, "name": name,
        "status": "online", "labels": {}, "created_at": time, "created_by": "x", "version": 1,
        "epochs": [], "config": {}, "event_counts": {}, "flags": {}, "updated_position": 1,
        "requested_at": time, "late": false, "path": "/x", "received_bytes": 0,
        "remove_source": false, "replace": false, "max_bytes": 1, "access": {"kind": "shell"},
        "client_count": 1, "attachment_count": 1, "recorded": true, "input_recorded": false,
        "recording_bytes": 0,
    })
}

/// Starts a server that responds to the commands' requests, and records the writes.
async fn server() -> (String, Arc<Mutex<Vec<String>>>) {
    let writes = Arc::new(Mutex::new(Vec::new()));
    let noted = writes.clone();
    let respond = move |method: Method, uri: Uri| {
        let noted = noted.clone();
        async move {
            let device = |number: u128| {
                let id = uuid::Uuid::from_u128(number);
                item(id, &format!("robot-{number}"))
            };
            if method != Method::GET {
                noted.lock().unwrap().push(format!("{method} {}", uri.path()));
                let id = uuid::Uuid::from_u128(1);
                return axum::Json(json!({
                    "id": id, "device_count": 1, "version": 1, "position": 1, "ended": true
                }));
            }
            axum::Json(match uri.path() {
                "/api/v1/devices" => {
                    json!({"items": (1..=12).map(device).collect::<Vec<Value>>()})
                }
                "/api/v1/uploads" => json!({"items": [device(1)]}),
                path if path.ends_with("/runs") => json!({"items": [device(1), device(2)]}),
                _ => device(1),
            })
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, Router::new().fallback(respond)).into_future());
    (url, writes)
}

async fn muster(url: &str, path: &str, args: &[&str], yes: bool) -> Result<()> {
    let token = tempfile::NamedTempFile::new()?;
    std::fs::write(token.path(), "mst_x")?;
    let file = token.path().display().to_string();
    let mut line = vec!["muster", "--url", url, "--token-file", &file];
    line.extend(path.split(' '));
    line.extend(yes.then_some("--yes"));
    line.extend(args);
    Box::pin(run(Line::try_parse_from(line)?)).await
}

#[tokio::test]
async fn without_a_terminal_destructive_commands_require_yes() {
    let (url, writes) = server().await;
    let taken = || std::mem::take(&mut *writes.lock().unwrap());
    // `context remove` changes a file of this user, not the server.
    for (path, args) in CONFIRMED.iter().filter(|(path, _)| *path != "context remove") {
        let error = muster(&url, path, args, false).await.unwrap_err();
        assert!(
            error.is::<UsageError>() && error.to_string().contains("--yes"),
            "{path}: {error:#}"
        );
        assert_eq!(taken(), Vec::<String>::new(), "{path}");
        muster(&url, path, args, true).await.unwrap();
        assert_eq!(taken().len(), 1, "{path}");
    }
    for (path, args) in CONFIRMED_FOR_MANY {
        let error = muster(&url, path, args, false).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("12") && text.contains("robot-1, robot-2"), "{path}: {text}");
        assert_eq!(taken(), Vec::<String>::new(), "{path}");
    }
    let error = muster(&url, "device revoke", &["-l", "env=prod"], false).await.unwrap_err();
    let text = error.to_string();
    let named = (1..=10).map(|n| format!("robot-{n}")).collect::<Vec<_>>().join(", ");
    for part in ["revoke", "12", &named, "2", "--yes"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("robot-11"), "{text}");
    let error = muster(&url, "operation abort", &["id"], false).await.unwrap_err();
    assert!(error.to_string().contains("robot-1, robot-2"), "{error:#}");
}

#[test]
fn a_confirmation_prompt_names_its_targets() {
    let named = |count: usize| (1..=count).map(|n| format!("robot-{n}")).collect::<Vec<_>>();
    let question = |names: &[String]| Action { verb: "revoke", noun: "device", names }.question();
    for (count, parts) in [
        (1, vec!["revoke device robot-1", "[y/N]"]),
        (2, vec!["revoke 2 devices", "  robot-1\n  robot-2\n", "[y/N]"]),
        (11, vec!["revoke 11 devices", "  robot-10\n", " 1 ", "[y/N]"]),
    ] {
        let text = question(&named(count));
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert!(!text.contains("robot-11"), "{text}");
    }
    for (typed, expected) in
        [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("n", false)]
    {
        assert_eq!(is_yes(&mut typed.as_bytes()).unwrap(), expected, "{typed:?}");
    }
}
