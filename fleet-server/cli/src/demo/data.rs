//! The demo's data with its truth: cases, the samples they give, and who may see which. Also the scripted human, who knows
//! the truth of a sample when it sees one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use flotilla_api_types::datasets::{SampleShape, SplitRule};

use crate::demo::spec::DemoSpec;
use crate::error::CliError;

/// Who sees a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The server, to train on; unlabelled.
    Train,
    /// The server, to measure with.
    Holdout,
    /// Devices only.
    Field,
}

/// One recording (or one row), with its truth.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Values of the case columns; empty for rows.
    pub(crate) names: Vec<String>,
    pub(crate) part: Part,
    pub(crate) truth: String,
    /// In the order of [`Recording::columns`].
    pub(crate) rows: Vec<Vec<f32>>,
}

/// How the sensor sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mounting {
    AsTrained,
    Remounted,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    /// Raw columns: the channels of a series, the columns of a row.
    pub(crate) columns: Vec<String>,
    pub(crate) cases: Vec<Case>,
    window: usize,
    hop: usize,
    /// See [`crate::demo::spec::Remount::sources`].
    sources: Vec<usize>,
    case_columns: Vec<String>,
    order_column: Option<String>,
}

impl Recording {
    pub(crate) fn load(spec: &DemoSpec) -> Result<Self, CliError> {
        let path = &spec.data;
        let mut reader = csv::Reader::from_path(path).map_err(|why| CliError::file(path, why))?;
        let header: Vec<String> = reader
            .headers()
            .map_err(|why| CliError::file(path, why))?
            .iter()
            .map(str::to_owned)
            .collect();
        let layout = Layout::new(spec, &header).map_err(|why| CliError::file(path, why))?;
        let mut cases: Vec<Case> = Vec::new();
        for (number, record) in reader.records().enumerate() {
            let record = record.map_err(|why| CliError::file(path, why))?;
            let place = |why: String| CliError::file(path, format!("line {}: {why}", number + 2));
            let row = layout.read(&record, number).map_err(place)?;
            match cases.last_mut() {
                Some(case) if layout.is_series && case.names == row.names => {
                    case.rows.extend(row.rows);
                    if case.truth != row.truth {
                        return Err(place(format!("the truth changes from {} to {}", case.truth, row.truth)));
                    }
                }
                _ => cases.push(row),
            }
        }
        let (window, hop) = spec.window();
        let (case_columns, order_column) = match &spec.dataset.shape {
            SampleShape::Row { .. } => (Vec::new(), None),
            SampleShape::Series {
                case_columns,
                order_column,
                ..
            } => (case_columns.clone(), Some(order_column.clone())),
        };
        Ok(Self {
            sources: spec.remount.sources(&layout.columns)?,
            columns: layout.columns,
            cases,
            window,
            hop,
            case_columns,
            order_column,
        })
    }

    pub(crate) fn part(&self, part: Part) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |case| case.part == part)
    }

    /// A row as the sensor gives it.
    pub(crate) fn seen(&self, row: &[f32], mounting: Mounting) -> Vec<f32> {
        match mounting {
            Mounting::AsTrained => row.to_vec(),
            Mounting::Remounted => self
                .sources
                .iter()
                .filter_map(|source| row.get(*source).copied())
                .collect(),
        }
    }

    /// The samples that a case is cut into, row-major.
    pub(crate) fn samples(&self, case: &Case, mounting: Mounting) -> Vec<Vec<f32>> {
        let starts = (0..case.rows.len()).step_by(self.hop.max(1));
        starts
            .filter_map(|start| case.rows.get(start..start + self.window))
            .map(|rows| rows.iter().flat_map(|row| self.seen(row, mounting)).collect())
            .collect()
    }

    /// Shape of one sample, as the inference protocol wants it.
    pub(crate) fn sample_shape(&self) -> Vec<u64> {
        let columns = self.columns.len() as u64;
        if self.order_column.is_none() {
            return vec![columns];
        }
        vec![self.window as u64, columns]
    }

    /// A part as CSV, in the layout of the dataset, without the truth.
    pub(crate) fn write_csv(&self, path: &Path, part: Part, mounting: Mounting) -> Result<(), CliError> {
        let failed = |why: csv::Error| CliError::file(path, why);
        let mut writer = csv::Writer::from_path(path).map_err(failed)?;
        let header = self.case_columns.iter().chain(&self.order_column).chain(&self.columns);
        writer.write_record(header).map_err(failed)?;
        for case in self.part(part) {
            for (step, row) in case.rows.iter().enumerate() {
                let mut record = case.names.clone();
                record.extend(self.order_column.as_ref().map(|_| step.to_string()));
                record.extend(self.seen(row, mounting).iter().map(ToString::to_string));
                writer.write_record(&record).map_err(failed)?;
            }
        }
        writer.flush().map_err(|why| CliError::file(path, why))
    }
}

/// Where a file's columns stand.
struct Layout {
    is_series: bool,
    columns: Vec<String>,
    values: Vec<usize>,
    names: Vec<usize>,
    truth: usize,
    /// The column that the split rule divides by; the data row where there is none.
    group: Option<usize>,
    rule: Rule,
}

struct Rule {
    modulus: u64,
    train: Vec<u64>,
    holdout: Vec<u64>,
    field: Vec<u64>,
}

impl Layout {
    fn new(spec: &DemoSpec, header: &[String]) -> Result<Self, String> {
        let place = |name: &String| {
            let place = header.iter().position(|column| column == name);
            place.ok_or_else(|| format!("there is no column '{name}'"))
        };
        let dropped = &spec.dataset.drop_columns;
        let (is_series, columns, names) = match &spec.dataset.shape {
            SampleShape::Row { columns } if columns.is_empty() => {
                let all = header.iter().filter(|column| !dropped.contains(column));
                (false, all.cloned().collect(), Vec::new())
            }
            SampleShape::Row { columns } => (false, columns.clone(), Vec::new()),
            SampleShape::Series {
                channels, case_columns, ..
            } => (true, channels.clone(), case_columns.clone()),
        };
        let SplitRule::Modulo {
            column,
            modulus,
            train,
            holdout,
        } = &spec.dataset.split
        else {
            return Err("the split is no modulo rule".to_owned());
        };
        Ok(Self {
            is_series,
            values: columns.iter().map(place).collect::<Result<_, _>>()?,
            columns,
            names: names.iter().map(place).collect::<Result<_, _>>()?,
            truth: place(&spec.truth_column)?,
            group: column.as_ref().map(place).transpose()?,
            rule: Rule {
                modulus: *modulus,
                train: train.clone(),
                holdout: holdout.clone(),
                field: spec.field.clone(),
            },
        })
    }

    /// One line as a case of one row.
    fn read(&self, record: &csv::StringRecord, number: usize) -> Result<Case, String> {
        let text = |index: &usize| record.get(*index).unwrap_or_default().to_owned();
        let rows = self
            .values
            .iter()
            .map(|index| {
                let text = text(index);
                text.trim().parse::<f32>().map_err(|why| format!("'{text}': {why}"))
            })
            .collect::<Result<Vec<f32>, String>>()?;
        let group = match &self.group {
            Some(index) => text(index).parse().map_err(|why| format!("'{}': {why}", text(index)))?,
            None => number as u64,
        };
        let residue = group % self.rule.modulus.max(1);
        let part = if self.rule.train.contains(&residue) {
            Part::Train
        } else if self.rule.holdout.contains(&residue) {
            Part::Holdout
        } else if self.rule.field.contains(&residue) {
            Part::Field
        } else {
            return Err(format!("residue {residue} is in no part"));
        };
        Ok(Case {
            names: self.names.iter().map(text).collect(),
            part,
            truth: text(&self.truth),
            rows: vec![rows],
        })
    }
}

/// The scripted human: recognises samples by their values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    known: HashMap<Vec<u32>, (String, Part)>,
}

impl Truth {
    /// Knows every sample that these cases are cut into.
    pub(crate) fn of(recording: &Recording, parts: &[Part], mounting: Mounting) -> Self {
        let mut known = HashMap::new();
        for case in recording.cases.iter().filter(|case| parts.contains(&case.part)) {
            for sample in recording.samples(case, mounting) {
                known.insert(bits(&sample), (case.truth.clone(), case.part));
            }
        }
        Self { known }
    }

    pub(crate) fn label(&self, values: &[f32]) -> Option<(&str, Part)> {
        self.known
            .get(&bits(values))
            .map(|(label, part)| (label.as_str(), *part))
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// How many cases there are of each class, for people.
pub(crate) fn class_counts<'a>(cases: impl Iterator<Item = &'a Case>) -> BTreeMap<&'a str, u64> {
    let mut counts = BTreeMap::new();
    for case in cases {
        *counts.entry(case.truth.as_str()).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::demo::spec::tests::load;

    #[test]
    fn parts_are_disjoint_and_hold_every_class() {
        for (name, expected) in [("motions", [32, 24, 24]), ("digits", [797, 400, 600])] {
            let spec = load(name);
            let recording = Recording::load(&spec).unwrap();
            let parts = [Part::Train, Part::Holdout, Part::Field];
            assert_eq!(parts.map(|part| recording.part(part).count()), expected, "{name}");
            for part in parts {
                let classes = class_counts(recording.part(part));
                let labels: BTreeSet<&str> = spec.dataset.labels.iter().map(String::as_str).collect();
                assert_eq!(
                    classes.keys().copied().collect::<BTreeSet<_>>(),
                    labels,
                    "{name} {part:?}"
                );
            }
            let total: usize = parts.iter().map(|part| recording.part(*part).count()).sum();
            assert_eq!(total, recording.cases.len(), "every case is in exactly one part");
        }
    }

    #[test]
    fn no_sample_is_in_two_parts_or_looks_the_same_after_the_remount() {
        for name in ["motions", "digits"] {
            let recording = Recording::load(&load(name)).unwrap();
            let seen = |part, mounting| -> BTreeSet<Vec<u32>> {
                let cases = recording.part(part);
                cases
                    .flat_map(|case| recording.samples(case, mounting))
                    .map(|sample| bits(&sample))
                    .collect()
            };
            let holdout = seen(Part::Holdout, Mounting::Remounted);
            assert!(holdout.is_disjoint(&seen(Part::Field, Mounting::Remounted)), "{name}");
            assert!(holdout.is_disjoint(&seen(Part::Holdout, Mounting::AsTrained)), "{name}");
            assert!(holdout.is_disjoint(&seen(Part::Train, Mounting::AsTrained)), "{name}");
        }
    }

    #[test]
    fn the_remount_keeps_every_value() {
        let recording = Recording::load(&load("motions")).unwrap();
        let row: Vec<f32> = (0..6u8).map(f32::from).collect();
        let mut remounted = recording.seen(&row, Mounting::Remounted);
        assert_ne!(remounted, row);
        remounted.sort_by(f32::total_cmp);
        assert_eq!(remounted, row);
    }

    #[test]
    fn samples_are_whole_windows_and_the_human_knows_them() {
        let recording = Recording::load(&load("motions")).unwrap();
        assert_eq!(recording.sample_shape(), [50, 6]);
        let truth = Truth::of(&recording, &[Part::Holdout], Mounting::Remounted);
        let case = recording.part(Part::Holdout).next().unwrap();
        let samples = recording.samples(case, Mounting::Remounted);
        assert_eq!(samples.len(), 2);
        assert_eq!(truth.label(&samples[1]), Some((case.truth.as_str(), Part::Holdout)));
        assert_eq!(truth.label(&recording.samples(case, Mounting::AsTrained)[1]), None);
    }

    #[test]
    fn what_is_imported_carries_no_truth() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdout.csv");
        let recording = Recording::load(&load("motions")).unwrap();
        recording.write_csv(&path, Part::Holdout, Mounting::Remounted).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("split,case,step,accel_x,"));
        assert_eq!(text.lines().count(), 1 + 24 * 100);
        for class in ["activity", "standing", "walking", "running", "badminton"] {
            assert!(!text.contains(class), "{class}");
        }
    }
}
