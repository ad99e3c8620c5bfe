//! `Bundle`: what a device says about an interval, once. Aggregated on the device, never one message per inference.
//!
//! A bundle is sealed durably before its first publish and never changed after. It is named by boot epoch and sequence
//! number; the server counts each name once. On the wire: zstd over CBOR.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::audit::AuditBatch;
use crate::ids::{DeviceId, Digest, ModelLine, SlotName};
use crate::messages::RecordKey;
use crate::sketch::{DriftStatus, LatencyHistogram, SketchSet};

/// One package's interval in one slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelTelemetry {
    pub slot: SlotName,
    pub line: ModelLine,
    pub manifest: Digest,
    /// Rows inferred, successful or not.
    pub inferences: u64,
    pub failures: u64,
    /// Per request, microseconds.
    pub latency: LatencyHistogram,
    /// What was seen, binned by the package's reference; absent for packages without one.
    pub sketches: Option<SketchSet>,
    /// The device's own judgement at the interval's end.
    pub drift: Option<DriftStatus>,
}

/// The device's resources at the interval's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    pub rss_bytes: u64,
    /// CPU time of the agent since its start.
    pub cpu_ms: u64,
    pub disk_free_bytes: u64,
    pub spool_bytes: u64,
}

/// What the spool had to give up for want of space, counted since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dropped {
    pub samples: u64,
    pub bundles: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    pub schema: u16,
    pub device: DeviceId,
    pub key: RecordKey,
    /// Unix milliseconds.
    pub from: i64,
    pub to: i64,
    pub models: Vec<ModelTelemetry>,
    pub resources: Resources,
    pub dropped: Dropped,
    /// New entries of the device's audit chain, and the signed head after them.
    pub audit: Vec<AuditBatch>,
    /// Envelope of a `SignedAuditHead`; present when `audit` is not empty.
    pub audit_head: Option<ByteBuf>,
}
