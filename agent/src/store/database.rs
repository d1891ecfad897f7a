//! The redb file: its tables, its format version, and its transactions.
//!
//! Invariant: after a failed write or sync redb accepts nothing until it is opened again, so every
//! such failure opens it again; earlier commits are not lost.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use muster_schemas::{Epoch, Seq, codec};
use parking_lot::{Mutex, MutexGuard};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::StoreError;
use super::folder::Folder;

/// The newest format that this agent supports.
pub const FORMAT: u32 = 1;

/// Small values by name, CBOR.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Sealed events by epoch and seq.
pub(crate) const EVENTS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("events");
/// The key of an event in [`EVENTS`].
pub(crate) const fn event_key((epoch, seq): (Epoch, Seq)) -> (u64, u64) {
    (epoch.get(), seq.get())
}

/// The event with a key of [`EVENTS`].
pub(crate) const fn event_of_key((epoch, seq): (u64, u64)) -> (Epoch, Seq) {
    (Epoch(epoch), Seq(seq))
}

/// Age entries: the newest confirmed event by time (microseconds, at intervals of an hour).
pub(crate) const AGE_ENTRIES: TableDefinition<'_, i64, (u64, u64)> = TableDefinition::new("marks");
/// Metric batches that wait to be sent, by their position in the queue.
pub(crate) const BACKLOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("backlog");

/// The journal of runs, by operation.
pub(crate) const RUNS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("runs");
/// Private parts of runs that have not started yet, by operation.
pub(crate) const RUN_INPUTS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("run_inputs");

/// Expiry of the accepted opens of channels, in the server's microseconds, by channel.
pub(crate) const OPENED: TableDefinition<'_, u128, i64> = TableDefinition::new("opened");

/// Open shells, by session.
pub(crate) const SESSIONS: TableDefinition<'_, u128, ()> = TableDefinition::new("sessions");

/// The names of the small values.
pub mod key {
    /// Identity of the device.
    pub const IDENTITY: &str = "identity";
    /// The newest rotation of the signing key.
    pub const ROTATION: &str = "rotation";
    /// A requested enrollment without a response.
    pub const PENDING_ENROLLMENT: &str = "pending_enrollment";
    /// The keys that the next enrollment will use.
    pub const NEXT_KEYS: &str = "next_keys";
    /// The broker credentials.
    pub const CREDENTIALS: &str = "credentials";
    /// State of the outbox.
    pub const OUTBOX: &str = "outbox";
    /// The relation to the server's clock.
    pub const ANCHOR: &str = "anchor";
    /// The config variables.
    pub const CONFIG: &str = "config";
    /// Fingerprint of the inventory that was reported last.
    pub const INVENTORY: &str = "inventory";
    pub(super) const FORMAT: &str = "format";
}

/// Size of redb's page cache, in bytes. The outbox is written, and read once; redb's own default is
/// 1 GiB.
const CACHE_BYTES: usize = 256 * 1024;

/// The agent's database.
pub struct Store {
    path: PathBuf,
    /// `None` only between a failure and the next use.
    database: Mutex<Option<Database>>,
    /// The lock, held while the database is used.
    folder: Folder,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the folder's database; creates it if it is missing.
    ///
    /// # Errors
    /// When it cannot be opened, or has a newer format.
    pub fn open(folder: Folder) -> Result<Self, StoreError> {
        let path = folder.database();
        // redb would make it readable for all users.
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                // A copied or restored file may be open to others.
                let is_open = file.metadata()?.permissions().mode() & 0o077 != 0;
                if is_open { file.set_permissions(Permissions::from_mode(0o600)) } else { Ok(()) }
            })
            .map_err(|source| StoreError::File { attempted: "open", path: path.clone(), source })?;
        let store = Self { path, database: Mutex::new(None), folder };
        store.check_format()?;
        Ok(store)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        // Every table exists from the start, so that reading never finds a missing one.
        let found = self.write(|transaction| {
            let found: Option<u32> = get(transaction, key::FORMAT)?;
            if found.is_none() {
                put(transaction, key::FORMAT, &FORMAT)?;
            }
            // An older database gets the tables that were added later; an older agent does not
            // touch them.
            if found.unwrap_or(FORMAT) <= FORMAT {
                transaction.open_table(EVENTS).map_err(StoreError::database("create a table"))?;
                transaction
                    .open_table(AGE_ENTRIES)
                    .map_err(StoreError::database("create a table"))?;
                transaction.open_table(BACKLOG).map_err(StoreError::database("create a table"))?;
                transaction.open_table(RUNS).map_err(StoreError::database("create a table"))?;
                transaction
                    .open_table(RUN_INPUTS)
                    .map_err(StoreError::database("create a table"))?;
                transaction.open_table(OPENED).map_err(StoreError::database("create a table"))?;
                transaction.open_table(SESSIONS).map_err(StoreError::database("create a table"))?;
            }
            Ok(found.unwrap_or(FORMAT))
        })?;
        if found > FORMAT {
            return Err(StoreError::Newer { path: self.path.clone(), found, known: FORMAT });
        }
        Ok(())
    }

    /// The folder of the database.
    #[must_use]
    pub const fn folder(&self) -> &Folder {
        &self.folder
    }

    fn database(&self) -> Result<MutexGuard<'_, Option<Database>>, StoreError> {
        // A panic while the lock was held left at most an uncommitted transaction.
        let mut database = self.database.lock();
        if database.is_none() {
            let opened = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create(&self.path)
                .map_err(StoreError::database("open the file"))?;
            *database = Some(opened);
        }
        Ok(database)
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut database = self.database()?;
        let Some(open) = database.as_ref() else {
            return Err(StoreError::Damaged {
                what: "the file",
                problem: "the database is closed".into(),
            });
        };
        let outcome = work(open);
        if outcome.as_ref().is_err_and(StoreError::is_io) {
            *database = None;
        }
        outcome
    }

    /// Writes in one transaction that is on disk when this returns; it blocks until then.
    ///
    /// # Errors
    /// The error of `what`, or of the commit; then nothing is written.
    pub fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write_with(Durability::Immediate, work)
    }

    /// Like [`Self::write`], but a crash may undo it, until the next [`Self::write`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_relaxed<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write_with(Durability::None, work)
    }

    fn write_with<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(|database| {
            let mut transaction = database
                .begin_write()
                .map_err(StoreError::database("start a write transaction"))?;
            transaction.set_durability(durability).map_err(|error| StoreError::Damaged {
                what: "the file",
                problem: error.to_string(),
            })?;
            // After a power loss the device is ready immediately, independent of the outbox's size.
            transaction.set_quick_repair(matches!(durability, Durability::Immediate));
            let value = work(&transaction)?;
            transaction.commit().map_err(StoreError::database("commit"))?;
            Ok(value)
        })
    }

    /// Reads a consistent snapshot.
    ///
    /// # Errors
    /// The error of `what`.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(|database| {
            let transaction =
                database.begin_read().map_err(StoreError::database("start a read transaction"))?;
            work(&transaction)
        })
    }

    /// Reads a small value.
    ///
    /// # Errors
    /// When the read fails.
    pub fn get<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, StoreError> {
        self.read(|transaction| {
            let table =
                transaction.open_table(META).map_err(StoreError::database("open a table"))?;
            let value = table.get(name).map_err(StoreError::database("read"))?;
            value.map(|bytes| decode(name, bytes.value())).transpose()
        })
    }

    /// Stores a small value.
    ///
    /// # Errors
    /// When the write fails.
    pub fn put<T: Serialize>(&self, name: &'static str, value: &T) -> Result<(), StoreError> {
        self.write(|transaction| put(transaction, name, value))
    }

    /// Stores a small value that a crash may lose.
    ///
    /// # Errors
    /// When the write fails.
    pub fn put_relaxed<T: Serialize>(
        &self,
        name: &'static str,
        value: &T,
    ) -> Result<(), StoreError> {
        self.write_relaxed(|transaction| put(transaction, name, value))
    }
}

fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    codec::decode(bytes).map_err(|error| StoreError::Damaged { what, problem: error.to_string() })
}

/// Reads a small value in a transaction.
pub(crate) fn get<T: DeserializeOwned>(
    transaction: &WriteTransaction,
    name: &'static str,
) -> Result<Option<T>, StoreError> {
    let table = transaction.open_table(META).map_err(StoreError::database("open a table"))?;
    let value = table.get(name).map_err(StoreError::database("read"))?;
    value.map(|bytes| decode(name, bytes.value())).transpose()
}

/// Stores a small value in a transaction.
pub(crate) fn put<T: Serialize>(
    transaction: &WriteTransaction,
    name: &'static str,
    value: &T,
) -> Result<(), StoreError> {
    let mut table = transaction.open_table(META).map_err(StoreError::database("open a table"))?;
    table.insert(name, codec::encode(value).as_slice()).map_err(StoreError::database("write"))?;
    Ok(())
}

/// Deletes a small value in a transaction.
pub(crate) fn remove(transaction: &WriteTransaction, name: &'static str) -> Result<(), StoreError> {
    let mut table = transaction.open_table(META).map_err(StoreError::database("open a table"))?;
    table.remove(name).map_err(StoreError::database("write"))?;
    Ok(())
}
