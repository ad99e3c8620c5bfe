//! Reads samples from CSV, one window at a time, from any `Read`.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read};

use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::ids::Digest;
use serde::Serialize;

use super::{Group, ImportError, ImportSpec, Layout, MAX_LINE_BYTES, RawSample, Split, SplitRule, brief};
use flotilla_expressions::nearest;

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
    csv: csv::Reader<RecordCap<R>>,
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
    /// The column that the split rule looks at, if it is one of its own.
    group: Option<usize>,
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
            .from_reader(RecordCap::of(reader));
        let headers: Vec<String> = csv
            .headers()
            .map_err(|error| csv_error(&error, 1))?
            .iter()
            .map(|name| name.trim_start_matches('\u{feff}').to_owned())
            .collect();
        begin_record(&mut csv);
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

    /// Bytes of the file up to the line that was read last.
    pub fn position(&self) -> u64 {
        self.csv.position().byte()
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
            begin_record(&mut self.csv);
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
                None => Some(self.row(line, values, label)?),
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

    fn row(&self, line: u64, values: Vec<f32>, label: Option<String>) -> Result<RawSample, ImportError> {
        let key = format!("row={}", self.counts.lines - 1);
        Ok(RawSample {
            split: self.side(line, &key)?,
            key,
            values,
            label,
        })
    }

    /// The side of the current line, whose case or row is `name`.
    fn side(&self, line: u64, name: &str) -> Result<Split, ImportError> {
        let cell = |column: usize| self.record.get(column).unwrap_or_default();
        let header = |column: usize| self.headers.get(column).cloned().unwrap_or_default();
        let number = |column: usize| {
            let text = cell(column);
            text.parse().map_err(|_why| ImportError::Group {
                line,
                column: header(column),
                value: brief(text),
            })
        };
        let case = self.columns.series.as_ref().and_then(|series| series.case.last());
        Ok(match (&self.split, self.columns.group) {
            (SplitRule::Hash { .. }, Some(column)) if cell(column).is_empty() => {
                return Err(ImportError::NoGroup {
                    line,
                    column: header(column),
                });
            }
            (SplitRule::Hash { .. }, Some(column)) => self.split.assign(0, cell(column)),
            (SplitRule::Hash { .. }, None) => self.split.assign(0, name),
            (SplitRule::Modulo { group: Group::Row, .. }, _) => self.split.assign(self.counts.lines - 1, name),
            (SplitRule::Modulo { .. }, own) => {
                let column = own.or(case.copied()).unwrap_or(0);
                self.split.assign(number(column)?, name)
            }
        })
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
        let split = self.side(line, &name)?;
        self.counts.cases += 1;
        self.case = Some(Case {
            split,
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
    let own_column = import.split.column().map(str::to_owned);
    let group = own_column.as_ref().map(place).transpose()?;
    match &import.layout {
        Layout::Row { columns } => {
            if let SplitRule::Modulo { group: Group::Case, .. } = import.split {
                return Err(ImportError::Split("rows have no case; split by row".to_owned()));
            }
            let columns = columns.clone().unwrap_or_else(|| {
                headers
                    .iter()
                    .filter(|name| !import.drop_columns.contains(name))
                    // What names the class or the group says nothing that holds elsewhere: features only if listed.
                    .filter(|name| ![&import.label_column, &own_column].contains(&&Some((*name).clone())))
                    .cloned()
                    .collect()
            });
            let values = places(&columns)?;
            let spec = FeatureSpec::Row { columns };
            let columns = Columns {
                values,
                label,
                group,
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
                group,
                series: Some(SeriesColumns {
                    case: places(case_columns)?,
                    order: place(order_column)?,
                    length: *length as usize,
                    hop: *hop as usize,
                }),
            };
            if let Some(column) = own_column.filter(|column| !case_columns.contains(column)) {
                return Err(ImportError::Split(format!(
                    "'{column}' is none of the case columns ({}): a case never straddles splits",
                    case_columns.join(", ")
                )));
            }
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

/// Refuses a record that never ends, before the CSV reader has gathered it in memory. A line is not the measure: in quotation
/// marks a record goes on over any number of lines.
#[derive(Debug)]
struct RecordCap<R> {
    reader: R,
    /// Bytes given so far.
    given: u64,
    /// Where the record begins that is being read.
    record: u64,
}

impl<R> RecordCap<R> {
    fn of(reader: R) -> Self {
        Self {
            reader,
            given: 0,
            record: 0,
        }
    }
}

/// Tells the cap that everything before the reader's position has been dealt with.
fn begin_record<R: Read>(csv: &mut csv::Reader<RecordCap<R>>) {
    let position = csv.position().byte();
    csv.get_mut().record = position;
}

impl<R: Read> Read for RecordCap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Whoever asks for more has used up what was given: all of it since the record's beginning is the record's.
        if self.given.saturating_sub(self.record) > MAX_LINE_BYTES as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("longer than {MAX_LINE_BYTES} bytes; is a quotation mark left open?"),
            ));
        }
        let count = self.reader.read(buffer)?;
        self.given += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
