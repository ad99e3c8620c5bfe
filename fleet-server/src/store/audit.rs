//! The server's audit log: a hash chain, appended in the same transaction as the change it records; and the devices'
//! chains as they were verified on arrival.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use flotilla_api_types::audit::{AuditEvent, AuditVerification, ChainVerification, DeviceChainVerification};
use flotilla_api_types::devices::DeviceAuditGap;
use flotilla_protocol::audit::{
    AUDIT_GAP, AuditBatch, AuditGap, AuditHead, AuditRecord, MAX_ENTRY_BYTES, continue_chain, encode_entry,
};
use flotilla_protocol::codec;
use flotilla_protocol::ids::{DeviceId, Digest};
use futures_util::TryStreamExt as _;
use serde_bytes::ByteBuf;
use sqlx::Row as _;

use crate::clock;
use crate::store::{Db, StoreError, Tx, overview, parsed, statements, to_i64, to_u64};

statements! {
    LAST = "SELECT idx, hash FROM audit_log ORDER BY idx DESC LIMIT 1";
    APPEND = "INSERT INTO audit_log (idx, at, event, entry, hash) VALUES ($1, $2, $3, $4, $5)";
    LIST = "SELECT idx, entry FROM audit_log WHERE idx < $1 AND ($2 = '' OR event = $2) ORDER BY idx DESC LIMIT $3";
    LIST_FROM = "SELECT idx, entry FROM audit_log WHERE idx >= $1 ORDER BY idx LIMIT $2";
    WALK = "SELECT idx, entry, hash FROM audit_log ORDER BY idx";
    DEVICE_HEAD = "SELECT epoch, entries, hash FROM device_audit_heads WHERE device = $1";
    DEVICE_APPEND = "INSERT INTO device_audit (device, epoch, idx, at, event, entry) VALUES ($1, $2, $3, $4, $5, $6)";
    DEVICE_SET_HEAD = "INSERT INTO device_audit_heads (device, epoch, entries, hash, envelope) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (device) DO UPDATE SET epoch = excluded.epoch, entries = excluded.entries, hash = excluded.hash,
        envelope = excluded.envelope";
    DEVICE_LIST = "SELECT epoch, idx, entry FROM device_audit WHERE device = $1 AND (epoch < $2 OR (epoch = $2 AND idx < $3))
        AND ($4 = '' OR event = $4) ORDER BY epoch DESC, idx DESC LIMIT $5";
    DEVICE_WALK = "SELECT epoch, idx, entry FROM device_audit WHERE device = $1 ORDER BY epoch, idx";
    DEVICE_SPAN = "SELECT idx, entry FROM device_audit WHERE device = $1 AND epoch = $2 AND idx >= $3 AND idx < $4
        ORDER BY idx";
    DEVICE_HEADS = "SELECT device, epoch, entries, hash FROM device_audit_heads ORDER BY device";
    DEVICE_GAPS = "SELECT epoch, entry FROM device_audit WHERE device = $1 AND idx = 0 AND event = $2
        ORDER BY epoch DESC LIMIT $3";
    DEVICE_COUNT = "SELECT COUNT(*) FROM device_audit WHERE device = $1";
}

/// The server's log is one epoch.
const SERVER_EPOCH: u64 = 0;

/// Appends to the server's log, inside the transaction of the change it speaks of.
pub async fn append(tx: &mut Tx, record: &AuditRecord) -> Result<AuditHead, StoreError> {
    let head = last_head(tx).await?;
    let entry = encode_entry(record).map_err(|why| StoreError::corrupt("audit record", why))?;
    let next = head.append(&entry);
    sqlx::query(APPEND)
        .bind(to_i64(head.count))
        .bind(record.at)
        .bind(&record.event)
        .bind(&entry)
        .bind(next.hash.to_string())
        .execute(&mut **tx)
        .await?;
    if let Some(device) = record.subject.strip_prefix("device:") {
        overview::add_log(tx, device, head.count).await?;
    }
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

/// Newest first, below `before`.
pub async fn list(db: &Db, before: Option<u64>, event: &str, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
    let rows = sqlx::query(LIST)
        .bind(before.map_or(i64::MAX, to_i64))
        .bind(event)
        .bind(i64::from(limit))
        .fetch_all(db.read())
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

/// A device's own entries, newest first, below `before` = (epoch, index).
pub async fn list_device(
    db: &Db,
    device: &DeviceId,
    before: Option<(u64, u64)>,
    event: &str,
    limit: u32,
) -> Result<Vec<(u64, AuditEvent)>, StoreError> {
    let (epoch, index) = before.unwrap_or((u64::MAX, 0));
    let rows = sqlx::query(DEVICE_LIST)
        .bind(device.as_str())
        .bind(to_i64(epoch))
        .bind(to_i64(index))
        .bind(event)
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| {
            let event = event_of(to_u64(row.try_get("idx")?), row.try_get("entry")?, Some(device.clone()))?;
            Ok((to_u64(row.try_get("epoch")?), event))
        })
        .collect()
}

fn event_of(index: u64, entry: &[u8], device: Option<DeviceId>) -> Result<AuditEvent, StoreError> {
    let record: AuditRecord =
        codec::from_slice(entry, MAX_ENTRY_BYTES).map_err(|why| StoreError::corrupt("audit entry", why))?;
    Ok(AuditEvent {
        index,
        at: clock::rfc3339(record.at),
        actor: record.actor,
        event: record.event,
        subject: record.subject,
        detail: record.detail,
        device,
    })
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
        let record: AuditRecord = codec::from_slice(row.try_get("entry")?, MAX_ENTRY_BYTES)
            .map_err(|why| StoreError::corrupt("audit entry", why))?;
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

/// Recomputes every chain from its entries, streaming.
pub async fn verify(db: &Db) -> Result<AuditVerification, StoreError> {
    let server = verify_server(db).await?;
    let heads = sqlx::query(DEVICE_HEADS).fetch_all(db.read()).await?;
    let mut devices = Vec::with_capacity(heads.len());
    for row in &heads {
        let device: DeviceId = parsed("device id", row.try_get("device")?)?;
        let head = AuditHead {
            epoch: to_u64(row.try_get("epoch")?),
            count: to_u64(row.try_get("entries")?),
            hash: parsed("audit hash", row.try_get("hash")?)?,
        };
        devices.push(verify_device(db, device, head).await?);
    }
    Ok(AuditVerification {
        ok: server.ok && devices.iter().all(|device| device.chain.ok),
        server,
        devices,
    })
}

async fn verify_server(db: &Db) -> Result<ChainVerification, StoreError> {
    let mut head = AuditHead::start(SERVER_EPOCH);
    let mut problem = None;
    let mut rows = sqlx::query(WALK).fetch(db.read());
    while let Some(row) = rows.try_next().await? {
        let index = to_u64(row.try_get("idx")?);
        if index != head.count {
            problem = Some(format!("entry {} is missing", head.count));
            break;
        }
        head = head.append(row.try_get("entry")?);
        let stored: Digest = parsed("audit hash", row.try_get("hash")?)?;
        if stored != head.hash {
            problem = Some(format!("entry {index} does not hash to what was recorded after it"));
            break;
        }
    }
    Ok(ChainVerification {
        ok: problem.is_none(),
        entries: head.count,
        head: head.hash,
        problem,
    })
}

async fn verify_device(db: &Db, device: DeviceId, expected: AuditHead) -> Result<DeviceChainVerification, StoreError> {
    let mut head = AuditHead::start(0);
    let mut entries = 0;
    let mut epochs = std::collections::BTreeSet::new();
    let mut problem = None;
    let mut rows = sqlx::query(DEVICE_WALK).bind(device.as_str()).fetch(db.read());
    while let Some(row) = rows.try_next().await? {
        let batch = AuditBatch {
            epoch: to_u64(row.try_get("epoch")?),
            first: to_u64(row.try_get("idx")?),
            entries: vec![ByteBuf::from(row.try_get::<Vec<u8>, _>("entry")?)],
        };
        epochs.insert(batch.epoch);
        match continue_chain(head, &batch) {
            Ok((next, records)) if records.len() == 1 => head = next,
            Ok(_) => problem = Some(format!("entry {} of epoch {} stands twice", batch.first, batch.epoch)),
            Err(error) => problem = Some(error.to_string()),
        }
        if problem.is_some() {
            break;
        }
        entries += 1;
    }
    if problem.is_none() && head != expected {
        problem = Some(format!(
            "the chain ends at {} where the device signed {}",
            head.hash, expected.hash
        ));
    }
    Ok(DeviceChainVerification {
        device,
        epochs: epochs.len() as u64,
        chain: ChainVerification {
            ok: problem.is_none(),
            entries,
            head: head.hash,
            problem,
        },
    })
}
