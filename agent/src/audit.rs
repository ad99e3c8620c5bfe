//! The device's audit chain in the store: appended in the transaction of the event it records, sealed into bundles.
//!
//! Entries leave the table only by moving into a sealed bundle, in one transaction; that bundle leaves the spool only on
//! the server's receipt. Signing the head is `telemetry`'s.

pub mod gap;

use std::collections::BTreeMap;

use flotilla_protocol::audit::{AuditBatch, AuditHead, AuditRecord, encode_entry};
use flotilla_protocol::codec::CodecError;
use redb::ReadableTable as _;
use serde_bytes::ByteBuf;

use crate::store::{AUDIT, StoreError, Txn, keys};

/// Longest text of one detail: an entry has a cap, and texts may come from outside.
const MAX_DETAIL_CHARS: usize = 800;

/// An entry as the agent writes it: who is always the agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub event: &'static str,
    pub subject: String,
    pub detail: BTreeMap<String, String>,
}

impl Entry {
    pub fn new(event: &'static str, subject: impl Into<String>) -> Self {
        Self {
            event,
            subject: subject.into(),
            detail: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        let value = value.to_string().chars().take(MAX_DETAIL_CHARS).collect();
        self.detail.insert(key.to_owned(), value);
        self
    }

    fn at(&self, at: i64) -> AuditRecord {
        AuditRecord {
            at,
            actor: "agent".to_owned(),
            event: self.event.to_owned(),
            subject: self.subject.chars().take(MAX_DETAIL_CHARS).collect(),
            detail: self.detail.clone(),
        }
    }
}

/// The chain's end; before the first boot, the start of epoch 0.
pub fn head(txn: &Txn<'_>) -> Result<AuditHead, StoreError> {
    Ok(txn.get(keys::AUDIT_HEAD)?.unwrap_or(AuditHead::start(0)))
}

/// Appends an entry to the chain.
pub fn append(txn: &Txn<'_>, entry: &Entry, at: i64) -> Result<AuditHead, StoreError> {
    append_record(*txn, head(txn)?, &entry.at(at))
}

/// Opens the next epoch by an entry that commits to the previous one's head. The epoch is the boot's number.
pub fn open_epoch(txn: &Txn<'_>, at: i64) -> Result<AuditHead, StoreError> {
    let previous = head(txn)?;
    let opening = previous.epoch_opening(at);
    append_record(*txn, AuditHead::start(previous.epoch.saturating_add(1)), &opening)
}

fn append_record(txn: Txn<'_>, head: AuditHead, record: &AuditRecord) -> Result<AuditHead, StoreError> {
    let bytes = encode_entry(record).map_err(|source| unreadable(head, source))?;
    append_bytes(txn, head, &bytes)
}

fn append_bytes(txn: Txn<'_>, head: AuditHead, entry: &[u8]) -> Result<AuditHead, StoreError> {
    txn.table(AUDIT)?.insert((head.epoch, head.count), entry)?;
    txn.brings_audit();
    let next = head.append(entry);
    txn.put(keys::AUDIT_HEAD, &next)?;
    txn.next(keys::AUDIT_TOTAL)?;
    Ok(next)
}

fn unreadable(head: AuditHead, source: CodecError) -> StoreError {
    StoreError::Value {
        key: format!("audit entry {} of epoch {}", head.count, head.epoch),
        source,
    }
}

/// Entries taken for one bundle: at most `cap` bytes of them (one at least), and the chain's head after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub batches: Vec<AuditBatch>,
    pub head: AuditHead,
}

/// Moves the oldest unsealed entries out of the table. `None` when there are none.
pub fn take(txn: &Txn<'_>, cap: usize) -> Result<Option<Taken>, StoreError> {
    let mut table = txn.table(AUDIT)?;
    let mut head: AuditHead = txn.get(keys::AUDIT_SEALED)?.unwrap_or(AuditHead::start(0));
    let mut batches: Vec<AuditBatch> = Vec::new();
    let mut bytes = 0usize;
    let mut taken = Vec::new();
    for item in table.iter()? {
        let (key, entry) = item?;
        let (epoch, index) = key.value();
        let entry = entry.value();
        if !taken.is_empty() && bytes.saturating_add(entry.len()) > cap {
            break;
        }
        bytes = bytes.saturating_add(entry.len());
        if head.epoch != epoch {
            head = AuditHead::start(epoch);
        }
        head = head.append(entry);
        match batches.last_mut() {
            Some(batch) if batch.epoch == epoch => batch.entries.push(ByteBuf::from(entry.to_vec())),
            _ => batches.push(AuditBatch {
                epoch,
                first: index,
                entries: vec![ByteBuf::from(entry.to_vec())],
            }),
        }
        taken.push((epoch, index));
    }
    if taken.is_empty() {
        return Ok(None);
    }
    for key in taken {
        table.remove(key)?;
    }
    txn.put(keys::AUDIT_SEALED, &head)?;
    Ok(Some(Taken { batches, head }))
}

/// Are there entries that no bundle carries yet?
pub fn waiting(txn: &redb::ReadTransaction) -> Result<bool, StoreError> {
    Ok(txn.open_table(AUDIT)?.first()?.is_some())
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::audit::continue_chain;

    use super::*;
    use crate::store::Store;

    #[test]
    fn what_is_taken_piece_by_piece_over_boots_is_one_chain() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 0).unwrap();
        let mut known = AuditHead::start(0);
        let mut seen = Vec::new();
        for boot in 0..3 {
            store
                .write(|txn| {
                    open_epoch(txn, boot)?;
                    for n in 0..4 {
                        append(
                            txn,
                            &Entry::new("test.event", format!("n:{n}")).with("text", "x".repeat(2000)),
                            boot,
                        )?;
                    }
                    Ok(())
                })
                .unwrap();
            // A cap that splits epochs over bundles; the second boot leaves everything to the third.
            while boot != 1
                && let Some(taken) = store.write(|txn| take(txn, 2500)).unwrap()
            {
                for batch in &taken.batches {
                    let (head, records) = continue_chain(known, batch).unwrap();
                    known = head;
                    seen.extend(records);
                }
                assert_eq!(known, taken.head);
            }
        }
        assert_eq!(seen.len(), 15);
        assert!(!store.read(waiting).unwrap());
        assert_eq!(store.write(head).unwrap(), known);
    }
}
