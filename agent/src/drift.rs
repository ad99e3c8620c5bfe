//! Drift on the device itself: judges every full window of observations by the package's own rule.
//!
//! Windows do not overlap. A judgement holds until the next window is full, which is all the hysteresis there is: the data
//! must look different for one whole window before the device changes its mind. What is done about drift is decided
//! elsewhere.

use std::sync::Arc;

use flotilla_protocol::bundle::Judged;
use flotilla_protocol::ids::{Digest, ModelLine, SlotName};
use flotilla_protocol::sketch::{self, DriftStatus, ReferenceProfile, SketchSet};

/// A package's data began to drift, or ceased to.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftEvent {
    pub slot: SlotName,
    pub line: ModelLine,
    pub manifest: Digest,
    /// `status.drifted` says which way.
    pub status: DriftStatus,
    /// Unix milliseconds, device time.
    pub at: i64,
}

/// The window of one active model.
#[derive(Debug)]
pub struct DriftMonitor {
    reference: Arc<ReferenceProfile>,
    digest: Digest,
    window: SketchSet,
    status: Option<DriftStatus>,
    /// Not yet taken.
    judged: Judged,
}

impl DriftMonitor {
    pub fn new(digest: Digest, reference: Arc<ReferenceProfile>) -> Self {
        Self {
            window: SketchSet::new(digest, &reference),
            reference,
            digest,
            status: None,
            judged: Judged::default(),
        }
    }

    /// Adds one observation. A new judgement that differs from the last one (at first: no drift) is returned.
    pub fn observe(&mut self, features: &[f32], label: Option<usize>) -> Option<DriftStatus> {
        self.window.observe(&self.reference, features, label);
        if self.window.count < self.reference.rule.window.max(1) {
            return None;
        }
        let window = std::mem::replace(&mut self.window, SketchSet::new(self.digest, &self.reference));
        let status = sketch::judge(&self.reference, &window)?;
        let changed = status.drifted != self.drifted();
        self.judged.judgements = self.judged.judgements.saturating_add(1);
        self.judged.alarms = self.judged.alarms.saturating_add(u64::from(status.drifted));
        self.status = Some(status);
        if changed { self.status.clone() } else { None }
    }

    /// The last judgement; `None` before the first window is full.
    pub fn status(&self) -> Option<&DriftStatus> {
        self.status.as_ref()
    }

    /// Moves out how many judgements there were since the last call: an interval may have several, and each is counted.
    pub fn take_judged(&mut self) -> Judged {
        std::mem::take(&mut self.judged)
    }

    pub fn drifted(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.drifted)
    }
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::sketch::{DriftRule, FeatureReference};

    use super::*;

    fn monitor() -> DriftMonitor {
        let values: Vec<f32> = (0..400).map(|i| (i as f32 * 0.37).sin()).collect();
        let reference = ReferenceProfile {
            schema: 1,
            slices: vec!["import".into()],
            features: vec![FeatureReference::from_slices("x", &[values], 8)],
            labels: vec![],
            label_counts: vec![],
            rule: DriftRule {
                window: 100,
                feature_threshold: 0.25,
                share_threshold: 0.5,
            },
        };
        DriftMonitor::new(Digest::of(b"r"), Arc::new(reference))
    }

    /// Feeds `n` observations, returns the transitions with the observation (from 1) that made each.
    fn feed(monitor: &mut DriftMonitor, n: usize, shift: f32) -> Vec<(usize, bool)> {
        (1..=n)
            .filter_map(|i| {
                let status = monitor.observe(&[(i as f32 * 0.37).sin() + shift], None)?;
                Some((i, status.drifted))
            })
            .collect()
    }

    #[test]
    fn only_transitions_speak_and_each_takes_one_whole_window() {
        let mut monitor = monitor();
        assert_eq!(feed(&mut monitor, 99, 0.0), []);
        assert!(monitor.status().is_none(), "too little to judge");
        assert_eq!(feed(&mut monitor, 1, 0.0), [], "no drift is no event");
        assert_eq!(monitor.status().map(|s| (s.drifted, s.count)), Some((false, 100)));
        assert_eq!(
            feed(&mut monitor, 300, 3.0),
            [(100, true)],
            "still drifting is no event"
        );
        assert!(monitor.drifted());
        assert_eq!(feed(&mut monitor, 99, 0.0), [], "99 of 100 do not end it");
        assert_eq!(feed(&mut monitor, 1, 0.0), [(1, false)]);
        assert!(!monitor.drifted());
        // 1 without drift, 3 with, 99 + 1 of which the last window is whole again.
        assert_eq!(
            monitor.take_judged(),
            Judged {
                judgements: 5,
                alarms: 3
            }
        );
        assert_eq!(monitor.take_judged(), Judged::default(), "each is taken once");
    }
}
