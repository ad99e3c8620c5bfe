//! Elements of a tensor as JSON: nested or flat arrays of numbers, booleans and texts, read without a tree in between.
//!
//! What they mean as a data type is the tensor's business.

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::DataType;

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

    pub(super) fn encode(&self, datatype: DataType, out: &mut Vec<u8>) -> Option<()> {
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
