//! The server's audit log: a hash chain, appended in the same transaction as the change it records; and the devices'
//! chains as they were verified on arrival.
//!
//! Columns beside an entry say again what it says, so that entries are found; what counts is the entry. `verify` notices where
//! they differ.

mod filter;
mod verify;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use flotilla_api_types::audit::AuditEvent;
use flotilla_api_types::devices::DeviceAuditGap;
use flotilla_protocol::audit::{
    AUDIT_GAP, AuditBatch, AuditGap, AuditHead, AuditRecord, MAX_ENTRY_BYTES, encode_entry,
};
use flotilla_protocol::codec;
use flotilla_protocol::ids::DeviceId;
use futures_util::TryStreamExt as _;
use sqlx::Row as _;
use tokio::sync::watch;

use crate::clock;
use crate::store::{Db, StoreError, Tx, overview, parsed, statements, to_i64, to_u64};

pub use filter::{AuditFilter, beginning_with, sample_queries};
pub use verify::{verify, verify_device};

statements! {
    LAST = "SELECT idx, hash FROM audit_log ORDER BY idx DESC LIMIT 1";
    APPEND = "INSERT INTO audit_log (idx, at, event, actor, subject, entry, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    UNFILED = "SELECT idx, entry FROM audit_log WHERE actor IS NULL ORDER BY idx LIMIT $1";
    FILE = "UPDATE audit_log SET actor = $1, subject = $2 WHERE idx = $3";
    LIST_FROM = "SELECT idx, entry FROM audit_log WHERE idx >= $1 ORDER BY idx LIMIT $2";
    WALK = "SELECT idx, at, event, actor, subject, entry, hash FROM audit_log WHERE idx >= $1 ORDER BY idx LIMIT $2";
    DEVICE_HEAD = "SELECT epoch, entries, hash FROM device_audit_heads WHERE device = $1";
    DEVICE_APPEND = "INSERT INTO device_audit (device, epoch, idx, at, event, entry) VALUES ($1, $2, $3, $4, $5, $6)";
    DEVICE_SET_HEAD = "INSERT INTO device_audit_heads (device, epoch, entries, hash, envelope) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (device) DO UPDATE SET epoch = excluded.epoch, entries = excluded.entries, hash = excluded.hash,
        envelope = excluded.envelope";
    DEVICE_LIST = "SELECT epoch, idx, entry FROM device_audit WHERE device = $1 AND (epoch < $2 OR (epoch = $2 AND idx < $3))
        ORDER BY epoch DESC, idx DESC";
    DEVICE_WALK = "SELECT device, epoch, idx, at, event, entry FROM device_audit WHERE device > $1 AND device <= $2
        ORDER BY device, epoch, idx";
    DEVICE_WALK_ONE = "SELECT device, epoch, idx, at, event, entry FROM device_audit WHERE device = $1 ORDER BY epoch, idx";
    DEVICE_WALK_REST = "SELECT device, epoch, idx, at, event, entry FROM device_audit WHERE device > $1
        ORDER BY device, epoch, idx";
    DEVICE_HEADS = "SELECT device, epoch, entries, hash FROM device_audit_heads WHERE device > $1 ORDER BY device LIMIT $2";
    DEVICE_SPAN = "SELECT idx, entry FROM device_audit WHERE device = $1 AND epoch = $2 AND idx >= $3 AND idx < $4
        ORDER BY idx";
    DEVICE_GAPS = "SELECT epoch, entry FROM device_audit WHERE device = $1 AND idx = 0 AND event = $2
        ORDER BY epoch DESC LIMIT $3";
    DEVICE_COUNT = "SELECT COUNT(*) FROM device_audit WHERE device = $1";
}

/// The server's log is one epoch.
const SERVER_EPOCH: u64 = 0;
/// Entries filed in one transaction.
const OLD_ENTRIES: i64 = 500;

/// How often this process has appended to the server's log: whoever follows the log looks when it changes, and not by the clock.
static APPENDED: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));

/// Changes whenever the server's log is about to grow. The entry is committed later, or never: [`settled`] waits for that.
pub fn appended() -> watch::Receiver<u64> {
    APPENDED.subscribe()
}

/// Resolves when what was appended before is committed or rolled back. There is one writer: that is when it is free.
pub async fn settled(db: &Db) -> Result<(), StoreError> {
    Ok(db.begin().await?.rollback().await?)
}

/// Appends to the server's log, inside the transaction of the change it speaks of.
pub async fn append(tx: &mut Tx, record: &AuditRecord) -> Result<AuditHead, StoreError> {
    let head = last_head(tx).await?;
    let entry = encode_entry(record).map_err(|why| StoreError::corrupt("audit record", why))?;
    let next = head.append(&entry);
    sqlx::query(APPEND)
        .bind(to_i64(head.count))
        .bind(record.at)
        .bind(&record.event)
        .bind(&record.actor)
        .bind(&record.subject)
        .bind(&entry)
        .bind(next.hash.to_string())
        .execute(&mut **tx)
        .await?;
    if let Some(device) = record.subject.strip_prefix("device:") {
        overview::add_log(tx, device, head.count).await?;
    }
    APPENDED.send_modify(|count| *count = count.wrapping_add(1));
    Ok(next)
}

async fn last_head(tx: &mut Tx) -> Result<AuditHead, StoreError> {
    let Some(row) = sqlx::query(LAST).fetch_optional(&mut **tx).await? else {
        return Ok(AuditHead::start(SERVER_EPOCH));
    };
    Ok(AuditHead {
        epoch: SERVER_EPOCH,
        count: to_u64(row.try_get("idx")?) + 1,
        hash: parsed("audit hash", row.try_get("hash")?)?,
    })
}

/// Files entries of an older server under who did what to what, so that filters find them. In short transactions.
pub async fn file_old_entries(db: &Db) -> Result<(), StoreError> {
    loop {
        let rows = sqlx::query(UNFILED).bind(OLD_ENTRIES).fetch_all(db.read()).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut tx = db.begin().await?;
        for row in &rows {
            // What cannot be read is found under nothing, and by `verify`.
            let record = codec::from_slice::<AuditRecord>(row.try_get("entry")?, MAX_ENTRY_BYTES).ok();
            let (actor, subject) = record.map(|record| (record.actor, record.subject)).unwrap_or_default();
            sqlx::query(FILE)
                .bind(actor)
                .bind(subject)
                .bind(row.try_get::<i64, _>("idx")?)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
    }
}

/// What matches a filter, newest first, below `before`.
pub async fn list(
    db: &Db,
    before: Option<u64>,
    filter: &AuditFilter,
    limit: u32,
) -> Result<Vec<AuditEvent>, StoreError> {
    let rows = filter
        .page(before.map_or(i64::MAX, to_i64), limit)
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| event_of(to_u64(row.try_get("idx")?), row.try_get("entry")?, None))
        .collect()
}

/// The index that the next entry of the server's log will have.
pub async fn next_index(db: &Db) -> Result<u64, StoreError> {
    let row = sqlx::query(LAST).fetch_optional(db.read()).await?;
    row.map_or(Ok(0), |row| Ok(to_u64(row.try_get("idx")?) + 1))
}

/// Oldest first, from `first` on.
pub async fn list_from(db: &Db, first: u64, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
    let rows = sqlx::query(LIST_FROM)
        .bind(to_i64(first))
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| event_of(to_u64(row.try_get("idx")?), row.try_get("entry")?, None))
        .collect()
}

/// A device's own entries that match, newest first, below `before` = (epoch, index). One device's chain is short enough to be
/// read for it.
pub async fn list_device(
    db: &Db,
    device: &DeviceId,
    before: Option<(u64, u64)>,
    filter: &AuditFilter,
    limit: u32,
) -> Result<Vec<(u64, AuditEvent)>, StoreError> {
    let (epoch, index) = before.unwrap_or((u64::MAX, 0));
    let mut rows = sqlx::query(DEVICE_LIST)
        .bind(device.as_str())
        .bind(to_i64(epoch))
        .bind(to_i64(index))
        .fetch(db.read());
    let mut found = Vec::new();
    while found.len() < limit as usize
        && let Some(row) = rows.try_next().await?
    {
        let record = record_of(row.try_get("entry")?)?;
        if filter.matches(&record) {
            let event = told(to_u64(row.try_get("idx")?), record, Some(device.clone()));
            found.push((to_u64(row.try_get("epoch")?), event));
        }
    }
    Ok(found)
}

fn record_of(entry: &[u8]) -> Result<AuditRecord, StoreError> {
    codec::from_slice(entry, MAX_ENTRY_BYTES).map_err(|why| StoreError::corrupt("audit entry", why))
}

fn event_of(index: u64, entry: &[u8], device: Option<DeviceId>) -> Result<AuditEvent, StoreError> {
    Ok(told(index, record_of(entry)?, device))
}

fn told(index: u64, record: AuditRecord, device: Option<DeviceId>) -> AuditEvent {
    AuditEvent {
        index,
        at: clock::rfc3339(record.at),
        actor: record.actor,
        event: record.event,
        subject: record.subject,
        detail: record.detail,
        device,
    }
}

/// The last head that was accepted from a device.
pub async fn device_head(tx: &mut Tx, device: &DeviceId) -> Result<AuditHead, StoreError> {
    let Some(row) = sqlx::query(DEVICE_HEAD)
        .bind(device.as_str())
        .fetch_optional(&mut **tx)
        .await?
    else {
        return Ok(AuditHead::start(0));
    };
    Ok(AuditHead {
        epoch: to_u64(row.try_get("epoch")?),
        count: to_u64(row.try_get("entries")?),
        hash: parsed("audit hash", row.try_get("hash")?)?,
    })
}

/// Stores entries of a device that were verified to continue its chain, and the signed head after them.
pub async fn append_device(
    tx: &mut Tx,
    device: &DeviceId,
    entries: &[DeviceEntry],
    head: &AuditHead,
    envelope: &[u8],
) -> Result<(), StoreError> {
    for entry in entries {
        sqlx::query(DEVICE_APPEND)
            .bind(device.as_str())
            .bind(to_i64(entry.epoch))
            .bind(to_i64(entry.index))
            .bind(entry.record.at)
            .bind(&entry.record.event)
            .bind(&entry.bytes)
            .execute(&mut **tx)
            .await?;
    }
    sqlx::query(DEVICE_SET_HEAD)
        .bind(device.as_str())
        .bind(to_i64(head.epoch))
        .bind(to_i64(head.count))
        .bind(head.hash.to_string())
        .bind(envelope)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The first offered entry, as epoch and index, that stands below `known` and is another than the one kept there: the device
/// writes its past anew, because its store was put back to an earlier state or because somebody forges it.
pub async fn contradiction(
    tx: &mut Tx,
    device: &DeviceId,
    known: &AuditHead,
    offered: &[AuditBatch],
) -> Result<Option<(u64, u64)>, StoreError> {
    for batch in offered {
        let end = match batch.epoch.cmp(&known.epoch) {
            Ordering::Less => u64::MAX,
            Ordering::Equal => known.count,
            Ordering::Greater => continue,
        };
        let end = end.min(batch.first.saturating_add(batch.entries.len() as u64));
        let rows = sqlx::query(DEVICE_SPAN)
            .bind(device.as_str())
            .bind(to_i64(batch.epoch))
            .bind(to_i64(batch.first))
            .bind(to_i64(end))
            .fetch_all(&mut **tx)
            .await?;
        let kept = rows
            .iter()
            .map(|row| Ok((to_u64(row.try_get("idx")?), row.try_get::<&[u8], _>("entry")?)))
            .collect::<Result<BTreeMap<u64, &[u8]>, StoreError>>()?;
        let differs = (batch.first..end)
            .zip(&batch.entries)
            .find(|(index, entry)| kept.get(index).is_none_or(|kept| *kept != entry.as_slice()));
        if let Some((index, _)) = differs {
            return Ok(Some((batch.epoch, index)));
        }
    }
    Ok(None)
}

/// One verified entry of a device's chain.
#[derive(Debug, Clone)]
pub struct DeviceEntry {
    pub epoch: u64,
    pub index: u64,
    pub record: AuditRecord,
    pub bytes: Vec<u8>,
}

/// The same inside a transaction.
pub async fn device_entries(tx: &mut Tx, device: &DeviceId) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar(DEVICE_COUNT)
        .bind(device.as_str())
        .fetch_one(&mut **tx)
        .await?;
    Ok(to_u64(count))
}

/// The losses that a device has declared, newest first.
pub async fn device_gaps(db: &Db, device: &DeviceId, limit: u32) -> Result<Vec<DeviceAuditGap>, StoreError> {
    let rows = sqlx::query(DEVICE_GAPS)
        .bind(device.as_str())
        .bind(AUDIT_GAP)
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    let mut gaps = Vec::with_capacity(rows.len());
    for row in &rows {
        let record = record_of(row.try_get("entry")?)?;
        let Some(gap) = AuditGap::of(&record) else { continue };
        gaps.push(DeviceAuditGap {
            epoch: to_u64(row.try_get("epoch")?),
            lost: gap.lost,
            after_epoch: gap.after.epoch,
            after_count: gap.after.count,
            after_hash: gap.after.hash,
            at: clock::rfc3339(record.at),
        });
    }
    Ok(gaps)
}

pub async fn device_count(db: &Db, device: &DeviceId) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar(DEVICE_COUNT)
        .bind(device.as_str())
        .fetch_one(db.read())
        .await?;
    Ok(to_u64(count))
}

#[cfg(test)]
mod tests;
