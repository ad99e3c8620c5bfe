//! A loss in the audit chain becomes an entry of it: a new epoch whose first entry says how many entries are gone after which
//! head, and behind it every entry that is still here.
//!
//! Entries can be lost: the spool has a cap for them too, and a store can be damaged. The server sees it first, as a hole
//! before what it is offered, and says where its chain of this device ends. What is left of the old chain would never be
//! taken as it stands, so its entries move over, byte for byte.

use flotilla_protocol::audit::{AuditGap, AuditHead};
use flotilla_protocol::bundle::Bundle;
use flotilla_protocol::codec::{self, MAX_BUNDLE_BYTES, MAX_MESSAGE_BYTES};
use flotilla_protocol::messages::{AuditRefusal, RecordKey};
use redb::ReadableTable as _;
use tracing::warn;

use crate::audit::{append_bytes, append_record, head};
use crate::spool::disk::place as record_place;
use crate::store::{AUDIT, SPOOL, StoreError, Txn, keys};

/// An epoch this far ahead of our own is no memory of this device: receipts are not signed, and epochs must not run out.
const MAX_EPOCHS_AHEAD: u64 = 1 << 20;

/// Opens the epoch. `sealed` are the audit records of the spool, oldest first: they are taken out of it. `None`: nothing was
/// done, because the refusal cannot be true.
pub fn declare(
    txn: &Txn<'_>,
    refusal: &AuditRefusal,
    sealed: &[RecordKey],
    at: i64,
) -> Result<Option<AuditGap>, StoreError> {
    let known = refusal.head;
    let own = head(txn)?;
    if known.epoch > own.epoch.saturating_add(MAX_EPOCHS_AHEAD) {
        return Ok(None);
    }
    let mut kept = Vec::new();
    for key in sealed {
        kept.extend(entries_of(*txn, *key)?);
    }
    let unsealed: Vec<Place> = {
        let table = txn.table(AUDIT)?;
        let places = table.iter()?.map(|item| item.map(|(key, _)| key.value()));
        places.collect::<Result<_, _>>()?
    };
    // What the server has already is no loss, although it stands here a second time.
    let missing = |place: &Place| *place >= (known.epoch, known.count);
    let offered =
        kept.iter().filter(|(place, _)| missing(place)).count() + unsealed.iter().filter(|p| missing(p)).count();
    let total: u64 = txn.get(keys::AUDIT_TOTAL)?.unwrap_or(0);
    let gap = AuditGap {
        after: known,
        lost: total.saturating_sub(refusal.entries.saturating_add(offered as u64)),
        kept: (kept.len() + unsealed.len()) as u64,
    };
    txn.put(keys::AUDIT_TOTAL, &refusal.entries)?;
    let epoch = own.epoch.max(known.epoch).saturating_add(1);
    let mut next = append_record(*txn, AuditHead::start(epoch), &gap.opening(epoch, at))?;
    for (_, entry) in &kept {
        next = append_bytes(*txn, next, entry)?;
    }
    for place in unsealed {
        let entry = txn.table(AUDIT)?.remove(place)?.map(|entry| entry.value().to_vec());
        if let Some(entry) = entry {
            next = append_bytes(*txn, next, &entry)?;
        }
    }
    for key in sealed {
        txn.table(SPOOL)?.remove(record_place(*key))?;
    }
    Ok(Some(gap))
}

/// Epoch and index.
type Place = (u64, u64);
/// An entry as it was hashed, and where it stood.
type Placed = (Place, Vec<u8>);

/// The entries of a sealed record; one that cannot be read any more has none, and they count as lost.
fn entries_of(txn: Txn<'_>, key: RecordKey) -> Result<Vec<Placed>, StoreError> {
    let table = txn.table(SPOOL)?;
    let value = table.get(record_place(key))?;
    let Some((_, payload)) = value.as_ref().and_then(|value| value.value().split_first()) else {
        return Ok(Vec::new());
    };
    let bundle: Bundle = match codec::from_slice_zstd(payload, MAX_MESSAGE_BYTES, MAX_BUNDLE_BYTES) {
        Ok(bundle) => bundle,
        Err(why) => {
            warn!(?key, %why, "audit entries in the spool cannot be read: they are lost");
            return Ok(Vec::new());
        }
    };
    let entries = bundle.audit.into_iter().flat_map(|batch| {
        let first = batch.first;
        let places = (first..).map(move |index| (batch.epoch, index));
        places.zip(batch.entries.into_iter().map(serde_bytes::ByteBuf::into_vec))
    });
    Ok(entries.collect())
}
