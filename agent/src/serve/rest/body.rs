//! Bodies of inference requests and responses: JSON alone, or JSON followed by tensors in binary.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Json, Response};
use flotilla_protocol::infer::{
    BINARY_HEADER, InferInput, InferOutput, ModelInferRequest, ModelInferResponse, Parameters, RequestedOutput, Tensor,
};

use super::RestError;
use crate::inference::ModelInfo;

/// A request, read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) inputs: Vec<Tensor>,
    pub(super) wanted: Wanted,
}

/// How the answer is to look.
#[derive(Debug)]
pub(super) struct Wanted {
    id: Option<String>,
    /// Empty: all outputs.
    outputs: Vec<RequestedOutput>,
    /// Binary, where an output does not say otherwise.
    binary: bool,
}

/// Bytes of JSON before the tensors; `None`: the whole body is JSON.
pub(super) fn json_length(headers: &HeaderMap) -> Result<Option<usize>, RestError> {
    let Some(value) = headers.get(BINARY_HEADER) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length
        .map(Some)
        .ok_or_else(|| RestError::Malformed(format!("header {BINARY_HEADER} is not a number of bytes")))
}

pub(super) fn decode(bytes: &[u8], json_length: Option<usize>) -> Result<Request, RestError> {
    let (json, mut binary) = bytes
        .split_at_checked(json_length.unwrap_or(bytes.len()))
        .ok_or_else(|| {
            RestError::Malformed(format!(
                "header {BINARY_HEADER} is larger than the body of {} bytes",
                bytes.len()
            ))
        })?;
    let request: ModelInferRequest = serde_json::from_slice(json)
        .map_err(|e| RestError::Malformed(format!("the request is not understood: {e}")))?;
    let inputs = request
        .inputs
        .into_iter()
        .map(|input| tensor(input, &mut binary))
        .collect::<Result<_, _>>()?;
    if !binary.is_empty() {
        return Err(RestError::Malformed(format!(
            "{} bytes follow the last tensor",
            binary.len()
        )));
    }
    for output in &request.outputs {
        if output.parameters.contains_key("classification") {
            return Err(RestError::Malformed(format!(
                "output '{}': classification is not offered; ask for output 'label'",
                output.name
            )));
        }
    }
    Ok(Request {
        inputs,
        wanted: Wanted {
            id: request.id,
            outputs: request.outputs,
            binary: flag(&request.parameters, "binary_data_output").unwrap_or(false),
        },
    })
}

fn flag(parameters: &Parameters, name: &str) -> Option<bool> {
    parameters.get(name).and_then(serde_json::Value::as_bool)
}

/// One input; takes its bytes from `binary` if it is sent so.
fn tensor(input: InferInput, binary: &mut &[u8]) -> Result<Tensor, RestError> {
    let refuse = |why: String| RestError::Malformed(format!("input '{}': {why}", input.name));
    if let Some(size) = input.parameters.get("binary_data_size") {
        let size = size
            .as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| refuse("binary_data_size is not a number of bytes".to_owned()))?;
        if input.data.is_some() {
            return Err(refuse("data is given in JSON and in binary".to_owned()));
        }
        let (data, rest) = binary.split_at_checked(size).ok_or_else(|| {
            refuse(format!(
                "binary_data_size is {size}, {} bytes are left in the body",
                binary.len()
            ))
        })?;
        *binary = rest;
        return Ok(Tensor::from_raw(
            &input.name,
            input.datatype,
            input.shape,
            data.to_vec(),
        )?);
    }
    let data = input
        .data
        .as_ref()
        .ok_or_else(|| refuse("no data is given, neither in JSON nor in binary".to_owned()))?;
    Ok(Tensor::from_json(
        &input.name,
        input.datatype,
        input.shape.clone(),
        data,
    )?)
}

pub(super) fn encode(model: &ModelInfo, outputs: Vec<Tensor>, wanted: &Wanted) -> Result<Response, RestError> {
    let mut binary = Vec::new();
    let mut any_binary = false;
    let mut described = Vec::new();
    for (tensor, in_binary) in chosen(outputs, wanted)? {
        let mut output = InferOutput {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            datatype: tensor.datatype,
            parameters: Parameters::new(),
            data: None,
        };
        if in_binary {
            any_binary = true;
            output
                .parameters
                .insert("binary_data_size".to_owned(), tensor.data.len().into());
            binary.extend_from_slice(&tensor.data);
        } else {
            output.data = Some(tensor.to_json()?);
        }
        described.push(output);
    }
    let response = ModelInferResponse {
        model_name: model.name().to_owned(),
        model_version: Some(model.manifest.semver.clone()),
        id: wanted.id.clone(),
        parameters: Parameters::new(),
        outputs: described,
    };
    if !any_binary {
        return Ok(Json(response).into_response());
    }
    let mut body = serde_json::to_vec(&response).map_err(|e| RestError::Malformed(e.to_string()))?;
    let json_length = body.len().to_string();
    body.extend_from_slice(&binary);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (HeaderName::from_static("inference-header-content-length"), json_length),
    ];
    Ok((headers, Body::from(body)).into_response())
}

/// The outputs that were asked for, in the order they were asked for, and whether each goes in binary.
fn chosen(outputs: Vec<Tensor>, wanted: &Wanted) -> Result<Vec<(Tensor, bool)>, RestError> {
    if wanted.outputs.is_empty() {
        return Ok(outputs.into_iter().map(|tensor| (tensor, wanted.binary)).collect());
    }
    wanted
        .outputs
        .iter()
        .map(|request| {
            let tensor = outputs.iter().find(|tensor| tensor.name == request.name);
            let tensor = tensor.ok_or_else(|| {
                let names: Vec<&str> = outputs.iter().map(|tensor| tensor.name.as_str()).collect();
                RestError::Malformed(format!(
                    "the model has no output '{}'; it has {}",
                    request.name,
                    names.join(", ")
                ))
            })?;
            let binary = flag(&request.parameters, "binary_data").unwrap_or(wanted.binary);
            Ok((tensor.clone(), binary))
        })
        .collect()
}
