//! The descriptions have the fields and variants that the published language has.

use std::collections::BTreeSet;

use muster_schemas::{Epoch, Hash, Timestamp, events, wire};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::PartialSchema;

fn described<T: PartialSchema>() -> Value {
    serde_json::to_value(T::schema()).unwrap()
}

/// Asserts that a struct has exactly the described fields; `value` has all optional ones.
fn assert_fields<T: PartialSchema>(value: &impl Serialize) {
    let value = serde_json::to_value(value).unwrap();
    assert_same_keys(&described::<T>(), &value);
}

fn assert_same_keys(schema: &Value, value: &Value) {
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&schema["properties"]), keys(value), "{schema}");
}

/// Asserts that an enumeration has exactly the described values.
fn assert_values<T: PartialSchema>(values: &[impl Serialize]) {
    assert_eq!(described::<T>()["enum"], json!(values));
}

/// All variants of an enumeration; does not compile when one is missing.
macro_rules! variants {
    ($enumeration:ty: $($variant:ident),*) => {{
        let _ = |value: $enumeration| match value { $(<$enumeration>::$variant => ()),* };
        [$(<$enumeration>::$variant),*]
    }};
}

#[test]
fn enumerations_have_the_described_values() {
    assert_values::<super::AbortCause>(&variants!(events::AbortCause: Asked, Failures));
    assert_values::<super::RefusalCause>(
        &variants!(events::RefusalCause: Policy, Invalid, PrivatePart, Busy, Unsupported),
    );
    assert_values::<super::EraseCause>(&variants!(events::EraseCause: Asked, Kept, Replaced));
    assert_values::<super::Role>(&variants!(events::Role: Viewer, Operator, Admin, Auditor));
    assert_values::<super::RunState>(&muster_schemas::RunState::ALL);
    assert_values::<super::DisconnectReason>(
        &variants!(events::DisconnectReason: Closed, Silent, Gone),
    );
    assert_values::<super::LossCause>(&variants!(events::LossCause: OutboxFull, Pruned, Damaged));
}

#[test]
fn structs_have_the_described_fields() {
    let text = || Some("x".to_owned());
    assert_fields::<super::OutputSummary>(&events::OutputSummary::default());
    assert_fields::<super::DeviceInventoryReported>(&events::DeviceInventoryReported::default());
    assert_fields::<super::Interface>(&events::Interface::default());
    assert_fields::<super::Exec>(&exec());
    assert_fields::<super::Upload>(&upload());
    assert_fields::<super::EnrollRequest>(&wire::EnrollRequest {
        request: String::new(),
        nats_proof: String::new(),
        previous: text(),
    });
    assert_fields::<super::EnrollResponse>(&wire::EnrollResponse {
        project: "default".parse().unwrap(),
        device: muster_schemas::DeviceId(uuid::Uuid::nil()),
        name: "robot-7".parse().unwrap(),
        epoch: Epoch(1),
        operation_key: String::new(),
        credentials: credentials(),
        dropped_labels: vec!["env".parse().unwrap()],
    });
    assert_fields::<super::EnrollWaiting>(&wire::EnrollWaiting {
        project: "default".parse().unwrap(),
        device: muster_schemas::DeviceId(uuid::Uuid::nil()),
        name: "robot-7".parse().unwrap(),
        retry_after: 5,
    });
    assert_fields::<super::NonceRequest>(&wire::NonceRequest {
        project: "default".parse().unwrap(),
        device: muster_schemas::DeviceId(uuid::Uuid::nil()),
    });
    let nonce = wire::NonceResponse { nonce: String::new(), server_time: Timestamp(0) };
    assert_fields::<super::NonceResponse>(&nonce);
    let request = wire::CredentialsRequest { request: String::new() };
    assert_fields::<super::CredentialsRequest>(&request);
    assert_fields::<super::CredentialsResponse>(&credentials());
}

fn credentials() -> wire::CredentialsResponse {
    wire::CredentialsResponse {
        jwt: String::new(),
        expires_at: Timestamp(0),
        servers: Vec::new(),
        server_time: Timestamp(0),
    }
}

fn exec() -> events::Exec {
    events::Exec {
        program: events::Program::Shell("uptime".to_owned()),
        cwd: Some("/".to_owned()),
        user: Some("robot".to_owned()),
        env: vec!["LANG".to_owned()],
        background: true,
    }
}

fn upload() -> events::Upload {
    events::Upload {
        path: "/var/log/app.log".to_owned(),
        remove_source: true,
        replace: true,
        keep_seconds: Some(1),
        max_bytes: Some(1),
        bytes_per_second: Some(1),
    }
}

#[test]
fn kinds_of_actions_and_sessions_have_the_described_fields() {
    let log_level = events::Action::LogLevel { level: "info".to_owned(), seconds: Some(1) };
    let actions = [
        events::Action::Exec(exec()),
        events::Action::RestartAgent,
        events::Action::Reboot,
        events::Action::Diagnostics,
        log_level,
        events::Action::Upload(upload()),
    ];
    assert_kinds(&described::<super::Action>(), &actions.map(|it| json!(it)));
    let (text, path) = (Some("x".to_owned()), "/".to_owned());
    let sessions = [
        events::SessionKind::Shell { user: text.clone(), command: text },
        events::SessionKind::Tcp { host: "localhost".to_owned(), port: 22 },
        events::SessionKind::Files { path, write: true },
    ];
    assert_kinds(&described::<super::SessionKind>(), &sessions.map(|it| json!(it)));
    let programs =
        [events::Program::Argv(vec!["true".to_owned()]), events::Program::Shell("true".to_owned())];
    let described = described::<super::Program>();
    let variants = described["oneOf"].as_array().unwrap();
    assert_eq!(variants.len(), programs.len());
    for (variant, program) in variants.iter().zip(programs) {
        assert_same_keys(variant, &json!(program));
    }
}

/// Asserts that each described variant has the `kind` and the fields of the value.
fn assert_kinds(schema: &Value, values: &[Value]) {
    let variants = schema["oneOf"].as_array().unwrap();
    assert_eq!(variants.len(), values.len(), "{schema}");
    for (variant, value) in variants.iter().zip(values) {
        let tagged = variant["allOf"].get(1).unwrap_or(variant);
        assert_eq!(tagged["properties"]["kind"]["enum"][0], value["kind"]);
        // The other fields of a variant with a struct are those of the struct.
        if variant["allOf"].is_null() {
            assert_same_keys(variant, value);
        }
    }
}

#[test]
fn the_example_of_a_hash_is_written_as_described() {
    let pattern = described::<super::Hash>()["pattern"].as_str().unwrap().to_owned();
    assert_eq!(pattern, "^[0-9a-f]{64}$");
    let text = json!(Hash::of(b"x"));
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    assert!(text.as_str().is_some_and(|text| text.len() == 64 && text.chars().all(is_hex)));
}
