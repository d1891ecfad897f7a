//! Tests of keys: created once, private, and never replaced when damaged.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use muster_schemas::{ProjectId, Timestamp};

use super::*;

const NOW: Timestamp = Timestamp(1_795_420_800_000_000);

#[test]
fn keys_are_created_once_and_only_their_owner_can_read_them() {
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
fn a_folder_that_others_can_access_is_restricted_or_rejected() {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let open_up = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    // An empty folder is taken over.
    let keys = dir.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    open_up(&keys, 0o755);
    KeyStore::open(&keys).unwrap();
    assert_eq!(mode(&keys), 0o700);
    // The key folder with relaxed permissions: its files are restricted, too.
    open_up(&keys, 0o755);
    open_up(&keys.join("nonce.key"), 0o644);
    open_up(&keys.join("authority.key"), 0o640);
    KeyStore::open(&keys).unwrap();
    assert_eq!(mode(&keys), 0o700);
    assert_eq!(mode(&keys.join("nonce.key")), 0o600);
    assert_eq!(mode(&keys.join("authority.key")), 0o600);
    // A folder of other programs, such as /srv, is unchanged.
    let foreign = dir.path().join("srv");
    std::fs::create_dir_all(foreign.join("web")).unwrap();
    open_up(&foreign, 0o755);
    let error = KeyStore::open(&foreign).unwrap_err();
    assert!(matches!(error, KeyError::OpenToOthers { mode: 0o755, .. }), "{error}");
    assert_eq!(mode(&foreign), 0o755);
}

/// Only root can change a folder's owner, and use the folder of another user.
#[test]
fn a_folder_of_another_user_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    if std::os::unix::fs::chown(dir.path(), Some(65534), None).is_err() {
        return;
    }
    let error = KeyStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, KeyError::OtherOwner { owner: 65534, .. }), "{error}");
}

#[test]
fn each_listener_has_its_own_key_and_the_https_key_is_pinned() {
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
    keys.write_role_folders(&names, NOW).unwrap();
    let handed = |role| RoleKeys::open(dir.path(), role).unwrap().certificates.unwrap();
    assert_eq!(handed("query").pin().unwrap(), pins[0]);
    assert_eq!(handed("ingest").pin().unwrap(), pins[1]);
    // No key that proves authority, or signs orders for devices, is copied.
    for role in ["ingest", "query"] {
        let files = std::fs::read_dir(dir.path().join("roles").join(role)).unwrap();
        let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        assert!(names.iter().any(|name| name == "authority.pub"), "{names:?}");
        for secret in [
            "authority.key",
            "ca.key",
            "nonce.key",
            "token-secrets.key",
            "config-secrets.key",
            "nats-device-signing.seed",
        ] {
            assert!(!names.iter().any(|name| name == secret), "{role} has {secret}");
        }
    }
}

#[test]
fn a_damaged_key_is_reported_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    KeyStore::open(dir.path()).unwrap();
    let path = dir.path().join("nats-account.seed");
    std::fs::write(&path, "garbage").unwrap();
    let error = KeyStore::open(dir.path()).unwrap_err();
    assert!(matches!(&error, KeyError::Unusable { path: named, .. } if *named == path), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "garbage");
}

#[test]
fn versions_of_the_same_claims_differ_in_their_imports() {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyStore::open(&dir.path().join("keys")).unwrap();
    let later = Timestamp(NOW.micros() + 1);
    let revoked = [("UABC".to_owned(), NOW)];
    for make in
        [KeyStore::device_account_jwt, |keys: &KeyStore, _: &[_], at| keys.server_account_jwt(at)]
    {
        let (one, other) = (make(&keys, &[], NOW).unwrap(), make(&keys, &[], later).unwrap());
        assert!(keys.have_same_claims(&one, &other));
        assert_ne!(imports(&one), imports(&other));
        for foreign in ["", "a.eyJuYXRzIjoxfQ.b"] {
            assert!(!keys.have_same_claims(&one, foreign));
            assert!(!keys.have_same_claims(foreign, foreign));
        }
        let elsewhere = KeyStore::open(&dir.path().join("other")).unwrap();
        assert!(!elsewhere.have_same_claims(&one, &one), "signed by another operator");
    }
    let one = keys.device_account_jwt(&[], NOW).unwrap();
    let other = keys.device_account_jwt(&revoked, NOW).unwrap();
    assert!(!keys.have_same_claims(&one, &other));
    // An import of the same subject in both directions would be a cycle, which the broker refuses.
    let server = imports(&keys.server_account_jwt(NOW).unwrap());
    assert!(imports(&one).iter().all(|subject| !server.contains(subject)));
}

/// The imported subjects of an account.
fn imports(jwt: &str) -> Vec<String> {
    let claims = data_encoding::BASE64URL_NOPAD.decode(jwt.split('.').nth(1).unwrap().as_bytes());
    let claims: serde_json::Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    let imports = claims["nats"]["imports"].as_array().unwrap().iter();
    imports.map(|import| import["subject"].as_str().unwrap().to_owned()).collect()
}
