//! Drift as the server sees it: sketches merged over devices and time, judged by the package's own rule, and laid out for
//! people. The statistic itself is the protocol's, so that server and device never disagree.

use flotilla_api_types::drift::{FeatureHistogram, FeatureSeverity};
use flotilla_protocol::sketch::{
    DriftStatus, FeatureDrift, ReferenceProfile, SketchError, SketchSet, feature_drift, judge,
};

/// One point of a drift series.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftPoint {
    /// Start of the interval, Unix milliseconds.
    pub start_ms: i64,
    /// Observations in it.
    pub count: u64,
    /// `None` where there were too few to judge.
    pub status: Option<DriftStatus>,
}

/// How often a class was predicted, as shares of all predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelShift {
    pub label: String,
    pub reference: f64,
    pub seen: f64,
}

/// Adds sketches up. `None` where there are none; all must be of one reference.
pub fn merge<'a>(sketches: impl IntoIterator<Item = &'a SketchSet>) -> Result<Option<SketchSet>, SketchError> {
    let mut sketches = sketches.into_iter();
    let Some(first) = sketches.next() else {
        return Ok(None);
    };
    let mut whole = first.clone();
    for sketch in sketches {
        whole.merge(sketch)?;
    }
    Ok(Some(whole))
}

/// Sketches grouped into intervals of `interval_ms` and judged one by one, oldest first. Empty intervals are left out.
pub fn series<'a>(
    reference: &ReferenceProfile,
    sketches: impl IntoIterator<Item = (i64, &'a SketchSet)>,
    interval_ms: i64,
) -> Result<Vec<DriftPoint>, SketchError> {
    let interval_ms = interval_ms.max(1);
    let mut intervals: std::collections::BTreeMap<i64, SketchSet> = std::collections::BTreeMap::new();
    for (at_ms, sketch) in sketches {
        let start = at_ms.div_euclid(interval_ms).saturating_mul(interval_ms);
        match intervals.get_mut(&start) {
            Some(sum) => sum.merge(sketch)?,
            None => {
                intervals.insert(start, sketch.clone());
            }
        }
    }
    Ok(intervals
        .into_iter()
        .map(|(start_ms, sketch)| DriftPoint {
            start_ms,
            count: sketch.count,
            status: judge(reference, &sketch),
        })
        .collect())
}

/// The slice that the data looks most like (fewest drifted features, the first of equals) and every feature's distance
/// from it, furthest first, with the feature's place in the reference. Unlike [`judge`] it also speaks on little data.
pub fn severities(reference: &ReferenceProfile, seen: &SketchSet) -> (usize, Vec<(usize, FeatureDrift)>) {
    let drifted = |features: &[FeatureDrift]| features.iter().filter(|feature| feature.drifted).count();
    let (slice, features) = (0..reference.slices.len())
        .map(|slice| (slice, feature_drift(reference, slice, seen)))
        .min_by_key(|(_, features)| drifted(features))
        .unwrap_or_default();
    let mut features: Vec<(usize, FeatureDrift)> = features.into_iter().enumerate().collect();
    features.sort_by(|(_, a), (_, b)| b.corrected.total_cmp(&a.corrected));
    (slice, features)
}

/// Every feature's counts beside those of the nearest slice, over the same bins, furthest first.
pub fn histograms(reference: &ReferenceProfile, seen: &SketchSet) -> Vec<FeatureHistogram> {
    let (slice, features) = severities(reference, seen);
    features
        .into_iter()
        .filter_map(|(index, drift)| {
            let feature = reference.features.get(index)?;
            Some(FeatureHistogram {
                name: feature.name.clone(),
                edges: feature.edges.clone(),
                reference: feature.counts.get(slice)?.clone(),
                seen: seen.features.get(index)?.counts.clone(),
                severity: severity(drift),
            })
        })
        .collect()
}

/// A feature's distance as the API gives it.
pub fn severity(drift: FeatureDrift) -> FeatureSeverity {
    FeatureSeverity {
        name: drift.name,
        psi: drift.psi,
        corrected: drift.corrected,
        drifted: drift.drifted,
    }
}

/// Shares per bin, with the width that a bar has: `(from, to, share)`. Open ends take the nearest seen value.
pub fn densities(edges: &[f32], counts: &[u64], low: f32, high: f32) -> Vec<(f32, f32, f64)> {
    let total: u64 = counts.iter().sum();
    let last = edges.last().copied().unwrap_or(high);
    let starts = std::iter::once(edges.first().map_or(low, |edge| low.min(*edge))).chain(edges.iter().copied());
    let ends = edges.iter().copied().chain(std::iter::once(high.max(last)));
    starts
        .zip(ends)
        .zip(counts)
        .map(|((from, to), count)| (from, to, share(*count, total)))
        .collect()
}

/// Predicted classes, reference beside live.
pub fn label_shift(reference: &ReferenceProfile, seen: &SketchSet) -> Vec<LabelShift> {
    let (before, now): (u64, u64) = (reference.label_counts.iter().sum(), seen.label_counts.iter().sum());
    reference
        .labels
        .iter()
        .zip(reference.label_counts.iter().zip(&seen.label_counts))
        .map(|(label, (reference, seen))| LabelShift {
            label: label.clone(),
            reference: share(*reference, before),
            seen: share(*seen, now),
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::ids::Digest;
    use flotilla_protocol::sketch::{DriftRule, FeatureReference};

    use super::*;

    fn wave(offset: f32) -> Vec<f32> {
        (0..200).map(|i| (i as f32 * 0.37).sin() + offset).collect()
    }

    fn profile() -> ReferenceProfile {
        ReferenceProfile {
            schema: 1,
            slices: vec!["import".into(), "harvest-1".into()],
            features: vec![
                FeatureReference::from_slices("still", &[wave(0.0), wave(0.0)], 8),
                FeatureReference::from_slices("moved", &[wave(0.0), wave(9.0)], 8),
            ],
            labels: vec!["a".into(), "b".into()],
            label_counts: vec![3, 1],
            rule: DriftRule {
                window: 20,
                feature_threshold: 0.25,
                share_threshold: 0.5,
            },
        }
    }

    fn sketch(profile: &ReferenceProfile, moved: f32, count: usize) -> SketchSet {
        let mut set = SketchSet::new(Digest::of(b"r"), profile);
        for value in wave(0.0).iter().take(count) {
            set.observe(profile, &[*value, value + moved], Some(1));
        }
        set
    }

    #[test]
    fn sums_are_judged_per_interval() {
        let profile = profile();
        let (near, far, few) = (
            sketch(&profile, 0.0, 100),
            sketch(&profile, 40.0, 100),
            sketch(&profile, 0.0, 5),
        );
        let points = series(
            &profile,
            [(7, &few), (1_500, &far), (1_200, &far), (2_100, &near)],
            1_000,
        )
        .unwrap();
        let told: Vec<(i64, u64, Option<bool>)> = points
            .iter()
            .map(|p| (p.start_ms, p.count, p.status.as_ref().map(|s| s.drifted)))
            .collect();
        assert_eq!(
            told,
            [(0, 5, None), (1_000, 200, Some(true)), (2_000, 100, Some(false))]
        );
        assert_eq!(merge([&near, &far]).unwrap().unwrap().count, 200);
        assert_eq!(merge(std::iter::empty()).unwrap(), None);
        let mut other = near.clone();
        other.reference = Digest::of(b"other");
        assert_eq!(merge([&near, &other]), Err(SketchError::OtherReference));
    }

    #[test]
    fn the_furthest_feature_comes_first_against_the_nearest_slice() {
        let profile = profile();
        let elsewhere = histograms(&profile, &sketch(&profile, 40.0, 150));
        let names: Vec<&str> = elsewhere.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["moved", "still"]);
        assert!(elsewhere[0].severity.drifted && !elsewhere[1].severity.drifted);
        assert_eq!(elsewhere[0].seen.iter().sum::<u64>(), 150);
        let like_harvest = histograms(&profile, &sketch(&profile, 9.0, 150));
        let moved = like_harvest.iter().find(|h| h.name == "moved").unwrap();
        assert_eq!(moved.reference, profile.features[1].counts[1]);
        assert!(!moved.severity.drifted);
    }

    #[test]
    fn bars_and_labels_are_shares() {
        let bars = densities(&[1.0, 2.0], &[1, 2, 1], -3.0, 1.5);
        assert_eq!(bars, [(-3.0, 1.0, 0.25), (1.0, 2.0, 0.5), (2.0, 2.0, 0.25)]);
        let shift = label_shift(&profile(), &sketch(&profile(), 0.0, 10));
        assert_eq!((shift[0].reference, shift[0].seen, shift[1].seen), (0.75, 0.0, 1.0));
    }
}
