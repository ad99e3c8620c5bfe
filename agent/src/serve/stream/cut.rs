//! From rows to samples: the columns a model wants, and the buffer that rows wait in until they are windows.
//!
//! The buffer keeps whole rows, so that another model with other columns can take them over.

use std::collections::VecDeque;

use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::infer::{Tensor, TensorError};

use crate::inference::ModelInfo;

/// The header of a stream.
#[derive(Debug)]
pub(super) struct Columns(Vec<String>);

/// Which columns a model takes, and how many rows make a sample.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    indices: Vec<usize>,
    length: usize,
    hop: usize,
}

impl Columns {
    pub(super) fn from_header(line: &str) -> Self {
        Self(fields(line).into_iter().map(|name| name.trim().to_owned()).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The columns that this model takes, in its order.
    pub(super) fn choose(&self, model: &ModelInfo) -> Result<Chosen, String> {
        let Some(features) = &model.features else {
            return Err(format!(
                "model '{}' has no feature specification: a stream does not know which columns it takes",
                model.name()
            ));
        };
        let indices = features
            .raw_names()
            .iter()
            .map(|name| {
                self.0.iter().position(|column| column == name).ok_or_else(|| {
                    format!(
                        "model '{}' needs column '{name}', the stream has {}",
                        model.name(),
                        self.0.join(", ")
                    )
                })
            })
            .collect::<Result<_, _>>()?;
        let (length, hop) = match features {
            FeatureSpec::Row { .. } => (1, 1),
            FeatureSpec::Window { length, hop, .. } => (*length as usize, *hop as usize),
        };
        Ok(Chosen { indices, length, hop })
    }
}

/// The fields of a CSV line (RFC 4180, but without line breaks inside quotes).
fn fields(line: &str) -> Vec<String> {
    if !line.contains('"') {
        return line.split(',').map(str::to_owned).collect();
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .buffer_capacity(line.len() + 1)
        .from_reader(line.as_bytes());
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(true) => record.iter().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Rows that wait. Holds at most one batch of samples and the rows of an unfinished window.
#[derive(Debug)]
pub(super) struct Buffer {
    width: usize,
    rows: VecDeque<Vec<f32>>,
    chosen: Option<Chosen>,
    /// Rows still to be left out: a hop longer than the window reaches beyond what was read.
    ahead: usize,
}

impl Buffer {
    /// `width`: columns of a row.
    pub(super) fn new(width: usize) -> Self {
        Self {
            width,
            rows: VecDeque::new(),
            chosen: None,
            ahead: 0,
        }
    }

    /// From now on samples are cut for this choice. Returns how many waiting rows it cannot use.
    pub(super) fn cut_for(&mut self, chosen: Chosen) -> u64 {
        if self.chosen.as_ref() == Some(&chosen) {
            return 0;
        }
        let before = self.rows.len();
        self.rows.retain(|row| is_usable(row, &chosen));
        self.chosen = Some(chosen);
        self.ahead = 0;
        (before - self.rows.len()) as u64
    }

    /// Adds a line; `false` if it is skipped.
    pub(super) fn push(&mut self, line: &str) -> bool {
        let row: Vec<f32> = if line.contains('"') {
            fields(line).iter().map(|field| number(field)).collect()
        } else {
            line.split(',').map(number).collect()
        };
        let usable = row.len() == self.width && self.chosen.as_ref().is_some_and(|chosen| is_usable(&row, chosen));
        if usable && self.ahead > 0 {
            self.ahead -= 1;
        } else if usable {
            self.rows.push_back(row);
        }
        usable
    }

    /// Samples that can be cut now.
    pub(super) fn ready(&self) -> usize {
        match &self.chosen {
            Some(chosen) if self.rows.len() >= chosen.length => {
                (self.rows.len() - chosen.length) / chosen.hop.max(1) + 1
            }
            _ => 0,
        }
    }

    /// The next samples, `most` at the most, as the model's one input; `None` if none is ready. They stay in the buffer
    /// until they are [`Self::taken`].
    pub(super) fn batch(&self, model: &ModelInfo, most: usize) -> Result<Option<(Tensor, usize)>, TensorError> {
        let samples = self.ready().min(most);
        let (Some(chosen), Some(features), Some(input), true) = (
            &self.chosen,
            &model.features,
            model.manifest.inputs.first(),
            samples > 0,
        ) else {
            return Ok(None);
        };
        let mut values = Vec::with_capacity(samples * features.sample_len());
        for sample in 0..samples {
            for row in self.rows.iter().skip(sample * chosen.hop).take(chosen.length) {
                values.extend(chosen.indices.iter().filter_map(|index| row.get(*index)));
            }
        }
        let mut shape = vec![samples as u64];
        shape.extend(features.input_shape().iter().skip(1).map(|dim| dim.unsigned_abs()));
        Ok(Some((Tensor::from_f32(&input.name, shape, &values)?, samples)))
    }

    /// Lets go of what only these samples needed.
    pub(super) fn taken(&mut self, samples: usize) {
        let Some(chosen) = &self.chosen else { return };
        let gone = samples * chosen.hop;
        self.ahead += gone.saturating_sub(self.rows.len());
        self.rows.drain(..gone.min(self.rows.len()));
    }
}

fn number(field: &str) -> f32 {
    field.trim().parse().unwrap_or(f32::NAN)
}

fn is_usable(row: &[f32], chosen: &Chosen) -> bool {
    let finite = |index: &usize| row.get(*index).is_some_and(|value| value.is_finite());
    chosen.indices.iter().all(finite)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chosen(indices: Vec<usize>, length: usize, hop: usize) -> Chosen {
        Chosen { indices, length, hop }
    }

    #[test]
    fn bad_rows_are_skipped_only_for_columns_that_matter() {
        let mut buffer = Buffer::new(2);
        assert_eq!(buffer.cut_for(chosen(vec![1], 1, 1)), 0);
        assert!(buffer.push("x,1.5") && buffer.push("\"a, b\", 2 "));
        assert!(!buffer.push("1,nan") && !buffer.push("1,inf") && !buffer.push("1,") && !buffer.push("1,2,3"));
        assert_eq!(buffer.ready(), 2);
        assert_eq!(
            buffer.cut_for(chosen(vec![0], 1, 1)),
            2,
            "another model cannot use them"
        );
    }

    #[test]
    fn quoted_headers_are_read() {
        assert_eq!(Columns::from_header("a, \"b\",\"c, d\"").0.len(), 3);
        assert_eq!(Columns::from_header("a , b").0, ["a", "b"]);
    }

    proptest! {
        /// Whatever the batches, windows start at every multiple of the hop, as if all rows had been there at once.
        #[test]
        fn windows_do_not_depend_on_how_rows_arrive(
            length in 1usize..6, hop in 1usize..9, arrivals in proptest::collection::vec((0usize..7, 1usize..4), 1..20)
        ) {
            let mut buffer = Buffer::new(1);
            buffer.cut_for(chosen(vec![0], length, hop));
            let (mut pushed, mut starts) = (0usize, Vec::new());
            for (rows, most) in arrivals {
                for _ in 0..rows {
                    buffer.push(&pushed.to_string());
                    pushed += 1;
                }
                let samples = buffer.ready().min(most);
                for sample in 0..samples {
                    starts.push(buffer.rows[sample * hop][0] as usize);
                }
                buffer.taken(samples);
            }
            let samples = buffer.ready();
            starts.extend((0..samples).map(|sample| buffer.rows[sample * hop][0] as usize));
            let expected: Vec<usize> = (0..pushed).step_by(hop).filter(|start| start + length <= pushed).collect();
            prop_assert_eq!(starts, expected);
        }
    }
}
