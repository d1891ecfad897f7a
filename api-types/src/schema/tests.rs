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
    assert_values::<super::RunStatus>(&muster_schemas::RunState::ALL);
    assert_values::<super::DisconnectReason>(
        &variants!(events::DisconnectReason: Closed, Silent, Gone),
    );
    assert_values::<super::LossCause>(&variants!(events::LossCause: OutboxFull, Pruned, Damaged));
}

#[test]
fn structs_have_the_described_fields() {
    assert_fields::<super::EnrollRequest>(&wire::EnrollRequest {
        request: String::new(),
        nats_proof: String::new(),
        previous: Some("x".to_owned()),
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

#[test]
fn the_example_of_a_hash_is_written_as_described() {
    let pattern = described::<super::Hash>()["pattern"].as_str().unwrap().to_owned();
    assert_eq!(pattern, "^[0-9a-f]{64}$");
    let text = json!(Hash::of(b"x"));
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    assert!(text.as_str().is_some_and(|text| text.len() == 64 && text.chars().all(is_hex)));
}
