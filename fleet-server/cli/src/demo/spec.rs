//! A demo's specification: one TOML file says which data, how it is labelled and trained, what re-mounting the sensor does
//! to it, and what must come out. Nothing of a data set stands in code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flotilla_api_types::datasets::{CreateDataset, CreateLabelingFunction, SampleShape, SplitRule};
use flotilla_api_types::models::DriftParameters;
use flotilla_api_types::runs::Trainer;
use flotilla_protocol::ids::ModelLine;
use serde::Deserialize;

use crate::error::CliError;
use crate::files;

/// See the comments in the files themselves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DemoSpec {
    pub(crate) title: String,
    /// CSV, beside this file.
    pub(crate) data: PathBuf,
    /// Stripped at import; only the scorer and the scripted human read it.
    pub(crate) truth_column: String,
    pub(crate) line: ModelLine,
    /// The body of `POST /api/v1/datasets`.
    pub(crate) dataset: CreateDataset,
    /// Residues of the split rule that devices see, and the server never.
    pub(crate) field: Vec<u64>,
    pub(crate) labeling_functions: Vec<CreateLabelingFunction>,
    /// How many training samples the scripted human labels, the least certain ones first.
    pub(crate) hand_budget: u32,
    pub(crate) min_confidence: f64,
    pub(crate) trainer: Trainer,
    /// One run each.
    pub(crate) seeds: Vec<u64>,
    pub(crate) drift: DriftParameters,
    pub(crate) remount: Remount,
    /// Harvested samples that are enough to retrain.
    pub(crate) harvest: u32,
    /// What each device's sensor gives.
    pub(crate) rows_per_second: f64,
    pub(crate) bars: Bars,
}

/// What happens to the sensor: each raw column shows what another one showed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Remount {
    /// `now = "before"`; columns that are not named stay.
    Columns {
        words: String,
        columns: BTreeMap<String, String>,
    },
    /// The raw columns are the pixels of a square picture, row by row: turned by 90 degrees clockwise.
    RotateClockwise { words: String, side: usize },
}

/// What `--once` holds the demo to.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bars {
    /// Mean accuracy over the seeds on held-out samples.
    pub(crate) before: f64,
    /// How much lower it is, at least, on the same samples after the re-mount.
    pub(crate) drop: f64,
    /// How far from before it may be, after retraining, on the re-mounted samples.
    pub(crate) recovered: f64,
}

/// Says which data sets there are.
fn unknown(path: &Path) -> CliError {
    let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let mut known: Vec<String> = folder
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| name(&path))
        .collect();
    known.sort();
    let known = known.join(", ");
    CliError::Usage(format!(
        "there is no data set '{}': {known}, or the path of a specification",
        name(path)
    ))
}

impl DemoSpec {
    /// Reads a specification and makes its paths relative to where it stands.
    pub(crate) fn load(path: &Path) -> Result<Self, CliError> {
        if !path.exists() {
            return Err(unknown(path));
        }
        let mut spec: Self = files::read_toml(path)?;
        if let Some(folder) = path.parent() {
            spec.data = folder.join(&spec.data);
        }
        spec.check().map_err(|why| CliError::file(path, why))?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        if !self.dataset.drop_columns.contains(&self.truth_column) {
            return Err(format!(
                "dataset.drop_columns must name the truth, '{}'",
                self.truth_column
            ));
        }
        if self.seeds.is_empty() || self.harvest == 0 || self.field.is_empty() {
            return Err("seeds, field and harvest must not be empty".to_owned());
        }
        if !self.rows_per_second.is_finite() || self.rows_per_second <= 0.0 {
            return Err(format!("rows_per_second = {} is not above 0", self.rows_per_second));
        }
        let SplitRule::Modulo {
            modulus,
            train,
            holdout,
            ..
        } = &self.dataset.split
        else {
            return Err(
                "dataset.split must be of kind modulo: the demo keeps part of the data from the server".to_owned(),
            );
        };
        let mut seen: Vec<u64> = train.iter().chain(holdout).chain(&self.field).copied().collect();
        seen.sort_unstable();
        if seen.windows(2).any(|pair| pair.first() == pair.last()) || seen.last().is_some_and(|r| r >= modulus) {
            return Err("train, holdout and field must be disjoint residues below the modulus".to_owned());
        }
        if let Some(function) = self
            .labeling_functions
            .iter()
            .find(|f| !self.dataset.labels.contains(&f.label))
        {
            return Err(format!(
                "labeling function '{}': no label '{}'",
                function.name, function.label
            ));
        }
        Ok(())
    }

    /// Rows that make a sample, and rows from one sample's start to the next's.
    pub(crate) fn window(&self) -> (usize, usize) {
        match &self.dataset.shape {
            SampleShape::Row { .. } => (1, 1),
            SampleShape::Series { window, hop, .. } => (*window as usize, *hop as usize),
        }
    }
}

impl Remount {
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Columns { words, .. } | Self::RotateClockwise { words, .. } => words,
        }
    }

    /// For each raw column, the index of the column whose value it shows afterwards. Always a permutation.
    pub(crate) fn sources(&self, columns: &[String]) -> Result<Vec<usize>, CliError> {
        let refuse = |why: String| Err(CliError::Failed(format!("remount: {why}")));
        let sources: Vec<usize> = match self {
            Self::Columns { columns: changed, .. } => {
                let place = |name: &String| columns.iter().position(|column| column == name);
                if let Some(unknown) = changed
                    .keys()
                    .chain(changed.values())
                    .find(|name| place(name).is_none())
                {
                    return refuse(format!("the data has no column '{unknown}'"));
                }
                columns
                    .iter()
                    .enumerate()
                    .map(|(index, name)| changed.get(name).and_then(place).unwrap_or(index))
                    .collect()
            }
            Self::RotateClockwise { side, .. } => {
                if side * side != columns.len() {
                    return refuse(format!("{} columns are no square of side {side}", columns.len()));
                }
                let pixels = 0..columns.len();
                pixels
                    .map(|pixel| (side - 1 - pixel % side) * side + pixel / side)
                    .collect()
            }
        };
        let mut sorted = sources.clone();
        sorted.sort_unstable();
        if sorted.into_iter().ne(0..columns.len()) {
            return refuse("a column would be lost: it must be a permutation".to_owned());
        }
        Ok(sources)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn load(name: &str) -> DemoSpec {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("demo")
            .join(format!("{name}.toml"));
        DemoSpec::load(&path).unwrap()
    }

    #[test]
    fn both_specifications_are_read() {
        for name in ["motions", "digits"] {
            let spec = load(name);
            assert_eq!(spec.dataset.name, name);
            assert_eq!(spec.seeds, [1, 2, 3, 4, 5]);
            assert!(spec.labeling_functions.len() >= spec.dataset.labels.len());
            assert!(
                (spec.bars.before - 0.85).abs() < 1e-9,
                "the bars are the project's, not the data's"
            );
            assert!((spec.bars.drop - 0.20).abs() < 1e-9 && (spec.bars.recovered - 0.05).abs() < 1e-9);
        }
    }

    #[test]
    fn a_turned_picture_is_a_permutation() {
        let columns: Vec<String> = (0..9).map(|i| format!("p{i}")).collect();
        let turn = Remount::RotateClockwise {
            words: String::new(),
            side: 3,
        };
        // 0 1 2      6 3 0
        // 3 4 5  ->  7 4 1
        // 6 7 8      8 5 2
        assert_eq!(turn.sources(&columns).unwrap(), [6, 3, 0, 7, 4, 1, 8, 5, 2]);
        assert!(turn.sources(&columns[..8]).is_err());
    }

    #[test]
    fn moved_columns_must_be_a_permutation() {
        let columns: Vec<String> = ["x", "y", "z"].map(str::to_owned).to_vec();
        let moved = |pairs: &[(&str, &str)]| Remount::Columns {
            words: String::new(),
            columns: pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        };
        assert_eq!(
            moved(&[("x", "y"), ("y", "z"), ("z", "x")]).sources(&columns).unwrap(),
            [1, 2, 0]
        );
        assert!(moved(&[("x", "y")]).sources(&columns).is_err(), "y twice, x never");
        assert!(moved(&[("x", "w"), ("w", "x")]).sources(&columns).is_err());
    }
}
