//! `Bundle`: what a device says about an interval, once. Aggregated on the device, never one message per inference.
//!
//! A bundle is sealed durably before its first publish and never changed after. It is named by boot epoch and sequence
//! number; the server counts each name once. On the wire: zstd over CBOR.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::audit::AuditBatch;
use crate::ids::{DeviceId, Digest, ModelLine, SlotName};
use crate::messages::RecordKey;
use crate::sketch::{DriftStatus, LatencyHistogram, SketchError, SketchSet};

/// Judgements of drift within an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Judged {
    /// Windows judged.
    pub judgements: u64,
    /// Those of them that had drifted.
    pub alarms: u64,
}

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
    /// How many judgements the interval had. Absent in bundles of agents that did not count them: those carry one at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
}

impl ModelTelemetry {
    /// Is it the same package in the same slot?
    pub fn is_same_package(&self, other: &Self) -> bool {
        self.slot == other.slot && self.manifest == other.manifest
    }

    /// Adds a following interval of the same package. Refused as a whole if the sketches do not fit each other.
    pub fn merge(&mut self, later: &Self) -> Result<(), SketchError> {
        match (&mut self.sketches, &later.sketches) {
            (Some(have), Some(more)) => have.merge(more)?,
            (None, None) => {}
            _ => return Err(SketchError::OtherReference),
        }
        self.judged = match (self.judged, later.judged) {
            (None, None) => None,
            _ => Some(self.counted().plus(later.counted())),
        };
        self.inferences = self.inferences.saturating_add(later.inferences);
        self.failures = self.failures.saturating_add(later.failures);
        self.latency.merge(&later.latency);
        if later.drift.is_some() {
            self.drift.clone_from(&later.drift);
        }
        Ok(())
    }

    /// What was counted, or the one judgement that an agent without counts tells.
    fn counted(&self) -> Judged {
        self.judged.unwrap_or_else(|| Judged {
            judgements: u64::from(self.drift.is_some()),
            alarms: u64::from(self.drift.as_ref().is_some_and(|status| status.drifted)),
        })
    }
}

impl Judged {
    fn plus(self, more: Self) -> Self {
        Self {
            judgements: self.judgements.saturating_add(more.judgements),
            alarms: self.alarms.saturating_add(more.alarms),
        }
    }
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

/// Why two bundles stay two.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("bundles of different devices or layouts do not merge")]
    Other,
    #[error("a bundle with audit entries is never merged: its head is signed over them")]
    Audit,
}

impl Bundle {
    /// Takes in the bundle before it and keeps its own name: one bundle that says what both said. Only for bundles that no
    /// server can have seen, or what it counted under the earlier name would be counted again under this one.
    pub fn absorb(&mut self, earlier: Self) -> Result<(), BundleError> {
        if self.device != earlier.device || self.schema != earlier.schema {
            return Err(BundleError::Other);
        }
        let carries_audit = |bundle: &Self| !bundle.audit.is_empty() || bundle.audit_head.is_some();
        if carries_audit(self) || carries_audit(&earlier) {
            return Err(BundleError::Audit);
        }
        for mut model in earlier.models {
            let same = self.models.iter_mut().find(|own| own.is_same_package(&model));
            match same.map(|own| (model.merge(own), own)) {
                Some((Ok(()), own)) => *own = model,
                // Other bins although the same package: beside each other rather than lost.
                Some((Err(_), _)) | None => self.models.push(model),
            }
        }
        if self.key.boot_epoch != earlier.key.boot_epoch {
            // Both count since their own boots.
            self.dropped.samples = self.dropped.samples.saturating_add(earlier.dropped.samples);
            self.dropped.bundles = self.dropped.bundles.saturating_add(earlier.dropped.bundles);
        }
        self.from = self.from.min(earlier.from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::SCHEMA;

    fn status(drifted: bool, share: f64) -> DriftStatus {
        DriftStatus {
            drifted,
            count: 96,
            share,
            nearest_slice: "import".into(),
            worst: vec![],
        }
    }

    fn model(manifest: &[u8], inferences: u64, judged: Option<Judged>, drift: Option<DriftStatus>) -> ModelTelemetry {
        let mut latency = LatencyHistogram::default();
        latency.record(inferences);
        ModelTelemetry {
            slot: SlotName::main(),
            line: ModelLine::new("anomaly").unwrap(),
            manifest: Digest::of(manifest),
            inferences,
            failures: 1,
            latency,
            sketches: None,
            drift,
            judged,
        }
    }

    fn bundle(epoch: u64, seq: u64, from: i64, models: Vec<ModelTelemetry>) -> Bundle {
        Bundle {
            schema: SCHEMA,
            device: DeviceId::new("press-07").unwrap(),
            key: RecordKey {
                boot_epoch: epoch,
                seq,
                nonce: 0,
            },
            from,
            to: from + 10,
            models,
            resources: Resources::default(),
            dropped: Dropped {
                samples: seq,
                bundles: 1,
            },
            audit: vec![],
            audit_head: None,
        }
    }

    #[test]
    fn a_bundle_absorbs_the_one_before_and_keeps_its_name() {
        let judged = |judgements, alarms| Some(Judged { judgements, alarms });
        let old = vec![
            model(b"a", 10, judged(3, 1), Some(status(true, 0.5))),
            model(b"b", 5, None, None),
        ];
        let new = vec![model(b"a", 20, judged(2, 0), Some(status(false, 0.1)))];
        let mut merged = bundle(1, 7, 110, new);
        merged.absorb(bundle(1, 6, 100, old)).unwrap();
        assert_eq!((merged.key.seq, merged.from, merged.to), (7, 100, 120));
        assert_eq!(merged.dropped, Dropped { samples: 7, bundles: 1 }, "since boot");
        let a = &merged.models[0];
        assert_eq!((a.inferences, a.failures, a.latency.count()), (30, 2, 2));
        assert_eq!(
            (a.judged, a.drift.as_ref().map(|d| d.drifted)),
            (judged(5, 1), Some(false))
        );
        assert_eq!((merged.models[1].inferences, merged.models[1].judged), (5, None));
    }

    #[test]
    fn a_judgement_of_an_agent_that_does_not_count_is_one() {
        let mut old = model(b"a", 1, None, Some(status(true, 0.5)));
        old.merge(&model(b"a", 1, None, Some(status(false, 0.1)))).unwrap();
        assert_eq!(old.judged, None, "still for the server to tell");
        let counted = Some(Judged {
            judgements: 2,
            alarms: 2,
        });
        old.drift = Some(status(true, 0.5));
        old.merge(&model(b"a", 1, counted, None)).unwrap();
        assert_eq!(
            old.judged,
            Some(Judged {
                judgements: 3,
                alarms: 3
            })
        );
    }

    #[test]
    fn others_bundles_and_signed_ones_stay_apart() {
        let mut mine = bundle(2, 1, 0, vec![]);
        let mut others = bundle(2, 1, 0, vec![]);
        others.device = DeviceId::new("other").unwrap();
        assert_eq!(mine.absorb(others), Err(BundleError::Other));
        let mut signed = bundle(2, 1, 0, vec![]);
        signed.audit_head = Some(ByteBuf::from(vec![1]));
        assert_eq!(mine.absorb(signed), Err(BundleError::Audit));
        mine.absorb(bundle(1, 4, 0, vec![])).unwrap();
        assert_eq!(mine.dropped, Dropped { samples: 5, bundles: 2 }, "of two boots");
    }
}
