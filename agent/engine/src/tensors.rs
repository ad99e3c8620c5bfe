//! Between the protocol's tensors and tract's. Copies; the protocol's bytes are little-endian whatever the machine is.

use flotilla_protocol::infer::{DataType, Tensor, TensorError};
use tract_onnx::prelude as tract;
use tract_onnx::prelude::{Datum as _, DatumType, TValue};

use crate::border::causes;
use crate::error::EngineError;

/// The tract type of a protocol type; `None` where tensors of it do not cross the border.
pub(crate) fn datum_type(datatype: DataType) -> Option<DatumType> {
    Some(match datatype {
        DataType::Bool => bool::datum_type(),
        DataType::Uint8 => u8::datum_type(),
        DataType::Uint16 => u16::datum_type(),
        DataType::Uint32 => u32::datum_type(),
        DataType::Uint64 => u64::datum_type(),
        DataType::Int8 => i8::datum_type(),
        DataType::Int16 => i16::datum_type(),
        DataType::Int32 => i32::datum_type(),
        DataType::Int64 => i64::datum_type(),
        DataType::Fp32 => f32::datum_type(),
        DataType::Fp64 => f64::datum_type(),
        DataType::Fp16 | DataType::Bf16 | DataType::Bytes => return None,
    })
}

/// Little-endian bytes of `shape` as a tract tensor. `bytes` must fill the shape.
pub(crate) fn to_tract(name: &str, datatype: DataType, shape: &[usize], bytes: &[u8]) -> Result<TValue, EngineError> {
    macro_rules! numbers {
        ($ty:ty, $n:literal) => {{
            let (chunks, _) = bytes.as_chunks::<$n>();
            let values: Vec<$ty> = chunks.iter().map(|c| <$ty>::from_le_bytes(*c)).collect();
            tract::Tensor::from_shape(shape, &values)
        }};
    }
    let tensor = match datatype {
        DataType::Bool => {
            let values: Vec<bool> = bytes.iter().map(|b| *b != 0).collect();
            tract::Tensor::from_shape(shape, &values)
        }
        DataType::Uint8 => tract::Tensor::from_shape(shape, bytes),
        DataType::Uint16 => numbers!(u16, 2),
        DataType::Uint32 => numbers!(u32, 4),
        DataType::Uint64 => numbers!(u64, 8),
        DataType::Int8 => numbers!(i8, 1),
        DataType::Int16 => numbers!(i16, 2),
        DataType::Int32 => numbers!(i32, 4),
        DataType::Int64 => numbers!(i64, 8),
        DataType::Fp32 => numbers!(f32, 4),
        DataType::Fp64 => numbers!(f64, 8),
        DataType::Fp16 | DataType::Bf16 | DataType::Bytes => {
            return Err(EngineError::Input {
                name: name.to_owned(),
                why: format!("tensors of {} do not cross the model's border", datatype.as_str()),
            });
        }
    };
    let tensor = tensor.map_err(|e| EngineError::Input {
        name: name.to_owned(),
        why: causes(&e),
    })?;
    Ok(tract::IntoTValue::into_tvalue(tensor))
}

/// A model's output with the name it has in the package.
pub(crate) fn from_tract(name: &str, value: &TValue) -> Result<Tensor, EngineError> {
    let failed = |why: String| EngineError::Output {
        output: name.to_owned(),
        why,
    };
    let tensor: &tract::Tensor = value;
    macro_rules! numbers {
        ($ty:ty, $datatype:ident) => {{
            let view = tensor.to_plain_array_view::<$ty>().map_err(|e| failed(causes(&e)))?;
            (DataType::$datatype, view.iter().flat_map(|v| v.to_le_bytes()).collect())
        }};
    }
    let (datatype, data): (DataType, Vec<u8>) = match tensor.datum_type() {
        DatumType::Bool => {
            let view = tensor.to_plain_array_view::<bool>().map_err(|e| failed(causes(&e)))?;
            (DataType::Bool, view.iter().map(|v| u8::from(*v)).collect())
        }
        DatumType::U8 => numbers!(u8, Uint8),
        DatumType::U16 => numbers!(u16, Uint16),
        DatumType::U32 => numbers!(u32, Uint32),
        DatumType::U64 => numbers!(u64, Uint64),
        DatumType::I8 => numbers!(i8, Int8),
        DatumType::I16 => numbers!(i16, Int16),
        DatumType::I32 => numbers!(i32, Int32),
        DatumType::I64 => numbers!(i64, Int64),
        DatumType::F32 => numbers!(f32, Fp32),
        DatumType::F64 => numbers!(f64, Fp64),
        // What ONNX calls INT64, tract computes as dimensions where it comes from shapes.
        DatumType::TDim => {
            let cast = tensor.cast_to::<i64>().map_err(|e| failed(causes(&e)))?;
            let view = cast.to_plain_array_view::<i64>().map_err(|e| failed(causes(&e)))?;
            (DataType::Int64, view.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
        other => return Err(failed(format!("a tensor of {other:?} has no form in the protocol"))),
    };
    let shape = tensor.shape().iter().map(|dim| *dim as u64).collect();
    Ok(Tensor::from_raw(name, datatype, shape, data)?)
}

/// The dimensions of a protocol tensor as indices of this machine.
pub(crate) fn dimensions(tensor: &Tensor) -> Result<Vec<usize>, TensorError> {
    tensor
        .shape
        .iter()
        .map(|dim| usize::try_from(*dim))
        .collect::<Result<_, _>>()
        .map_err(|_too_large| TensorError::TooLarge {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_survives_the_crossing() {
        for datatype in [
            DataType::Bool,
            DataType::Uint8,
            DataType::Uint16,
            DataType::Uint32,
            DataType::Uint64,
            DataType::Int8,
            DataType::Int16,
            DataType::Int32,
            DataType::Int64,
            DataType::Fp32,
            DataType::Fp64,
        ] {
            let size = datatype.size().unwrap();
            let mut bytes = vec![0u8; 6 * size];
            bytes[0] = 1;
            bytes[3 * size] = 1;
            let value = to_tract("x", datatype, &[2, 3], &bytes).unwrap();
            assert_eq!(value.datum_type(), datum_type(datatype).unwrap());
            let back = from_tract("x", &value).unwrap();
            assert_eq!(back, Tensor::from_raw("x", datatype, vec![2, 3], bytes).unwrap());
        }
        assert!(to_tract("x", DataType::Fp16, &[1], &[0, 0]).is_err());
    }
}
