//! The Open Inference Protocol v2 (KServe): bodies of its REST binding, data types, and the one tensor type that REST,
//! golden sets and samples share.
//!
//! A [`Tensor`] holds its elements as the protocol's binary extension sends them: little-endian, BYTES as u32 length plus
//! bytes. Source: <https://github.com/kserve/open-inference-protocol>.

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;

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

/// One JSON element.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

impl Scalar {
    fn as_i128(&self) -> Option<i128> {
        match self {
            Self::Signed(v) => Some(i128::from(*v)),
            Self::Unsigned(v) => Some(i128::from(*v)),
            _ => None,
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "an integer where a float is declared is taken as the nearest float"
    )]
    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Signed(v) => Some(*v as f64),
            Self::Unsigned(v) => Some(*v as f64),
            Self::Float(v) => Some(*v),
            _ => None,
        }
    }

    fn encode(&self, datatype: DataType, out: &mut Vec<u8>) -> Option<()> {
        macro_rules! integer {
            ($ty:ty) => {
                out.extend_from_slice(&<$ty>::try_from(self.as_i128()?).ok()?.to_le_bytes())
            };
        }
        match datatype {
            DataType::Bool => match self {
                Self::Bool(v) => out.push(u8::from(*v)),
                other => out.push(match other.as_i128()? {
                    0 => 0,
                    1 => 1,
                    _ => return None,
                }),
            },
            DataType::Uint8 => integer!(u8),
            DataType::Uint16 => integer!(u16),
            DataType::Uint32 => integer!(u32),
            DataType::Uint64 => integer!(u64),
            DataType::Int8 => integer!(i8),
            DataType::Int16 => integer!(i16),
            DataType::Int32 => integer!(i32),
            DataType::Int64 => integer!(i64),
            #[expect(clippy::cast_possible_truncation, reason = "FP32 is what was declared")]
            DataType::Fp32 => out.extend_from_slice(&(self.as_f64()? as f32).to_le_bytes()),
            DataType::Fp64 => out.extend_from_slice(&self.as_f64()?.to_le_bytes()),
            DataType::Bytes => match self {
                Self::Text(text) => {
                    out.extend_from_slice(&u32::try_from(text.len()).ok()?.to_le_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
                _ => return None,
            },
            DataType::Fp16 | DataType::Bf16 => return None,
        }
        Some(())
    }
}

/// A tensor's elements in JSON: read nested or flat, written flat. NaN and infinities are written as `null`, which JSON
/// has no number for, and read back as NaN.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JsonData(pub Vec<Scalar>);

impl Serialize for JsonData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ScalarRef))
    }
}

struct ScalarRef<'a>(&'a Scalar);

impl Serialize for ScalarRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Scalar::Bool(v) => serializer.serialize_bool(*v),
            Scalar::Signed(v) => serializer.serialize_i64(*v),
            Scalar::Unsigned(v) => serializer.serialize_u64(*v),
            Scalar::Float(v) if !v.is_finite() => serializer.serialize_none(),
            Scalar::Float(v) => serializer.serialize_f64(*v),
            Scalar::Text(v) => serializer.serialize_str(v),
        }
    }
}

impl<'de> Deserialize<'de> for JsonData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut out = Vec::new();
        Flatten(&mut out).visit(deserializer)?;
        Ok(Self(out))
    }
}

/// Appends scalars, walking nested arrays. The depth is bounded by the JSON reader's own recursion limit.
struct Flatten<'a>(&'a mut Vec<Scalar>);

impl Flatten<'_> {
    fn visit<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.visit(deserializer)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("numbers, booleans or strings, flat or in nested arrays")
    }
    fn visit_bool<E>(self, v: bool) -> Result<(), E> {
        self.0.push(Scalar::Bool(v));
        Ok(())
    }
    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        self.0.push(Scalar::Signed(v));
        Ok(())
    }
    fn visit_u64<E>(self, v: u64) -> Result<(), E> {
        self.0.push(Scalar::Unsigned(v));
        Ok(())
    }
    fn visit_f64<E>(self, v: f64) -> Result<(), E> {
        self.0.push(Scalar::Float(v));
        Ok(())
    }
    fn visit_str<E>(self, v: &str) -> Result<(), E> {
        self.0.push(Scalar::Text(v.to_owned()));
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.push(Scalar::Float(f64::NAN));
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Flatten(self.0))?.is_some() {}
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_and_flat_json_are_the_same() {
        let nested: JsonData = serde_json::from_str("[[1, 2.5], [3, -4]]").unwrap();
        let flat: JsonData = serde_json::from_str("[1, 2.5, 3, -4]").unwrap();
        assert_eq!(nested, flat);
        let tensor = Tensor::from_json("x", DataType::Fp32, vec![2, 2], &nested).unwrap();
        assert_eq!(tensor.to_f32().unwrap(), [1.0, 2.5, 3.0, -4.0]);
        assert_eq!(
            serde_json::to_string(&tensor.to_json().unwrap()).unwrap(),
            "[1.0,2.5,3.0,-4.0]"
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let data: JsonData = serde_json::from_str("[1, 300]").unwrap();
        let error = Tensor::from_json("x", DataType::Uint8, vec![2], &data).unwrap_err();
        assert_eq!(error.to_string(), "tensor 'x': element 1 does not fit UINT8");
        let error = Tensor::from_json("x", DataType::Int64, vec![3], &data).unwrap_err();
        assert_eq!(error.to_string(), "tensor 'x': shape [3] needs 3 elements, 2 are given");
        let huge = Tensor::from_raw("x", DataType::Int8, vec![u64::MAX, 2], vec![]);
        assert!(matches!(huge, Err(TensorError::TooLarge { .. })));
    }

    #[test]
    fn a_tensor_that_lies_about_its_shape_is_not_read() {
        let mut tensor = Tensor::from_f32("x", vec![2], &[1.0, 2.0]).unwrap();
        let honest = crate::codec::to_vec(&tensor).unwrap();
        assert_eq!(crate::codec::from_slice::<Tensor>(&honest, 256).unwrap(), tensor);
        tensor.shape = vec![1 << 40];
        let lying = crate::codec::to_vec(&tensor).unwrap();
        assert!(crate::codec::from_slice::<Tensor>(&lying, 256).is_err());
    }

    #[test]
    fn large_integers_and_text_survive() {
        let data: JsonData = serde_json::from_str("[9223372036854775807, -1]").unwrap();
        let tensor = Tensor::from_json("x", DataType::Int64, vec![2], &data).unwrap();
        assert_eq!(tensor.to_i64().unwrap(), [i64::MAX, -1]);
        let words = vec!["a".to_owned(), String::new(), "é".to_owned()];
        let tensor = Tensor::from_strings("w", vec![3], &words).unwrap();
        assert_eq!(tensor.to_strings().unwrap(), words);
        assert!(Tensor::from_raw("w", DataType::Bytes, vec![1], vec![9, 0, 0, 0, 1]).is_err());
    }
}
