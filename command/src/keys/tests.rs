//! Keys are made once, kept private, and a damaged one is named, never replaced.

use std::os::unix::fs::PermissionsExt;

use super::*;

const NOW: Timestamp = Timestamp(1_795_420_800_000_000);

#[test]
fn keys_are_made_once_and_only_their_owner_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let first = KeyStore::open(&keys).unwrap();
    first.certificates(Listener::Https, &["localhost".into(), "127.0.0.1".into()], NOW).unwrap();
    let pin = first.ca_pin().unwrap();
    let operation = first.operation_key(&ProjectId::default_project()).unwrap().thumbprint();
    let identity = first.broker_identity().unwrap();

    let second = KeyStore::open(&keys).unwrap();
    second.certificates(Listener::Https, &["localhost".into(), "elsewhere".into()], NOW).unwrap();
    assert_eq!(second.ca_pin().unwrap(), pin);
    assert_eq!(
        second.operation_key(&ProjectId::default_project()).unwrap().thumbprint(),
        operation
    );
    assert_eq!(second.broker_identity().unwrap().accounts, identity.accounts);
    for file in std::fs::read_dir(&keys).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{file:?}");
    }
}

#[test]
fn each_listener_has_a_key_of_its_own_and_the_pinned_one_is_https() {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyStore::open(dir.path()).unwrap();
    let names = ["localhost".to_owned()];
    let all = [
        Listener::Https,
        Listener::Ingest,
        Listener::Command,
        Listener::Broker,
        Listener::Postgres,
    ];
    let pins = all.map(|listener| keys.certificates(listener, &names, NOW).unwrap().pin().unwrap());
    let different: std::collections::BTreeSet<_> = pins.iter().collect();
    assert_eq!(different.len(), all.len());
    assert_eq!(keys.server_pin().unwrap(), pins[0]);
    keys.hand_out(&names, NOW).unwrap();
    let handed = |role| RoleKeys::open(dir.path(), role).unwrap().certificates.unwrap();
    assert_eq!(handed("query").pin().unwrap(), pins[0]);
    assert_eq!(handed("ingest").pin().unwrap(), pins[1]);
    // Nothing that proves authority, or signs what devices act on, is handed out.
    for role in ["ingest", "query"] {
        let files = std::fs::read_dir(dir.path().join("roles").join(role)).unwrap();
        let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        assert!(names.iter().any(|name| name == "authority.pub"), "{names:?}");
        for secret in ["authority.key", "ca.key", "nonce.key", "nats-device-signing.seed"] {
            assert!(!names.iter().any(|name| name == secret), "{role} has {secret}");
        }
    }
}

#[test]
fn a_damaged_key_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    KeyStore::open(dir.path()).unwrap();
    let path = dir.path().join("nats-account.seed");
    std::fs::write(&path, "garbage").unwrap();
    let error = KeyStore::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("nats-account.seed") && error.contains("backup"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "garbage");
}
