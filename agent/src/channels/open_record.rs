//! The ids of opened channels: each is opened once, even across restarts of the agent.

use muster_schemas::{ChannelId, SessionId, Timestamp};
use redb::ReadableTable;

use crate::store::{OPENED, SESSIONS, Store, StoreError};

/// Records that a channel is opened; false if it was opened before. The record is kept until its
/// open has expired, by the server's time. With a session, the session is recorded as open, and the
/// record is on disk when this returns; otherwise a crash may lose it.
pub(super) fn record_open(
    store: &Store,
    channel: ChannelId,
    expires_at: Timestamp,
    now: Timestamp,
    session: Option<SessionId>,
) -> Result<bool, StoreError> {
    let key = channel.0.as_u128();
    let write = |transaction: &redb::WriteTransaction| {
        const NOTE: &str = "record an opened channel";
        let mut table = transaction.open_table(OPENED).map_err(StoreError::database(NOTE))?;
        let mut old = Vec::new();
        for row in table.iter().map_err(StoreError::database(NOTE))? {
            let (other, expires) = row.map_err(StoreError::database(NOTE))?;
            if other.value() == key {
                return Ok(false);
            }
            if now.micros() > expires.value() {
                old.push(other.value());
            }
        }
        for other in old {
            table.remove(other).map_err(StoreError::database(NOTE))?;
        }
        table.insert(key, expires_at.micros()).map_err(StoreError::database(NOTE))?;
        if let Some(session) = session {
            let mut sessions =
                transaction.open_table(SESSIONS).map_err(StoreError::database(NOTE))?;
            sessions.insert(session.0.as_u128(), ()).map_err(StoreError::database(NOTE))?;
        }
        Ok(true)
    };
    if session.is_some() { store.write(write) } else { store.write_relaxed(write) }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::Folder;

    #[test]
    fn a_channel_is_opened_once_until_its_open_has_expired() {
        let dir = tempfile::tempdir().unwrap();
        let id = |number| ChannelId(Uuid::from_u128(number));
        let note = |store: &Store, number, now, is_shell: bool| {
            let session = is_shell.then(|| SessionId(Uuid::from_u128(number)));
            record_open(store, id(number), Timestamp(100), Timestamp(now), session).unwrap()
        };
        let store = Store::open(Folder::open(dir.path()).unwrap()).unwrap();
        assert!(note(&store, 1, 0, true));
        assert!(!note(&store, 1, 50, false));
        assert!(note(&store, 2, 50, false));
        assert!(!note(&store, 2, 100, true));
        drop(store);
        let store = Store::open(Folder::open(dir.path()).unwrap()).unwrap();
        assert!(!note(&store, 1, 100, true), "started again, it knows");
        // An expired open is refused because of its time, so its record is deleted here.
        assert!(note(&store, 3, 101, true));
        assert!(note(&store, 1, 101, true));
    }
}
