//! NATS decentralized JWTs: operator → account → user, created here from their documented claims.
//!
//! Pure functions: the issue time is an argument. The published crates for this format are
//! unmaintained, or create bearer tokens by default; the format is small.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use muster_schemas::wire::MAX_DEVICE_CHANNELS;
use muster_schemas::wire::internal::OUTPUT_READ_SUBJECT;
use muster_schemas::{DeviceId, ProjectId, Timestamp, subjects};
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha512_256};

/// Subjects that a device may use. The tags are in its JWT.
const DEVICE_SUBJECTS: &str = "muster.{{tag(project)}}.{{tag(device)}}";

/// Maximum size of a device's message, in bytes; the broker disconnects a device that sends more.
const MAX_DEVICE_PAYLOAD_BYTES: u32 = 512 * 1024;

/// Maximum number of a device's subscriptions in addition to those of its channels: commands,
/// acknowledgments, replies, and some that the device has dropped and the broker still has.
const MAX_OTHER_SUBSCRIPTIONS: usize = 64;

/// A key could not sign.
#[derive(Debug, thiserror::Error)]
#[error("failed to sign a NATS JWT: {0}")]
pub struct JwtError(String);

/// Signs claims; `jti` is their hash.
fn sign(
    issuer: &KeyPair,
    subject: &str,
    name: &str,
    issued_at: Timestamp,
    expires_at: Option<Timestamp>,
    nats: Value,
) -> Result<String, JwtError> {
    let mut claims = json!({
        "iat": issued_at.seconds(),
        "iss": issuer.public_key(),
        "sub": subject,
        "name": name,
    });
    claims["nats"] = nats;
    if let Some(at) = expires_at {
        claims["exp"] = json!(at.seconds());
    }
    let id = Sha512_256::digest(claims.to_string().as_bytes());
    claims["jti"] = json!(BASE32_NOPAD.encode(&id));
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let body = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(header.to_string().as_bytes()),
        BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
    );
    let signature = issuer.sign(body.as_bytes()).map_err(|error| JwtError(error.to_string()))?;
    Ok(format!("{body}.{}", BASE64URL_NOPAD.encode(&signature)))
}

/// Creates the operator's JWT.
///
/// # Errors
/// When the key cannot sign.
pub fn operator(
    operator: &KeyPair,
    system_account: &str,
    issued_at: Timestamp,
) -> Result<String, JwtError> {
    let nats = json!({"type": "operator", "version": 2, "system_account": system_account});
    sign(operator, &operator.public_key(), "muster", issued_at, None, nats)
}

fn limits(jetstream: bool) -> Value {
    let mut limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1,
    });
    if jetstream {
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            limits[limit] = json!(-1);
        }
    }
    limits
}

/// Creates the system account's JWT.
///
/// # Errors
/// When the key cannot sign.
pub fn system_account(
    operator: &KeyPair,
    account: &str,
    issued_at: Timestamp,
) -> Result<String, JwtError> {
    let nats = json!({
        "type": "account", "version": 2, "limits": limits(false), "default_permissions": {},
    });
    sign(operator, account, "system", issued_at, None, nats)
}

/// Streams that an account exports: every account of the operator may import them.
fn exports(subjects: &[&str], claims: &str) -> Value {
    subjects
        .iter()
        .chain([&claims])
        .map(|subject| json!({"name": subject, "subject": subject, "type": "stream"}))
        .collect()
}

/// Streams that an account imports from another.
///
/// While the broker applies new claims, an account has no imports for a moment, and a subscription
/// made at that moment would never receive a message of the other account. The broker connects all
/// subscriptions again only if the new imports differ, so the last one contains a number that is
/// different in each version of the claims.
fn imports(account: &str, subjects: &[&str], claims: &str, version: u64) -> Value {
    let claims = claims.replace('*', &version.to_string());
    subjects
        .iter()
        .copied()
        .chain([claims.as_str()])
        .map(|subject| {
            json!({"name": subject, "subject": subject, "account": account, "type": "stream"})
        })
        .collect()
}

/// Creates the JWT of the account of the server roles and of the JetStream streams. Messages of
/// devices are imported from their account, subject by subject.
///
/// # Errors
/// When the key cannot sign.
pub fn server_account(
    operator: &KeyPair,
    account: &str,
    devices: &str,
    issued_at: Timestamp,
    version: u64,
) -> Result<String, JwtError> {
    let nats = json!({
        "type": "account",
        "version": 2,
        "limits": limits(true),
        "default_permissions": {},
        "exports": exports(&subjects::TO_DEVICES, subjects::CLAIMS_OF_SERVER),
        "imports": imports(
            devices,
            &subjects::FROM_DEVICES,
            subjects::CLAIMS_OF_DEVICES,
            version,
        ),
    });
    sign(operator, account, "muster", issued_at, None, nats)
}

/// Whether two account JWTs are signed by the operator and have the same claims, except for their
/// issue time and version.
#[must_use]
pub fn have_same_claims(operator: &KeyPair, one: &str, other: &str) -> bool {
    let claims = claims_of(operator, one);
    claims.is_some() && claims == claims_of(operator, other)
}

/// Returns the subject and the claims of an account JWT that the operator has signed, without the
/// import that names its version.
fn claims_of(operator: &KeyPair, jwt: &str) -> Option<(Value, Value)> {
    let (signed, signature) = jwt.rsplit_once('.')?;
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?;
    operator.verify(signed.as_bytes(), &signature).ok()?;
    let body = BASE64URL_NOPAD.decode(signed.split_once('.')?.1.as_bytes()).ok()?;
    let mut jwt: Value = serde_json::from_slice(&body).ok()?;
    let mut claims = jwt.get_mut("nats")?.take();
    let is_version = |import: &Value| {
        let subject = import.get("subject").and_then(Value::as_str).unwrap_or_default();
        [subjects::CLAIMS_OF_DEVICES, subjects::CLAIMS_OF_SERVER]
            .iter()
            .any(|claims| subject.starts_with(claims.trim_end_matches('*')))
    };
    if let Some(imports) = claims.get_mut("imports").and_then(Value::as_array_mut) {
        imports.retain(|import| !is_version(import));
    }
    Some((jwt.get_mut("sub")?.take(), claims))
}

/// Creates the JWT of the account of all devices. It has no JetStream and no server role: a
/// device's messages reach the account `server` only on the exported subjects. `device_key` is the
/// scoped signing key: JWTs that it signs have a device's permissions. `revoked` lists user keys,
/// each with the time up to which its JWTs are invalid.
///
/// # Errors
/// When the key cannot sign.
pub fn device_account(
    operator: &KeyPair,
    account: &str,
    server: &str,
    device_key: &str,
    revoked: &[(String, Timestamp)],
    issued_at: Timestamp,
    version: u64,
) -> Result<String, JwtError> {
    let publish = subjects::DEVICE_PUBLISHES.map(|what| format!("{DEVICE_SUBJECTS}.{what}"));
    let mut subscribe =
        subjects::DEVICE_SUBSCRIBES.map(|what| format!("{DEVICE_SUBJECTS}.{what}")).to_vec();
    subscribe.push(format!("_INBOX.{DEVICE_SUBJECTS}.>"));
    let revocations: serde_json::Map<String, Value> =
        revoked.iter().map(|(key, at)| (key.clone(), json!(at.seconds()))).collect();
    let nats = json!({
        "type": "account",
        "version": 2,
        "limits": limits(false),
        "default_permissions": {},
        "exports": exports(&subjects::FROM_DEVICES, subjects::CLAIMS_OF_DEVICES),
        "imports": imports(server, &subjects::TO_DEVICES, subjects::CLAIMS_OF_SERVER, version),
        "revocations": revocations,
        "signing_keys": [{
            "kind": "user_scope",
            "key": device_key,
            "role": "device",
            "template": {
                "pub": {"allow": publish},
                "sub": {"allow": subscribe},
                "subs": MAX_DEVICE_CHANNELS + MAX_OTHER_SUBSCRIPTIONS,
                "data": -1,
                "payload": MAX_DEVICE_PAYLOAD_BYTES,
                "allowed_connection_types": ["STANDARD", "WEBSOCKET"],
            },
        }],
    });
    sign(operator, account, "devices", issued_at, None, nats)
}

/// Creates a device's user JWT, signed by the scoped signing key. It contains no permissions: those
/// are the scope's. The ids in the tags cannot widen them, because neither can contain `.`, `*` or
/// `>`.
///
/// # Errors
/// When the key cannot sign.
pub fn device(
    device_key: &KeyPair,
    account: &str,
    user: &str,
    project: &ProjectId,
    device: DeviceId,
    issued_at: Timestamp,
    expires_at: Timestamp,
) -> Result<String, JwtError> {
    let nats = json!({
        "type": "user",
        "version": 2,
        "issuer_account": account,
        "tags": [format!("project:{project}"), format!("device:{device}")],
    });
    sign(device_key, user, &device.to_string(), issued_at, Some(expires_at), nats)
}

/// Subjects that the query role may publish on: to read from JetStream, and to report read output.
const QUERY_PUBLISHES: [&str; 9] = [
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.DIRECT.GET.>",
    "$JS.API.CONSUMER.>",
    "$JS.ACK.>",
    "$JS.FC.>",
    OUTPUT_READ_SUBJECT,
];

/// Creates the JWT of a server role, for all subjects of its account.
///
/// # Errors
/// When the key cannot sign.
pub fn role(
    account: &KeyPair,
    user: &str,
    name: &str,
    issued_at: Timestamp,
) -> Result<String, JwtError> {
    // The read side sends nothing to devices, and changes no stream.
    let publish = match name {
        "query" => json!({"allow": QUERY_PUBLISHES}),
        _ => json!({}),
    };
    let mut nats = json!({
        "type": "user", "version": 2, "pub": publish, "sub": {}, "subs": -1, "data": -1,
        "payload": -1,
    });
    if name == "query" {
        // It responds to requests of other roles.
        nats["resp"] = json!({"max": 1, "ttl": 60_000_000_000_u64});
    }
    sign(account, user, name, issued_at, None, nats)
}
