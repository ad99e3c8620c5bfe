//! Tests of fitting: what it learns, that the seed decides every bit, what it refuses.

use super::*;

fn parameters() -> MlpParameters {
    MlpParameters {
        hidden: vec![16],
        learning_rate: 0.01,
        weight_decay: 0.01,
        epochs: 60,
        batch_size: 16,
    }
}

fn classes() -> Vec<String> {
    vec!["in".into(), "out".into()]
}

/// Points inside and outside a circle: no line divides them. A third feature is constant.
fn circle(samples: u64) -> (Vec<f32>, Vec<usize>) {
    let mut rng = TrainingRng::new(samples);
    let (mut features, mut labels) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        let (x, y) = (rng.symmetric(1.0), rng.symmetric(1.0));
        features.extend([x * 40.0 + 7.0, y, 3.0]);
        labels.push(usize::from(x.hypot(y) > 0.75));
    }
    (features, labels)
}

fn run(seed: u64, parameters: &MlpParameters) -> Result<MlpWeights, FitError> {
    let (features, labels) = circle(400);
    let set = TrainingSet {
        features: &features,
        feature_count: 3,
        labels: &labels,
        classes: &classes(),
        weights: None,
    };
    fit(&set, parameters, seed, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_circle_is_learned_and_the_seed_decides_every_bit() {
    let weights = run(5, &parameters()).unwrap();
    let (features, labels) = circle(300);
    let scores = weights.forward(&features).unwrap();
    let right = scores
        .chunks(2)
        .zip(&labels)
        .filter(|(row, label)| usize::from(row[1] > row[0]) == **label)
        .count();
    assert!(right >= 275, "{right} of 300");
    assert!((weights.std[2] - 1.0).abs() < 1e-9, "a constant feature is not scaled");
    assert_eq!(
        weights.digest().unwrap(),
        run(5, &parameters()).unwrap().digest().unwrap()
    );
    assert_ne!(
        weights.digest().unwrap(),
        run(6, &parameters()).unwrap().digest().unwrap()
    );
}

#[test]
fn progress_is_told_and_can_stop() {
    let (features, labels) = circle(200);
    let set = TrainingSet {
        features: &features,
        feature_count: 3,
        labels: &labels,
        classes: &classes(),
        weights: None,
    };
    let mut seen = Vec::new();
    let outcome = fit(&set, &parameters(), 1, &mut |metrics| {
        seen.push(metrics);
        if metrics.epoch == 30 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!(outcome, Err(FitError::Cancelled { epoch: 30 }));
    assert_eq!(seen.len(), 30);
    assert!(
        seen[29].loss < seen[0].loss * 0.7 && seen[29].accuracy > seen[0].accuracy,
        "{seen:?}"
    );
}

#[test]
fn weights_and_decay_do_what_they_say() {
    let (features, labels) = circle(300);
    let zero: Vec<f32> = labels.iter().map(|label| if *label == 0 { 0.0 } else { 1.0 }).collect();
    let set = TrainingSet {
        features: &features,
        feature_count: 3,
        labels: &labels,
        classes: &classes(),
        weights: Some(&zero),
    };
    let weights = fit(&set, &parameters(), 1, &mut |_| ControlFlow::Continue(())).unwrap();
    let scores = weights.forward(&features).unwrap();
    assert!(scores.chunks(2).all(|row| row[1] > 0.5), "class 'in' weighs nothing");
    let norm = |decay: f32| {
        let weights = run(
            1,
            &MlpParameters {
                weight_decay: decay,
                ..parameters()
            },
        )
        .unwrap();
        weights.layers[0].weight.iter().map(|w| w * w).sum::<f32>()
    };
    assert!(norm(1.0) < norm(0.0) * 0.8);
    assert_eq!(
        balanced_weights(&[0, 0, 0, 1], 3),
        [4.0 / 6.0, 4.0 / 6.0, 4.0 / 6.0, 2.0]
    );
}

#[test]
fn what_cannot_be_fitted_says_why() {
    let names = classes();
    let set = |features: &'static [f32], labels: &'static [usize], weights: Option<&'static [f32]>| {
        let set = TrainingSet {
            features,
            feature_count: 1,
            labels,
            classes: &names,
            weights,
        };
        fit(&set, &parameters(), 1, &mut |_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string()
    };
    let table = [
        set(&[], &[], None),
        set(&[1.0, 2.0], &[1, 1], None),
        set(&[1.0], &[0, 1], None),
        set(&[1.0, f32::NAN], &[0, 1], None),
        set(&[1.0, 2.0], &[0, 2], None),
        set(&[1.0, 2.0], &[0, 1], Some(&[1.0])),
        set(&[1.0, 2.0], &[0, 1], Some(&[1.0, -1.0])),
        run(
            1,
            &MlpParameters {
                learning_rate: 0.0,
                ..parameters()
            },
        )
        .unwrap_err()
        .to_string(),
        run(
            1,
            &MlpParameters {
                learning_rate: 1e30,
                ..parameters()
            },
        )
        .unwrap_err()
        .to_string(),
        run(
            1,
            &MlpParameters {
                hidden: vec![0],
                ..parameters()
            },
        )
        .unwrap_err()
        .to_string(),
        run(
            1,
            &MlpParameters {
                batch_size: 0,
                ..parameters()
            },
        )
        .unwrap_err()
        .to_string(),
    ];
    insta::assert_snapshot!(table.join("\n"), @r"
    the dataset has no training samples
    the dataset has one class: every training sample is 'out'; label samples of another class
    features: 1 values where 2 are needed
    sample 1, feature 0 is not a finite number
    sample 1 has class 2, there are 2
    sample weights: 1 values where 2 are needed
    sample 1 has weight -1; weights are finite and not negative
    parameter learning_rate: 0 is not above 0
    the loss is no longer a number in epoch 1; lower the learning rate of 1000000000000000000000000000000
    parameter hidden: a layer of 0, 1 to 4096 are possible
    parameter batch_size: at least 1
    ");
}
