//! What people type to find devices: `status:alert site:oslo -model:2.0.0 drift:>0.2 press`, in the language of
//! [`filter`](super::filter). What it means to the database stands in `store/device_summaries`.
//!
//! A key in quotes is always a tag.

use std::fmt;

use crate::domain::filter::{Filter, Vocabulary, Word, quote, write_word};

pub use crate::domain::filter::{Comparison, FilterError, Match};

pub type DeviceFilter = Filter<Condition>;
pub type Term = crate::domain::filter::Term<Condition>;

#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    Status(Status),
    Id(Match),
    /// A line, a version, or `line@version`, in any slot.
    Model(Match),
    Class(Match),
    Arch(Match),
    Agent(Match),
    /// The largest share of drifted features; devices without a judgement never match.
    Drift(Comparison, f64),
    Tag(String, Match),
    /// Stands in the id, a tag or the hardware class, whatever its case.
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Online,
    Offline,
    Decommissioned,
    /// A deployment to it has not ended, whether it is connected or not.
    Updating,
    /// It needs attention, whether it is connected or not.
    Alert,
}

impl Status {
    const ALL: [(&'static str, Self); 5] = [
        ("online", Self::Online),
        ("offline", Self::Offline),
        ("decommissioned", Self::Decommissioned),
        ("updating", Self::Updating),
        ("alert", Self::Alert),
    ];

    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, status)| *status == self)
            .map_or("", |(name, _)| name)
    }
}

/// Keys with a meaning of their own; any other is a tag's.
const KEYS: [&str; 7] = ["status", "id", "model", "class", "arch", "agent", "drift"];

impl Vocabulary for Condition {
    fn text(text: String) -> Self {
        Self::Text(text)
    }

    fn keyed(key: Word, value: Word) -> Result<Self, FilterError> {
        if key.quoted {
            return Ok(Self::Tag(key.text, value.matched()));
        }
        Ok(match key.text.as_str() {
            "status" => Self::Status(value.one_of("status", &Status::ALL)?),
            "drift" => {
                let wanted = "comparison with a share: 'drift:>0.2', 'drift:<=0.5'";
                let (comparison, share) = value.comparison(wanted)?;
                Self::Drift(comparison, share)
            }
            "id" => Self::Id(value.matched()),
            "model" => Self::Model(value.matched()),
            "class" => Self::Class(value.matched()),
            "arch" => Self::Arch(value.matched()),
            "agent" => Self::Agent(value.matched()),
            _ => Self::Tag(key.text, value.matched()),
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status:{}", status.as_str()),
            Self::Id(value) => write!(f, "id:{value}"),
            Self::Model(value) => write!(f, "model:{value}"),
            Self::Class(value) => write!(f, "class:{value}"),
            Self::Arch(value) => write!(f, "arch:{value}"),
            Self::Agent(value) => write!(f, "agent:{value}"),
            Self::Drift(comparison, share) => write!(f, "drift:{}{share}", comparison.as_str()),
            Self::Tag(key, value) => {
                if KEYS.contains(&key.as_str()) {
                    quote(f, key)?;
                } else {
                    write_word(f, key)?;
                }
                write!(f, ":{value}")
            }
            Self::Text(text) => write_word(f, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::filter::testing::{comparisons, filters, matches, reads_back};
    use crate::domain::filter::{MAX_CHARS, MAX_TERMS, clip};

    #[test]
    fn what_people_type() {
        let filter = DeviceFilter::parse("status:alert site:oslo -model:2.0.0  drift:>=0.2 id:press-* press").unwrap();
        let term = |negated, condition| Term { negated, condition };
        assert_eq!(
            filter.terms,
            [
                term(false, Condition::Status(Status::Alert)),
                term(false, Condition::Tag("site".into(), Match::Exactly("oslo".into()))),
                term(true, Condition::Model(Match::Exactly("2.0.0".into()))),
                term(false, Condition::Drift(Comparison::AtLeast, 0.2)),
                term(false, Condition::Id(Match::StartsWith("press-".into()))),
                term(false, Condition::Text("press".into())),
            ]
        );
        assert_eq!(DeviceFilter::parse("  ").unwrap(), DeviceFilter::default());
        let quoted = DeviceFilter::parse(r#""status":"a \"b\" \\ c" -"two words" hall:*"#).unwrap();
        assert_eq!(
            quoted.terms,
            [
                term(
                    false,
                    Condition::Tag("status".into(), Match::Exactly(r#"a "b" \ c"#.into()))
                ),
                term(true, Condition::Text("two words".into())),
                term(false, Condition::Tag("hall".into(), Match::StartsWith(String::new()))),
            ]
        );
    }

    #[test]
    fn what_is_no_filter_says_where_and_why() {
        let long = "x".repeat(MAX_CHARS + 1);
        let many = "x ".repeat(MAX_TERMS + 1);
        let texts = [
            "a status:sick",
            "site:",
            "site: oslo",
            ":x",
            "a \"b",
            "a\"b\"",
            "\"a\"b",
            "- x",
            "drift:0.2",
            "drift:>much",
            "drift:>inf",
            r#""a\n""#,
            &long,
            &many,
        ];
        let table: Vec<String> = texts
            .iter()
            .map(|text| {
                format!(
                    "{:<14} {}",
                    clip(text).trim_end(),
                    DeviceFilter::parse(text).unwrap_err()
                )
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r###"
        a status:sick  column 10: 'sick' is no status: online, offline, decommissioned, updating, alert
        site:          column 6: 'site:' needs a value; any: 'site:*'
        site: oslo     column 6: 'site:' needs a value; any: 'site:*'
        :x             column 1: a key stands before ':'
        a "b           column 3: the quote is never closed
        a"b"           column 2: a quote stands at the beginning of a word, or inside quotes as \"
        "a"b           column 4: a blank is needed after the closing quote
        - x            column 1: '-' negates what follows it at once; put a lone '-' in quotes
        drift:0.2      column 7: '0.2' is no comparison with a share: 'drift:>0.2', 'drift:<=0.5'
        drift:>much    column 7: '>much' is no comparison with a share: 'drift:>0.2', 'drift:<=0.5'
        drift:>inf     column 7: '>inf' is no comparison with a share: 'drift:>0.2', 'drift:<=0.5'
        "a\n"          column 3: '\' stands before '"' or '\' alone
        xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx column 1000: a filter has at most 1000 characters
        x x x x x x x x x x x x x x x x x x x x column 65: a filter has at most 32 terms
        "###);
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        let status = prop::sample::select(Status::ALL.map(|(_, status)| status).to_vec());
        prop_oneof![
            status.prop_map(Condition::Status),
            matches().prop_map(Condition::Id),
            matches().prop_map(Condition::Model),
            matches().prop_map(Condition::Class),
            matches().prop_map(Condition::Arch),
            matches().prop_map(Condition::Agent),
            comparisons().prop_map(|(sign, share)| Condition::Drift(sign, share)),
            ("[ -~\u{e6}]{1,12}", matches()).prop_map(|(key, value)| Condition::Tag(key, value)),
            "[ -~\u{e6}\u{1f600}]{0,12}".prop_map(Condition::Text),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(filter in filters(conditions())) {
            reads_back(&filter);
        }

        #[test]
        fn no_text_breaks_the_parser(text in "\\PC{0,60}") {
            if let Ok(filter) = DeviceFilter::parse(&text) {
                reads_back(&filter);
            }
        }
    }
}
