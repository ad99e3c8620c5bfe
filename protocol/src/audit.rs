//! The audit chain: `h_i = SHA-256(0x02 ‖ h_{i-1} ‖ SHA-256(entry_i))`, one chain per epoch (a device's boot, a server's
//! log). An epoch starts from 32 zero bytes, and its first entry commits to the previous epoch's head.
//!
//! The head is signed with every batch; whoever holds an older head notices gaps, forks and changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use crate::codec::{self, CodecError};
use crate::ids::{DeviceId, Digest};
use crate::trust::{Document, Header};

const ENTRY_PREFIX: u8 = 0x02;
/// An entry is small by design: anything long is named by digest.
pub const MAX_ENTRY_BYTES: usize = 8 * 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Unix milliseconds.
    pub at: i64,
    /// Who: `user:…`, `token:…`, `device:…`, `reconciler:…`, `agent`.
    pub actor: String,
    /// What, dotted: `model.activated`, `attack.refused`, `rollout.started`.
    pub event: String,
    /// On what: an id with its kind, `rollout:…`.
    pub subject: String,
    /// Why and with what, in order of key.
    pub detail: BTreeMap<String, String>,
}

/// The end of a chain: how many entries its epoch has, and the hash over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    pub epoch: u64,
    /// Entries in this epoch.
    pub count: u64,
    pub hash: Digest,
}

impl AuditHead {
    /// Where an epoch begins: no entries, 32 zero bytes.
    pub const fn start(epoch: u64) -> Self {
        Self {
            epoch,
            count: 0,
            hash: Digest([0; 32]),
        }
    }

    /// The head after one more entry.
    #[must_use]
    pub fn append(&self, entry: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update([ENTRY_PREFIX]);
        hash.update(self.hash.0);
        hash.update(Sha256::digest(entry));
        Self {
            epoch: self.epoch,
            count: self.count.saturating_add(1),
            hash: Digest(hash.finalize().into()),
        }
    }

    /// The record that must open the epoch after this one.
    pub fn epoch_opening(&self, at: i64) -> AuditRecord {
        AuditRecord {
            at,
            actor: "agent".to_owned(),
            event: EPOCH_OPENED.to_owned(),
            subject: format!("epoch:{}", self.epoch.saturating_add(1)),
            detail: BTreeMap::from([
                ("previous_count".to_owned(), self.count.to_string()),
                ("previous_hash".to_owned(), self.hash.to_string()),
            ]),
        }
    }
}

/// Event of an epoch's first entry.
pub const EPOCH_OPENED: &str = "epoch.opened";

/// Event of an epoch's first entry after entries were lost: it stands in the place of [`EPOCH_OPENED`].
pub const AUDIT_GAP: &str = "audit.gap";

/// What the first entry of an epoch says when the chain before it cannot be continued: the loss is itself on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditGap {
    /// The last head that the server has; what followed it is lost, or stands again behind this entry.
    pub after: AuditHead,
    /// Entries that nobody has any more.
    pub lost: u64,
    /// Entries of the broken chain that follow in this epoch.
    pub kept: u64,
}

impl AuditGap {
    /// The record that opens `epoch`.
    pub fn opening(&self, epoch: u64, at: i64) -> AuditRecord {
        AuditRecord {
            at,
            actor: "agent".to_owned(),
            event: AUDIT_GAP.to_owned(),
            subject: format!("epoch:{epoch}"),
            detail: BTreeMap::from([
                ("after_epoch".to_owned(), self.after.epoch.to_string()),
                ("after_count".to_owned(), self.after.count.to_string()),
                ("after_hash".to_owned(), self.after.hash.to_string()),
                ("lost".to_owned(), self.lost.to_string()),
                ("kept".to_owned(), self.kept.to_string()),
            ]),
        }
    }

    /// Reads it back; `None` if the record is of another kind or says it badly.
    pub fn of(record: &AuditRecord) -> Option<Self> {
        if record.event != AUDIT_GAP {
            return None;
        }
        let number = |key: &str| record.detail.get(key).and_then(|text| text.parse().ok());
        Some(Self {
            after: AuditHead {
                epoch: number("after_epoch")?,
                count: number("after_count")?,
                hash: record.detail.get("after_hash")?.parse().ok()?,
            },
            lost: number("lost")?,
            kept: number("kept")?,
        })
    }
}

/// Entries of one epoch, in order, as the bytes that were hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditBatch {
    pub epoch: u64,
    /// Index of the first entry within its epoch.
    pub first: u64,
    pub entries: Vec<ByteBuf>,
}

/// A device's signature over its chain's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAuditHead {
    pub header: Header,
    pub device: DeviceId,
    pub head: AuditHead,
}

impl Document for SignedAuditHead {
    const SCHEMA: &'static str = "flotilla.audit-head.v1";
    const WHAT: &'static str = "audit head";

    fn header(&self) -> &Header {
        &self.header
    }
}

/// Why entries do not continue a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    #[error("entries {offered} of epoch {epoch} do not follow entry {known}: there is a gap")]
    Gap { epoch: u64, known: u64, offered: u64 },
    #[error("epoch {epoch} does not open with the head of epoch {previous}")]
    EpochOpening { epoch: u64, previous: u64 },
    #[error("the chain's hash after entry {count} of epoch {epoch} is not the signed one: entries were changed")]
    Fork { epoch: u64, count: u64 },
    #[error("entry {index} of epoch {epoch} cannot be read: {source}")]
    Entry { epoch: u64, index: u64, source: CodecError },
}

/// Continues `known` by a batch. Entries that `known` already covers are skipped (a resent batch is no error). Returns
/// the new head and the records that were new.
pub fn continue_chain(known: AuditHead, batch: &AuditBatch) -> Result<(AuditHead, Vec<AuditRecord>), AuditError> {
    let mut head = known;
    let mut records = Vec::new();
    // An empty batch changes nothing: least of all may it open an epoch, whose first entry has to answer for the last.
    if batch.epoch < known.epoch || batch.entries.is_empty() {
        return Ok((head, records));
    }
    let opens = batch.epoch > known.epoch;
    if opens {
        head = AuditHead::start(batch.epoch);
    }
    if batch.first > head.count {
        return Err(AuditError::Gap {
            epoch: batch.epoch,
            known: head.count,
            offered: batch.first,
        });
    }
    let skip = usize::try_from(head.count - batch.first).unwrap_or(usize::MAX);
    for entry in batch.entries.iter().skip(skip) {
        let record: AuditRecord = codec::from_slice(entry, MAX_ENTRY_BYTES).map_err(|source| AuditError::Entry {
            epoch: batch.epoch,
            index: head.count,
            source,
        })?;
        if opens && head.count == 0 {
            let expected = known.epoch_opening(record.at);
            let first_ever = known == AuditHead::start(0);
            let continues = record.event == EPOCH_OPENED && (first_ever || record.detail == expected.detail);
            // A declared loss is no hole in the chain: it names the very head that is known.
            let declares = AuditGap::of(&record).is_some_and(|gap| gap.after == known);
            if !continues && !declares {
                return Err(AuditError::EpochOpening {
                    epoch: batch.epoch,
                    previous: known.epoch,
                });
            }
        }
        head = head.append(entry);
        records.push(record);
    }
    Ok((head, records))
}

/// Encodes a record as the bytes that the chain is made over.
pub fn encode_entry(record: &AuditRecord) -> Result<Vec<u8>, CodecError> {
    let bytes = codec::to_vec(record)?;
    if bytes.len() > MAX_ENTRY_BYTES {
        return Err(CodecError::TooLarge {
            length: bytes.len(),
            cap: MAX_ENTRY_BYTES,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: i64) -> AuditRecord {
        AuditRecord {
            at: n,
            actor: "agent".into(),
            event: "test.event".into(),
            subject: format!("n:{n}"),
            detail: BTreeMap::new(),
        }
    }

    fn batch(epoch: u64, first: u64, records: &[AuditRecord]) -> AuditBatch {
        AuditBatch {
            epoch,
            first,
            entries: records
                .iter()
                .map(|r| ByteBuf::from(encode_entry(r).unwrap()))
                .collect(),
        }
    }

    #[test]
    fn chains_continue_skip_what_is_known_and_refuse_gaps() {
        let zero = AuditHead::start(0);
        let all: Vec<_> = (0..5).map(record).collect();
        let (three, new) = continue_chain(zero, &batch(0, 0, &all[..3])).unwrap();
        assert_eq!((three.count, new.len()), (3, 3));
        let (five, new) = continue_chain(three, &batch(0, 1, &all[1..])).unwrap();
        assert_eq!((five.count, new.len()), (5, 2));
        assert_eq!(continue_chain(zero, &batch(0, 0, &all)).unwrap().0, five);
        assert!(matches!(
            continue_chain(zero, &batch(0, 1, &all[1..])),
            Err(AuditError::Gap { .. })
        ));
    }

    #[test]
    fn an_epoch_opens_with_its_predecessors_head() {
        let (head, _) = continue_chain(AuditHead::start(0), &batch(0, 0, &[record(1)])).unwrap();
        let good = batch(1, 0, &[head.epoch_opening(9), record(2)]);
        assert_eq!(continue_chain(head, &good).unwrap().0.count, 2);
        let forged = batch(1, 0, &[AuditHead::start(0).epoch_opening(9)]);
        assert!(matches!(
            continue_chain(head, &forged),
            Err(AuditError::EpochOpening { .. })
        ));
    }

    #[test]
    fn a_declared_loss_opens_an_epoch_if_it_names_the_known_head() {
        let (head, _) = continue_chain(AuditHead::start(0), &batch(0, 0, &[record(1), record(2)])).unwrap();
        let gap = AuditGap {
            after: head,
            lost: 3,
            kept: 1,
        };
        assert_eq!(AuditGap::of(&gap.opening(7, 9)), Some(gap));
        assert_eq!(AuditGap::of(&record(1)), None);
        let (next, new) = continue_chain(head, &batch(7, 0, &[gap.opening(7, 9), record(6)])).unwrap();
        assert_eq!((next.epoch, next.count, new.len()), (7, 2, 2));
        for after in [AuditHead { count: 1, ..head }, AuditHead::start(0)] {
            let other = AuditGap { after, ..gap };
            assert!(matches!(
                continue_chain(head, &batch(7, 0, &[other.opening(7, 9)])),
                Err(AuditError::EpochOpening { .. })
            ));
        }
        // Within an epoch it is an entry like any other.
        assert_eq!(
            continue_chain(head, &batch(0, 2, &[gap.opening(0, 9)]))
                .unwrap()
                .0
                .count,
            3
        );
        assert!(continue_chain(head, &batch(7, 1, &[record(6)])).is_err());
    }

    #[test]
    fn an_empty_batch_opens_no_epoch() {
        let (head, _) = continue_chain(AuditHead::start(0), &batch(0, 0, &[record(1)])).unwrap();
        let (same, new) = continue_chain(head, &batch(1, 0, &[])).unwrap();
        assert_eq!((same, new.len()), (head, 0));
        let unanswered = batch(1, 0, &[record(2)]);
        assert!(matches!(
            continue_chain(same, &unanswered),
            Err(AuditError::EpochOpening { .. })
        ));
    }

    #[test]
    fn every_changed_bit_changes_the_head() {
        let entries = batch(0, 0, &[record(1), record(2)]);
        let (head, _) = continue_chain(AuditHead::start(0), &entries).unwrap();
        for entry in 0..2 {
            for bit in 0..entries.entries[entry].len() * 8 {
                let mut changed = entries.clone();
                changed.entries[entry][bit / 8] ^= 1 << (bit % 8);
                if let Ok((other, _)) = continue_chain(AuditHead::start(0), &changed) {
                    assert_ne!(other, head);
                }
            }
        }
    }
}
