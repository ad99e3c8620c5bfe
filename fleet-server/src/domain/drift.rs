//! Drift as the server sees it: sketches merged over devices and time, judged by the package's own rule, and laid out for
//! people. The statistic itself is the protocol's, so that server and device never disagree.

use flotilla_api_types::drift::{ClassShare, FeatureHistogram, FeatureSeverity};
use flotilla_protocol::ids::Digest;
use flotilla_protocol::sketch::{
    DriftStatus, FeatureDrift, FeatureReference, FeatureSketch, ReferenceProfile, SketchSet, feature_drift, judge,
};

/// A package's reference, by which its sketches are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Of the component: sketches over other bins name another.
    pub digest: Digest,
    pub profile: ReferenceProfile,
}

/// Sketches of one package added up. What has other bins is left out and counted.
#[derive(Debug, Clone)]
pub struct Total<'a> {
    reference: &'a Reference,
    pub sum: SketchSet,
    pub left_out: u64,
}

impl<'a> Total<'a> {
    pub fn new(reference: &'a Reference) -> Self {
        Self {
            reference,
            sum: SketchSet::new(reference.digest, &reference.profile),
            left_out: 0,
        }
    }

    pub fn add(&mut self, sketch: &SketchSet) {
        // Refused as a whole: the sum is as it was.
        if self.sum.merge(sketch).is_err() {
            self.left_out += 1;
        }
    }

    /// Every feature's shares beside those of the nearest slice, over the same bins, furthest first.
    pub fn histograms(&self) -> Vec<FeatureHistogram> {
        let profile = &self.reference.profile;
        let (slice, features) = severities(profile, &self.sum);
        let slice_name = profile.slices.get(slice).cloned().unwrap_or_default();
        features
            .into_iter()
            .filter_map(|(index, drift)| {
                let feature = profile.features.get(index)?;
                let seen = self.sum.features.get(index)?;
                let reference = feature.counts.get(slice)?;
                Some(FeatureHistogram {
                    name: feature.name.clone(),
                    slice: slice_name.clone(),
                    edges: edges(feature, seen),
                    reference: shares(reference),
                    seen: shares(&seen.counts),
                    reference_count: reference.iter().sum(),
                    seen_count: seen.counts.iter().sum(),
                    severity: severity(drift),
                })
            })
            .collect()
    }

    /// Predicted classes, reference beside live.
    pub fn classes(&self) -> Vec<ClassShare> {
        let profile = &self.reference.profile;
        let counts = profile.label_counts.iter().zip(&self.sum.label_counts);
        let (before, now) = (shares(&profile.label_counts), shares(&self.sum.label_counts));
        profile
            .labels
            .iter()
            .zip(counts)
            .zip(before.into_iter().zip(now))
            .map(
                |((label, (reference_count, seen_count)), (reference, seen))| ClassShare {
                    label: label.clone(),
                    reference,
                    seen,
                    reference_count: *reference_count,
                    seen_count: *seen_count,
                },
            )
            .collect()
    }
}

/// One point of a drift series.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesPoint {
    /// The hour since 1970 that it is of.
    pub hour: i64,
    /// Observations in it.
    pub count: u64,
    /// `None` where there were too few to judge.
    pub status: Option<DriftStatus>,
    /// The slice that the hour's data looks most like.
    pub slice: String,
    /// The feature asked for; told on little data too.
    pub feature: Option<FeatureDrift>,
}

/// Judges hour by hour. Sketches come in order of time; holds one hour's sum and the points.
#[derive(Debug)]
pub struct Series<'a> {
    reference: &'a Reference,
    feature: Option<usize>,
    open: Option<(i64, Total<'a>)>,
    points: Vec<SeriesPoint>,
}

impl<'a> Series<'a> {
    /// `feature`: its place in the reference.
    pub const fn new(reference: &'a Reference, feature: Option<usize>) -> Self {
        Self {
            reference,
            feature,
            open: None,
            points: Vec::new(),
        }
    }

    pub fn add(&mut self, hour: i64, sketch: &SketchSet) {
        if self.open.as_ref().is_none_or(|(open, _)| *open != hour) {
            self.close();
            self.open = Some((hour, Total::new(self.reference)));
        }
        if let Some((_, total)) = &mut self.open {
            total.add(sketch);
        }
    }

    /// All points, oldest first. Hours without observations are left out.
    pub fn finish(mut self) -> Vec<SeriesPoint> {
        self.close();
        self.points
    }

    fn close(&mut self) {
        let Some((hour, total)) = self.open.take().filter(|(_, total)| total.sum.count > 0) else {
            return;
        };
        let profile = &self.reference.profile;
        let (slice, features) = severities(profile, &total.sum);
        self.points.push(SeriesPoint {
            hour,
            count: total.sum.count,
            status: judge(profile, &total.sum),
            slice: profile.slices.get(slice).cloned().unwrap_or_default(),
            feature: self
                .feature
                .and_then(|wanted| features.into_iter().find(|(index, _)| *index == wanted))
                .map(|(_, drift)| drift),
        });
    }
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

/// A feature's distance as the API gives it.
pub fn severity(drift: FeatureDrift) -> FeatureSeverity {
    FeatureSeverity {
        name: drift.name,
        psi: drift.psi,
        corrected: drift.corrected,
        drifted: drift.drifted,
    }
}

/// The bounds of every bin, one more than there are bins. The outer bins are open: they reach to the furthest value seen,
/// and are at least as wide as their neighbours, so that they can be drawn.
fn edges(feature: &FeatureReference, seen: &FeatureSketch) -> Vec<f32> {
    let inner = &feature.edges;
    let (first, last) = match (inner.first(), inner.last()) {
        (Some(first), Some(last)) => (*first, *last),
        _ => (0.0, 0.0),
    };
    let width = |pair: Option<&[f32]>| match pair {
        Some([from, to]) => to - from,
        _ => 0.0,
    };
    // What a device claims to have seen may be no number at all.
    let usable = seen.min.is_finite() && seen.max.is_finite() && seen.counts.iter().any(|count| *count > 0);
    let (low, high) = if usable { (seen.min, seen.max) } else { (first, last) };
    let start = low.min(first - width(inner.windows(2).next()));
    let end = high.max(last + width(inner.windows(2).next_back()));
    std::iter::once(start)
        .chain(inner.iter().copied())
        .chain(std::iter::once(end))
        .collect()
}

/// Counts as shares of their sum.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn shares(counts: &[u64]) -> Vec<f64> {
    let total: u64 = counts.iter().sum();
    let share = |count: &u64| if total == 0 { 0.0 } else { *count as f64 / total as f64 };
    counts.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::sketch::DriftRule;

    use super::*;

    fn wave(offset: f32) -> Vec<f32> {
        (0..200).map(|i| (i as f32 * 0.37).sin() + offset).collect()
    }

    fn reference() -> Reference {
        Reference {
            digest: Digest::of(b"r"),
            profile: ReferenceProfile {
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
            },
        }
    }

    fn sketch(reference: &Reference, moved: f32, count: usize) -> SketchSet {
        let mut set = SketchSet::new(reference.digest, &reference.profile);
        for value in wave(0.0).iter().take(count) {
            set.observe(&reference.profile, &[*value, value + moved], Some(1));
        }
        set
    }

    fn total<'a>(reference: &'a Reference, sketches: &[SketchSet]) -> Total<'a> {
        let mut total = Total::new(reference);
        for sketch in sketches {
            total.add(sketch);
        }
        total
    }

    #[test]
    fn sums_are_judged_per_hour() {
        let reference = reference();
        let (near, far, few) = (
            sketch(&reference, 0.0, 100),
            sketch(&reference, 40.0, 100),
            sketch(&reference, 0.0, 5),
        );
        let mut foreign = far.clone();
        foreign.reference = Digest::of(b"other");
        let mut series = Series::new(&reference, Some(1));
        for (hour, sketch) in [
            (7, &few),
            (8, &far),
            (8, &far),
            (8, &foreign),
            (10, &near),
            (11, &foreign),
        ] {
            series.add(hour, sketch);
        }
        let points = series.finish();
        let told: Vec<(i64, u64, Option<bool>, bool)> = points
            .iter()
            .map(|p| {
                let feature = p.feature.as_ref().unwrap();
                assert_eq!(feature.name, "moved");
                (p.hour, p.count, p.status.as_ref().map(|s| s.drifted), feature.drifted)
            })
            .collect();
        assert_eq!(
            told,
            [
                (7, 5, None, false),
                (8, 200, Some(true), true),
                (10, 100, Some(false), false)
            ]
        );
        let both = total(&reference, &[near, far, foreign]);
        assert_eq!((both.sum.count, both.left_out), (200, 1));
    }

    #[test]
    fn the_furthest_feature_comes_first_against_the_nearest_slice() {
        let reference = reference();
        let elsewhere = total(&reference, &[sketch(&reference, 40.0, 150)]).histograms();
        let names: Vec<&str> = elsewhere.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["moved", "still"]);
        assert!(elsewhere[0].severity.drifted && !elsewhere[1].severity.drifted);
        assert_eq!(elsewhere[0].seen_count, 150);
        let like_harvest = total(&reference, &[sketch(&reference, 9.0, 150)]).histograms();
        let moved = like_harvest.iter().find(|h| h.name == "moved").unwrap();
        assert_eq!(moved.reference, shares(&reference.profile.features[1].counts[1]));
        assert_eq!(moved.slice, "harvest-1");
        assert!(!moved.severity.drifted);
    }

    #[test]
    fn bins_can_be_drawn_whatever_was_seen() {
        let reference = reference();
        for sketches in [
            vec![],
            vec![sketch(&reference, 40.0, 50)],
            vec![sketch(&reference, -40.0, 50)],
        ] {
            for histogram in total(&reference, &sketches).histograms() {
                let bins = histogram.reference.len();
                assert_eq!((histogram.edges.len(), histogram.seen.len()), (bins + 1, bins));
                assert!(
                    histogram.edges.windows(2).all(|pair| pair[0] < pair[1]),
                    "{histogram:?}"
                );
                assert!((histogram.reference.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            }
        }
        let feature = FeatureReference {
            name: "x".into(),
            edges: vec![1.0, 2.0],
            counts: vec![vec![1, 2, 1]],
        };
        let seen = FeatureSketch {
            counts: vec![1, 0, 1],
            min: -3.0,
            max: 2.5,
            ..FeatureSketch::default()
        };
        assert_eq!(edges(&feature, &seen), [-3.0, 1.0, 2.0, 3.0]);
        let absurd = FeatureSketch {
            min: f32::NEG_INFINITY,
            max: f32::NAN,
            ..seen
        };
        assert_eq!(edges(&feature, &absurd), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(shares(&feature.counts[0]), [0.25, 0.5, 0.25]);
    }

    #[test]
    fn predicted_classes_are_shares_of_their_own_sums() {
        let reference = reference();
        let classes = total(&reference, &[sketch(&reference, 0.0, 10)]).classes();
        let told: Vec<(f64, f64, u64)> = classes.iter().map(|c| (c.reference, c.seen, c.seen_count)).collect();
        assert_eq!(told, [(0.75, 0.0, 0), (0.25, 1.0, 10)]);
    }
}
