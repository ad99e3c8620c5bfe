//! What one active model's thread counts: an interval that is moved out with every bundle, totals since activation, and
//! the drift window.
//!
//! Taking moves counts out under the same lock that adds them, so each inference is in exactly one interval.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use flotilla_engine::Outcome;
use flotilla_protocol::bundle::ModelTelemetry;
use flotilla_protocol::ids::Digest;
use flotilla_protocol::sketch::{DriftStatus, LatencyHistogram, ReferenceProfile, SketchSet};

use super::{ModelInfo, lock};
use crate::drift::DriftMonitor;

/// A slot's model since its activation: what a soak looks at. Both count rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotHealth {
    /// Rows inferred, successful or not.
    pub inferences: u64,
    /// Rows that got no answer because the model failed or what was asked does not fit its border. Values that are not
    /// finite are the sensor's fault and count in neither.
    pub failures: u64,
}

/// A model since its activation, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub health: SlotHealth,
    pub requests_succeeded: u64,
    pub requests_failed: u64,
    pub rows_succeeded: u64,
    /// Waiting and computing, of requests that succeeded.
    pub request_us: u64,
    pub queue_us: u64,
    pub compute_us: u64,
}

/// How long a request waited and was computed, microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) queue_us: u64,
    pub(crate) compute_us: u64,
}

/// What an answer told about drift.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) drifted: bool,
    pub(crate) transitions: Vec<DriftStatus>,
}

type Reference = Option<(Digest, Arc<ReferenceProfile>)>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Recorder {
    info: Arc<ModelInfo>,
    reference: Reference,
    counts: Mutex<Counts>,
    ended: AtomicBool,
}

#[derive(Debug)]
struct Counts {
    interval: Interval,
    totals: Totals,
    drift: Option<DriftMonitor>,
}

#[derive(Debug)]
struct Interval {
    health: SlotHealth,
    latency: LatencyHistogram,
    sketches: Option<SketchSet>,
}

impl Interval {
    fn new(reference: &Reference) -> Self {
        Self {
            health: SlotHealth::default(),
            latency: LatencyHistogram::default(),
            sketches: reference
                .as_ref()
                .map(|(digest, reference)| SketchSet::new(*digest, reference)),
        }
    }
}

impl Recorder {
    pub(crate) fn new(info: Arc<ModelInfo>, reference: Option<(Digest, ReferenceProfile)>) -> Self {
        let reference = reference.map(|(digest, profile)| (digest, Arc::new(profile)));
        let counts = Counts {
            interval: Interval::new(&reference),
            totals: Totals::default(),
            drift: reference
                .as_ref()
                .map(|(digest, profile)| DriftMonitor::new(*digest, Arc::clone(profile))),
        };
        Self {
            info,
            reference,
            counts: Mutex::new(counts),
            ended: AtomicBool::new(false),
        }
    }

    pub(crate) fn info(&self) -> &Arc<ModelInfo> {
        &self.info
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, outcome: &Outcome, rows: u64, timing: Timing) -> Observed {
        let mut observed = Observed::default();
        let mut counts = lock(&self.counts);
        let Counts {
            interval,
            totals,
            drift,
        } = &mut *counts;
        let request_us = timing.queue_us.saturating_add(timing.compute_us);
        interval.latency.record(request_us);
        interval.health.inferences += rows;
        totals.health.inferences += rows;
        totals.requests_succeeded += 1;
        totals.rows_succeeded += rows;
        totals.request_us = totals.request_us.saturating_add(request_us);
        totals.queue_us = totals.queue_us.saturating_add(timing.queue_us);
        totals.compute_us = totals.compute_us.saturating_add(timing.compute_us);
        if let (Some((_, reference)), Some(sketches), Some(drift)) = (&self.reference, &mut interval.sketches, drift) {
            for (row, features) in outcome.features.iter().enumerate() {
                let label = outcome.label_indices.get(row).copied();
                sketches.observe(reference, features, label);
                observed.transitions.extend(drift.observe(features, label));
            }
            observed.drifted = drift.drifted();
        }
        observed
    }

    /// Counts a request that was not answered; `rows` of it count against the model.
    pub(crate) fn failed(&self, rows: u64, timing: Timing) {
        let mut counts = lock(&self.counts);
        counts.totals.requests_failed += 1;
        if rows == 0 {
            return;
        }
        counts
            .interval
            .latency
            .record(timing.queue_us.saturating_add(timing.compute_us));
        counts.interval.health.inferences += rows;
        counts.interval.health.failures += rows;
        counts.totals.health.inferences += rows;
        counts.totals.health.failures += rows;
    }

    pub(crate) fn health(&self) -> SlotHealth {
        lock(&self.counts).totals.health
    }

    pub(crate) fn totals(&self) -> Totals {
        lock(&self.counts).totals
    }

    /// Moves out the interval and begins a new one.
    pub(crate) fn take(&self) -> ModelTelemetry {
        let mut counts = lock(&self.counts);
        let interval = std::mem::replace(&mut counts.interval, Interval::new(&self.reference));
        let drift = counts.drift.as_ref().and_then(|drift| drift.status().cloned());
        let judged = counts.drift.as_mut().map(DriftMonitor::take_judged);
        drop(counts);
        ModelTelemetry {
            slot: self.info.slot.clone(),
            line: self.info.manifest.name.clone(),
            manifest: self.info.manifest_digest,
            inferences: interval.health.inferences,
            failures: interval.health.failures,
            latency: interval.latency,
            sketches: interval.sketches,
            drift,
            judged,
        }
    }

    /// Said by the model's thread when nothing more will be counted.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Which of two intervals of a package came first: the later one's judgement holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Earlier,
    Later,
}

/// Adds an interval to those of a bundle: to the one of the same package in the same slot, if there is one. What has counted
/// nothing is left out.
pub(crate) fn add(taken: &mut Vec<ModelTelemetry>, more: ModelTelemetry, age: Age) {
    if more.inferences == 0 {
        return;
    }
    let Some(one) = taken.iter_mut().find(|one| one.is_same_package(&more)) else {
        taken.push(more);
        return;
    };
    let merged = match age {
        Age::Later => one.merge(&more),
        Age::Earlier => {
            let mut earlier = more.clone();
            earlier.merge(one).map(|()| *one = earlier)
        }
    };
    if let Err(why) = merged {
        // Not the same bins although the same package: reported beside each other rather than lost.
        tracing::warn!(%why, slot = %more.slot, "two intervals of a package do not merge");
        taken.push(more);
    }
}
