//! The messages on the topics that are neither signed documents nor bundles: hello, want, chunk, receipt, samples.
//!
//! All are CBOR, at most [`crate::codec::MAX_MESSAGE_BYTES`]. `schema` is the layout's number; readers accept N and N−1.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::audit::AuditHead;
use crate::chunks::BlobRef;
use crate::ids::{DeviceId, Digest, ModelLine};
use crate::infer::Tensor;

/// The layout that this code writes.
pub const SCHEMA: u16 = 1;

/// `up/hello`: said on every connect. The server answers with newer roots, `Head`, then `DesiredState`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub schema: u16,
    pub device: DeviceId,
    pub boot_epoch: u64,
    pub root_version: u64,
    /// The device's latest signed report (an envelope).
    pub report: ByteBuf,
}

/// `up/want`: asks for chunks of a blob. Idempotent; a lost answer is repaired by asking again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    pub schema: u16,
    pub blob: BlobRef,
    /// Chunk index that the bitmap's first bit stands for.
    pub first: u32,
    /// Chunks present, from `first` on, least significant bit first; beyond its end nothing is present.
    pub present: ByteBuf,
    /// How many chunks may be sent in answer.
    pub credit: u16,
}

/// `down/chunk`: consecutive whole chunks of a blob, each checked against the signed list on arrival.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkMessage {
    pub schema: u16,
    pub blob: Digest,
    pub first: u32,
    pub chunks: Vec<ByteBuf>,
    /// Set when the server has no such blob: the device reports it rather than asking for ever.
    pub missing: bool,
}

/// `down/head`: the chain of roots that the device has not seen, and the current `Head`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadMessage {
    pub schema: u16,
    /// Envelopes of the roots after the device's own, in order; empty when it is current.
    pub roots: Vec<ByteBuf>,
    /// Envelope.
    pub head: ByteBuf,
}

/// Names one spooled record of a device: what receipts acknowledge and servers deduplicate by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordKey {
    pub boot_epoch: u64,
    pub seq: u64,
    /// Drawn at random by every boot. A device whose store was put back to an earlier state counts the same boots and
    /// records again: only this tells its new records from those that the server has counted.
    #[serde(default)]
    pub nonce: u32,
}

/// `down/receipt`: these records are committed at the server; the device may forget them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub schema: u16,
    pub records: Vec<RecordKey>,
    /// The audit entries of one of these records were not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_refused: Option<AuditRefusal>,
}

/// A record whose audit entries do not continue the chain that the server knows: where that chain ends. The device answers
/// with an epoch that says what was lost ([`crate::audit::AuditGap`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRefusal {
    pub record: RecordKey,
    pub head: AuditHead,
    /// How many entries the server has of this device, over all epochs.
    pub entries: u64,
}

/// Why a sample was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HarvestReason {
    Drift,
    LowConfidence,
}

impl HarvestReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drift => "drift",
            Self::LowConfidence => "low-confidence",
        }
    }
}

/// One input kept for labeling, with what the model made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Unix milliseconds, device time (never before the clock's floor).
    pub captured_at: i64,
    pub line: ModelLine,
    pub manifest: Digest,
    /// The package's raw input, without a batch dimension.
    pub input: Tensor,
    /// The model's scores, in the order of the manifest's labels.
    pub scores: Vec<f32>,
    pub predicted: String,
    pub reason: HarvestReason,
}

/// `up/sample`: zstd over CBOR, at most [`crate::codec::MAX_MESSAGE_BYTES`] on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleBatch {
    pub schema: u16,
    pub device: DeviceId,
    pub key: RecordKey,
    pub samples: Vec<Sample>,
}
