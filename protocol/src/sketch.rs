//! Mergeable sketches with reference bins: what a package's training data looked like, what a device sees, and how far
//! apart the two are.
//!
//! Bins are fixed by the package, so that counts add up exactly across intervals, devices and replicas, and the statistic
//! is the same wherever it is computed.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// Most bins of one feature.
pub const MAX_BINS: usize = 64;
/// Most slices of a reference.
pub const MAX_SLICES: usize = 64;

/// One feature's reference. Bin `i` holds values in `(edges[i-1], edges[i]]`; the first and last are open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureReference {
    pub name: String,
    /// Ascending; one less than there are bins.
    pub edges: Vec<f32>,
    /// Counts per bin, one row for each of the profile's slices.
    pub counts: Vec<Vec<u64>>,
}

/// When a device speaks of drift.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DriftRule {
    /// Observations per judgement; the device judges each such window on its own.
    pub window: u64,
    /// A feature drifts when its corrected statistic is above this.
    pub feature_threshold: f64,
    /// The data drifts when at least this share of the features does, in (0, 1].
    pub share_threshold: f64,
}

/// A package's drift baseline: the `reference` component.
///
/// Training data that was gathered in several places or at several times is kept as *slices* (the first import, each
/// harvest): a device whose data looks like any one of them has not drifted. One reference over their union would raise an
/// alarm on every device, as none of them sees the mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceProfile {
    pub schema: u16,
    /// What each slice is, for people.
    pub slices: Vec<String>,
    pub features: Vec<FeatureReference>,
    /// Class names and how often the model gives each on the reference data; empty for regressions.
    pub labels: Vec<String>,
    pub label_counts: Vec<u64>,
    pub rule: DriftRule,
}

/// Why a profile or a sketch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SketchError {
    #[error(
        "feature '{0}': edges must ascend, and every slice needs one count more than there are edges (at most {MAX_BINS})"
    )]
    Bins(String),
    #[error("a reference needs 1 to {MAX_SLICES} slices, {0} are given")]
    Slices(usize),
    #[error("{found} features where {expected} are needed")]
    Features { expected: usize, found: usize },
    #[error("feature {0} has another number of bins than the reference")]
    OtherBins(usize),
    #[error("sketches of different references do not merge")]
    OtherReference,
}

impl ReferenceProfile {
    pub fn check(&self) -> Result<(), SketchError> {
        if self.slices.is_empty() || self.slices.len() > MAX_SLICES {
            return Err(SketchError::Slices(self.slices.len()));
        }
        for feature in &self.features {
            let ascending = feature.edges.windows(2).all(|pair| pair.first() < pair.last());
            let finite = feature.edges.iter().all(|edge| edge.is_finite());
            let bins = feature.edges.len() + 1;
            let counted = feature.counts.len() == self.slices.len() && feature.counts.iter().all(|c| c.len() == bins);
            if !ascending || !finite || !counted || bins > MAX_BINS {
                return Err(SketchError::Bins(feature.name.clone()));
            }
        }
        if self.labels.len() != self.label_counts.len() {
            return Err(SketchError::Features {
                expected: self.labels.len(),
                found: self.label_counts.len(),
            });
        }
        Ok(())
    }
}

impl FeatureReference {
    /// Bins at the distinct quantiles `i/bins` (linear interpolation) of all slices' values together, and every slice's
    /// counts in them. Values must be finite.
    pub fn from_slices(name: &str, slices: &[Vec<f32>], bins: usize) -> Self {
        let mut sorted: Vec<f32> = slices.iter().flatten().copied().collect();
        sorted.sort_by(f32::total_cmp);
        let bins = bins.clamp(1, MAX_BINS);
        let mut edges: Vec<f32> = Vec::new();
        for k in 1..bins {
            let Some(edge) = quantile(&sorted, k, bins) else { break };
            if edges.last().is_none_or(|last| edge > *last) {
                edges.push(edge);
            }
        }
        let mut reference = Self {
            name: name.to_owned(),
            counts: vec![vec![0; edges.len() + 1]; slices.len()],
            edges,
        };
        for (slice, values) in slices.iter().enumerate() {
            for value in values {
                let bin = reference.bin(*value);
                if let Some(count) = reference.counts.get_mut(slice).and_then(|counts| counts.get_mut(bin)) {
                    *count += 1;
                }
            }
        }
        reference
    }

    /// The bin of a value: how many edges lie below it.
    pub fn bin(&self, value: f32) -> usize {
        self.edges.partition_point(|edge| *edge < value)
    }
}

/// Quantile `k/of` of sorted values, linear interpolation.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "k < of ≤ 64; edges are FP32 like the values"
)]
fn quantile(sorted: &[f32], k: usize, of: usize) -> Option<f32> {
    let position = k * sorted.len().checked_sub(1)?;
    let (below, remainder) = (position / of, position % of);
    let a = f64::from(*sorted.get(below)?);
    let b = sorted.get(below + 1).map_or(a, |v| f64::from(*v));
    Some((a + (b - a) * (remainder as f64 / of as f64)) as f32)
}

/// The sum of counts. Counts come from devices: a sum that would not fit stays at the largest number.
fn total(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

fn add_counts(counts: &mut [u64], more: &[u64]) {
    for (count, more) in counts.iter_mut().zip(more) {
        *count = count.saturating_add(*more);
    }
}

/// What was seen of one feature.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FeatureSketch {
    pub counts: Vec<u64>,
    pub sum: f64,
    pub sum_squares: f64,
    pub min: f32,
    pub max: f32,
}

impl FeatureSketch {
    fn total(&self) -> u64 {
        total(&self.counts)
    }

    fn add(&mut self, bin: usize, value: f32) {
        if self.total() == 0 {
            (self.min, self.max) = (value, value);
        }
        if let Some(count) = self.counts.get_mut(bin) {
            *count += 1;
        }
        self.sum += f64::from(value);
        self.sum_squares += f64::from(value) * f64::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn merge(&mut self, other: &Self) {
        if other.total() == 0 {
            return;
        }
        if self.total() == 0 {
            (self.min, self.max) = (other.min, other.max);
        }
        add_counts(&mut self.counts, &other.counts);
        self.sum += other.sum;
        self.sum_squares += other.sum_squares;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// What was seen of all features and of the predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SketchSet {
    /// Digest of the reference component that fixed the bins.
    pub reference: Digest,
    /// Observations.
    pub count: u64,
    pub features: Vec<FeatureSketch>,
    pub label_counts: Vec<u64>,
}

impl SketchSet {
    /// An empty sketch over the reference's bins.
    pub fn new(digest: Digest, reference: &ReferenceProfile) -> Self {
        Self {
            reference: digest,
            count: 0,
            features: reference
                .features
                .iter()
                .map(|feature| FeatureSketch {
                    counts: vec![0; feature.edges.len() + 1],
                    ..FeatureSketch::default()
                })
                .collect(),
            label_counts: vec![0; reference.labels.len()],
        }
    }

    /// Adds one observation: its features in the reference's order, and the predicted class.
    pub fn observe(&mut self, reference: &ReferenceProfile, features: &[f32], label: Option<usize>) {
        self.count += 1;
        for ((sketch, reference), value) in self.features.iter_mut().zip(&reference.features).zip(features) {
            sketch.add(reference.bin(*value), *value);
        }
        if let Some(count) = label.and_then(|label| self.label_counts.get_mut(label)) {
            *count += 1;
        }
    }

    /// Adds another sketch of the same reference. Refused as a whole if it does not fit.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        if self.reference != other.reference || self.label_counts.len() != other.label_counts.len() {
            return Err(SketchError::OtherReference);
        }
        if self.features.len() != other.features.len() {
            return Err(SketchError::Features {
                expected: self.features.len(),
                found: other.features.len(),
            });
        }
        let differs = |(a, b): (&FeatureSketch, &FeatureSketch)| a.counts.len() != b.counts.len();
        if let Some(index) = self.features.iter().zip(&other.features).position(differs) {
            return Err(SketchError::OtherBins(index));
        }
        self.count = self.count.saturating_add(other.count);
        for (sketch, more) in self.features.iter_mut().zip(&other.features) {
            sketch.merge(more);
        }
        add_counts(&mut self.label_counts, &other.label_counts);
        Ok(())
    }
}

/// One feature's distance from its reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureDrift {
    pub name: String,
    /// Population stability index, natural logarithm, smoothed.
    pub psi: f64,
    /// The index less what chance alone explains at these counts; what the rule judges.
    pub corrected: f64,
    pub drifted: bool,
}

/// A judgement of the data as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriftStatus {
    pub drifted: bool,
    /// Observations judged.
    pub count: u64,
    /// Share of features that drifted from the nearest slice, in [0, 1].
    pub share: f64,
    /// The slice that the data looks most like.
    pub nearest_slice: String,
    /// The features furthest from their reference, furthest first, at most eight.
    pub worst: Vec<FeatureDrift>,
}

/// Population stability index `Σ (p−q)·ln(p/q)` between two histograms over the same bins, one count added to every bin.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn psi(reference: &[u64], seen: &[u64]) -> f64 {
    let bins = reference.len() as f64;
    let (m, n) = (total(reference) as f64, total(seen) as f64);
    reference
        .iter()
        .zip(seen)
        .map(|(r, s)| {
            let q = (*r as f64 + 1.0) / (m + bins);
            let p = (*s as f64 + 1.0) / (n + bins);
            (p - q) * (p / q).ln()
        })
        .sum()
}

/// What chance alone makes of the index: `(bins−1)·(1/m + 1/n)` (Yurdakul 2018). `n` counts at most as much as `m`, so that
/// a stream that repeats itself does not pass for more evidence than the reference has.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn chance(reference: &[u64], seen: &[u64]) -> f64 {
    let (m, n) = (total(reference) as f64, total(seen) as f64);
    let n = n.min(m);
    if n > 0.0 {
        (reference.len() as f64 - 1.0) * (1.0 / m + 1.0 / n)
    } else {
        0.0
    }
}

/// Every feature's distance from one slice, in the reference's order.
pub fn feature_drift(reference: &ReferenceProfile, slice: usize, seen: &SketchSet) -> Vec<FeatureDrift> {
    let one = |(feature, sketch): (&FeatureReference, &FeatureSketch)| {
        let counts = feature.counts.get(slice).map_or(&[][..], Vec::as_slice);
        let psi = psi(counts, &sketch.counts);
        let corrected = psi - chance(counts, &sketch.counts);
        FeatureDrift {
            name: feature.name.clone(),
            psi,
            corrected,
            drifted: corrected > reference.rule.feature_threshold,
        }
    };
    reference.features.iter().zip(&seen.features).map(one).collect()
}

/// Judges what was seen by the reference's own rule, against the slice it looks most like. `None` while there is too
/// little to judge.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn judge(reference: &ReferenceProfile, seen: &SketchSet) -> Option<DriftStatus> {
    if seen.count < reference.rule.window || reference.features.is_empty() {
        return None;
    }
    let share =
        |features: &[FeatureDrift]| features.iter().filter(|f| f.drifted).count() as f64 / features.len() as f64;
    let (share, slice, mut features) = (0..reference.slices.len())
        .map(|slice| {
            let features = feature_drift(reference, slice, seen);
            (share(&features), slice, features)
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    features.sort_by(|a, b| b.corrected.total_cmp(&a.corrected));
    features.truncate(8);
    Some(DriftStatus {
        drifted: share >= reference.rule.share_threshold,
        count: seen.count,
        share,
        nearest_slice: reference.slices.get(slice).cloned().unwrap_or_default(),
        worst: features,
    })
}

/// Durations in microseconds, in buckets whose bounds grow by √2 from 1 µs: 72 buckets reach 46 minutes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LatencyHistogram {
    /// Grows to the highest bucket used.
    buckets: Vec<u64>,
    pub sum_us: u64,
    pub max_us: u64,
}

const LATENCY_BUCKETS: usize = 72;

impl LatencyHistogram {
    pub fn record(&mut self, us: u64) {
        let bucket = Self::bucket(us);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.sum_us = self.sum_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
    }

    /// Index of the first bucket whose upper bound √2^i is at least `us`.
    fn bucket(us: u64) -> usize {
        let square = u128::from(us) * u128::from(us);
        let bits = 128 - square.saturating_sub(1).leading_zeros();
        (bits as usize).min(LATENCY_BUCKETS - 1)
    }

    pub fn merge(&mut self, other: &Self) {
        let longest = self.buckets.len().max(other.buckets.len()).min(LATENCY_BUCKETS);
        self.buckets.resize(longest, 0);
        add_counts(&mut self.buckets, &other.buckets);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.max_us = self.max_us.max(other.max_us);
    }

    pub fn count(&self) -> u64 {
        total(&self.buckets)
    }

    /// Upper bound of the bucket that holds quantile `q`, microseconds: at most √2 too high. 0 if empty.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of counts far below 2^53"
    )]
    pub fn quantile_us(&self, q: f64) -> u64 {
        let rank = (self.count() as f64 * q.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut below = 0u64;
        for (bucket, count) in (0i32..).zip(&self.buckets) {
            below = below.saturating_add(*count);
            if below >= rank {
                return (2f64.powf(f64::from(bucket) / 2.0).ceil() as u64).min(self.max_us);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn profile(values: &[f32]) -> ReferenceProfile {
        ReferenceProfile {
            schema: 1,
            slices: vec!["import".into()],
            features: vec![FeatureReference::from_slices("x", &[values.to_vec()], 8)],
            labels: vec!["a".into(), "b".into()],
            label_counts: vec![1, 1],
            rule: DriftRule {
                window: 20,
                feature_threshold: 0.25,
                share_threshold: 0.5,
            },
        }
    }

    fn sketch(reference: &ReferenceProfile, values: &[f32]) -> SketchSet {
        let mut set = SketchSet::new(Digest::of(b"r"), reference);
        for value in values {
            set.observe(reference, &[*value], Some(0));
        }
        set
    }

    #[test]
    fn a_shift_is_drift_and_the_same_data_is_not() {
        let values: Vec<f32> = (0u16..400).map(|i| (f32::from(i) * 0.37).sin()).collect();
        let reference = profile(&values);
        reference.check().unwrap();
        let same = judge(&reference, &sketch(&reference, &values[..200])).unwrap();
        assert!(!same.drifted, "{same:?}");
        let shifted: Vec<f32> = values.iter().map(|v| v + 0.8).collect();
        let moved = judge(&reference, &sketch(&reference, &shifted[..200])).unwrap();
        assert!(moved.drifted && moved.worst[0].name == "x", "{moved:?}");
        assert!(
            judge(&reference, &sketch(&reference, &values[..19])).is_none(),
            "too little to judge"
        );
    }

    #[test]
    fn a_constant_feature_has_one_bin_and_never_drifts_on_itself() {
        let reference = profile(&[3.0; 50]);
        reference.check().unwrap();
        assert_eq!(reference.features[0].counts, [[50, 0]], "one edge at the value itself");
        assert!(!judge(&reference, &sketch(&reference, &[3.0; 50])).unwrap().drifted);
    }

    #[test]
    fn data_like_any_one_slice_has_not_drifted() {
        let (near, far): (Vec<f32>, Vec<f32>) = (0u16..200)
            .map(|i| (f32::from(i) * 0.37).sin())
            .map(|v| (v, v + 9.0))
            .unzip();
        let mut reference = profile(&near);
        assert!(judge(&reference, &sketch(&reference, &far)).unwrap().drifted);
        reference.slices = vec!["import".into(), "harvest".into()];
        reference.features = vec![FeatureReference::from_slices("x", &[near.clone(), far.clone()], 8)];
        reference.check().unwrap();
        let like_far = judge(&reference, &sketch(&reference, &far)).unwrap();
        assert!(!like_far.drifted && like_far.nearest_slice == "harvest", "{like_far:?}");
        assert!(!judge(&reference, &sketch(&reference, &near)).unwrap().drifted);
        let elsewhere: Vec<f32> = near.iter().map(|v| v - 9.0).collect();
        assert!(judge(&reference, &sketch(&reference, &elsewhere)).unwrap().drifted);
    }

    #[test]
    fn counts_that_do_not_fit_saturate() {
        let reference = profile(&[-1.0, 0.0, 1.0]);
        let mut hostile = sketch(&reference, &[0.0; 20]);
        hostile.count = u64::MAX;
        hostile.features[0].counts.fill(u64::MAX);
        hostile.label_counts.fill(u64::MAX);
        let mut merged = hostile.clone();
        merged.merge(&hostile).unwrap();
        assert_eq!(merged.features[0].total(), u64::MAX);
        assert!(judge(&reference, &merged).unwrap().share.is_finite());
        let latency = LatencyHistogram {
            buckets: vec![u64::MAX; 3],
            sum_us: u64::MAX,
            max_us: 7,
        };
        let mut twice = latency.clone();
        twice.merge(&latency);
        assert_eq!((twice.count(), twice.quantile_us(0.5)), (u64::MAX, 1));
    }

    proptest! {
        #[test]
        fn merging_is_the_same_as_seeing_all(
            a in proptest::collection::vec(-5f32..5.0, 0..80), b in proptest::collection::vec(-5f32..5.0, 0..80)
        ) {
            let reference = profile(&[-3.0, -1.0, 0.0, 0.5, 2.0, 2.5, 4.0]);
            let mut merged = sketch(&reference, &a);
            merged.merge(&sketch(&reference, &b)).unwrap();
            let all: Vec<f32> = a.iter().chain(&b).copied().collect();
            let whole = sketch(&reference, &all);
            prop_assert_eq!(&merged.features[0].counts, &whole.features[0].counts);
            prop_assert_eq!(merged.count, whole.count);
            prop_assert_eq!(merged.features[0].min.to_bits(), whole.features[0].min.to_bits());
            prop_assert_eq!(merged.features[0].max.to_bits(), whole.features[0].max.to_bits());
            prop_assert!((merged.features[0].sum - whole.features[0].sum).abs() < 1e-3);
        }

        #[test]
        fn psi_is_zero_only_for_equal_shares(counts in proptest::collection::vec(0u64..1000, 2..20)) {
            prop_assert!(psi(&counts, &counts).abs() < 1e-12);
        }

        #[test]
        fn latency_quantiles_are_bounds(mut values in proptest::collection::vec(1u32..10_000_000, 1..200)) {
            let mut histogram = LatencyHistogram::default();
            for value in &values {
                histogram.record(u64::from(*value));
            }
            values.sort_unstable();
            for percent in [50usize, 95, 100] {
                let exact = values[(values.len() * percent).div_ceil(100).max(1) - 1];
                let got = histogram.quantile_us(f64::from(u8::try_from(percent).unwrap()) / 100.0);
                prop_assert!(got >= u64::from(exact), "{} < {}", got, exact);
                prop_assert!(got <= u64::from(exact) * 1415 / 1000 + 2, "{} >> {}", got, exact);
            }
        }
    }
}
