//! What people type to find runs: `status:finished experiment:motions holdout.accuracy:>0.9 -dataset:motions@2`, in the language
//! of [`filter`](super::filter). What it means to the database stands in `store/runs`.
//!
//! Figures are the numbers of a run: those it was started with, and its metrics once it has finished. A metric's name has a dot;
//! a few have a short name too.

use std::fmt;

use flotilla_api_types::runs::RunStatus;

use crate::domain::filter::{Comparison, Filter, FilterError, Match, Vocabulary, Word, clip, write_word};

pub type RunFilter = Filter<Condition>;

#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// By name.
    Experiment(Match),
    Status(RunStatus),
    /// A dataset's name, or `name@number` for one of its versions.
    Dataset(Match),
    /// A dataset version's id.
    Version(Match),
    Id(Match),
    Cause(Match),
    /// Units of the hidden layers: `64,32`.
    Hidden(Match),
    /// A figure by its full name. `None`: the run has it at all. Runs without it never match.
    Figure(String, Option<(Comparison, f64)>),
    /// Stands in the experiment's name, the cause, the id or the model's digest, whatever its case.
    Text(String),
}

/// `cancelled` is what people read; the API writes `KILLED`.
const STATUSES: [(&str, RunStatus); 6] = [
    ("scheduled", RunStatus::Scheduled),
    ("running", RunStatus::Running),
    ("finished", RunStatus::Finished),
    ("failed", RunStatus::Failed),
    ("cancelled", RunStatus::Killed),
    ("killed", RunStatus::Killed),
];

/// Figures that are known without a dot, and what their full names are.
const FIGURES: [(&str, &str); 8] = [
    ("seed", "seed"),
    ("epochs", "epochs"),
    ("batch_size", "batch_size"),
    ("learning_rate", "learning_rate"),
    ("weight_decay", "weight_decay"),
    ("duration", "duration_s"),
    ("accuracy", "holdout.accuracy"),
    ("loss", "holdout.log_loss"),
];

/// For errors: what there is.
pub const KNOWN_FIGURES: &str =
    "seed, epochs, batch_size, learning_rate, weight_decay, accuracy, loss, duration or a metric such as holdout.ece";

/// Longer than any metric's name.
const MAX_NAME: usize = 100;

/// A figure's full name; `None` if that is no figure.
pub fn figure(name: &str) -> Option<&str> {
    let known = FIGURES.iter().find(|(short, full)| *short == name || *full == name);
    known
        .map(|(_, full)| *full)
        .or_else(|| (name.contains('.') && name.len() <= MAX_NAME).then_some(name))
}

impl Vocabulary for Condition {
    fn text(text: String) -> Self {
        Self::Text(text)
    }

    fn keyed(key: Word, value: Word) -> Result<Self, FilterError> {
        Ok(match key.text.as_str() {
            "experiment" => Self::Experiment(value.matched()),
            "status" => Self::Status(value.one_of("status", &STATUSES)?),
            "dataset" => Self::Dataset(value.matched()),
            "version" => Self::Version(value.matched()),
            "id" => Self::Id(value.matched()),
            "cause" => Self::Cause(value.matched()),
            "hidden" => Self::Hidden(value.matched()),
            name => match figure(name) {
                Some(name) => Self::Figure(name.to_owned(), bound(&key, &value)?),
                None => return Err(unknown(&key)),
            },
        })
    }
}

fn bound(key: &Word, value: &Word) -> Result<Option<(Comparison, f64)>, FilterError> {
    if value.text == "*" && !value.quoted {
        return Ok(None);
    }
    let name = clip(&key.text);
    let wanted = format!("comparison with a number: '{name}:>0.9', '{name}:<=5'");
    value.number(&wanted).map(Some)
}

fn unknown(key: &Word) -> FilterError {
    key.wrong(format!(
        "runs have no field '{}': experiment, status, dataset, version, id, cause, hidden, {KNOWN_FIGURES}",
        clip(&key.text)
    ))
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Experiment(value) => write!(f, "experiment:{value}"),
            Self::Status(status) => {
                let known = STATUSES.iter().find(|(_, known)| known == status);
                write!(f, "status:{}", known.map_or("", |(name, _)| name))
            }
            Self::Dataset(value) => write!(f, "dataset:{value}"),
            Self::Version(value) => write!(f, "version:{value}"),
            Self::Id(value) => write!(f, "id:{value}"),
            Self::Cause(value) => write!(f, "cause:{value}"),
            Self::Hidden(value) => write!(f, "hidden:{value}"),
            Self::Figure(name, bound) => {
                write_word(f, name)?;
                match bound {
                    None => f.write_str(":*"),
                    Some((comparison, number)) => write!(f, ":{}{number}", comparison.as_str()),
                }
            }
            Self::Text(text) => write_word(f, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::filter::Term;
    use crate::domain::filter::testing::{comparisons, filters, matches, reads_back};

    #[test]
    fn what_people_type() {
        let text = "status:Cancelled experiment:mot* -holdout.accuracy:>0.9 seed:3 accuracy:<=1 loss:* dataset:\"my data@2\" fox";
        let filter = RunFilter::parse(text).unwrap();
        let term = |negated, condition| Term { negated, condition };
        assert_eq!(
            filter.terms,
            [
                term(false, Condition::Status(RunStatus::Killed)),
                term(false, Condition::Experiment(Match::StartsWith("mot".into()))),
                term(
                    true,
                    Condition::Figure("holdout.accuracy".into(), Some((Comparison::Above, 0.9)))
                ),
                term(false, Condition::Figure("seed".into(), Some((Comparison::Equal, 3.0)))),
                term(
                    false,
                    Condition::Figure("holdout.accuracy".into(), Some((Comparison::AtMost, 1.0)))
                ),
                term(false, Condition::Figure("holdout.log_loss".into(), None)),
                term(false, Condition::Dataset(Match::Exactly("my data@2".into()))),
                term(false, Condition::Text("fox".into())),
            ]
        );
        assert_eq!(
            filter.to_string(),
            "status:cancelled experiment:mot* -holdout.accuracy:>0.9 seed:=3 holdout.accuracy:<=1 holdout.log_loss:* \
             dataset:\"my data@2\" fox"
        );
    }

    #[test]
    fn what_is_no_filter_says_where_and_why() {
        let table: Vec<String> = ["x acuracy:>0.9", "status:done", "accuracy:good", "seed:>", "epochs:inf"]
            .iter()
            .map(|text| format!("{text:<15} {}", RunFilter::parse(text).unwrap_err()))
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r###"
        x acuracy:>0.9  column 3: runs have no field 'acuracy': experiment, status, dataset, version, id, cause, hidden, seed, epochs, batch_size, learning_rate, weight_decay, accuracy, loss, duration or a metric such as holdout.ece
        status:done     column 8: 'done' is no status: scheduled, running, finished, failed, cancelled, killed
        accuracy:good   column 10: 'good' is no comparison with a number: 'accuracy:>0.9', 'accuracy:<=5'
        seed:>          column 6: '>' is no comparison with a number: 'seed:>0.9', 'seed:<=5'
        epochs:inf      column 8: 'inf' is no comparison with a number: 'epochs:>0.9', 'epochs:<=5'
        "###);
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        let status = prop::sample::select(STATUSES.map(|(_, status)| status).to_vec());
        let name = prop::sample::select(vec!["seed", "duration_s", "holdout.accuracy", "a:b. c", "-.x"]);
        prop_oneof![
            matches().prop_map(Condition::Experiment),
            status.prop_map(Condition::Status),
            matches().prop_map(Condition::Dataset),
            matches().prop_map(Condition::Version),
            matches().prop_map(Condition::Id),
            matches().prop_map(Condition::Cause),
            matches().prop_map(Condition::Hidden),
            (name, prop::option::of(comparisons())).prop_map(|(name, bound)| Condition::Figure(name.to_owned(), bound)),
            "[ -~\u{e6}\u{1f600}]{0,12}".prop_map(Condition::Text),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(filter in filters(conditions())) {
            reads_back(&filter);
        }
    }
}
