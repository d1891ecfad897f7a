//! The OpenAPI document: the file in the repository equals the served one, every operation is fully
//! described, and a running server conforms to it (schemathesis).

mod names;

use std::path::{Path, PathBuf};

use muster_tests::System;
use muster_tests::agent::AgentProcess;
use serde_json::{Value, json};

const UPDATE: &str = "MUSTER_UPDATE_OPENAPI";

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

fn document() -> Value {
    serde_json::from_str(&muster_server::openapi_document().to_json().unwrap()).unwrap()
}

#[test]
fn the_committed_documents_match_the_served_ones() {
    let document = muster_server::openapi_document().to_pretty_json().unwrap() + "\n";
    let older = muster_server::openapi_3_0_document().unwrap();
    let older = serde_json::to_string_pretty(&older).unwrap() + "\n";
    for (name, served) in [("openapi.json", document), ("openapi-3.0.json", older)] {
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(docs(name), &served).unwrap();
        }
        let kept = std::fs::read_to_string(docs(name)).unwrap_or_default();
        assert!(
            kept == served,
            "docs/{name} is not what the server serves. Is the change meant? Then run\n  \
             {UPDATE}=1 make test ARGS=the_committed_documents\nand commit the file."
        );
    }
}

/// The target of a `$ref`.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

/// The schemas of which a response has an example.
fn shown_schemas(document: &Value) -> Vec<Value> {
    let operations = document["paths"].as_object().unwrap().values();
    let operations = operations.flat_map(|item| item.as_object().unwrap().values());
    let responses = operations.flat_map(|it| it["responses"].as_object().unwrap().values());
    let bodies = responses.flat_map(|it| it["content"].as_object().into_iter().flatten());
    bodies
        .filter(|(_, body)| !body["example"].is_null())
        .map(|(_, body)| body["schema"]["$ref"].clone())
        .filter(Value::is_string)
        .collect()
}

#[test]
fn every_operation_is_completely_described() {
    let document = document();
    let tags: Vec<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = std::collections::BTreeSet::new();
    // A write responds with the resource, of which the read has an example.
    let shown_schemas = shown_schemas(&document);
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
            assert!(!id.is_empty() && ids.insert(id), "{what} has no operationId of its own");
            let tag = operation["tags"].get(0);
            assert!(tag.is_some_and(|tag| tags.contains(&tag)), "{what} has no known tag");
            assert!(operation["summary"].is_string(), "{what} has no summary");
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses {
                let Some(content) = response["content"].as_object() else {
                    let is_empty = ["101", "204"].contains(&status.as_str());
                    assert!(is_empty, "{what}: {status} has no described body");
                    continue;
                };
                if status.starts_with('2') {
                    let body = content.values().next().unwrap();
                    let shown = [&body["example"], &resolve(&document, &body["schema"])["example"]];
                    let is_shown = shown.iter().any(|example| !example.is_null())
                        || shown_schemas.contains(&body["schema"]["$ref"]);
                    assert!(is_shown, "{what}: no example");
                }
            }
            // 101 is the success status of a websocket.
            let is_success = |status: &String| status.starts_with('2') || status == "101";
            assert!(responses.keys().any(is_success), "{what}: no success");
            if path.starts_with("/api/") {
                let needs_token = operation["security"][0].get("bearer").is_some();
                let statuses: &[&str] = if needs_token {
                    &["400", "401", "403", "500", "503"]
                } else {
                    &["400", "500"]
                };
                for status in statuses {
                    let problem = &responses.get(*status).unwrap_or(&Value::Null)["content"];
                    assert!(problem["application/problem+json"].is_object(), "{what}: {status}");
                }
            }
        }
    }
}

fn schemathesis() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = folder("MUSTER_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("muster")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/muster")))
        .unwrap();
    let program = cache.join("bin/schemathesis");
    assert!(program.is_file(), "{} is missing; run: scripts/deps test", program.display());
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_conforms_to_its_document() {
    let system = System::start().await;
    for name in ["robot-7", "robot-8"] {
        let body = json!({"name": name, "labels": {"env": "prod"}});
        system.api.post("/api/v1/devices", &body).await;
    }
    // A device that has enrolled and is offline: operations are requested, and never run.
    let (token, agent) = (system.api.enrollment_token(3).await, tempfile::tempdir().unwrap());
    let _agent = AgentProcess::enroll(agent.path(), &system.api.url, &token, "robot-9");
    let enrolled = system.api.get("/api/v1/devices/robot-9").await["id"].clone();
    let viewer = json!({"name": "grafana", "role": "viewer"});
    system.api.post("/api/v1/tokens", &viewer).await;

    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = tokio::process::Command::new(schemathesis())
        .arg("--config-file")
        .arg(tests.join("schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", system.api.url)])
        .arg("--tls-verify")
        .arg(system.ca())
        .args(["--header", &format!("Authorization: Bearer {}", system.api.token)])
        .args(["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "10"])
        .args(["--generation-deterministic", "--continue-on-failure", "--no-color"])
        .args(["--request-timeout", "20", "--warnings", "off"])
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("PYTHONPATH", tests)
        .env("MUSTER_TEST_DEVICE", enrolled.as_str().unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // It writes its own files into the working directory.
        .current_dir(system.dir())
        .output()
        .await
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(report.contains("No issues found"), "did it run at all?\n{report}");
}
