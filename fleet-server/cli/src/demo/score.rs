//! The scorer: asks a device over the Open Inference Protocol, as any program on it would, and compares with the truth.

use flotilla_protocol::infer::{
    DataType, InferInput, JsonData, ModelInferRequest, ModelInferResponse, ModelMetadata, Parameters, Scalar,
};

use crate::client::chain;
use crate::demo::data::{Mounting, Part, Recording};
use crate::error::CliError;

/// Samples per request.
const BATCH: usize = 16;

/// What a device got right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Score {
    pub(crate) right: u64,
    pub(crate) asked: u64,
}

impl Score {
    #[expect(clippy::cast_precision_loss, reason = "a demo asks a few hundred times")]
    pub(crate) fn accuracy(self) -> f64 {
        if self.asked == 0 {
            return 0.0;
        }
        self.right as f64 / self.asked as f64
    }
}

/// Asks the device at `rest` for every sample of a part.
pub(crate) async fn score(
    http: &reqwest::Client,
    rest: &str,
    recording: &Recording,
    part: Part,
    mounting: Mounting,
) -> Result<Score, CliError> {
    let failed = |why: reqwest::Error| CliError::Failed(format!("{rest}: {}", chain(&why)));
    // The slot's name finds whatever model is active in it.
    let model = format!("{rest}/v2/models/main");
    let metadata: ModelMetadata = http
        .get(&model)
        .send()
        .await
        .map_err(failed)?
        .json()
        .await
        .map_err(failed)?;
    let Some(input) = metadata.inputs.first() else {
        return Err(CliError::Failed(format!("{rest}: the model has no input")));
    };
    let questions: Vec<(Vec<f32>, &str)> = recording
        .part(part)
        .flat_map(|case| {
            recording
                .samples(case, mounting)
                .into_iter()
                .map(|sample| (sample, case.truth.as_str()))
        })
        .collect();
    let mut score = Score::default();
    for batch in questions.chunks(BATCH) {
        let mut shape = vec![batch.len() as u64];
        shape.extend(recording.sample_shape());
        let values = batch
            .iter()
            .flat_map(|(sample, _)| sample)
            .map(|value| Scalar::Float(f64::from(*value)));
        let request = ModelInferRequest {
            id: None,
            parameters: Parameters::new(),
            inputs: vec![InferInput {
                name: input.name.clone(),
                shape,
                datatype: DataType::Fp32,
                parameters: Parameters::new(),
                data: Some(JsonData(values.collect())),
            }],
            outputs: Vec::new(),
        };
        let response = http
            .post(format!("{model}/infer"))
            .json(&request)
            .send()
            .await
            .map_err(failed)?;
        if !response.status().is_success() {
            let status = response.status();
            let body = response.text().await.map_err(failed)?;
            return Err(CliError::Failed(format!("{rest} refuses to infer ({status}): {body}")));
        }
        let response: ModelInferResponse = response.json().await.map_err(failed)?;
        let labels = labels(&response)?;
        if labels.len() != batch.len() {
            let (found, expected) = (labels.len(), batch.len());
            return Err(CliError::Failed(format!(
                "{rest} gives {found} labels for {expected} samples"
            )));
        }
        score.asked += batch.len() as u64;
        score.right += batch
            .iter()
            .zip(&labels)
            .filter(|((_, truth), label)| truth == *label)
            .count() as u64;
    }
    Ok(score)
}

/// The classes that a response names: its output of text.
fn labels(response: &ModelInferResponse) -> Result<Vec<&str>, CliError> {
    let output = response
        .outputs
        .iter()
        .find(|output| output.datatype == DataType::Bytes);
    let data = output.and_then(|output| output.data.as_ref());
    let Some(data) = data else {
        return Err(CliError::Failed("the model names no classes".to_owned()));
    };
    Ok(data
        .0
        .iter()
        .filter_map(|scalar| match scalar {
            Scalar::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_output_of_text() {
        let text = r#"{"model_name": "motions", "outputs": [
            {"name": "scores", "shape": [2, 2], "datatype": "FP32", "data": [0.1, 0.9, 0.8, 0.2]},
            {"name": "label", "shape": [2], "datatype": "BYTES", "data": ["walking", "standing"]}]}"#;
        let response: ModelInferResponse = serde_json::from_str(text).unwrap();
        assert_eq!(labels(&response).unwrap(), ["walking", "standing"]);
    }

    #[test]
    fn nothing_asked_is_nothing_right() {
        assert!(Score::default().accuracy().abs() < 1e-12);
        assert!((Score { right: 3, asked: 4 }.accuracy() - 0.75).abs() < 1e-12);
    }
}
