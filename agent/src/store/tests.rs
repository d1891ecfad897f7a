//! Tests of the folder's lock and modes, and of the format version.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_folder_is_locked_by_one_agent_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/data");
    let store = Store::open(Folder::open(&path).unwrap()).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("agent.redb")), 0o600);
    assert!(store.folder().free_bytes().is_some_and(|free| free > 0));
    let error = Folder::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(store);
    Store::open(Folder::open(&path).unwrap()).unwrap();
}

#[test]
fn values_survive_a_restart_and_a_newer_format_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(Folder::open(dir.path()).unwrap());
    let store = open().unwrap();
    store.put(key::INVENTORY, &7_u64).unwrap();
    assert_eq!(store.get::<u64>(key::CONFIG).unwrap(), None);
    drop(store);
    let store = open().unwrap();
    assert_eq!(store.get::<u64>(key::INVENTORY).unwrap(), Some(7));
    assert!(matches!(store.get::<String>(key::INVENTORY), Err(StoreError::Damaged { .. })));
    store.put("format", &(FORMAT + 1)).unwrap();
    drop(store);
    let error = open().unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
}

#[test]
fn a_folder_that_others_can_access_is_restricted_or_rejected() {
    let open_up = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    open_up(dir.path(), 0o755);
    drop(Store::open(Folder::open(dir.path()).unwrap()).unwrap());
    assert_eq!(mode(dir.path()), 0o700);
    let database = Folder::database_in(dir.path());
    open_up(dir.path(), 0o755);
    open_up(&database, 0o644);
    drop(Store::open(Folder::open(dir.path()).unwrap()).unwrap());
    assert_eq!((mode(dir.path()), mode(&database)), (0o700, 0o600));
    // A folder of other programs, such as /etc.
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("passwd"), "").unwrap();
    open_up(foreign.path(), 0o755);
    assert!(matches!(Folder::open(foreign.path()), Err(StoreError::Foreign { mode: 0o755, .. })));
    assert_eq!(mode(foreign.path()), 0o755);
    // A folder of another user, which only root could use.
    let other = tempfile::tempdir().unwrap();
    if std::os::unix::fs::chown(other.path(), Some(65534), None).is_ok() {
        let error = Folder::open(other.path()).unwrap_err();
        assert!(matches!(error, StoreError::OtherOwner { owner: 65534, .. }), "{error}");
    }
}
