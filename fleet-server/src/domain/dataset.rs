//! Datasets: reading samples from CSV, dividing them into training and holdout, naming them by digest, and the frozen
//! document that a dataset version is.
//!
//! Reads from any `Read`, one window at a time; where samples are kept is the store's business.

mod reader;
mod split;
mod version;

use flotilla_protocol::codec::{self, CodecError};
use flotilla_protocol::features::{FeatureError, FeatureSpec, Statistic};
use flotilla_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

pub use self::reader::{ImportCounts, SampleReader};
pub use self::split::{Group, Split, SplitRule};
pub use self::version::{
    DatasetVersionDoc, FrozenLabel, FrozenSample, LabelSource, VERSION_SCHEMA, VersionDiff, VersionError,
};

/// Longest line of a CSV file, bytes.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Largest encoded dataset version.
pub const MAX_VERSION_BYTES: usize = 256 * 1024 * 1024;

/// How a CSV file becomes samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportSpec {
    pub layout: Layout,
    /// Columns that are not data.
    #[serde(default)]
    pub drop_columns: Vec<String>,
    /// Column with the known class, if there is one. It never becomes a feature.
    #[serde(default)]
    pub label_column: Option<String>,
    pub split: SplitRule,
}

/// What one sample is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layout {
    /// Every line is a sample.
    Row {
        /// `None`: all columns but the dropped ones.
        #[serde(default)]
        columns: Option<Vec<String>>,
    },
    /// A line is one step of a recording; a sample is a window of steps.
    Series {
        /// Columns that together name a recording (a case).
        case_columns: Vec<String>,
        /// Ascends strictly within a case.
        order_column: String,
        channels: Vec<String>,
        /// Steps per window.
        length: u32,
        /// Steps from one window's start to the next's.
        hop: u32,
        rate_hz: f32,
        statistics: Vec<Statistic>,
    },
}

/// Why an import is refused. Lines are counted from 1, the header included.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the file is empty: a header line with the column names is needed")]
    Empty,
    #[error("the file has a header and no data")]
    NoData,
    #[error(
        "no column is named '{column}'{}; the file has {}",
        .nearest.as_deref().map_or_else(String::new, |nearest| format!(" (did you mean '{nearest}'?)")),
        listed(.available)
    )]
    MissingColumn {
        column: String,
        nearest: Option<String>,
        available: Vec<String>,
    },
    #[error("two columns are named '{0}'")]
    DuplicateColumn(String),
    #[error("line {line} has {found} columns, the header has {expected}")]
    ColumnCount { line: u64, expected: usize, found: usize },
    #[error("line {line}, column '{column}': '{value}' is not a number; correct it, or drop the column")]
    NotANumber { line: u64, column: String, value: String },
    #[error("line {line}, column '{column}': '{value}' is not finite; remove the line or fill the gap")]
    NotFinite { line: u64, column: String, value: String },
    #[error("line {line}: case '{case}' appears again after another case; sort the file by case")]
    DuplicateCase { line: u64, case: String },
    #[error("line {line}, case '{case}': '{column}' goes from {previous} to {found}; it must ascend within a case")]
    OutOfOrder {
        line: u64,
        case: String,
        column: String,
        previous: f64,
        found: f64,
    },
    #[error("line {line}, case '{case}': the label changes from '{previous}' to '{found}' within one window")]
    MixedLabels {
        line: u64,
        case: String,
        previous: String,
        found: String,
    },
    #[error("line {line}: the split needs a whole number in column '{column}', '{value}' is none")]
    Group { line: u64, column: String, value: String },
    #[error("line {line}, column '{column}': empty, and the split needs to know what the line belongs together with")]
    NoGroup { line: u64, column: String },
    #[error("the split rule is not usable: {0}")]
    Split(String),
    #[error(transparent)]
    Features(#[from] FeatureError),
    #[error("line {line} is not readable CSV: {why}")]
    Csv { line: u64, why: String },
}

fn listed(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(12).map(String::as_str).collect();
    let more = names.len().saturating_sub(shown.len());
    let tail = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{tail}", shown.join(", "))
}

/// What is echoed back comes from outside: keep it short.
fn brief(text: &str) -> String {
    text.chars().take(60).collect()
}

/// One sample as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct RawSample {
    /// `row=12`, or `case=train-7/window=1`; unique within the file.
    pub key: String,
    /// Raw values, row-major `[steps, channels]` for a window.
    pub values: Vec<f32>,
    pub split: Split,
    /// From the label column.
    pub label: Option<String>,
}

#[derive(Serialize)]
struct SampleIdentity<'a> {
    kind: &'static str,
    shape: &'a [i64],
    #[serde(with = "serde_bytes_ref")]
    data: &'a [u8],
}

/// `serde_bytes` for a borrowed field, so that the digest is over a byte string and not an array of numbers.
mod serde_bytes_ref {
    pub(super) fn serialize<S: serde::Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }
}

/// A sample's name: the digest of the canonical CBOR of its kind, shape and little-endian FP32 values. Equal data has
/// equal names, wherever it was gathered.
pub fn sample_digest(spec: &FeatureSpec, values: &[f32]) -> Result<Digest, CodecError> {
    let kind = match spec {
        FeatureSpec::Row { .. } => "row",
        FeatureSpec::Window { .. } => "window",
    };
    let shape = spec.input_shape();
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let bytes = codec::to_vec(&SampleIdentity {
        kind,
        shape: shape.get(1..).unwrap_or_default(),
        data: &data,
    })?;
    Ok(Digest::of(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_data_has_equal_names() {
        let spec = FeatureSpec::Row {
            columns: vec!["a".into(), "b".into()],
        };
        let other = FeatureSpec::Row {
            columns: vec!["c".into(), "d".into()],
        };
        let digest = sample_digest(&spec, &[1.0, 2.0]).unwrap();
        assert_eq!(digest, sample_digest(&other, &[1.0, 2.0]).unwrap());
        assert_ne!(digest, sample_digest(&spec, &[1.0, 2.5]).unwrap());
        // Pinned: a change would rename every stored sample.
        assert_eq!(digest.short(), "28dcd891ebf0");
    }
}
