//! Tests of packages: what stands in them, and what is refused.

use super::*;
use crate::training::evaluate::predicted;
use crate::training::export::{OUTPUT, to_onnx};
use crate::training::fit::{DenseLayer, MlpWeights};
use crate::training::golden::{MAX_GOLDEN_CASES, ScoredSample, golden_set};
use flotilla_protocol::infer::Tensor;

fn weights() -> MlpWeights {
    MlpWeights {
        mean: vec![0.5, 1.0],
        std: vec![2.0, 0.5],
        layers: vec![DenseLayer {
            inputs: 2,
            outputs: 3,
            weight: vec![1.0, -1.0, 0.2, 0.3, 0.4, -0.9],
            bias: vec![0.1, 0.0, 0.2],
        }],
        labels: ["a", "b", "c"].map(String::from).to_vec(),
    }
}

fn rows() -> Vec<f32> {
    (0..80).map(|i| (i as f32 * 0.71).sin() * 4.0).collect()
}

fn input() -> PackageInput {
    let weights = weights();
    let features = FeatureSpec::Row {
        columns: vec!["x".into(), "y".into()],
    };
    let rows = rows();
    let scores = weights.forward(&rows).unwrap();
    let samples: Vec<ScoredSample<'_>> = rows
        .chunks(2)
        .zip(scores.chunks(3))
        .map(|(values, scores)| ScoredSample { values, scores })
        .collect();
    PackageInput {
        identity: PackageIdentity {
            fleet: FleetId::new(uuid::Uuid::nil()),
            line: "motions".parse().unwrap(),
            semver: "1.0.0".into(),
            release_counter: 3,
            issued_ms: 1_000,
            expires_ms: 2_000,
        },
        target: PackageTarget::default(),
        parameters: PackageParameters::default(),
        provenance: Provenance {
            dataset_version: None,
            dataset_digest: None,
            run: None,
            code_version: "0.1.0".into(),
            sbom: None,
        },
        onnx: to_onnx(&weights, "motions").unwrap(),
        golden: golden_set(&features, &weights.labels, &samples).unwrap(),
        features,
        labels: weights.labels,
        slices: vec![ReferenceSlice {
            name: "import".into(),
            features: rows,
        }],
        label_counts: vec![10, 20, 10],
    }
}

#[test]
fn a_package_holds_what_a_device_needs_and_passes_its_gate() {
    let package = build_package(input()).unwrap();
    assert_eq!(package.golden_report.cases, 16);
    assert!(package.golden_report.max_abs_diff < 1e-6);
    let manifest: Manifest = codec::from_slice(&package.manifest_payload, codec::MAX_DOCUMENT_BYTES).unwrap();
    assert_eq!(manifest, package.manifest);
    assert_eq!(
        (manifest.opset, manifest.release_counter, manifest.header.version),
        (17, 3, 3)
    );
    assert_eq!(manifest.header.role.to_string(), "release/motions");
    for (kind, bytes) in &package.components {
        assert_eq!(manifest.component(*kind).unwrap().blob, BlobRef::of(bytes));
    }
    let lengths: Vec<u64> = package.components.iter().map(|(_, bytes)| bytes.len() as u64).collect();
    let largest = lengths.iter().max().unwrap();
    assert_eq!(manifest.min_disk_bytes, lengths.iter().sum::<u64>() + largest);
    let outputs: Vec<&str> = manifest.outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(outputs, ["probabilities", "label"]);
    let features = &package.components[1].1;
    let spec = PackageSpec::from_manifest(&manifest, Some(features)).unwrap();
    assert!(
        Model::load(&package.components[0].1, &spec).is_ok(),
        "as a device loads it"
    );
    let again = build_package(input()).unwrap();
    assert_eq!(again.manifest_payload, package.manifest_payload);
    assert_eq!(again.components, package.components);
}

#[test]
fn golden_cases_cover_every_predicted_class() {
    let cases = input().golden.cases;
    let mut classes: Vec<usize> = cases
        .iter()
        .map(|c| predicted(&c.outputs[0].to_f32().unwrap()))
        .collect();
    assert_eq!(classes.len(), MAX_GOLDEN_CASES);
    classes.sort_unstable();
    classes.dedup();
    assert_eq!(classes, [0, 1, 2]);
}

#[test]
fn what_differs_is_refused_by_name() {
    let mut changed = input();
    let output = &mut changed.golden.cases[2].outputs[0];
    let mut scores = output.to_f32().unwrap();
    scores[1] += 0.01;
    *output = Tensor::from_f32(OUTPUT, vec![1, 3], &scores).unwrap();
    let error = build_package(changed).unwrap_err().to_string();
    assert!(
        error.starts_with("the golden gate is not passed: golden case 2, output 'probabilities', element 1:"),
        "{error}"
    );
}

#[test]
fn unusable_input_is_refused() {
    let refused = |change: fn(&mut PackageInput)| {
        let mut input = input();
        change(&mut input);
        build_package(input).unwrap_err().to_string()
    };
    let table = [
        refused(|i| i.identity.semver = "1.0".into()),
        refused(|i| i.identity.expires_ms = 1_000),
        refused(|i| i.slices[0].features.push(1.0)),
        refused(|i| i.slices[0].features.clear()),
        refused(|i| i.slices[0].features[3] = f32::NAN),
        refused(|i| i.slices.clear()),
        refused(|i| i.label_counts.clear()),
        refused(|i| i.golden.cases.clear()),
        refused(|i| i.parameters.drift.share_threshold = 0.0),
        refused(|i| i.parameters.tolerance_abs = f32::NAN),
        refused(|i| i.onnx.truncate(40)),
    ];
    insta::assert_snapshot!(table.join("\n"), @r"
    '1.0' is not a version; three numbers are needed, as in 1.2.0
    the package would expire before it is issued
    reference slice 'import' has 81 values, not a multiple of 2 features (and not none)
    reference slice 'import' has 0 values, not a multiple of 2 features (and not none)
    value 3 (y) is not a finite number
    the drift reference is refused: a reference needs 1 to 64 slices, 0 are given
    0 label counts for 3 labels
    the golden gate is not passed: the golden set has no cases, or a case without outputs: nothing is proven
    the drift rule is not usable: window 96 (at least 1), feature threshold 0.25 (above 0), share threshold 0 (above 0, at most 1)
    the golden gate is not passed: the tolerance NaN is not a number of at least 0
    the model is refused: the ONNX file cannot be read: failed to decode Protobuf message: ModelProto.graph: buffer underflow; it is truncated, corrupt or not ONNX
    ");
}
