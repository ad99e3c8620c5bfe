//! The golden gate: runs a package on its golden set and compares with what the trainer computed.
//!
//! Deliberately strict: an empty set proves nothing and fails, NaN never passes, shapes and names must agree.

use flotilla_protocol::golden::GoldenSet;
use flotilla_protocol::infer::{DataType, JsonData, Scalar, Tensor};

use crate::error::EngineError;
use crate::model::Model;
use crate::stopwatch::timed;

/// A passed gate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenReport {
    pub cases: usize,
    /// Largest absolute difference of any float.
    pub max_abs_diff: f64,
    /// 95th percentile of one case's inference, microseconds.
    pub p95_us: u64,
}

/// The first thing that differs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GoldenFailure {
    #[error("the golden set has no cases, or a case without outputs: nothing is proven")]
    Empty,
    #[error("the tolerance {0} is not a number of at least 0")]
    Tolerance(f32),
    #[error("golden case {case} is refused: {source}")]
    Refused { case: usize, source: EngineError },
    #[error("golden case {case}: the package has no output '{output}'")]
    Missing { case: usize, output: String },
    #[error("golden case {case}, output '{output}': {got} where the trainer had {expected}")]
    Form {
        case: usize,
        output: String,
        expected: String,
        got: String,
    },
    #[error(
        "golden case {case}, output '{output}', element {index}: {got} where the trainer had {expected} \
         (tolerance {tolerance})"
    )]
    Differs {
        case: usize,
        output: String,
        index: usize,
        expected: String,
        got: String,
        tolerance: f32,
    },
}

/// Runs every case and stops at the first difference above `tolerance_abs`. Integers, booleans and text must be equal.
pub fn run_golden(model: &mut Model, set: &GoldenSet, tolerance_abs: f32) -> Result<GoldenReport, GoldenFailure> {
    if !tolerance_abs.is_finite() || tolerance_abs < 0.0 {
        return Err(GoldenFailure::Tolerance(tolerance_abs));
    }
    if set.cases.is_empty() || set.cases.iter().any(|case| case.outputs.is_empty()) {
        return Err(GoldenFailure::Empty);
    }
    let mut max_abs_diff = 0f64;
    let mut times = Vec::with_capacity(set.cases.len());
    for (index, case) in set.cases.iter().enumerate() {
        let refused = |source| GoldenFailure::Refused { case: index, source };
        if index == 0 {
            // The plan for this shape is made now, so that it does not count as inference time.
            model.run(&case.inputs).map_err(refused)?;
        }
        let (outcome, us) = timed(|| model.run(&case.inputs));
        times.push(us);
        let outcome = outcome.map_err(refused)?;
        for expected in &case.outputs {
            let got = outcome.outputs.iter().find(|output| output.name == expected.name);
            let got = got.ok_or_else(|| GoldenFailure::Missing {
                case: index,
                output: expected.name.clone(),
            })?;
            max_abs_diff = max_abs_diff.max(compare(index, expected, got, tolerance_abs)?);
        }
    }
    times.sort_unstable();
    let rank = (times.len() * 95).div_ceil(100).saturating_sub(1);
    Ok(GoldenReport {
        cases: set.cases.len(),
        max_abs_diff,
        p95_us: times.get(rank).copied().unwrap_or(0),
    })
}

/// The largest absolute difference of two tensors.
fn compare(case: usize, expected: &Tensor, got: &Tensor, tolerance: f32) -> Result<f64, GoldenFailure> {
    let form = |tensor: &Tensor| format!("{} {:?}", tensor.datatype.as_str(), tensor.shape);
    let refused = |source: EngineError| GoldenFailure::Refused { case, source };
    if expected.datatype != got.datatype || expected.shape != got.shape {
        return Err(GoldenFailure::Form {
            case,
            output: expected.name.clone(),
            expected: form(expected),
            got: form(got),
        });
    }
    let scalars = |tensor: &Tensor| -> Result<JsonData, GoldenFailure> {
        tensor.to_json().map_err(|e| refused(EngineError::Tensor(e)))
    };
    let (wanted, found) = (scalars(expected)?.0, scalars(got)?.0);
    if wanted.len() != found.len() {
        return Err(GoldenFailure::Form {
            case,
            output: expected.name.clone(),
            expected: format!("{} elements", wanted.len()),
            got: format!("{} elements", found.len()),
        });
    }
    let mut max = 0f64;
    for (index, (want, found)) in wanted.iter().zip(&found).enumerate() {
        let difference = match (want, found) {
            (Scalar::Float(a), Scalar::Float(b)) if is_float(expected.datatype) => (a - b).abs(),
            (a, b) if a == b => 0.0,
            _ => f64::INFINITY,
        };
        // A comparison with NaN is false: it never passes.
        if difference <= f64::from(tolerance) {
            max = max.max(difference);
            continue;
        }
        return Err(GoldenFailure::Differs {
            case,
            output: expected.name.clone(),
            index,
            expected: written(want),
            got: written(found),
            tolerance,
        });
    }
    Ok(max)
}

fn is_float(datatype: DataType) -> bool {
    matches!(datatype, DataType::Fp32 | DataType::Fp64)
}

fn written(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Bool(v) => v.to_string(),
        Scalar::Signed(v) => v.to_string(),
        Scalar::Unsigned(v) => v.to_string(),
        Scalar::Float(v) => v.to_string(),
        Scalar::Text(v) => format!("'{}'", v.chars().take(80).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::golden::GoldenCase;

    use super::*;
    use crate::test_models::{batch, bytes, mlp, mlp_by_hand, mlp_spec, rows};

    fn model() -> Model {
        Model::load(&bytes(&mlp()), &mlp_spec()).unwrap()
    }

    fn golden(cases: usize) -> GoldenSet {
        let case = |row: &[f32; 2]| GoldenCase {
            inputs: vec![batch(&[*row])],
            outputs: vec![Tensor::from_f32("probabilities", vec![1, 2], &mlp_by_hand(*row)).unwrap()],
        };
        GoldenSet {
            schema: 1,
            cases: rows(cases).iter().map(case).collect(),
        }
    }

    /// Changes the second score of case 3.
    fn with_score(score: f32) -> GoldenSet {
        let mut set = golden(5);
        let output = &mut set.cases[3].outputs[0];
        let values = [output.to_f32().unwrap()[0], score];
        *output = Tensor::from_f32("probabilities", vec![1, 2], &values).unwrap();
        set
    }

    #[test]
    fn a_faithful_model_passes() {
        let report = run_golden(&mut model(), &golden(20), 1e-5).unwrap();
        assert_eq!(report.cases, 20);
        assert!(report.max_abs_diff <= 1e-5, "{report:?}");
    }

    #[test]
    fn the_first_difference_is_named() {
        let failure = run_golden(&mut model(), &with_score(0.75), 1e-5).unwrap_err();
        let GoldenFailure::Differs {
            case,
            output,
            index,
            expected,
            ..
        } = &failure
        else {
            panic!("{failure}");
        };
        assert_eq!(
            (*case, output.as_str(), *index, expected.as_str()),
            (3, "probabilities", 1, "0.75")
        );
        assert!(
            run_golden(&mut model(), &with_score(0.75), 1.0).is_ok(),
            "within a tolerance of one"
        );
    }

    #[test]
    fn nan_never_passes_and_neither_does_nothing() {
        let mut model = model();
        assert!(run_golden(&mut model, &with_score(f32::NAN), f32::MAX).is_err());
        assert!(run_golden(&mut model, &golden(5), f32::NAN).is_err());
        assert!(run_golden(&mut model, &golden(5), f32::INFINITY).is_err());
        assert_eq!(run_golden(&mut model, &golden(0), 1.0), Err(GoldenFailure::Empty));
        let mut silent = golden(2);
        silent.cases[1].outputs.clear();
        assert_eq!(run_golden(&mut model, &silent, 1.0), Err(GoldenFailure::Empty));
    }

    #[test]
    fn other_names_shapes_and_labels_fail() {
        let mut model = model();
        let mut renamed = golden(2);
        renamed.cases[1].outputs[0].name = "scores".into();
        assert!(matches!(
            run_golden(&mut model, &renamed, 1.0),
            Err(GoldenFailure::Missing { case: 1, .. })
        ));
        let mut flat = golden(1);
        flat.cases[0].outputs[0].shape = vec![2];
        assert!(matches!(
            run_golden(&mut model, &flat, 1.0),
            Err(GoldenFailure::Form { .. })
        ));
        let mut label = golden(1);
        label.cases[0].outputs = vec![Tensor::from_strings("label", vec![1], &["neither".into()]).unwrap()];
        let failure = run_golden(&mut model, &label, 1.0).unwrap_err();
        assert!(failure.to_string().contains("'neither'"), "{failure}");
    }
}
