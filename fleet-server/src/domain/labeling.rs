//! Labeling functions: CEL conditions over a sample's features, each voting for one class or abstaining. Compiles a set of
//! them, applies it to samples, and says how each function does (coverage, overlap, conflict, accuracy).
//!
//! What the votes add up to is `label_model`'s business.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use flotilla_expressions::{ExprError, Expression, Field, Row, Shape, nearest};

/// Most functions of one set.
pub const MAX_FUNCTIONS: usize = 512;
/// Most classes.
pub const MAX_LABELS: usize = 1024;

/// One weak opinion: where `when` holds, the sample is probably `label`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelingFunction {
    pub name: String,
    /// CEL over `f["feature"]`.
    pub when: String,
    pub label: String,
}

/// Why a set of functions is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelingError {
    #[error("labeling function '{name}': {source}")]
    Expression {
        name: String,
        #[source]
        source: ExprError,
    },
    #[error(
        "labeling function '{name}' votes for '{label}', which is not a label{}",
        .nearest.as_deref().map_or_else(String::new, |nearest| format!("; did you mean '{nearest}'?"))
    )]
    UnknownLabel {
        name: String,
        label: String,
        nearest: Option<String>,
    },
    #[error("two labeling functions are named '{0}'")]
    DuplicateName(String),
    #[error("{found} {what}, at most {cap} are allowed")]
    TooMany {
        what: &'static str,
        found: usize,
        cap: usize,
    },
    #[error("sample {item} has {found} features, the functions were compiled for {expected}")]
    Features { item: usize, expected: usize, found: usize },
    #[error("{found} gold labels for {expected} samples")]
    Gold { expected: usize, found: usize },
}

/// Functions compiled against the names of the features and labels.
#[derive(Debug)]
pub struct LabelingSet {
    functions: Vec<Compiled>,
    index: HashMap<String, usize>,
    labels: usize,
}

#[derive(Debug)]
struct Compiled {
    name: String,
    label_name: String,
    label: i16,
    when: Expression,
}

/// A vote that is not cast.
const ABSTAIN: i16 = -1;

/// Votes of every function on every sample, and what went wrong while they were cast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMatrix {
    functions: usize,
    labels: usize,
    /// Row-major `[samples, functions]`; −1 abstains.
    votes: Vec<i16>,
    /// Per function.
    errors: Vec<FunctionErrors>,
}

/// Samples on which a function failed (it abstained there).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionErrors {
    pub count: u64,
    /// The first message, with the sample's index.
    pub first: Option<String>,
}

/// How one function does. Definitions as Snorkel's `LFAnalysis`; shares are of all samples, in [0, 1].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionSummary {
    pub name: String,
    pub label: String,
    /// Samples it votes on.
    pub votes: u64,
    pub coverage: f64,
    /// It and at least one other vote.
    pub overlap: f64,
    /// It and at least one other vote, differently.
    pub conflict: f64,
    /// Votes on samples with a gold label, and how many of them are right.
    pub judged: u64,
    pub correct: u64,
    /// `correct / judged`; `None` where nothing was judged.
    pub accuracy: Option<f64>,
    pub errors: FunctionErrors,
}

/// Counts of samples for every two functions, by row and column in the functions' order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    pub overlaps: Vec<Vec<u64>>,
    pub conflicts: Vec<Vec<u64>>,
}

/// How the set does as a whole; shares of all samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetSummary {
    pub samples: u64,
    pub coverage: f64,
    pub overlap: f64,
    pub conflict: f64,
    pub functions: Vec<FunctionSummary>,
}

/// One sample's features under the name `f`.
#[derive(Debug)]
struct Features<'a> {
    index: &'a HashMap<String, usize>,
    values: &'a [f32],
}

impl Row for Features<'_> {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        let value = self.values.get(*self.index.get(name)?)?;
        Some(Field::Number(f64::from(*value)))
    }
}

#[derive(Debug)]
struct Scope<'a>(Features<'a>);

impl Row for Scope<'_> {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        (name == "f").then_some(Field::Map(&self.0))
    }
}

impl LabelingSet {
    /// Compiles `functions` for samples with these features and labels, in their order.
    pub fn compile(
        functions: &[LabelingFunction],
        feature_names: &[String],
        labels: &[String],
    ) -> Result<Self, LabelingError> {
        for (what, found, cap) in [
            ("labeling functions", functions.len(), MAX_FUNCTIONS),
            ("labels", labels.len(), MAX_LABELS),
        ] {
            if found > cap {
                return Err(LabelingError::TooMany { what, found, cap });
            }
        }
        let schema = Shape::features(feature_names);
        let mut compiled: Vec<Compiled> = Vec::with_capacity(functions.len());
        for function in functions {
            if compiled.iter().any(|other| other.name == function.name) {
                return Err(LabelingError::DuplicateName(function.name.clone()));
            }
            let label = labels
                .iter()
                .position(|label| *label == function.label)
                .and_then(|index| i16::try_from(index).ok())
                .ok_or_else(|| LabelingError::UnknownLabel {
                    name: function.name.clone(),
                    label: function.label.clone(),
                    nearest: nearest(&function.label, labels.iter().map(String::as_str)),
                })?;
            let when = Expression::compile(&function.when, &schema).map_err(|source| LabelingError::Expression {
                name: function.name.clone(),
                source,
            })?;
            compiled.push(Compiled {
                name: function.name.clone(),
                label_name: function.label.clone(),
                label,
                when,
            });
        }
        Ok(Self {
            functions: compiled,
            index: feature_names
                .iter()
                .enumerate()
                .map(|(index, name)| (name.clone(), index))
                .collect(),
            labels: labels.len(),
        })
    }

    /// Lets every function vote on every sample; `rows` are features in the order given to [`Self::compile`].
    pub fn apply<'r>(&self, rows: impl IntoIterator<Item = &'r [f32]>) -> Result<LabelMatrix, LabelingError> {
        let mut ballot = self.ballot();
        for values in rows {
            ballot.cast(values)?;
        }
        Ok(ballot.finish())
    }

    /// The same sample by sample, for whoever has many of them.
    pub fn ballot(&self) -> Ballot<'_> {
        Ballot {
            set: self,
            votes: Vec::new(),
            errors: vec![FunctionErrors::default(); self.functions.len()],
            samples: 0,
        }
    }

    /// The table that a person improves functions with. `gold`: known classes, one entry per sample.
    pub fn summarize(&self, matrix: &LabelMatrix, gold: Option<&[Option<usize>]>) -> Result<SetSummary, LabelingError> {
        let samples = matrix.len();
        if let Some(gold) = gold
            && gold.len() != samples
        {
            return Err(LabelingError::Gold {
                expected: samples,
                found: gold.len(),
            });
        }
        let mut tallies = vec![Tally::default(); self.functions.len()];
        let mut whole = Tally::default();
        for item in 0..samples {
            let gold = gold.and_then(|gold| gold.get(item).copied().flatten());
            tally(matrix.row(item), gold, &mut tallies, &mut whole);
        }
        let functions = self
            .functions
            .iter()
            .zip(&tallies)
            .zip(&matrix.errors)
            .map(|((function, tally), errors)| FunctionSummary {
                name: function.name.clone(),
                label: function.label_name.clone(),
                votes: tally.votes,
                coverage: share(tally.votes, samples as u64),
                overlap: share(tally.overlaps, samples as u64),
                conflict: share(tally.conflicts, samples as u64),
                judged: tally.judged,
                correct: tally.correct,
                accuracy: (tally.judged > 0).then(|| share(tally.correct, tally.judged)),
                errors: errors.clone(),
            })
            .collect();
        Ok(SetSummary {
            samples: samples as u64,
            coverage: share(whole.votes, samples as u64),
            overlap: share(whole.overlaps, samples as u64),
            conflict: share(whole.conflicts, samples as u64),
            functions,
        })
    }
}

/// Votes being cast.
#[derive(Debug)]
pub struct Ballot<'a> {
    set: &'a LabelingSet,
    /// Row-major `[samples, functions]`; −1 abstains.
    votes: Vec<i16>,
    errors: Vec<FunctionErrors>,
    samples: usize,
}

impl Ballot<'_> {
    /// Lets every function vote on one sample; `values` are features in the order given to [`LabelingSet::compile`].
    pub fn cast(&mut self, values: &[f32]) -> Result<(), LabelingError> {
        let (set, item) = (self.set, self.samples);
        if values.len() != set.index.len() {
            return Err(LabelingError::Features {
                item,
                expected: set.index.len(),
                found: values.len(),
            });
        }
        let scope = Scope(Features {
            index: &set.index,
            values,
        });
        for (function, errors) in set.functions.iter().zip(&mut self.errors) {
            let vote = match function.when.eval_bool(&scope) {
                Ok(true) => function.label,
                Ok(false) => ABSTAIN,
                Err(error) => {
                    errors.count += 1;
                    errors.first.get_or_insert_with(|| format!("sample {item}: {error}"));
                    ABSTAIN
                }
            };
            self.votes.push(vote);
        }
        self.samples += 1;
        Ok(())
    }

    pub fn finish(self) -> LabelMatrix {
        LabelMatrix {
            functions: self.set.functions.len(),
            labels: self.set.labels,
            votes: self.votes,
            errors: self.errors,
        }
    }
}

#[derive(Clone, Default)]
struct Tally {
    votes: u64,
    overlaps: u64,
    conflicts: u64,
    judged: u64,
    correct: u64,
}

fn tally(row: &[i16], gold: Option<usize>, tallies: &mut [Tally], whole: &mut Tally) {
    let cast = row.iter().filter(|vote| **vote != ABSTAIN).count();
    if cast == 0 {
        return;
    }
    let mut disputed = false;
    for (vote, tally) in row.iter().zip(tallies) {
        if *vote == ABSTAIN {
            continue;
        }
        let conflict = row.iter().any(|other| *other != ABSTAIN && other != vote);
        disputed |= conflict;
        tally.votes += 1;
        tally.overlaps += u64::from(cast > 1);
        tally.conflicts += u64::from(conflict);
        if let Some(gold) = gold {
            tally.judged += 1;
            tally.correct += u64::from(usize::try_from(*vote) == Ok(gold));
        }
    }
    whole.votes += 1;
    whole.overlaps += u64::from(cast > 1);
    whole.conflicts += u64::from(disputed);
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

impl LabelMatrix {
    /// From votes as other tools give them: row-major `[samples, functions]`, −1 abstains. `None` if they do not fit.
    pub fn from_votes(functions: usize, labels: usize, votes: Vec<i16>) -> Option<Self> {
        let fits = |vote: &i16| *vote == ABSTAIN || usize::try_from(*vote).is_ok_and(|vote| vote < labels);
        (functions > 0 && votes.len().is_multiple_of(functions) && votes.iter().all(fits)).then(|| Self {
            functions,
            labels,
            votes,
            errors: vec![FunctionErrors::default(); functions],
        })
    }

    /// Samples.
    pub fn len(&self) -> usize {
        self.votes.len().checked_div(self.functions).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn functions(&self) -> usize {
        self.functions
    }

    /// Number of classes.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// Votes on one sample, −1 abstains; empty past the end.
    pub fn row(&self, item: usize) -> &[i16] {
        let start = item.saturating_mul(self.functions);
        self.votes
            .get(start..start.saturating_add(self.functions))
            .unwrap_or_default()
    }

    /// `(function, class)` of every vote cast on a sample.
    pub fn votes(&self, item: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.row(item)
            .iter()
            .enumerate()
            .filter_map(|(function, vote)| Some((function, usize::try_from(*vote).ok()?)))
    }

    /// Votes that a function cast.
    pub fn fire_count(&self, function: usize) -> usize {
        self.votes
            .iter()
            .skip(function)
            .step_by(self.functions.max(1))
            .filter(|vote| **vote != ABSTAIN)
            .count()
    }

    /// Of every two functions: on how many samples both vote, and vote differently. Symmetric; on the diagonal: votes, and 0.
    pub fn pairs(&self) -> Pairs {
        let mut pairs = Pairs {
            overlaps: vec![vec![0; self.functions]; self.functions],
            conflicts: vec![vec![0; self.functions]; self.functions],
        };
        for item in 0..self.len() {
            for (first, label) in self.votes(item) {
                for (second, other) in self.votes(item) {
                    add(&mut pairs.overlaps, (first, second), 1);
                    add(&mut pairs.conflicts, (first, second), u64::from(label != other));
                }
            }
        }
        pairs
    }

    /// Per function, what went wrong.
    pub fn errors(&self) -> &[FunctionErrors] {
        &self.errors
    }
}

fn add(table: &mut [Vec<u64>], (row, column): (usize, usize), more: u64) {
    if let Some(cell) = table.get_mut(row).and_then(|row| row.get_mut(column)) {
        *cell += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, when: &str, label: &str) -> LabelingFunction {
        LabelingFunction {
            name: name.into(),
            when: when.into(),
            label: label.into(),
        }
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn the_table_is_snorkels() {
        let functions = [
            function("low", r#"f["x"] < 2.0"#, "a"),
            function("high", r#"f["x"] > 1.0"#, "b"),
            function("very_high", r#"f["x"] > 3.0"#, "b"),
            function("fails", r#"10 / int(f["x"]) > 1"#, "a"),
        ];
        let set = LabelingSet::compile(&functions, &names(&["x"]), &names(&["a", "b"])).unwrap();
        let rows: [[f32; 1]; 6] = [[0.0], [1.5], [1.5], [2.5], [4.0], [0.5]];
        let matrix = set.apply(rows.iter().map(<[f32; 1]>::as_slice)).unwrap();
        let gold = [Some(0), Some(1), None, Some(1), Some(0), Some(0)];
        let summary = set.summarize(&matrix, Some(&gold)).unwrap();
        let table: Vec<String> = summary
            .functions
            .iter()
            .map(|f| {
                let accuracy = f.accuracy.map_or("-".into(), |a| format!("{a:.3}"));
                format!(
                    "{:<10}{} {:.3} {:.3} {:.3} {}/{} {accuracy} {} {}",
                    f.name,
                    f.label,
                    f.coverage,
                    f.overlap,
                    f.conflict,
                    f.correct,
                    f.judged,
                    f.errors.count,
                    f.errors.first.as_deref().unwrap_or("-")
                )
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        low       a 0.667 0.333 0.333 2/3 0.667 0 -
        high      b 0.667 0.667 0.667 2/3 0.667 0 -
        very_high b 0.167 0.167 0.167 0/1 0.000 0 -
        fails     a 0.667 0.667 0.667 1/3 0.333 2 sample 0: the expression failed: Division by zero of Int(10)
        ");
        assert_eq!((summary.samples, summary.coverage.to_bits()), (6, 1f64.to_bits()));
        assert!((summary.conflict - 4.0 / 6.0).abs() < 1e-12 && (summary.overlap - 4.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn refusals_name_function_and_reason() {
        let compile = |f: &[LabelingFunction]| {
            LabelingSet::compile(f, &names(&["mean", "std"]), &names(&["walking", "running"]))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            compile(&[function("a", r#"f["mena"] > 1.0"#, "walking")]),
            r#"labeling function 'a': there is no 'f["mena"]'; did you mean 'f["mean"]'?"#
        );
        assert_eq!(
            compile(&[function("a", r#"f["mean"] > 1.0"#, "runing")]),
            "labeling function 'a' votes for 'runing', which is not a label; did you mean 'running'?"
        );
        let twice = function("a", r#"f["mean"] > 1.0"#, "walking");
        assert_eq!(compile(&[twice.clone(), twice]), "two labeling functions are named 'a'");
    }

    #[test]
    fn a_row_of_another_width_is_refused() {
        let set =
            LabelingSet::compile(&[function("a", r#"f["x"] > 1.0"#, "a")], &names(&["x"]), &names(&["a"])).unwrap();
        let error = set.apply([[1.0f32, 2.0].as_slice()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sample 0 has 2 features, the functions were compiled for 1"
        );
    }

    #[test]
    fn pairs_count_votes_together_and_against_each_other() {
        let votes = vec![0, 0, 1, -1, 0, 1, 0, -1, -1, -1, -1, -1];
        let pairs = LabelMatrix::from_votes(3, 2, votes).unwrap().pairs();
        assert_eq!(pairs.overlaps, [[2, 1, 1], [1, 2, 2], [1, 2, 2]]);
        assert_eq!(pairs.conflicts, [[0, 0, 1], [0, 0, 2], [1, 2, 0]]);
    }

    #[test]
    fn foreign_votes_must_fit() {
        assert!(LabelMatrix::from_votes(2, 3, vec![0, -1, 2, 1]).is_some());
        assert!(LabelMatrix::from_votes(2, 3, vec![0, 3]).is_none());
        assert!(LabelMatrix::from_votes(2, 3, vec![0, -1, 2]).is_none());
    }
}
