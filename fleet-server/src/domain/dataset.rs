//! Datasets: reading samples from CSV, dividing them into training and holdout, naming them by digest, and the frozen
//! document that a dataset version is.
//!
//! Reads from any `Read`, one window at a time; where samples are kept is the store's business.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::{self, Read};

use flotilla_protocol::codec::{self, CodecError};
use flotilla_protocol::features::{FeatureError, FeatureSpec, Statistic};
use flotilla_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use super::expr::nearest;

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

/// Where a sample belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    /// Only ever used to evaluate.
    Holdout,
    /// Not part of the dataset; an importer counts and skips it.
    Excluded,
}

/// Divides samples. Depends on the sample's name alone, never on the order of imports or on chance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum SplitRule {
    /// By a number modulo `modulus`; residues in neither list train.
    Modulo {
        group: Group,
        modulus: u64,
        #[serde(default)]
        holdout: Vec<u64>,
        #[serde(default)]
        exclude: Vec<u64>,
    },
    /// By a hash of the case (of the row, for rows): `holdout_share` of them, in [0, 1), are held out.
    Hash { holdout_share: f64 },
}

/// The number that [`SplitRule::Modulo`] divides by. Windows of one case never land on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The whole number in the last case column.
    Case,
    /// The zero-based data line.
    Row,
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
    #[error("line {line}: a split by case needs a whole number in column '{column}', '{value}' is none")]
    Group { line: u64, column: String, value: String },
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

impl SplitRule {
    /// Refuses rules that would put everything, or nothing meaningful, on one side.
    pub fn check(&self) -> Result<(), ImportError> {
        let refuse = |why: String| Err(ImportError::Split(why));
        match self {
            Self::Modulo {
                modulus,
                holdout,
                exclude,
                ..
            } => {
                if let Some(residue) = holdout.iter().chain(exclude).find(|residue| **residue >= *modulus) {
                    return refuse(format!("residue {residue} never occurs modulo {modulus}"));
                }
                if let Some(both) = holdout.iter().find(|residue| exclude.contains(residue)) {
                    return refuse(format!("residue {both} is both held out and excluded"));
                }
                let taken: HashSet<&u64> = holdout.iter().chain(exclude).collect();
                if taken.len() as u64 >= *modulus {
                    return refuse("no residue is left to train on".to_owned());
                }
            }
            Self::Hash { holdout_share } => {
                if !(0.0..1.0).contains(holdout_share) {
                    return refuse(format!("holdout_share {holdout_share} is not in [0, 1)"));
                }
            }
        }
        Ok(())
    }

    /// The side of a sample: `number` is what [`Group`] asks for, `name` its case or row.
    pub fn assign(&self, number: u64, name: &str) -> Split {
        match self {
            Self::Modulo {
                modulus,
                holdout,
                exclude,
                ..
            } => {
                let residue = number.checked_rem(*modulus).unwrap_or(0);
                if holdout.contains(&residue) {
                    Split::Holdout
                } else if exclude.contains(&residue) {
                    Split::Excluded
                } else {
                    Split::Train
                }
            }
            Self::Hash { holdout_share } => {
                let digest = Digest::of(name.as_bytes());
                let head = digest.0.first_chunk::<4>().copied().unwrap_or_default();
                let position = f64::from(u32::from_be_bytes(head)) / (f64::from(u32::MAX) + 1.0);
                if position < *holdout_share {
                    Split::Holdout
                } else {
                    Split::Train
                }
            }
        }
    }
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

/// What a reader passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ImportCounts {
    /// Data lines read.
    pub lines: u64,
    /// Samples given, excluded ones included.
    pub samples: u64,
    pub cases: u64,
    /// Cases too short for one window.
    pub short_cases: u64,
    /// Steps that filled no window.
    pub unused_steps: u64,
}

/// Reads samples from CSV, in the file's order. Holds one window, and 16 bytes per case to notice a case that returns.
/// Ends after the first error.
#[derive(Debug)]
pub struct SampleReader<R> {
    csv: csv::Reader<LineCap<R>>,
    headers: Vec<String>,
    spec: FeatureSpec,
    split: SplitRule,
    columns: Columns,
    record: csv::StringRecord,
    case: Option<Case>,
    seen: HashSet<[u8; 16]>,
    counts: ImportCounts,
    finished: bool,
}

#[derive(Debug)]
struct Columns {
    values: Vec<usize>,
    label: Option<usize>,
    series: Option<SeriesColumns>,
}

#[derive(Debug, Clone)]
struct SeriesColumns {
    case: Vec<usize>,
    order: usize,
    length: usize,
    hop: usize,
}

/// The recording being read.
#[derive(Debug)]
struct Case {
    name: String,
    split: Split,
    previous: f64,
    /// Raw values and label of the steps that the next window may still need.
    steps: VecDeque<(Vec<f32>, Option<String>)>,
    /// Steps to pass over before the next window, where the hop is longer than the window.
    gap: usize,
    windows: u64,
    used: bool,
}

impl<R: Read> SampleReader<R> {
    /// Reads the header and checks it against `import`.
    pub fn new(reader: R, import: &ImportSpec) -> Result<Self, ImportError> {
        import.split.check()?;
        let mut csv = csv::ReaderBuilder::new()
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(LineCap { reader, run: 0 });
        let headers: Vec<String> = csv
            .headers()
            .map_err(|error| csv_error(&error, 1))?
            .iter()
            .map(|name| name.trim_start_matches('\u{feff}').to_owned())
            .collect();
        if headers.iter().all(String::is_empty) {
            return Err(ImportError::Empty);
        }
        let mut names = HashSet::new();
        if let Some(twice) = headers.iter().find(|name| !names.insert(name.as_str())) {
            return Err(ImportError::DuplicateColumn(twice.clone()));
        }
        let (spec, columns) = resolve(import, &headers)?;
        spec.check()?;
        Ok(Self {
            csv,
            headers,
            spec,
            split: import.split.clone(),
            columns,
            record: csv::StringRecord::new(),
            case: None,
            seen: HashSet::new(),
            counts: ImportCounts::default(),
            finished: false,
        })
    }

    /// The transform from these samples to features.
    pub fn feature_spec(&self) -> &FeatureSpec {
        &self.spec
    }

    /// What was read so far.
    pub fn counts(&self) -> ImportCounts {
        self.counts
    }

    fn advance(&mut self) -> Result<Option<RawSample>, ImportError> {
        loop {
            let next_line = self.counts.lines + 2;
            if !self
                .csv
                .read_record(&mut self.record)
                .map_err(|error| csv_error(&error, next_line))?
            {
                self.close_case();
                return if self.counts.lines == 0 {
                    Err(ImportError::NoData)
                } else {
                    Ok(None)
                };
            }
            let line = self.record.position().map_or(next_line, csv::Position::line);
            self.counts.lines += 1;
            if self.record.len() != self.headers.len() {
                return Err(ImportError::ColumnCount {
                    line,
                    expected: self.headers.len(),
                    found: self.record.len(),
                });
            }
            let values = self
                .columns
                .values
                .iter()
                .map(|column| self.number(line, *column))
                .collect::<Result<Vec<f32>, _>>()?;
            let label = self
                .columns
                .label
                .and_then(|column| self.record.get(column))
                .filter(|label| !label.is_empty())
                .map(str::to_owned);
            let sample = match self.columns.series.clone() {
                None => Some(self.row(values, label)),
                Some(series) => self.step(line, &series, values, label)?,
            };
            if let Some(sample) = sample {
                self.counts.samples += 1;
                return Ok(Some(sample));
            }
        }
    }

    fn number(&self, line: u64, column: usize) -> Result<f32, ImportError> {
        let text = self.record.get(column).unwrap_or_default();
        let name = || self.headers.get(column).cloned().unwrap_or_default();
        let value: f32 = text.parse().map_err(|_why| ImportError::NotANumber {
            line,
            column: name(),
            value: brief(text),
        })?;
        if !value.is_finite() {
            return Err(ImportError::NotFinite {
                line,
                column: name(),
                value: brief(text),
            });
        }
        Ok(value)
    }

    fn row(&self, values: Vec<f32>, label: Option<String>) -> RawSample {
        let number = self.counts.lines - 1;
        let key = format!("row={number}");
        RawSample {
            split: self.split.assign(number, &key),
            key,
            values,
            label,
        }
    }

    /// Takes one step of a recording; gives the window that it completes.
    fn step(
        &mut self,
        line: u64,
        series: &SeriesColumns,
        values: Vec<f32>,
        label: Option<String>,
    ) -> Result<Option<RawSample>, ImportError> {
        let parts: Vec<&str> = series
            .case
            .iter()
            .map(|column| self.record.get(*column).unwrap_or_default())
            .collect();
        let name = parts.join("-");
        let order_text = self.record.get(series.order).unwrap_or_default();
        let order: f64 = order_text
            .parse()
            .ok()
            .filter(|order: &f64| order.is_finite())
            .ok_or_else(|| ImportError::NotANumber {
                line,
                column: self.headers.get(series.order).cloned().unwrap_or_default(),
                value: brief(order_text),
            })?;
        if self.case.as_ref().is_none_or(|case| case.name != name) {
            self.open_case(line, series, name)?;
        }
        let column = self.headers.get(series.order).cloned().unwrap_or_default();
        let Some(case) = self.case.as_mut() else {
            return Ok(None);
        };
        if order <= case.previous {
            return Err(ImportError::OutOfOrder {
                line,
                case: brief(&case.name),
                column,
                previous: case.previous,
                found: order,
            });
        }
        case.previous = order;
        case.push(line, series, values, label)
    }

    fn open_case(&mut self, line: u64, series: &SeriesColumns, name: String) -> Result<(), ImportError> {
        self.close_case();
        let digest = Digest::of(name.as_bytes());
        if !self.seen.insert(digest.0.first_chunk().copied().unwrap_or_default()) {
            return Err(ImportError::DuplicateCase {
                line,
                case: brief(&name),
            });
        }
        let number = match &self.split {
            SplitRule::Hash { .. } => 0,
            SplitRule::Modulo { group: Group::Row, .. } => self.counts.lines - 1,
            SplitRule::Modulo { group: Group::Case, .. } => {
                let column = series.case.last().copied().unwrap_or(0);
                let text = self.record.get(column).unwrap_or_default();
                text.parse().map_err(|_why| ImportError::Group {
                    line,
                    column: self.headers.get(column).cloned().unwrap_or_default(),
                    value: brief(text),
                })?
            }
        };
        self.counts.cases += 1;
        self.case = Some(Case {
            split: self.split.assign(number, &name),
            name,
            previous: f64::NEG_INFINITY,
            steps: VecDeque::with_capacity(series.length),
            gap: 0,
            windows: 0,
            used: false,
        });
        Ok(())
    }

    fn close_case(&mut self) {
        if let Some(case) = self.case.take() {
            if case.windows == 0 {
                self.counts.short_cases += 1;
            }
            let tail = if case.used { 0 } else { case.steps.len() };
            self.counts.unused_steps += tail as u64;
        }
    }
}

impl Case {
    fn push(
        &mut self,
        line: u64,
        series: &SeriesColumns,
        values: Vec<f32>,
        label: Option<String>,
    ) -> Result<Option<RawSample>, ImportError> {
        if self.gap > 0 {
            self.gap -= 1;
            return Ok(None);
        }
        self.steps.push_back((values, label));
        self.used = false;
        if self.steps.len() < series.length {
            return Ok(None);
        }
        let label = self.steps.front().and_then(|(_, label)| label.clone());
        if let Some((_, other)) = self.steps.iter().find(|(_, other)| *other != label) {
            return Err(ImportError::MixedLabels {
                line,
                case: brief(&self.name),
                previous: label.unwrap_or_default(),
                found: other.clone().unwrap_or_default(),
            });
        }
        let sample = RawSample {
            key: format!("case={}/window={}", self.name, self.windows),
            values: self
                .steps
                .iter()
                .flat_map(|(values, _)| values.iter().copied())
                .collect(),
            split: self.split,
            label,
        };
        self.windows += 1;
        // What overlaps the next window was used by this one.
        self.used = true;
        self.gap = series.hop.saturating_sub(self.steps.len());
        self.steps.drain(..series.hop.min(self.steps.len()));
        Ok(Some(sample))
    }
}

impl<R: Read> Iterator for SampleReader<R> {
    type Item = Result<RawSample, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let next = self.advance().transpose();
        self.finished = !matches!(next, Some(Ok(_)));
        next
    }
}

/// The feature specification, and where the columns stand.
fn resolve(import: &ImportSpec, headers: &[String]) -> Result<(FeatureSpec, Columns), ImportError> {
    let place = |column: &String| {
        headers
            .iter()
            .position(|name| name == column)
            .ok_or_else(|| ImportError::MissingColumn {
                column: column.clone(),
                nearest: nearest(column, headers.iter().map(String::as_str)),
                available: headers.to_vec(),
            })
    };
    let places = |columns: &[String]| columns.iter().map(place).collect::<Result<Vec<usize>, _>>();
    places(&import.drop_columns)?;
    let label = import.label_column.as_ref().map(place).transpose()?;
    match &import.layout {
        Layout::Row { columns } => {
            if let SplitRule::Modulo { group: Group::Case, .. } = import.split {
                return Err(ImportError::Split("rows have no case; split by row".to_owned()));
            }
            let columns = columns.clone().unwrap_or_else(|| {
                headers
                    .iter()
                    .filter(|name| !import.drop_columns.contains(name) && import.label_column.as_ref() != Some(name))
                    .cloned()
                    .collect()
            });
            let values = places(&columns)?;
            let spec = FeatureSpec::Row { columns };
            let columns = Columns {
                values,
                label,
                series: None,
            };
            Ok((spec, columns))
        }
        Layout::Series {
            case_columns,
            order_column,
            channels,
            length,
            hop,
            rate_hz,
            statistics,
        } => {
            let columns = Columns {
                values: places(channels)?,
                label,
                series: Some(SeriesColumns {
                    case: places(case_columns)?,
                    order: place(order_column)?,
                    length: *length as usize,
                    hop: *hop as usize,
                }),
            };
            if case_columns.is_empty() {
                return Err(ImportError::Split("a series needs at least one case column".to_owned()));
            }
            let spec = FeatureSpec::Window {
                channels: channels.clone(),
                length: *length,
                hop: *hop,
                rate_hz: *rate_hz,
                statistics: statistics.clone(),
            };
            Ok((spec, columns))
        }
    }
}

fn csv_error(error: &csv::Error, line: u64) -> ImportError {
    ImportError::Csv {
        line: error.position().map_or(line, csv::Position::line),
        why: error.to_string(),
    }
}

/// Refuses a line that never ends, before the CSV reader has gathered it in memory.
#[derive(Debug)]
struct LineCap<R> {
    reader: R,
    run: usize,
}

impl<R: Read> Read for LineCap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        for byte in buffer.iter().take(count) {
            self.run = if *byte == b'\n' { 0 } else { self.run + 1 };
        }
        if self.run > MAX_LINE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("longer than {MAX_LINE_BYTES} bytes"),
            ));
        }
        Ok(count)
    }
}

/// Who said what a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelSource {
    /// A person, or a column of the import.
    Hand,
    /// A label model.
    Model,
}

/// A label as it was frozen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenLabel {
    /// Index into the version's labels.
    pub index: u32,
    pub source: LabelSource,
    /// In [0, 1]; 1 for a person.
    pub confidence: f32,
}

/// One sample of a version.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenSample {
    pub digest: Digest,
    pub split: Split,
    pub label: Option<FrozenLabel>,
    /// Index into the version's origins.
    pub origin: u32,
}

/// A dataset version: exactly what a run was trained and evaluated on. Its digest is its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetVersionDoc {
    /// [`VERSION_SCHEMA`]
    pub schema: String,
    pub labels: Vec<String>,
    pub features: FeatureSpec,
    /// Where samples came from, in order: the first import, each harvest. They become the slices of the drift reference.
    pub origins: Vec<String>,
    pub samples: Vec<FrozenSample>,
}

/// Layout of [`DatasetVersionDoc`].
pub const VERSION_SCHEMA: &str = "flotilla.dataset-version.v1";

/// Why a version is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    #[error("the dataset version has schema '{0}', '{VERSION_SCHEMA}' is known here")]
    Schema(String),
    #[error("sample {index} ({digest}) has {what} {found}, the version knows {known}")]
    OutOfRange {
        index: usize,
        digest: Digest,
        what: &'static str,
        found: u32,
        known: usize,
    },
    #[error(transparent)]
    Features(#[from] FeatureError),
    #[error("the dataset version cannot be read: {0}")]
    Codec(#[from] CodecError),
}

/// What differs between two versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VersionDiff {
    pub added: u64,
    pub removed: u64,
    /// In both, with another class (or with one where there was none).
    pub relabeled: u64,
    /// In both, on another side of the split.
    pub moved: u64,
}

impl DatasetVersionDoc {
    /// Every index must point at something.
    pub fn check(&self) -> Result<(), VersionError> {
        if self.schema != VERSION_SCHEMA {
            return Err(VersionError::Schema(brief(&self.schema)));
        }
        self.features.check()?;
        for (index, sample) in self.samples.iter().enumerate() {
            let label = sample.label.map(|label| ("label", label.index, self.labels.len()));
            let origin = Some(("origin", sample.origin, self.origins.len()));
            for (what, found, known) in [label, origin].into_iter().flatten() {
                if found as usize >= known {
                    return Err(VersionError::OutOfRange {
                        index,
                        digest: sample.digest,
                        what,
                        found,
                        known,
                    });
                }
            }
        }
        Ok(())
    }

    /// The frozen bytes and their digest.
    pub fn encode(&self) -> Result<(Vec<u8>, Digest), VersionError> {
        self.check()?;
        let bytes = codec::to_vec(self)?;
        let digest = Digest::of(&bytes);
        Ok((bytes, digest))
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, VersionError> {
        let version: Self = codec::from_slice(bytes, MAX_VERSION_BYTES)?;
        version.check()?;
        Ok(version)
    }

    /// Counts what changed since `older`. Samples are matched by digest, equal ones in their order.
    pub fn diff(&self, older: &Self) -> VersionDiff {
        let mut before: BTreeMap<Digest, VecDeque<&FrozenSample>> = BTreeMap::new();
        for sample in &older.samples {
            before.entry(sample.digest).or_default().push_back(sample);
        }
        let mut diff = VersionDiff::default();
        for sample in &self.samples {
            let Some(old) = before.get_mut(&sample.digest).and_then(VecDeque::pop_front) else {
                diff.added += 1;
                continue;
            };
            diff.relabeled += u64::from(self.label_name(sample) != older.label_name(old));
            diff.moved += u64::from(sample.split != old.split);
        }
        diff.removed = before.values().map(|left| left.len() as u64).sum();
        diff
    }

    /// The class name of a sample, if it has one.
    pub fn label_name(&self, sample: &FrozenSample) -> Option<&str> {
        self.labels.get(sample.label?.index as usize).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series() -> ImportSpec {
        ImportSpec {
            layout: Layout::Series {
                case_columns: vec!["split".into(), "case".into()],
                order_column: "step".into(),
                channels: vec!["x".into(), "y".into()],
                length: 2,
                hop: 2,
                rate_hz: 10.0,
                statistics: vec![Statistic::Mean],
            },
            drop_columns: vec![],
            label_column: Some("label".into()),
            split: SplitRule::Modulo {
                group: Group::Case,
                modulus: 4,
                holdout: vec![1],
                exclude: vec![3],
            },
        }
    }

    fn rows() -> ImportSpec {
        ImportSpec {
            layout: Layout::Row { columns: None },
            drop_columns: vec!["note".into()],
            label_column: None,
            split: SplitRule::Hash { holdout_share: 0.3 },
        }
    }

    fn read(import: &ImportSpec, text: &str) -> Result<Vec<RawSample>, ImportError> {
        SampleReader::new(text.as_bytes(), import)?.collect()
    }

    const HEADER: &str = "split,case,step,x,y,label\n";

    #[test]
    fn windows_are_cut_per_case() {
        let text = format!(
            "{HEADER}train,0,0,1,2,a\ntrain,0,1,3,4,a\ntrain,0,2,5,6,b\ntrain,1,0,7,8,b\ntest,0,0,9,10,c\ntest,0,5,11,12,c\n"
        );
        let mut reader = SampleReader::new(text.as_bytes(), &series()).unwrap();
        let samples: Vec<RawSample> = reader.by_ref().collect::<Result<_, _>>().unwrap();
        let keys: Vec<&str> = samples.iter().map(|s| s.key.as_str()).collect();
        assert_eq!(keys, ["case=train-0/window=0", "case=test-0/window=0"]);
        assert_eq!(samples[0].values, [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(samples[1].label.as_deref(), Some("c"));
        assert_eq!(reader.feature_spec().feature_names(), ["x.mean", "y.mean"]);
        assert_eq!(
            reader.counts(),
            ImportCounts {
                lines: 6,
                samples: 2,
                cases: 3,
                short_cases: 1,
                unused_steps: 2,
            }
        );
    }

    #[test]
    fn hops_shorter_and_longer_than_the_window() {
        let text = format!(
            "{HEADER}{}",
            (0..7).map(|t| format!("a,0,{t},{t},0,\n")).collect::<Vec<_>>().concat()
        );
        let starts = |hop: u32| {
            let mut import = series();
            if let Layout::Series { hop: h, .. } = &mut import.layout {
                *h = hop;
            }
            let samples = read(&import, &text).unwrap();
            samples.iter().map(|s| s.values[0]).collect::<Vec<f32>>()
        };
        assert_eq!(starts(1), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(starts(2), [0.0, 2.0, 4.0]);
        assert_eq!(starts(3), [0.0, 3.0]);
        assert_eq!(starts(5), [0.0, 5.0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let data = |body: &str| format!("{HEADER}{body}");
        let cases: Vec<(ImportSpec, String)> = vec![
            (rows(), String::new()),
            (rows(), "a,note\n".into()),
            (rows(), "a,notes\n1,2\n".into()),
            (rows(), "a,a,note\n".into()),
            (rows(), "a,b,note\n1,2,x\n3,4\n".into()),
            (rows(), "a,b,note\n1,2,x\n3,n/a,x\n".into()),
            (rows(), "a,b,note\n1,NaN,x\n".into()),
            (series(), data("t,0,0,1,2,a\nt,1,0,1,2,a\nt,0,1,1,2,a\n")),
            (series(), data("t,0,0,1,2,a\nt,0,0,1,2,a\n")),
            (series(), data("t,0,0,1,2,a\nt,0,1,1,2,b\n")),
            (series(), data("t,zero,0,1,2,a\n")),
            (series(), data("t,0,soon,1,2,a\n")),
            (series(), "split,case,step,x,yy,label\n".into()),
            (rows(), format!("a,note\n1,{}", "x".repeat(MAX_LINE_BYTES + 9000))),
        ];
        let table: Vec<String> = cases
            .iter()
            .map(|(import, text)| read(import, text).unwrap_err().to_string())
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        the file is empty: a header line with the column names is needed
        the file has a header and no data
        no column is named 'note' (did you mean 'notes'?); the file has a, notes
        two columns are named 'a'
        line 3 has 2 columns, the header has 3
        line 3, column 'b': 'n/a' is not a number; correct it, or drop the column
        line 2, column 'b': 'NaN' is not finite; remove the line or fill the gap
        line 4: case 't-0' appears again after another case; sort the file by case
        line 3, case 't-0': 'step' goes from 0 to 0; it must ascend within a case
        line 3, case 't-0': the label changes from 'a' to 'b' within one window
        line 2: a split by case needs a whole number in column 'case', 'zero' is none
        line 2, column 'step': 'soon' is not a number; correct it, or drop the column
        no column is named 'y'; the file has split, case, step, x, yy, label
        line 2 is not readable CSV: longer than 1048576 bytes
        ");
    }

    #[test]
    fn unusable_split_rules_are_refused() {
        let rule = |modulus, holdout: &[u64], exclude: &[u64]| SplitRule::Modulo {
            group: Group::Row,
            modulus,
            holdout: holdout.to_vec(),
            exclude: exclude.to_vec(),
        };
        rule(3, &[0], &[1]).check().unwrap();
        for bad in [
            rule(0, &[], &[]),
            rule(3, &[3], &[]),
            rule(3, &[1], &[1]),
            rule(2, &[0], &[1]),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(SplitRule::Hash { holdout_share: 1.0 }.check().is_err());
        assert!(
            SplitRule::Hash {
                holdout_share: f64::NAN
            }
            .check()
            .is_err()
        );
    }

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

    fn version(samples: &[(u8, Split, Option<u32>)]) -> DatasetVersionDoc {
        DatasetVersionDoc {
            schema: VERSION_SCHEMA.into(),
            labels: vec!["a".into(), "b".into()],
            features: FeatureSpec::Row {
                columns: vec!["x".into()],
            },
            origins: vec!["import".into()],
            samples: samples
                .iter()
                .map(|(name, split, label)| FrozenSample {
                    digest: Digest::of(&[*name]),
                    split: *split,
                    label: label.map(|index| FrozenLabel {
                        index,
                        source: LabelSource::Hand,
                        confidence: 1.0,
                    }),
                    origin: 0,
                })
                .collect(),
        }
    }

    #[test]
    fn versions_are_compared_sample_by_sample() {
        use Split::{Holdout, Train};
        let old = version(&[
            (1, Train, Some(0)),
            (2, Train, None),
            (3, Holdout, Some(1)),
            (4, Train, Some(0)),
        ]);
        let new = version(&[
            (1, Train, Some(1)),
            (2, Train, Some(0)),
            (3, Train, Some(1)),
            (5, Train, None),
            (5, Train, None),
        ]);
        let expected = VersionDiff {
            added: 2,
            removed: 1,
            relabeled: 2,
            moved: 1,
        };
        assert_eq!(new.diff(&old), expected);
        let (bytes, digest) = new.encode().unwrap();
        assert_eq!(DatasetVersionDoc::decode(&bytes).unwrap(), new);
        assert_eq!(digest, new.encode().unwrap().1);
        assert_ne!(digest, old.encode().unwrap().1);
        let bad = version(&[(1, Train, Some(2))]);
        assert!(
            bad.encode()
                .unwrap_err()
                .to_string()
                .contains("label 2, the version knows 2")
        );
    }

    proptest! {
        #[test]
        fn splits_are_stable_and_in_proportion(share in 0.05f64..0.95, salt in 0u32..1000) {
            let rule = SplitRule::Hash { holdout_share: share };
            let mut held = 0u32;
            for i in 0..2000 {
                let name = format!("case-{salt}-{i}");
                let split = rule.assign(0, &name);
                prop_assert_eq!(split, rule.assign(7, &name));
                held += u32::from(split == Split::Holdout);
            }
            prop_assert!((f64::from(held) / 2000.0 - share).abs() < 0.06, "{} of 2000 for {}", held, share);
        }

        #[test]
        fn residues_decide(number in any::<u64>(), modulus in 3u64..50) {
            let rule = SplitRule::Modulo { group: Group::Row, modulus, holdout: vec![0], exclude: vec![1] };
            let expected = match number % modulus { 0 => Split::Holdout, 1 => Split::Excluded, _ => Split::Train };
            prop_assert_eq!(rule.assign(number, "x"), expected);
        }

        #[test]
        fn any_bytes_end_in_samples_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(reader) = SampleReader::new(bytes.as_slice(), &rows()) {
                for sample in reader {
                    if sample.is_err() { break; }
                }
            }
            let mut text = HEADER.as_bytes().to_vec();
            text.extend(bytes);
            if let Ok(reader) = SampleReader::new(text.as_slice(), &series()) {
                prop_assert!(reader.count() <= 300);
            }
        }
    }
}
