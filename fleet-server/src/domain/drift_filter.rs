//! What people type to find judgements of drift: `drifted:yes line:motions -version:2.0.0 severity:>0.5 press`, in the language of
//! [`filter`](super::filter). What it means to the database stands in `store/drift`.

use std::fmt;

use crate::domain::filter::{Comparison, Filter, FilterError, Match, Vocabulary, Word, clip, write_word};

pub type DriftFilter = Filter<Condition>;

#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    Line(Match),
    /// The semantic version of the package.
    Version(Match),
    /// A line, a version, or `line@version`.
    Model(Match),
    Device(Match),
    /// The package's digest.
    Manifest(Match),
    /// The slice of the reference that the data looks most like.
    Slice(Match),
    Drifted(bool),
    /// Share of features that drifted, in [0, 1].
    Severity(Comparison, f64),
    /// Judgements that were alarms.
    Alarms(Comparison, f64),
    /// Stands in the device's id, the line, the version or the slice, whatever its case.
    Text(String),
}

const DRIFTED: [(&str, bool); 4] = [("yes", true), ("no", false), ("true", true), ("false", false)];

impl Vocabulary for Condition {
    fn text(text: String) -> Self {
        Self::Text(text)
    }

    fn keyed(key: Word, value: Word) -> Result<Self, FilterError> {
        Ok(match key.text.as_str() {
            "line" => Self::Line(value.matched()),
            "version" => Self::Version(value.matched()),
            "model" => Self::Model(value.matched()),
            "device" => Self::Device(value.matched()),
            "manifest" => Self::Manifest(value.matched()),
            "slice" => Self::Slice(value.matched()),
            "drifted" => Self::Drifted(value.one_of("answer", &DRIFTED)?),
            "severity" | "share" => {
                let wanted = "comparison with a share: 'severity:>0.5', 'severity:<=0.2'";
                let (comparison, share) = value.comparison(wanted)?;
                Self::Severity(comparison, share)
            }
            "alarms" => {
                let (comparison, count) = value.number("comparison with a count: 'alarms:>0', 'alarms:<=5'")?;
                Self::Alarms(comparison, count)
            }
            name => {
                return Err(key.wrong(format!(
                    "judgements have no field '{}': line, version, model, device, manifest, slice, drifted, severity or alarms",
                    clip(name)
                )));
            }
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(value) => write!(f, "line:{value}"),
            Self::Version(value) => write!(f, "version:{value}"),
            Self::Model(value) => write!(f, "model:{value}"),
            Self::Device(value) => write!(f, "device:{value}"),
            Self::Manifest(value) => write!(f, "manifest:{value}"),
            Self::Slice(value) => write!(f, "slice:{value}"),
            Self::Drifted(drifted) => write!(f, "drifted:{}", if *drifted { "yes" } else { "no" }),
            Self::Severity(comparison, share) => write!(f, "severity:{}{share}", comparison.as_str()),
            Self::Alarms(comparison, count) => write!(f, "alarms:{}{count}", comparison.as_str()),
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
        let filter = DriftFilter::parse("drifted:true line:motions -model:2.0.0 share:>0.5 alarms:3 press").unwrap();
        let term = |negated, condition| Term { negated, condition };
        assert_eq!(
            filter.terms,
            [
                term(false, Condition::Drifted(true)),
                term(false, Condition::Line(Match::Exactly("motions".into()))),
                term(true, Condition::Model(Match::Exactly("2.0.0".into()))),
                term(false, Condition::Severity(Comparison::Above, 0.5)),
                term(false, Condition::Alarms(Comparison::Equal, 3.0)),
                term(false, Condition::Text("press".into())),
            ]
        );
        assert_eq!(
            filter.to_string(),
            "drifted:yes line:motions -model:2.0.0 severity:>0.5 alarms:=3 press"
        );
    }

    #[test]
    fn what_is_no_filter_says_where_and_why() {
        let table: Vec<String> = ["site:oslo", "drifted:maybe", "severity:0.5", "alarms:many"]
            .iter()
            .map(|text| format!("{text:<14} {}", DriftFilter::parse(text).unwrap_err()))
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r###"
        site:oslo      column 1: judgements have no field 'site': line, version, model, device, manifest, slice, drifted, severity or alarms
        drifted:maybe  column 9: 'maybe' is no answer: yes, no, true, false
        severity:0.5   column 10: '0.5' is no comparison with a share: 'severity:>0.5', 'severity:<=0.2'
        alarms:many    column 8: 'many' is no comparison with a count: 'alarms:>0', 'alarms:<=5'
        "###);
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        prop_oneof![
            matches().prop_map(Condition::Line),
            matches().prop_map(Condition::Version),
            matches().prop_map(Condition::Model),
            matches().prop_map(Condition::Device),
            matches().prop_map(Condition::Manifest),
            matches().prop_map(Condition::Slice),
            any::<bool>().prop_map(Condition::Drifted),
            comparisons().prop_map(|(sign, share)| Condition::Severity(sign, share)),
            comparisons().prop_map(|(sign, count)| Condition::Alarms(sign, count)),
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
