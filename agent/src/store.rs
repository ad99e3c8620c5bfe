//! What the agent remembers across power cuts: one redb file with a version.
//!
//! A newer layout is refused, an older one would be migrated, nothing is ever wiped. One [`Store::write`] is one durable
//! transaction: all of it or nothing. When the disk is full, even deleting needs space: a reserve file is given up then,
//! the database is opened again (redb refuses to go on after an I/O error) and the transaction is tried once more. When that
//! fails too, what is stored can still be read; opening a store that has all its tables writes none.
//!
//! Does not know what the values mean: `audit`, `trust_state`, `spool` and `ota` do.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use flotilla_protocol::codec::{self, CodecError};
use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition, TableError,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::files::{self, FileError};

/// The layout that this code writes.
const LAYOUT: u32 = 2;
/// Largest single value; the spool's records are far smaller.
const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Single values by name.
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
/// Audit entries not yet sealed, by epoch and index.
pub const AUDIT: TableDefinition<'static, (u64, u64), &'static [u8]> = TableDefinition::new("audit");
/// Sealed records, by boot epoch, sequence number and nonce: a [`RecordKey`](flotilla_protocol::messages::RecordKey)'s order.
pub const SPOOL: TableDefinition<'static, (u64, u64, u32), &'static [u8]> = TableDefinition::new("records");
/// One update state per slot.
pub const SLOTS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("slots");
/// Which chunks of a part file are there, by the blob's digest.
pub const PARTS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("parts");

/// Names in [`META`].
pub mod keys {
    pub const LAYOUT: &str = "layout";
    pub const BOOT_EPOCH: &str = "boot-epoch";
    pub const SPOOL_SEQ: &str = "spool-seq";
    pub const AUDIT_HEAD: &str = "audit-head";
    pub const AUDIT_SEALED: &str = "audit-sealed";
    /// Entries of the chain since enrolment, less those that were declared lost.
    pub const AUDIT_TOTAL: &str = "audit-total";
    /// The last telemetry record that may have been sent.
    pub const SPOOL_SENT: &str = "spool-sent";
    pub const TRUST: &str = "trust";
    pub const ENROLLED: &str = "enrolled";
    pub const DESIRED: &str = "desired-state";
    pub const ENDPOINT: &str = "endpoint";
    pub const REPORT_COUNTER: &str = "report-counter";
    pub const LAST_ATTACK: &str = "last-attack";
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the agent's store {}: {source}", path.display())]
    Database { path: PathBuf, source: Box<redb::Error> },
    #[error(
        "the agent's store {} has layout {found}, this agent knows up to {LAYOUT}: run a newer agent, nothing was changed",
        path.display()
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("'{key}' in the agent's store cannot be read or written: {source}")]
    Value { key: String, source: CodecError },
    #[error(transparent)]
    Redb(Box<redb::Error>),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the agent's store is closed after an I/O error that could not be repaired")]
    Closed,
}

macro_rules! from_redb {
    ($($error:ty),+) => {$(
        impl From<$error> for StoreError {
            fn from(source: $error) -> Self {
                Self::Redb(Box::new(source.into()))
            }
        }
    )+};
}
from_redb!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

impl StoreError {
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Redb(source) | Self::Database { source, .. } => {
                matches!(source.as_ref(), redb::Error::Io(error) if files::is_disk_full(error))
            }
            Self::File(error) => error.is_disk_full(),
            _ => false,
        }
    }

    /// The database must be closed and opened again.
    fn needs_reopening(&self) -> bool {
        matches!(self, Self::Closed)
            || matches!(self, Self::Redb(source) if matches!(source.as_ref(), redb::Error::Io(_) | redb::Error::PreviousIo))
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    db: RwLock<Option<Database>>,
    reserve: PathBuf,
    reserve_bytes: u64,
    /// Told of every transaction that brought audit entries.
    audited: Notify,
    #[cfg(test)]
    full: std::sync::atomic::AtomicBool,
}

impl Store {
    /// Opens `agent.redb` in `dir`, or makes it. `reserve_bytes` are kept on disk for the day it is full.
    pub fn open(dir: &Path, reserve_bytes: u64) -> Result<Self, StoreError> {
        let (path, reserve) = (dir.join("agent.redb"), dir.join("reserve"));
        let db = match open_database(&path) {
            Err(why) if why.is_disk_full() => {
                give_up(&reserve)?;
                open_database(&path)?
            }
            opened => opened?,
        };
        let store = Self {
            db: RwLock::new(Some(db)),
            path,
            reserve,
            reserve_bytes,
            audited: Notify::new(),
            #[cfg(test)]
            full: std::sync::atomic::AtomicBool::new(false),
        };
        // With a full disk, what is installed must be found all the same.
        if !store.is_complete()? {
            store.complete()?;
        }
        store.keep_reserve();
        Ok(store)
    }

    /// Are all tables there, in the layout that this code writes?
    fn is_complete(&self) -> Result<bool, StoreError> {
        let there = self.read(|txn| {
            Ok(exists(txn.open_table(META).map(drop))?
                && exists(txn.open_table(AUDIT).map(drop))?
                && exists(txn.open_table(SPOOL).map(drop))?
                && exists(txn.open_table(SLOTS).map(drop))?
                && exists(txn.open_table(PARTS).map(drop))?)
        })?;
        Ok(there && self.get::<u32>(keys::LAYOUT)? == Some(LAYOUT))
    }

    /// Makes the tables that are missing, once, so that readers find them, and brings an older layout up to this one.
    fn complete(&self) -> Result<(), StoreError> {
        self.write(|txn| {
            txn.table(AUDIT)?;
            txn.table(SPOOL)?;
            txn.table(SLOTS)?;
            txn.table(PARTS)?;
            match txn.get::<u32>(keys::LAYOUT)? {
                None => txn.put(keys::LAYOUT, &LAYOUT),
                Some(LAYOUT) => Ok(()),
                Some(1) => migrate_1(*txn),
                Some(found) => Err(StoreError::Newer {
                    path: self.path.clone(),
                    found,
                }),
            }
        })
    }

    /// One durable transaction. `work` may run twice (see the module's documentation), so it must only touch the
    /// transaction.
    pub fn write<T>(&self, work: impl Fn(&Txn<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        on_disk(|| {
            let first = match self.try_write(&work) {
                Err(error) if error.needs_reopening() => error,
                other => return other,
            };
            if first.is_disk_full() {
                self.release_reserve()?;
            }
            warn!(error = %first, "the store is opened again and the transaction tried once more");
            self.reopen()?;
            let second = self.try_write(&work);
            let broken = second.as_ref().is_err_and(StoreError::needs_reopening);
            if broken && let Err(why) = self.reopen() {
                error!(%why, "the store cannot be read until it can be opened again");
            }
            second
        })
    }

    fn try_write<T>(&self, work: &impl Fn(&Txn<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        #[cfg(test)]
        self.refuse_if_full()?;
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let txn = db.as_ref().ok_or(StoreError::Closed)?.begin_write()?;
        let audited = Cell::new(false);
        let value = work(&Txn {
            txn: &txn,
            audited: &audited,
        })?;
        txn.commit()?;
        if audited.get() {
            self.audited.notify_one();
        }
        Ok(value)
    }

    /// From now on every transaction fails as on a full disk, or none any more.
    #[cfg(test)]
    pub(crate) fn pretend_full(&self, full: bool) {
        self.full.store(full, std::sync::atomic::Ordering::SeqCst);
    }

    #[cfg(test)]
    fn refuse_if_full(&self) -> Result<(), StoreError> {
        if self.full.load(std::sync::atomic::Ordering::SeqCst) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(StoreError::Redb(Box::new(redb::Error::Io(full))));
        }
        Ok(())
    }

    /// Returns when audit entries have been written since it last did. One waiter at a time.
    pub async fn audited(&self) {
        self.audited.notified().await;
    }

    pub fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.is_closed() {
            self.reopen()?;
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let txn = db.as_ref().ok_or(StoreError::Closed)?.begin_read()?;
        work(&txn)
    }

    fn is_closed(&self) -> bool {
        self.db.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// A single value by name.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        self.read(|txn| match txn.open_table(META)?.get(key)? {
            Some(bytes) => decode(key, bytes.value()).map(Some),
            None => Ok(None),
        })
    }

    pub fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        self.write(|txn| txn.put(key, value))
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        // The old handle holds the file's lock: it goes first.
        db.take();
        *db = Some(open_database(&self.path)?);
        Ok(())
    }

    /// Gives up the reserve. Made again at the next start with space.
    pub fn release_reserve(&self) -> Result<(), StoreError> {
        give_up(&self.reserve)
    }

    /// Has the reserve on disk if there is space for it.
    pub fn keep_reserve(&self) {
        let there = self
            .reserve
            .metadata()
            .is_ok_and(|meta| meta.len() == self.reserve_bytes);
        if there || self.reserve_bytes == 0 {
            return;
        }
        let made = File::create(&self.reserve).and_then(|file| {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.reserve_bytes)?;
            file.sync_all()
        });
        match made {
            Ok(()) => info!(bytes = self.reserve_bytes, "reserve made"),
            Err(error) => {
                warn!(%error, path = %self.reserve.display(), "no reserve can be made");
                if let Err(error) = files::remove_if_there(&self.reserve) {
                    warn!(%error, "the torn reserve stays");
                }
            }
        }
    }
}

fn give_up(reserve: &Path) -> Result<(), StoreError> {
    if reserve.exists() {
        warn!(path = %reserve.display(), "the disk is full: the reserve is given up");
    }
    Ok(files::remove_if_there(reserve)?)
}

/// A table that was opened to see whether it is there.
fn exists(opened: Result<(), TableError>) -> Result<bool, StoreError> {
    match opened {
        Ok(()) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(why) => Err(why.into()),
    }
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    files::create_private_file(path)?;
    redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create(path)
        .map_err(|source| StoreError::Database {
            path: path.to_owned(),
            source: Box::new(source.into()),
        })
}

/// The spool of layout 1, whose records had no nonce: no server tells theirs apart from a restored device's.
const SPOOL_1: TableDefinition<'static, (u64, u64), &'static [u8]> = TableDefinition::new("spool");

fn migrate_1(txn: Txn<'_>) -> Result<(), StoreError> {
    {
        let old = txn.table(SPOOL_1)?;
        let mut new = txn.table(SPOOL)?;
        for record in old.iter()? {
            let (key, value) = record?;
            let (epoch, seq) = key.value();
            new.insert((epoch, seq, 0), value.value())?;
        }
    }
    txn.txn.delete_table(SPOOL_1)?;
    txn.put(keys::LAYOUT, &LAYOUT)
}

/// A transaction being written.
#[derive(Clone, Copy)]
pub struct Txn<'a> {
    txn: &'a WriteTransaction,
    audited: &'a Cell<bool>,
}

impl std::fmt::Debug for Txn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Txn")
    }
}

impl<'a> Txn<'a> {
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let table = self.txn.open_table(META)?;
        let value = table.get(key)?;
        value.map(|bytes| decode(key, bytes.value())).transpose()
    }

    pub fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        self.put_encoded(key, &encode(key, value)?)
    }

    /// A single value that [`encode`] has made.
    pub fn put_encoded(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.txn.open_table(META)?.insert(key, bytes)?;
        Ok(())
    }

    /// The transaction brings audit entries: whoever seals them is told once it is durable.
    pub fn brings_audit(&self) {
        self.audited.set(true);
    }

    /// A counter's next value, kept.
    pub fn next(&self, key: &str) -> Result<u64, StoreError> {
        let next = self.get::<u64>(key)?.unwrap_or(0).saturating_add(1);
        self.put(key, &next)?;
        Ok(next)
    }

    pub fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Table<'a, K, V>, StoreError> {
        Ok(self.txn.open_table(definition)?)
    }
}

/// CBOR under the name of what it is.
pub fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    codec::to_vec(value).map_err(|source| StoreError::Value {
        key: key.to_owned(),
        source,
    })
}

pub fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    codec::from_slice(bytes, MAX_VALUE_BYTES).map_err(|source| StoreError::Value {
        key: key.to_owned(),
        source,
    })
}

/// Runs work that waits for the disk without stalling the other tasks of this worker thread.
pub fn on_disk<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use redb::ReadableTableMetadata as _;

    use super::*;

    #[test]
    fn the_records_of_layout_1_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let old = open_database(&dir.path().join("agent.redb")).unwrap();
        let txn = old.begin_write().unwrap();
        let audited = Cell::new(false);
        let writing = Txn {
            txn: &txn,
            audited: &audited,
        };
        writing.put(keys::LAYOUT, &1u32).unwrap();
        writing.table(SPOOL_1).unwrap().insert((3, 9), &[2u8, 7][..]).unwrap();
        txn.commit().unwrap();
        drop(old);
        for _ in 0..2 {
            let store = Store::open(dir.path(), 0).unwrap();
            let kept = store.read(|txn| {
                let table = txn.open_table(SPOOL)?;
                let value = table.get((3, 9, 0))?.map(|value| value.value().to_vec());
                Ok((table.len()?, value))
            });
            assert_eq!(kept.unwrap(), (1, Some(vec![2, 7])));
            assert_eq!(store.get::<u32>(keys::LAYOUT).unwrap(), Some(LAYOUT));
        }
    }

    #[test]
    fn a_transaction_is_all_or_nothing_and_a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 4096).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("reserve")).unwrap().len(), 4096);
        store.put(keys::REPORT_COUNTER, &7u64).unwrap();
        let failed: Result<(), _> = store.write(|txn| {
            txn.put(keys::REPORT_COUNTER, &8u64)?;
            Err(StoreError::Closed)
        });
        assert!(failed.is_err());
        assert_eq!(store.get::<u64>(keys::REPORT_COUNTER).unwrap(), Some(7));
        store.put(keys::LAYOUT, &(LAYOUT + 1)).unwrap();
        drop(store);
        let refused = Store::open(dir.path(), 0).unwrap_err();
        assert!(matches!(refused, StoreError::Newer { found: 3, .. }), "{refused}");
        let counter = open_database(&dir.path().join("agent.redb")).unwrap();
        assert!(counter.begin_read().unwrap().open_table(SLOTS).is_ok());
    }

    #[test]
    fn the_store_is_for_its_owner_also_where_it_was_for_others() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.redb");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let store = Store::open(dir.path(), 0).unwrap();
        store.put(keys::REPORT_COUNTER, &7u64).unwrap();
        assert_eq!(mode(), 0o600);
        drop(store);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let store = Store::open(dir.path(), 0).unwrap();
        assert_eq!(mode(), 0o600);
        assert_eq!(store.get::<u64>(keys::REPORT_COUNTER).unwrap(), Some(7));
    }

    #[test]
    fn on_a_full_disk_the_reserve_is_given_up_and_what_is_stored_can_still_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 4096).unwrap();
        store.put(keys::REPORT_COUNTER, &7u64).unwrap();
        store.pretend_full(true);
        let why = store.put(keys::REPORT_COUNTER, &8u64).unwrap_err();
        assert!(why.is_disk_full(), "{why}");
        assert!(!dir.path().join("reserve").exists());
        assert_eq!(store.get::<u64>(keys::REPORT_COUNTER).unwrap(), Some(7));
        store.pretend_full(false);
        store.put(keys::REPORT_COUNTER, &8u64).unwrap();
        assert_eq!(store.get::<u64>(keys::REPORT_COUNTER).unwrap(), Some(8));
    }

    #[test]
    fn a_complete_store_is_opened_without_a_transaction() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 0).unwrap();
        assert!(store.is_complete().unwrap());
        store.put(keys::LAYOUT, &(LAYOUT + 1)).unwrap();
        assert!(!store.is_complete().unwrap(), "another layout is looked at");
    }

    #[tokio::test]
    async fn whoever_seals_is_told_of_audit_entries_and_of_nothing_else() {
        use crate::audit::{self, Entry};
        use futures_util::FutureExt as _;

        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 0).unwrap();
        store.put(keys::REPORT_COUNTER, &7u64).unwrap();
        assert!(store.audited().now_or_never().is_none());
        let entry = Entry::new("test.event", "n:1");
        let failed: Result<(), _> = store.write(|txn| {
            audit::append(txn, &entry, 1)?;
            Err(StoreError::Closed)
        });
        assert!(failed.is_err() && store.audited().now_or_never().is_none());
        store.write(|txn| audit::append(txn, &entry, 1)).unwrap();
        assert!(store.audited().now_or_never().is_some());
        assert!(store.audited().now_or_never().is_none());
    }
}
