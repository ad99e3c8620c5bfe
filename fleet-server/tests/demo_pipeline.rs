//! The pure pipeline on the demo's real data, from CSV to a package that passed its gate, held to reference values that
//! were computed independently (`test-data/labeling/README.md`) and to the demo's own bars.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "all of this file is a test: what is missing fails it, and its figures are shown"
)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fleet_server::domain::dataset::{Group, ImportSpec, Layout, RawSample, SampleReader, Split, SplitRule};
use fleet_server::domain::drift::severities;
use fleet_server::domain::label_model::{LabelEstimate, LabelModel};
use fleet_server::domain::labeling::{LabelMatrix, LabelingFunction, LabelingSet};
use fleet_server::packaging::package::{
    Package, PackageIdentity, PackageInput, PackageParameters, PackageTarget, ReferenceSlice, build_package,
};
use fleet_server::training::evaluate::evaluate;
use fleet_server::training::export::to_onnx;
use fleet_server::training::fit::{MlpParameters, MlpWeights, TrainingSet, fit};
use fleet_server::training::golden::{ScoredSample, golden_set};
use flotilla_api_types::datasets::{CreateDataset, CreateLabelingFunction, SampleShape, SplitRule as ApiSplitRule};
use flotilla_protocol::codec;
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::ids::{Digest, FleetId};
use flotilla_protocol::manifest::{ComponentKind, Provenance};
use flotilla_protocol::sketch::{ReferenceProfile, SketchSet, judge};
use serde::Deserialize;

/// What this test reads of a demo specification; the command line reads all of it.
#[derive(Deserialize)]
struct Spec {
    data: PathBuf,
    truth_column: String,
    dataset: CreateDataset,
    labeling_functions: Vec<CreateLabelingFunction>,
    hand_budget: usize,
    min_confidence: f64,
    trainer: MlpTrainer,
    seeds: Vec<u64>,
    remount: Remount,
    harvest: usize,
    bars: Bars,
}

#[derive(Deserialize)]
struct MlpTrainer {
    hidden: Vec<usize>,
    learning_rate: f64,
    weight_decay: f32,
    epochs: u32,
    batch_size: u32,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Remount {
    Columns { columns: BTreeMap<String, String> },
    RotateClockwise { side: usize },
}

#[derive(Deserialize)]
struct Bars {
    before: f64,
    drop: f64,
    recovered: f64,
}

#[derive(Deserialize)]
struct Reference {
    n_train: usize,
    first_item_features: BTreeMap<String, f64>,
    lf_fire_counts: BTreeMap<String, usize>,
    first10_votes: Vec<Vec<i16>>,
    em_iterations: u32,
    first10_posterior: Vec<Vec<f64>>,
    hand_pick_item_indexes: Vec<usize>,
    picked_conf: Vec<f64>,
    ref_edges: Vec<Vec<f64>>,
    ref_counts: Vec<Vec<u64>>,
    share_first96_field: f64,
    share_first96_field_drifted: f64,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// One demo, read.
struct Demo {
    spec: Spec,
    reference: Reference,
    features: FeatureSpec,
    samples: Vec<RawSample>,
}

/// Features `[n, width]` and classes.
#[derive(Default, Clone)]
struct Labeled {
    features: Vec<f32>,
    labels: Vec<usize>,
}

impl Demo {
    fn load(name: &str) -> Self {
        let demo = folder().join("cli/demo");
        let spec: Spec = toml::from_str(&fs::read_to_string(demo.join(format!("{name}.toml"))).unwrap()).unwrap();
        let reference = folder().join(format!("test-data/labeling/{name}.json"));
        let reference = serde_json::from_str(&fs::read_to_string(reference).unwrap()).unwrap();
        let import = import_spec(&spec);
        let file = fs::File::open(demo.join(&spec.data)).unwrap();
        let mut reader = SampleReader::new(file, &import).unwrap();
        let samples: Vec<RawSample> = reader.by_ref().collect::<Result<_, _>>().unwrap();
        assert_eq!(reader.counts().unused_steps, 0);
        Self {
            features: reader.feature_spec().clone(),
            spec,
            reference,
            samples,
        }
    }

    fn part(&self, split: Split) -> Vec<&RawSample> {
        self.samples.iter().filter(|sample| sample.split == split).collect()
    }

    fn compute(&self, sample: &RawSample, remounted: bool) -> Vec<f32> {
        if !remounted {
            return self.features.compute(&sample.values).unwrap();
        }
        let columns = self.features.raw_names();
        let place = |name: &str| columns.iter().position(|column| column == name).unwrap();
        let sources: Vec<usize> = match &self.spec.remount {
            Remount::Columns { columns: moved } => columns
                .iter()
                .map(|c| moved.get(c).map_or(place(c), |from| place(from)))
                .collect(),
            Remount::RotateClockwise { side } => (0..columns.len())
                .map(|p| (side - 1 - p % side) * side + p / side)
                .collect(),
        };
        let moved: Vec<f32> = sample
            .values
            .chunks(columns.len())
            .flat_map(|step| sources.iter().map(|source| step[*source]))
            .collect();
        self.features.compute(&moved).unwrap()
    }

    fn truth(&self, sample: &RawSample) -> usize {
        let truth = sample.label.as_ref().unwrap();
        self.spec
            .dataset
            .labels
            .iter()
            .position(|label| label == truth)
            .unwrap()
    }

    fn labeled(&self, samples: &[&RawSample], remounted: bool) -> Labeled {
        let mut out = Labeled::default();
        for sample in samples {
            out.features.extend(self.compute(sample, remounted));
            out.labels.push(self.truth(sample));
        }
        out
    }

    fn vote(&self) -> (Vec<Vec<f32>>, LabelMatrix) {
        let functions: Vec<LabelingFunction> = self
            .spec
            .labeling_functions
            .iter()
            .map(|f| LabelingFunction {
                name: f.name.clone(),
                when: f.when.clone(),
                label: f.label.clone(),
            })
            .collect();
        let set = LabelingSet::compile(&functions, &self.features.feature_names(), &self.spec.dataset.labels).unwrap();
        let rows: Vec<Vec<f32>> = self.part(Split::Train).iter().map(|s| self.compute(s, false)).collect();
        let matrix = set.apply(rows.iter().map(Vec::as_slice)).unwrap();
        assert!(
            matrix.errors().iter().all(|errors| errors.count == 0),
            "{:?}",
            matrix.errors()
        );
        for (index, function) in functions.iter().enumerate() {
            assert_eq!(
                matrix.fire_count(index),
                self.reference.lf_fire_counts[&function.name],
                "{}",
                function.name
            );
        }
        (rows, matrix)
    }

    /// The training set as labeling functions, label model and the person's budget make it.
    fn weakly_labeled(&self) -> Labeled {
        let train = self.part(Split::Train);
        let (rows, matrix) = self.vote();
        let estimate = settle(&matrix);
        let by_hand = estimate.least_confident(self.spec.hand_budget);
        let mut out = Labeled::default();
        for (item, sample) in train.iter().enumerate() {
            let label = if by_hand.contains(&item) {
                self.truth(sample)
            } else if estimate.confidence[item] >= self.spec.min_confidence {
                estimate.label(item).unwrap()
            } else {
                continue;
            };
            out.features.extend(&rows[item]);
            out.labels.push(label);
        }
        out
    }

    fn fit(&self, data: &Labeled, seed: u64) -> MlpWeights {
        let trainer = &self.spec.trainer;
        let parameters = MlpParameters {
            hidden: trainer.hidden.clone(),
            learning_rate: trainer.learning_rate,
            weight_decay: trainer.weight_decay,
            epochs: trainer.epochs,
            batch_size: trainer.batch_size,
        };
        let set = TrainingSet {
            features: &data.features,
            feature_count: self.features.feature_count(),
            labels: &data.labels,
            classes: &self.spec.dataset.labels,
            weights: None,
        };
        fit(&set, &parameters, seed, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    fn accuracy(&self, weights: &MlpWeights, data: &Labeled) -> f64 {
        let scores = weights.forward(&data.features).unwrap();
        evaluate(&scores, &data.labels, &self.spec.dataset.labels)
            .unwrap()
            .accuracy
    }

    fn package(&self, weights: &MlpWeights) -> Package {
        let holdout = self.part(Split::Holdout);
        let scores: Vec<Vec<f32>> = holdout
            .iter()
            .map(|s| weights.forward(&self.compute(s, false)).unwrap())
            .collect();
        let scored: Vec<ScoredSample<'_>> = holdout
            .iter()
            .zip(&scores)
            .map(|(sample, scores)| ScoredSample {
                values: &sample.values,
                scores,
            })
            .collect();
        build_package(PackageInput {
            identity: PackageIdentity {
                fleet: FleetId::new(uuid::Uuid::nil()),
                line: self.spec.dataset.name.parse().unwrap(),
                semver: "1.0.0".into(),
                release_counter: 1,
                issued_ms: 1,
                expires_ms: 2,
            },
            target: PackageTarget::default(),
            parameters: PackageParameters::default(),
            provenance: Provenance {
                dataset_version: None,
                dataset_digest: None,
                run: None,
                code_version: "test".into(),
                sbom: None,
            },
            onnx: to_onnx(weights, &self.spec.dataset.name).unwrap(),
            golden: golden_set(&self.features, &self.spec.dataset.labels, &scored).unwrap(),
            features: self.features.clone(),
            labels: self.spec.dataset.labels.clone(),
            slices: vec![ReferenceSlice {
                name: "import".into(),
                features: self
                    .part(Split::Train)
                    .iter()
                    .flat_map(|s| self.compute(s, false))
                    .collect(),
            }],
            label_counts: vec![1; self.spec.dataset.labels.len()],
        })
        .unwrap()
    }
}

fn settle(matrix: &LabelMatrix) -> LabelEstimate {
    match LabelModel::DawidSkene.fit(matrix, &mut |_| ControlFlow::Continue(())) {
        ControlFlow::Continue(estimate) => estimate,
        ControlFlow::Break(()) => panic!("nobody stopped it"),
    }
}

fn import_spec(spec: &Spec) -> ImportSpec {
    let layout = match spec.dataset.shape.clone() {
        SampleShape::Row { columns } => Layout::Row {
            columns: (!columns.is_empty()).then_some(columns),
        },
        SampleShape::Series {
            case_columns,
            order_column,
            channels,
            window,
            hop,
            rate_hz,
            statistics,
        } => Layout::Series {
            case_columns,
            order_column,
            channels,
            length: window,
            hop,
            rate_hz,
            statistics,
        },
    };
    let ApiSplitRule::Modulo {
        column,
        modulus,
        train,
        holdout,
    } = spec.dataset.split.clone()
    else {
        panic!("the demo splits by modulo")
    };
    ImportSpec {
        layout,
        drop_columns: Vec::new(),
        label_column: Some(spec.truth_column.clone()),
        split: SplitRule::Modulo {
            group: if column.is_some() { Group::Case } else { Group::Row },
            modulus,
            exclude: (0..modulus)
                .filter(|r| !train.contains(r) && !holdout.contains(r))
                .collect(),
            holdout,
        },
    }
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1.0 + b.abs())
}

fn labels_match_the_reference(name: &str) {
    let demo = Demo::load(name);
    let reference = &demo.reference;
    let (rows, matrix) = demo.vote();
    assert_eq!(rows.len(), reference.n_train);
    for (feature, value) in demo.features.feature_names().iter().zip(&rows[0]) {
        let expected = reference.first_item_features[feature];
        assert!(
            close(f64::from(*value), expected, 1e-5),
            "{feature}: {value} is not {expected}"
        );
    }
    for (item, votes) in reference.first10_votes.iter().enumerate() {
        assert_eq!(matrix.row(item), votes, "votes on item {item}");
    }
    let estimate = settle(&matrix);
    assert_eq!(estimate.iterations, reference.em_iterations);
    for (item, expected) in reference.first10_posterior.iter().enumerate() {
        for (a, b) in estimate.posterior(item).iter().zip(expected) {
            assert!(
                (a - b).abs() < 1e-6,
                "item {item}: {:?} is not {expected:?}",
                estimate.posterior(item)
            );
        }
    }
    let picked = estimate.least_confident(demo.spec.hand_budget);
    assert_eq!(picked, reference.hand_pick_item_indexes);
    for (item, expected) in picked.iter().zip(&reference.picked_conf) {
        assert!((estimate.confidence[*item] - expected).abs() < 1e-6);
    }
}

fn drift_matches_the_reference(name: &str) {
    let demo = Demo::load(name);
    let weights = demo.fit(&demo.weakly_labeled(), 1);
    let package = demo.package(&weights);
    let (_, bytes) = package
        .components
        .iter()
        .find(|(kind, _)| *kind == ComponentKind::Reference)
        .unwrap();
    let profile: ReferenceProfile = codec::from_slice(bytes, codec::MAX_COMPONENT_BYTES).unwrap();
    for (index, feature) in profile.features.iter().enumerate() {
        let expected = &demo.reference.ref_edges[index];
        assert_eq!(feature.edges.len(), expected.len(), "{}", feature.name);
        for (edge, expected) in feature.edges.iter().zip(expected) {
            assert!(
                close(f64::from(*edge), *expected, 1e-5),
                "{}: {edge} is not {expected}",
                feature.name
            );
        }
        assert_eq!(
            feature.counts,
            [demo.reference.ref_counts[index].clone()],
            "{}",
            feature.name
        );
    }
    let field = demo.part(Split::Excluded);
    for (remounted, expected) in [
        (false, demo.reference.share_first96_field),
        (true, demo.reference.share_first96_field_drifted),
    ] {
        let mut seen = SketchSet::new(Digest::of(bytes), &profile);
        for sample in field.iter().cycle().take(96) {
            seen.observe(&profile, &demo.compute(sample, remounted), None);
        }
        let status = judge(&profile, &seen).unwrap();
        assert!(
            (status.share - expected).abs() < 1e-9,
            "{} is not {expected}",
            status.share
        );
        assert_eq!(status.drifted, remounted);
        let (_, worst) = severities(&profile, &seen);
        assert_eq!(worst[0].1, status.worst[0]);
    }
}

fn the_loop_closes(name: &str) {
    let demo = Demo::load(name);
    let train = demo.weakly_labeled();
    let holdout = demo.part(Split::Holdout);
    let (before, remounted) = (demo.labeled(&holdout, false), demo.labeled(&holdout, true));
    // As devices would harvest them: remounted field samples, spread over the classes, with a person's labels.
    let field = demo.part(Split::Excluded);
    let spread: Vec<&RawSample> = (0..field.len())
        .map(|i| field[i * 7 % field.len()])
        .take(demo.spec.harvest)
        .collect();
    let harvest = demo.labeled(&spread, true);
    let mut grown = train.clone();
    grown.features.extend(&harvest.features);
    grown.labels.extend(&harvest.labels);
    let mut means = [0.0; 3];
    for seed in &demo.spec.seeds {
        let (first, second) = (demo.fit(&train, *seed), demo.fit(&grown, *seed));
        let scores = [
            demo.accuracy(&first, &before),
            demo.accuracy(&first, &remounted),
            demo.accuracy(&second, &remounted),
        ];
        for (mean, score) in means.iter_mut().zip(scores) {
            *mean += score / demo.spec.seeds.len() as f64;
        }
    }
    let [before, drifted, after] = means;
    println!("{name}: before {before:.3}, re-mounted {drifted:.3}, retrained {after:.3}");
    let bars = &demo.spec.bars;
    assert!(before >= bars.before.max(0.9), "{means:?}");
    assert!(before - drifted >= bars.drop, "{means:?}");
    assert!((before - after).abs() <= bars.recovered, "{means:?}");
}

#[test]
fn motions_labels_match_the_reference() {
    labels_match_the_reference("motions");
}

#[test]
fn digits_labels_match_the_reference() {
    labels_match_the_reference("digits");
}

#[test]
fn motions_drift_matches_the_reference() {
    drift_matches_the_reference("motions");
}

#[test]
fn digits_drift_matches_the_reference() {
    drift_matches_the_reference("digits");
}

#[test]
fn the_loop_closes_on_motions() {
    the_loop_closes("motions");
}

#[test]
fn the_loop_closes_on_digits() {
    the_loop_closes("digits");
}

#[test]
fn the_same_run_gives_the_same_package() {
    let demo = Demo::load("digits");
    let train = demo.weakly_labeled();
    let [first, second] = [3, 3].map(|seed| demo.package(&demo.fit(&train, seed)));
    assert_eq!(first.manifest_payload, second.manifest_payload);
    assert_eq!(first.golden_report.cases, 16);
    assert!(Path::new(&demo.spec.data).is_relative());
}
