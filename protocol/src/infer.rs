//! The Open Inference Protocol v2 (KServe): bodies of its REST binding, data types, and the one tensor type that REST,
//! golden sets and samples share.
//!
//! A [`Tensor`] holds its elements as the protocol's binary extension sends them: little-endian, BYTES as u32 length plus
//! bytes. Source: <https://github.com/kserve/open-inference-protocol>.

mod json;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use self::json::{JsonData, Scalar};

/// Header that gives the bytes of JSON before the tensors of a binary body.
pub const BINARY_HEADER: &str = "Inference-Header-Content-Length";

macro_rules! datatypes {
    ($($name:ident = $word:literal, $size:expr;)+) => {
        /// Data types of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum DataType { $(#[serde(rename = $word)] $name),+ }

        impl DataType {
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }

            /// Bytes per element; `None` for BYTES.
            pub const fn size(self) -> Option<usize> {
                match self { $(Self::$name => $size),+ }
            }
        }
    };
}

datatypes! {
    Bool = "BOOL", Some(1);
    Uint8 = "UINT8", Some(1);
    Uint16 = "UINT16", Some(2);
    Uint32 = "UINT32", Some(4);
    Uint64 = "UINT64", Some(8);
    Int8 = "INT8", Some(1);
    Int16 = "INT16", Some(2);
    Int32 = "INT32", Some(4);
    Int64 = "INT64", Some(8);
    Fp16 = "FP16", Some(2);
    Bf16 = "BF16", Some(2);
    Fp32 = "FP32", Some(4);
    Fp64 = "FP64", Some(8);
    Bytes = "BYTES", None;
}

/// Why a tensor is refused. The messages are shown to whoever sent the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    #[error("tensor '{name}': shape {shape:?} needs {expected} elements, {found} are given")]
    Count {
        name: String,
        shape: Vec<u64>,
        expected: u64,
        found: u64,
    },
    #[error("tensor '{name}': shape {shape:?} is too large")]
    TooLarge { name: String, shape: Vec<u64> },
    #[error("tensor '{name}': element {index} does not fit {datatype}")]
    Element {
        name: String,
        index: usize,
        datatype: &'static str,
    },
    #[error("tensor '{name}' is {found}, {expected} is needed")]
    DataType {
        name: String,
        expected: &'static str,
        found: &'static str,
    },
    #[error("tensor '{name}': datatype {datatype} has no JSON form here; send it in binary")]
    NoJson { name: String, datatype: &'static str },
    #[error("tensor '{name}': the BYTES elements do not add up to the {found} bytes given")]
    Bytes { name: String, found: usize },
}

/// A named tensor, row-major. One that is read has data that fills its shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawTensor")]
pub struct Tensor {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<u64>,
    /// Little-endian elements; BYTES: u32 length + bytes each.
    pub data: ByteBuf,
}

/// A tensor as read, before its data is known to fill its shape.
#[derive(Deserialize)]
struct RawTensor {
    name: String,
    datatype: DataType,
    shape: Vec<u64>,
    data: ByteBuf,
}

impl TryFrom<RawTensor> for Tensor {
    type Error = TensorError;

    fn try_from(raw: RawTensor) -> Result<Self, TensorError> {
        Self::from_raw(&raw.name, raw.datatype, raw.shape, raw.data.into_vec())
    }
}

impl Tensor {
    /// Elements that the shape needs.
    pub fn element_count(name: &str, shape: &[u64]) -> Result<u64, TensorError> {
        shape
            .iter()
            .try_fold(1u64, |product, dim| product.checked_mul(*dim))
            .ok_or_else(|| TensorError::TooLarge {
                name: name.to_owned(),
                shape: shape.to_vec(),
            })
    }

    /// From bytes as the binary extension sends them; checks that they fill the shape exactly.
    pub fn from_raw(name: &str, datatype: DataType, shape: Vec<u64>, data: Vec<u8>) -> Result<Self, TensorError> {
        let expected = Self::element_count(name, &shape)?;
        let found = match datatype.size() {
            Some(size) if data.len().is_multiple_of(size) => (data.len() / size) as u64,
            Some(_) => {
                return Err(TensorError::Bytes {
                    name: name.to_owned(),
                    found: data.len(),
                });
            }
            None => split_bytes(name, &data)?.len() as u64,
        };
        if expected != found {
            return Err(TensorError::Count {
                name: name.to_owned(),
                shape,
                expected,
                found,
            });
        }
        Ok(Self {
            name: name.to_owned(),
            datatype,
            shape,
            data: ByteBuf::from(data),
        })
    }

    pub fn from_f32(name: &str, shape: Vec<u64>, values: &[f32]) -> Result<Self, TensorError> {
        Self::from_raw(
            name,
            DataType::Fp32,
            shape,
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    pub fn from_i64(name: &str, shape: Vec<u64>, values: &[i64]) -> Result<Self, TensorError> {
        Self::from_raw(
            name,
            DataType::Int64,
            shape,
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    /// BYTES from text.
    pub fn from_strings(name: &str, shape: Vec<u64>, values: &[String]) -> Result<Self, TensorError> {
        let mut data = Vec::new();
        for value in values {
            data.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            data.extend_from_slice(value.as_bytes());
        }
        Self::from_raw(name, DataType::Bytes, shape, data)
    }

    /// Elements of an FP32 tensor.
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        self.expect(DataType::Fp32)?;
        let (chunks, _) = self.data.as_chunks::<4>();
        Ok(chunks.iter().map(|c| f32::from_le_bytes(*c)).collect())
    }

    /// Elements of an INT64 tensor.
    pub fn to_i64(&self) -> Result<Vec<i64>, TensorError> {
        self.expect(DataType::Int64)?;
        let (chunks, _) = self.data.as_chunks::<8>();
        Ok(chunks.iter().map(|c| i64::from_le_bytes(*c)).collect())
    }

    /// Elements of a BYTES tensor as text; invalid UTF-8 is replaced.
    pub fn to_strings(&self) -> Result<Vec<String>, TensorError> {
        self.expect(DataType::Bytes)?;
        Ok(split_bytes(&self.name, &self.data)?
            .into_iter()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect())
    }

    fn expect(&self, datatype: DataType) -> Result<(), TensorError> {
        if self.datatype == datatype {
            return Ok(());
        }
        Err(TensorError::DataType {
            name: self.name.clone(),
            expected: datatype.as_str(),
            found: self.datatype.as_str(),
        })
    }

    /// From a request's JSON elements. FP16 and BF16 have no JSON form.
    pub fn from_json(name: &str, datatype: DataType, shape: Vec<u64>, data: &JsonData) -> Result<Self, TensorError> {
        let mut raw = Vec::with_capacity(data.0.len().saturating_mul(datatype.size().unwrap_or(8)));
        for (index, scalar) in data.0.iter().enumerate() {
            scalar.encode(datatype, &mut raw).ok_or_else(|| match datatype {
                DataType::Fp16 | DataType::Bf16 => TensorError::NoJson {
                    name: name.to_owned(),
                    datatype: datatype.as_str(),
                },
                _ => TensorError::Element {
                    name: name.to_owned(),
                    index,
                    datatype: datatype.as_str(),
                },
            })?;
        }
        Self::from_raw(name, datatype, shape, raw)
    }

    /// The elements for a JSON response.
    pub fn to_json(&self) -> Result<JsonData, TensorError> {
        macro_rules! each {
            ($ty:ty, $n:literal, $wrap:expr) => {{
                let (chunks, _) = self.data.as_chunks::<$n>();
                chunks.iter().map(|c| $wrap(<$ty>::from_le_bytes(*c))).collect()
            }};
        }
        let scalars = match self.datatype {
            DataType::Bool => self.data.iter().map(|b| Scalar::Bool(*b != 0)).collect(),
            DataType::Uint8 => self.data.iter().map(|b| Scalar::Unsigned(u64::from(*b))).collect(),
            DataType::Int8 => each!(i8, 1, |v| Scalar::Signed(i64::from(v))),
            DataType::Uint16 => each!(u16, 2, |v| Scalar::Unsigned(u64::from(v))),
            DataType::Int16 => each!(i16, 2, |v| Scalar::Signed(i64::from(v))),
            DataType::Uint32 => each!(u32, 4, |v| Scalar::Unsigned(u64::from(v))),
            DataType::Int32 => each!(i32, 4, |v| Scalar::Signed(i64::from(v))),
            DataType::Uint64 => each!(u64, 8, Scalar::Unsigned),
            DataType::Int64 => each!(i64, 8, Scalar::Signed),
            DataType::Fp32 => each!(f32, 4, |v| Scalar::Float(f64::from(v))),
            DataType::Fp64 => each!(f64, 8, Scalar::Float),
            DataType::Bytes => self.to_strings()?.into_iter().map(Scalar::Text).collect(),
            DataType::Fp16 | DataType::Bf16 => {
                return Err(TensorError::NoJson {
                    name: self.name.clone(),
                    datatype: self.datatype.as_str(),
                });
            }
        };
        Ok(JsonData(scalars))
    }
}

fn split_bytes<'a>(name: &str, data: &'a [u8]) -> Result<Vec<&'a [u8]>, TensorError> {
    let refused = || TensorError::Bytes {
        name: name.to_owned(),
        found: data.len(),
    };
    let mut out = Vec::new();
    let mut rest = data;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (element, tail) = tail.split_at_checked(length).ok_or_else(refused)?;
        out.push(element);
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(refused());
    }
    Ok(out)
}

/// Free-form parameters of requests and responses.
pub type Parameters = serde_json::Map<String, serde_json::Value>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerMetadata {
    pub name: String,
    pub version: String,
    pub extensions: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMetadata {
    pub name: String,
    pub datatype: DataType,
    /// −1 is dynamic.
    pub shape: Vec<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelMetadata {
    pub name: String,
    pub versions: Vec<String>,
    /// `onnx_onnxv1`
    pub platform: String,
    pub inputs: Vec<TensorMetadata>,
    pub outputs: Vec<TensorMetadata>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InferInput {
    pub name: String,
    pub shape: Vec<u64>,
    pub datatype: DataType,
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
    /// Absent where the tensor follows in binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<JsonData>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestedOutput {
    pub name: String,
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInferRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
    pub inputs: Vec<InferInput>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<RequestedOutput>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InferOutput {
    pub name: String,
    pub shape: Vec<u64>,
    pub datatype: DataType,
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<JsonData>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInferResponse {
    pub model_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
    pub outputs: Vec<InferOutput>,
}

/// The protocol's error body, with 4xx or 5xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferError {
    pub error: String,
}
