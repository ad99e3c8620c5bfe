//! Harvest: which inputs are kept for people to label.
//!
//! Kept are inputs seen while the device drifts, or answered with little confidence, each distinct input once, at most so
//! many per package as the policy says. Samples wait in a buffer bounded in bytes; when it is full the new sample is
//! dropped and counted, since what waits was found by the same rule and is as good. What was kept is remembered while the
//! process runs, also across reactivation of the same package, and forgotten at its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_protocol::codec;
use flotilla_protocol::desired_state::HarvestPolicy;
use flotilla_protocol::ids::Digest;
use flotilla_protocol::messages::{HarvestReason, Sample};

/// The package's memory of inputs stops here, whatever a policy says.
const MOST_SAMPLES: u32 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HarvestLimits {
    /// CBOR of the samples that wait.
    pub buffer_bytes: usize,
    /// CBOR of one sample; larger ones could not be sent.
    pub sample_bytes: usize,
    /// Packages remembered; of one more, the one that was first seen longest ago is forgotten.
    pub packages: usize,
}

impl Default for HarvestLimits {
    fn default() -> Self {
        Self {
            buffer_bytes: 4 * 1024 * 1024,
            // Leaves room for the batch around it even where nothing compresses.
            sample_bytes: codec::MAX_MESSAGE_BYTES - 8 * 1024,
            packages: 32,
        }
    }
}

/// Counted since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HarvestCounts {
    pub kept: u64,
    /// Seen before, and so not kept again.
    pub duplicates: u64,
    /// Worth keeping, but too large or without room.
    pub dropped: u64,
    /// Waiting to be taken.
    pub waiting: usize,
}

/// One answered row that may be worth keeping.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub manifest: Digest,
    /// The raw input's bytes, which tell inputs apart.
    pub input: &'a [u8],
    pub drifted: bool,
    /// The best score; `None` for regressions.
    pub confidence: Option<f32>,
}

#[derive(Debug, Default)]
struct Remembered {
    inputs: BTreeSet<Digest>,
    /// Order of first sight.
    since: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Harvester {
    limits: HarvestLimits,
    /// By package.
    policies: BTreeMap<Digest, HarvestPolicy>,
    packages: BTreeMap<Digest, Remembered>,
    packages_seen: u64,
    buffer: VecDeque<(Sample, usize)>,
    buffer_bytes: usize,
    counts: HarvestCounts,
}

impl Harvester {
    /// Keeps nothing of a package until it has a policy for it.
    pub fn new(limits: HarvestLimits) -> Self {
        Self {
            limits,
            policies: BTreeMap::new(),
            packages: BTreeMap::new(),
            packages_seen: 0,
            buffer: VecDeque::new(),
            buffer_bytes: 0,
            counts: HarvestCounts::default(),
        }
    }

    /// By package; nothing is kept of others. Holds for rows from now on; what was kept stays kept, and counts.
    pub fn set_policies(&mut self, policies: BTreeMap<Digest, HarvestPolicy>) {
        self.policies = policies;
    }

    /// Why the policy wants this row, before looking at what is kept already. Cheap: asked for every row.
    pub fn reason(&self, manifest: &Digest, drifted: bool, confidence: Option<f32>) -> Option<HarvestReason> {
        let policy = self.policies.get(manifest)?;
        if drifted && policy.on_drift {
            return Some(HarvestReason::Drift);
        }
        let uncertain = confidence.is_some_and(|score| f64::from(score) * 1000.0 < f64::from(policy.below_permille));
        uncertain.then_some(HarvestReason::LowConfidence)
    }

    /// Keeps the row if the policy wants it, it is new and there is room; `sample` is only made then. Says whether it is kept.
    pub fn consider(&mut self, candidate: Candidate<'_>, sample: impl FnOnce(HarvestReason) -> Option<Sample>) -> bool {
        let Some(reason) = self.reason(&candidate.manifest, candidate.drifted, candidate.confidence) else {
            return false;
        };
        let most = self
            .policies
            .get(&candidate.manifest)
            .map_or(0, |policy| policy.max_samples)
            .min(MOST_SAMPLES);
        let remembered = self.remembered(candidate.manifest);
        if remembered.inputs.len() >= most as usize {
            return false;
        }
        let digest = Digest::of(candidate.input);
        if remembered.inputs.contains(&digest) {
            self.counts.duplicates += 1;
            return false;
        }
        let Some(sample) = sample(reason) else { return false };
        match codec::to_vec(&sample).map(|bytes| bytes.len()) {
            Ok(bytes) if self.has_room(bytes) => {
                self.remembered(candidate.manifest).inputs.insert(digest);
                self.buffer.push_back((sample, bytes));
                self.buffer_bytes += bytes;
                self.counts.kept += 1;
                true
            }
            _ => {
                self.counts.dropped += 1;
                false
            }
        }
    }

    /// Moves out samples, oldest first, whose CBOR is at most `max_bytes` together.
    pub fn take(&mut self, max_bytes: usize) -> Vec<Sample> {
        let mut taken = Vec::new();
        let mut room = max_bytes;
        while let Some((_, bytes)) = self.buffer.front()
            && *bytes <= room
            && let Some((sample, bytes)) = self.buffer.pop_front()
        {
            room -= bytes;
            self.buffer_bytes = self.buffer_bytes.saturating_sub(bytes);
            taken.push(sample);
        }
        taken
    }

    /// Puts back what could not be stored, before all others. Takes the room it had, even above the bound.
    pub fn put_back(&mut self, samples: Vec<Sample>) {
        for sample in samples.into_iter().rev() {
            match codec::to_vec(&sample).map(|bytes| bytes.len()) {
                Ok(bytes) => {
                    self.buffer_bytes += bytes;
                    self.buffer.push_front((sample, bytes));
                }
                Err(_unwritable) => self.counts.dropped += 1,
            }
        }
    }

    pub fn counts(&self) -> HarvestCounts {
        HarvestCounts {
            waiting: self.buffer.len(),
            ..self.counts
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.limits.sample_bytes && self.buffer_bytes + bytes <= self.limits.buffer_bytes
    }

    fn remembered(&mut self, manifest: Digest) -> &mut Remembered {
        if !self.packages.contains_key(&manifest) {
            if self.packages.len() >= self.limits.packages.max(1) {
                let oldest = self
                    .packages
                    .iter()
                    .min_by_key(|(_, r)| r.since)
                    .map(|(digest, _)| *digest);
                oldest.and_then(|oldest| self.packages.remove(&oldest));
            }
            self.packages_seen += 1;
        }
        let since = self.packages_seen;
        self.packages.entry(manifest).or_insert(Remembered {
            inputs: BTreeSet::new(),
            since,
        })
    }
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::ids::ModelLine;
    use flotilla_protocol::infer::Tensor;

    use super::*;

    /// The same for packages of several names.
    fn policies(on_drift: bool, below_permille: u32, max_samples: u32) -> BTreeMap<Digest, HarvestPolicy> {
        let policy = HarvestPolicy {
            on_drift,
            below_permille,
            max_samples,
        };
        let names: [&[u8]; 5] = [b"m", b"other", b"a", b"b", b"c"];
        names.map(|name| (Digest::of(name), policy.clone())).into()
    }

    fn offer(harvester: &mut Harvester, manifest: &[u8], value: f32, drifted: bool, confidence: Option<f32>) {
        let input = Tensor::from_f32("x", vec![1], &[value]).unwrap();
        let manifest = Digest::of(manifest);
        let bytes = input.data.to_vec();
        let candidate = Candidate {
            manifest,
            input: &bytes,
            drifted,
            confidence,
        };
        harvester.consider(candidate, |reason| {
            Some(Sample {
                captured_at: 1,
                line: ModelLine::new("line").unwrap(),
                manifest,
                input,
                scores: vec![],
                predicted: String::new(),
                reason,
            })
        });
    }

    #[test]
    fn the_policy_says_what_is_kept() {
        let mut harvester = Harvester::new(HarvestLimits::default());
        offer(&mut harvester, b"m", 1.0, true, Some(0.1));
        assert_eq!(harvester.counts(), HarvestCounts::default(), "no policy, no harvest");
        harvester.set_policies(policies(true, 600, 10));
        offer(&mut harvester, b"m", 1.0, true, Some(0.1));
        offer(&mut harvester, b"m", 2.0, false, Some(0.5));
        offer(&mut harvester, b"m", 3.0, false, Some(0.6));
        offer(&mut harvester, b"m", 4.0, false, None);
        let reasons: Vec<HarvestReason> = harvester.take(usize::MAX).iter().map(|s| s.reason).collect();
        assert_eq!(reasons, [HarvestReason::Drift, HarvestReason::LowConfidence]);
        offer(&mut harvester, b"nobody's", 1.0, true, Some(0.1));
        assert_eq!(harvester.counts().waiting, 0, "a package without a policy");
        harvester.set_policies(policies(false, 0, 10));
        offer(&mut harvester, b"m", 5.0, true, Some(0.0));
        assert_eq!(harvester.counts().waiting, 0);
    }

    #[test]
    fn each_input_is_kept_once_and_only_so_many_per_package() {
        let mut harvester = Harvester::new(HarvestLimits::default());
        harvester.set_policies(policies(true, 0, 2));
        for value in [1.0, 1.0, 2.0, 3.0, 1.0] {
            offer(&mut harvester, b"m", value, true, None);
        }
        offer(&mut harvester, b"other", 1.0, true, None);
        let counts = harvester.counts();
        assert_eq!((counts.kept, counts.duplicates, counts.waiting), (3, 1, 3));
        assert_eq!(harvester.take(usize::MAX).len(), 3);
        offer(&mut harvester, b"m", 4.0, true, None);
        assert_eq!(
            harvester.counts().waiting,
            0,
            "taken samples still count against the package"
        );
    }

    #[test]
    fn a_full_buffer_drops_the_new_sample_and_may_keep_it_later() {
        let mut harvester = Harvester::new(HarvestLimits {
            buffer_bytes: 500,
            ..HarvestLimits::default()
        });
        harvester.set_policies(policies(true, 0, 1000));
        for value in 0..50u8 {
            offer(&mut harvester, b"m", f32::from(value), true, None);
        }
        let counts = harvester.counts();
        assert!(counts.kept >= 1 && counts.kept + counts.dropped == 50, "{counts:?}");
        let first = harvester.take(usize::MAX);
        assert_eq!(first[0].input.to_f32().unwrap(), [0.0], "the oldest is kept");
        offer(&mut harvester, b"m", 49.0, true, None);
        assert_eq!(
            harvester.counts().kept,
            counts.kept + 1,
            "what was dropped is not remembered"
        );
    }

    #[test]
    fn samples_are_taken_by_size_and_can_be_given_back() {
        let mut harvester = Harvester::new(HarvestLimits::default());
        harvester.set_policies(policies(true, 0, 100));
        for value in 0..3u8 {
            offer(&mut harvester, b"m", f32::from(value), true, None);
        }
        assert!(harvester.take(10).is_empty(), "none fits");
        let one = codec::to_vec(&harvester.buffer[0].0).unwrap().len();
        let taken = harvester.take(2 * one);
        assert_eq!(taken.len(), 2);
        harvester.put_back(taken);
        let order: Vec<f32> = harvester
            .take(usize::MAX)
            .iter()
            .map(|s| s.input.to_f32().unwrap()[0])
            .collect();
        assert_eq!(order, [0.0, 1.0, 2.0]);
        assert_eq!(harvester.buffer_bytes, 0);
    }

    #[test]
    fn the_package_seen_first_is_forgotten_first() {
        let mut harvester = Harvester::new(HarvestLimits {
            packages: 2,
            ..HarvestLimits::default()
        });
        harvester.set_policies(policies(true, 0, 100));
        for manifest in [b"a", b"b", b"c"] {
            offer(&mut harvester, manifest, 1.0, true, None);
        }
        assert_eq!(harvester.packages.len(), 2);
        assert!(!harvester.packages.contains_key(&Digest::of(b"a")));
    }
}
