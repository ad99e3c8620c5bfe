//! What people type to find devices: `status:alert site:oslo -model:2.0.0 drift:>0.2 press`. Parsed, and printed back; what it
//! means to the database stands in `store/device_summaries`.
//!
//! Terms are separated by blanks and all hold; `-` in front negates one. A value may end in `*` (begins with) and may stand in
//! double quotes, with `\"` and `\\` inside. A key in quotes is always a tag.

use std::fmt;

/// More text or terms than anybody types.
const MAX_CHARS: usize = 1000;
const MAX_TERMS: usize = 32;

/// All of its terms hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceFilter {
    pub terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    pub negated: bool,
    pub condition: Condition,
}

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    Exactly(String),
    /// Empty: anything at all.
    StartsWith(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
}

impl Comparison {
    /// Longer signs first, so that `>=` is not read as `>`.
    const ALL: [(&'static str, Self); 4] = [
        (">=", Self::AtLeast),
        ("<=", Self::AtMost),
        (">", Self::Above),
        ("<", Self::Below),
    ];

    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, comparison)| *comparison == self)
            .map_or("", |(sign, _)| sign)
    }
}

/// The text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {why}")]
pub struct FilterError {
    /// From 1, in characters.
    pub column: usize,
    pub why: String,
}

/// Keys with a meaning of their own; any other is a tag's.
const KEYS: [&str; 7] = ["status", "id", "model", "class", "arch", "agent", "drift"];

impl DeviceFilter {
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.chars().count() > MAX_CHARS {
            return Err(FilterError {
                column: MAX_CHARS,
                why: format!("a filter has at most {MAX_CHARS} characters"),
            });
        }
        let mut reader = Reader {
            chars: text.chars().collect(),
            at: 0,
        };
        let mut terms = Vec::new();
        while reader.skip_blanks() {
            if terms.len() == MAX_TERMS {
                return Err(reader.error(reader.at, format!("a filter has at most {MAX_TERMS} terms")));
            }
            terms.push(reader.term()?);
        }
        Ok(Self { terms })
    }
}

/// A word as it was written.
struct Word {
    text: String,
    quoted: bool,
    start: usize,
}

struct Reader {
    chars: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    #[expect(clippy::unused_self, reason = "reads as the reader's")]
    fn error(&self, at: usize, why: impl Into<String>) -> FilterError {
        FilterError {
            column: at + 1,
            why: why.into(),
        }
    }

    /// `false` at the end.
    fn skip_blanks(&mut self) -> bool {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        self.at < self.chars.len()
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let negated = self.peek() == Some('-');
        if negated {
            self.at += 1;
            if self.peek().is_none_or(char::is_whitespace) {
                return Err(self.error(
                    self.at - 1,
                    "'-' negates what follows it at once; put a lone '-' in quotes",
                ));
            }
        }
        let key = self.word(true)?;
        if self.peek() != Some(':') {
            return Ok(Term {
                negated,
                condition: Condition::Text(key.text),
            });
        }
        self.at += 1;
        if key.text.is_empty() {
            return Err(self.error(key.start, "a key stands before ':'"));
        }
        if self.peek().is_none_or(char::is_whitespace) {
            return Err(self.error(self.at, format!("'{}:' needs a value; any: '{}:*'", key.text, key.text)));
        }
        let condition = self.condition(&key)?;
        Ok(Term { negated, condition })
    }

    fn condition(&mut self, key: &Word) -> Result<Condition, FilterError> {
        if key.quoted || !KEYS.contains(&key.text.as_str()) {
            return Ok(Condition::Tag(key.text.clone(), self.matched()?));
        }
        Ok(match key.text.as_str() {
            "status" => Condition::Status(self.status()?),
            "drift" => self.drift()?,
            "id" => Condition::Id(self.matched()?),
            "model" => Condition::Model(self.matched()?),
            "class" => Condition::Class(self.matched()?),
            "arch" => Condition::Arch(self.matched()?),
            _ => Condition::Agent(self.matched()?),
        })
    }

    fn status(&mut self) -> Result<Status, FilterError> {
        let word = self.word(false)?;
        let known = Status::ALL.iter().find(|(name, _)| *name == word.text);
        known.map(|(_, status)| *status).ok_or_else(|| {
            let names: Vec<&str> = Status::ALL.iter().map(|(name, _)| *name).collect();
            self.error(
                word.start,
                format!("'{}' is no status: {}", clip(&word.text), names.join(", ")),
            )
        })
    }

    fn drift(&mut self) -> Result<Condition, FilterError> {
        let word = self.word(false)?;
        let wrong = |reader: &Self| {
            reader.error(
                word.start,
                format!(
                    "'{}' is no comparison with a share: 'drift:>0.2', 'drift:<=0.5'",
                    clip(&word.text)
                ),
            )
        };
        let (comparison, number) = Comparison::ALL
            .iter()
            .find_map(|(sign, comparison)| Some((*comparison, word.text.strip_prefix(sign)?)))
            .ok_or_else(|| wrong(self))?;
        let share: f64 = number.parse().map_err(|_not_a_number| wrong(self))?;
        if !share.is_finite() {
            return Err(wrong(self));
        }
        Ok(Condition::Drift(comparison, share))
    }

    fn matched(&mut self) -> Result<Match, FilterError> {
        let word = self.word(false)?;
        if word.quoted {
            return Ok(Match::Exactly(word.text));
        }
        Ok(match word.text.strip_suffix('*') {
            Some(start) => Match::StartsWith(start.to_owned()),
            None => Match::Exactly(word.text),
        })
    }

    /// Up to a blank, and to a ':' if it is a key's word.
    fn word(&mut self, key: bool) -> Result<Word, FilterError> {
        let start = self.at;
        if self.peek() == Some('"') {
            let text = self.quoted()?;
            let ends = self.peek().is_none_or(|c| c.is_whitespace() || (key && c == ':'));
            if !ends {
                return Err(self.error(self.at, "a blank is needed after the closing quote"));
            }
            return Ok(Word {
                text,
                quoted: true,
                start,
            });
        }
        let mut text = String::new();
        while let Some(c) = self.peek() {
            if c.is_whitespace() || (key && c == ':') {
                break;
            }
            if c == '"' {
                return Err(self.error(
                    self.at,
                    "a quote stands at the beginning of a word, or inside quotes as \\\"",
                ));
            }
            text.push(c);
            self.at += 1;
        }
        Ok(Word {
            text,
            quoted: false,
            start,
        })
    }

    fn quoted(&mut self) -> Result<String, FilterError> {
        let opened = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let c = self
                .peek()
                .ok_or_else(|| self.error(opened, "the quote is never closed"))?;
            self.at += 1;
            match c {
                '"' => return Ok(text),
                '\\' => match self.peek() {
                    Some(escaped @ ('"' | '\\')) => {
                        self.at += 1;
                        text.push(escaped);
                    }
                    _ => return Err(self.error(self.at - 1, "'\\' stands before '\"' or '\\' alone")),
                },
                c => text.push(c),
            }
        }
    }
}

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Can it be read back as it is?
fn is_plain(text: &str, stops: &[char]) -> bool {
    !text.is_empty()
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c == '"' || stops.contains(&c))
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartsWith(start) => write!(f, "{start}*"),
            Self::Exactly(text) if is_plain(text, &['*']) => f.write_str(text),
            Self::Exactly(text) => quote(f, text),
        }
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
                if is_plain(key, &[':']) && !key.starts_with('-') && !KEYS.contains(&key.as_str()) {
                    f.write_str(key)?;
                } else {
                    quote(f, key)?;
                }
                write!(f, ":{value}")
            }
            Self::Text(text) if is_plain(text, &[':']) && !text.starts_with('-') => f.write_str(text),
            Self::Text(text) => quote(f, text),
        }
    }
}

impl fmt::Display for DeviceFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            if term.negated {
                f.write_str("-")?;
            }
            write!(f, "{}", term.condition)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    fn matches() -> impl Strategy<Value = Match> {
        let text = "[ -~\u{e6}\u{1f600}]{0,12}";
        // What begins with something is written without quotes: it holds nothing that needs them.
        let start = "[a-z0-9.@:<>\\\\-]{0,12}";
        prop_oneof![text.prop_map(Match::Exactly), start.prop_map(Match::StartsWith)]
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        let status = prop::sample::select(Status::ALL.map(|(_, status)| status).to_vec());
        let comparison = prop::sample::select(Comparison::ALL.map(|(_, comparison)| comparison).to_vec());
        prop_oneof![
            status.prop_map(Condition::Status),
            matches().prop_map(Condition::Id),
            matches().prop_map(Condition::Model),
            matches().prop_map(Condition::Class),
            matches().prop_map(Condition::Arch),
            matches().prop_map(Condition::Agent),
            (comparison, -1.0..2.0).prop_map(|(sign, share)| Condition::Drift(sign, share)),
            ("[ -~\u{e6}]{1,12}", matches()).prop_map(|(key, value)| Condition::Tag(key, value)),
            "[ -~\u{e6}\u{1f600}]{0,12}".prop_map(Condition::Text),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(
            terms in prop::collection::vec((any::<bool>(), conditions()), 0..6)
        ) {
            let terms = terms.into_iter().map(|(negated, condition)| Term { negated, condition }).collect();
            let filter = DeviceFilter { terms };
            let text = filter.to_string();
            prop_assert_eq!(DeviceFilter::parse(&text), Ok(filter), "{}", text);
        }

        #[test]
        fn no_text_breaks_the_parser(text in "\\PC{0,60}") {
            if let Ok(filter) = DeviceFilter::parse(&text) {
                prop_assert_eq!(DeviceFilter::parse(&filter.to_string()), Ok(filter));
            }
        }
    }
}
