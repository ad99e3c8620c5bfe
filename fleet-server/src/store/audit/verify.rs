//! Recomputes chains from their entries. Memory holds one page of the server's log, or the heads of a page of devices and one
//! entry, however long the log is and however large the fleet.
//!
//! The heads of some devices and their entries are read in one transaction, so that what a device sends meanwhile is no break.
//! Transactions stay short: an open one keeps SQLite from tidying its write-ahead log.

use std::collections::VecDeque;

use flotilla_api_types::audit::{AuditVerification, ChainVerification, DeviceChainVerification};
use flotilla_protocol::audit::{AuditBatch, AuditHead, continue_chain};
use flotilla_protocol::ids::{DeviceId, Digest};
use futures_util::TryStreamExt as _;
use serde_bytes::ByteBuf;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{DEVICE_HEAD, DEVICE_HEADS, DEVICE_WALK, DEVICE_WALK_ONE, DEVICE_WALK_REST, SERVER_EPOCH, WALK, record_of};
use crate::store::{Db, StoreError, parsed, to_i64, to_u64};

/// Entries of the server's log read at a time.
const ENTRIES: i64 = 1000;
/// Devices whose chains are read in one transaction.
pub(super) const DEVICES: i64 = 64;
/// Broken chains that are told one by one.
pub(super) const MOST_BROKEN: usize = 100;

/// Every chain.
pub async fn verify(db: &Db) -> Result<AuditVerification, StoreError> {
    let server = verify_server(db).await?;
    let mut found = AuditVerification {
        ok: server.ok,
        server,
        devices: 0,
        device_entries: 0,
        broken_devices: 0,
        broken: Vec::new(),
    };
    let mut after = String::new();
    while let Some(last) = verify_page(db, &after, &mut found).await? {
        after = last;
    }
    Ok(found)
}

/// One device's chain; `None` where the server has nothing of it.
pub async fn verify_device(db: &Db, device: &DeviceId) -> Result<Option<DeviceChainVerification>, StoreError> {
    let name = device.as_str();
    let mut tx = db.read().begin().await?;
    let heads = sqlx::query(DEVICE_HEAD).bind(name).fetch_optional(&mut *tx).await?;
    let signed = heads.as_ref().map(head_of).transpose()?;
    let mut chain = Chain::new(name.to_owned(), signed);
    let mut rows = sqlx::query(DEVICE_WALK_ONE).bind(name).fetch(&mut *tx);
    while let Some(row) = rows.try_next().await? {
        chain.take(&row)?;
    }
    if signed.is_none() && chain.entries == 0 {
        return Ok(None);
    }
    Ok(Some(chain.finish()?))
}

async fn verify_server(db: &Db) -> Result<ChainVerification, StoreError> {
    let mut head = AuditHead::start(SERVER_EPOCH);
    let mut problem = None;
    while problem.is_none() {
        let rows = sqlx::query(WALK)
            .bind(to_i64(head.count))
            .bind(ENTRIES)
            .fetch_all(db.read())
            .await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
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
            if !is_filed_right(row, true)? {
                problem = Some(format!("entry {index} is filed under something else than it says"));
                break;
            }
        }
    }
    Ok(ChainVerification {
        ok: problem.is_none(),
        entries: head.count,
        head: head.hash,
        problem,
    })
}

/// Do the columns of an entry say what it says? `by_whom`: those too that only the server's log has. Of an older server's
/// entries these may not be filled in yet.
fn is_filed_right(row: &SqliteRow, by_whom: bool) -> Result<bool, StoreError> {
    let Ok(record) = record_of(row.try_get("entry")?) else {
        return Ok(false);
    };
    let mut right = record.at == row.try_get::<i64, _>("at")? && record.event == row.try_get::<&str, _>("event")?;
    if by_whom {
        for (column, text) in [("actor", &record.actor), ("subject", &record.subject)] {
            right &= row
                .try_get::<Option<&str>, _>(column)?
                .is_none_or(|filed| filed == text);
        }
    }
    Ok(right)
}

fn head_of(row: &SqliteRow) -> Result<AuditHead, StoreError> {
    Ok(AuditHead {
        epoch: to_u64(row.try_get("epoch")?),
        count: to_u64(row.try_get("entries")?),
        hash: parsed("audit hash", row.try_get("hash")?)?,
    })
}

/// Verifies the next devices in order of id; gives the last one's. `None`: these were the last.
async fn verify_page(db: &Db, after: &str, found: &mut AuditVerification) -> Result<Option<String>, StoreError> {
    let mut tx = db.read().begin().await?;
    let rows = sqlx::query(DEVICE_HEADS)
        .bind(after)
        .bind(DEVICES)
        .fetch_all(&mut *tx)
        .await?;
    let mut heads = VecDeque::with_capacity(rows.len());
    for row in &rows {
        heads.push_back((row.try_get::<String, _>("device")?, head_of(row)?));
    }
    let full = i64::try_from(rows.len()) == Ok(DEVICES);
    let last = heads.back().filter(|_| full).map(|(device, _)| device.clone());
    // Entries of devices without a head stand between those of the others, or behind them.
    let query = match &last {
        Some(last) => sqlx::query(DEVICE_WALK).bind(after).bind(last),
        None => sqlx::query(DEVICE_WALK_REST).bind(after),
    };
    let mut entries = query.fetch(&mut *tx);
    let mut chain: Option<Chain> = None;
    while let Some(row) = entries.try_next().await? {
        let device: &str = row.try_get("device")?;
        if chain.as_ref().is_none_or(|chain| chain.device != device) {
            close(chain.take(), found)?;
            // Heads without entries come first.
            while let Some((silent, head)) = heads.pop_front_if(|(next, _)| next.as_str() < device) {
                close(Some(Chain::new(silent, Some(head))), found)?;
            }
            let signed = heads
                .pop_front_if(|(next, _)| next.as_str() == device)
                .map(|(_, head)| head);
            chain = Some(Chain::new(device.to_owned(), signed));
        }
        if let Some(chain) = &mut chain {
            chain.take(&row)?;
        }
    }
    close(chain, found)?;
    for (silent, head) in heads {
        close(Some(Chain::new(silent, Some(head))), found)?;
    }
    Ok(last)
}

fn close(chain: Option<Chain>, found: &mut AuditVerification) -> Result<(), StoreError> {
    let Some(chain) = chain else { return Ok(()) };
    let verified = chain.finish()?;
    found.devices += 1;
    found.device_entries += verified.chain.entries;
    if !verified.chain.ok {
        found.ok = false;
        found.broken_devices += 1;
        if found.broken.len() < MOST_BROKEN {
            found.broken.push(verified);
        }
    }
    Ok(())
}

/// A device's chain while it is recomputed.
struct Chain {
    device: String,
    /// What the device signed; `None`: nothing that the server has.
    signed: Option<AuditHead>,
    head: AuditHead,
    entries: u64,
    epochs: u64,
    problem: Option<String>,
}

impl Chain {
    fn new(device: String, signed: Option<AuditHead>) -> Self {
        Self {
            device,
            signed,
            head: AuditHead::start(0),
            entries: 0,
            epochs: 0,
            problem: None,
        }
    }

    /// The next entry. After the first problem, entries are passed over.
    fn take(&mut self, row: &SqliteRow) -> Result<(), StoreError> {
        if self.problem.is_some() {
            return Ok(());
        }
        let batch = AuditBatch {
            epoch: to_u64(row.try_get("epoch")?),
            first: to_u64(row.try_get("idx")?),
            entries: vec![ByteBuf::from(row.try_get::<Vec<u8>, _>("entry")?)],
        };
        if self.entries == 0 || batch.epoch != self.head.epoch {
            self.epochs += 1;
        }
        match continue_chain(self.head, &batch) {
            Ok((next, records)) if records.len() == 1 => self.head = next,
            Ok(_) => self.problem = Some(format!("entry {} of epoch {} stands twice", batch.first, batch.epoch)),
            Err(error) => self.problem = Some(error.to_string()),
        }
        if self.problem.is_none() && !is_filed_right(row, false)? {
            let (index, epoch) = (batch.first, batch.epoch);
            self.problem = Some(format!(
                "entry {index} of epoch {epoch} is filed under something else than it says"
            ));
        }
        self.entries += u64::from(self.problem.is_none());
        Ok(())
    }

    fn finish(self) -> Result<DeviceChainVerification, StoreError> {
        let problem = self.problem.or_else(|| match self.signed {
            None => Some("the device's signature over its chain is missing".to_owned()),
            Some(signed) if signed != self.head => Some(format!(
                "the chain ends at {} where the device signed {}",
                self.head.hash, signed.hash
            )),
            Some(_) => None,
        });
        Ok(DeviceChainVerification {
            device: parsed("device id", &self.device)?,
            epochs: self.epochs,
            chain: ChainVerification {
                ok: problem.is_none(),
                entries: self.entries,
                head: self.head.hash,
                problem,
            },
        })
    }
}
