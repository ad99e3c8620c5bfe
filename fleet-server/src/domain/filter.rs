//! The language of lists' filters: `status:alert site:oslo -model:2.0.0 drift:>0.2 press`. Parsed, and printed back. Which keys
//! there are and what stands behind them is each list's [`Vocabulary`]; what they mean to the database stands in `store`.
//!
//! Terms are separated by blanks and all hold; `-` in front negates one. A value may end in `*` (begins with) and may stand in
//! double quotes, with `\"` and `\\` inside.

use std::fmt;

/// More text or terms than anybody types.
pub(super) const MAX_CHARS: usize = 1000;
pub(super) const MAX_TERMS: usize = 32;

/// All of its terms hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter<C> {
    pub terms: Vec<Term<C>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Term<C> {
    pub negated: bool,
    pub condition: C,
}

/// What a list can be asked for. Printed, a condition reads back as itself.
pub trait Vocabulary: fmt::Display + Sized {
    /// A word without a key.
    fn text(text: String) -> Self;

    /// `key:value`
    fn keyed(key: Word, value: Word) -> Result<Self, FilterError>;
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
    Equal,
}

impl Comparison {
    /// Longer signs first, so that `>=` is not read as `>`.
    pub const ALL: [(&'static str, Self); 5] = [
        (">=", Self::AtLeast),
        ("<=", Self::AtMost),
        (">", Self::Above),
        ("<", Self::Below),
        ("=", Self::Equal),
    ];

    /// As people and SQL write it.
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

impl FilterError {
    fn at(place: usize, why: impl Into<String>) -> Self {
        Self {
            column: place + 1,
            why: why.into(),
        }
    }
}

impl<C> Default for Filter<C> {
    fn default() -> Self {
        Self { terms: Vec::new() }
    }
}

impl<C: Vocabulary> Filter<C> {
    /// One condition more.
    pub fn require(&mut self, condition: C) {
        self.terms.push(Term {
            negated: false,
            condition,
        });
    }

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
                return Err(FilterError::at(
                    reader.at,
                    format!("a filter has at most {MAX_TERMS} terms"),
                ));
            }
            terms.push(reader.term()?);
        }
        Ok(Self { terms })
    }
}

/// A word as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub quoted: bool,
    start: usize,
}

impl Word {
    /// It says nothing: why.
    pub fn wrong(&self, why: impl Into<String>) -> FilterError {
        FilterError::at(self.start, why)
    }

    /// Whole, or a beginning.
    pub fn matched(self) -> Match {
        if self.quoted {
            return Match::Exactly(self.text);
        }
        match self.text.strip_suffix('*') {
            Some(start) => Match::StartsWith(start.to_owned()),
            None => Match::Exactly(self.text),
        }
    }

    /// One of a few, whatever its case.
    pub fn one_of<T: Copy>(&self, what: &str, names: &[(&'static str, T)]) -> Result<T, FilterError> {
        let known = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(&self.text));
        known.map(|(_, meant)| *meant).ok_or_else(|| {
            let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            self.wrong(format!("'{}' is no {what}: {}", clip(&self.text), names.join(", ")))
        })
    }

    /// A sign and a finite number: `>0.2`. `wanted` goes on after "is no".
    pub fn comparison(&self, wanted: &str) -> Result<(Comparison, f64), FilterError> {
        match self.compared() {
            Some((Some(comparison), number)) => Ok((comparison, number)),
            _ => Err(self.wrong(format!("'{}' is no {wanted}", clip(&self.text)))),
        }
    }

    /// The same; a number alone means itself.
    pub fn number(&self, wanted: &str) -> Result<(Comparison, f64), FilterError> {
        match self.compared() {
            Some((comparison, number)) => Ok((comparison.unwrap_or(Comparison::Equal), number)),
            None => Err(self.wrong(format!("'{}' is no {wanted}", clip(&self.text)))),
        }
    }

    fn compared(&self) -> Option<(Option<Comparison>, f64)> {
        let (comparison, number) = Comparison::ALL
            .iter()
            .find_map(|(sign, comparison)| Some((Some(*comparison), self.text.strip_prefix(sign)?)))
            .unwrap_or((None, self.text.as_str()));
        let number: f64 = number.parse().ok()?;
        number.is_finite().then_some((comparison, number))
    }
}

struct Reader {
    chars: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// `false` at the end.
    fn skip_blanks(&mut self) -> bool {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        self.at < self.chars.len()
    }

    fn term<C: Vocabulary>(&mut self) -> Result<Term<C>, FilterError> {
        let negated = self.peek() == Some('-');
        if negated {
            self.at += 1;
            if self.peek().is_none_or(char::is_whitespace) {
                return Err(FilterError::at(
                    self.at - 1,
                    "'-' negates what follows it at once; put a lone '-' in quotes",
                ));
            }
        }
        let key = self.word(true)?;
        if self.peek() != Some(':') {
            return Ok(Term {
                negated,
                condition: C::text(key.text),
            });
        }
        self.at += 1;
        if key.text.is_empty() {
            return Err(key.wrong("a key stands before ':'"));
        }
        if self.peek().is_none_or(char::is_whitespace) {
            let name = &key.text;
            return Err(FilterError::at(
                self.at,
                format!("'{name}:' needs a value; any: '{name}:*'"),
            ));
        }
        let value = self.word(false)?;
        let condition = C::keyed(key, value)?;
        Ok(Term { negated, condition })
    }

    /// Up to a blank, and to a ':' if it is a key's word.
    fn word(&mut self, key: bool) -> Result<Word, FilterError> {
        let start = self.at;
        if self.peek() == Some('"') {
            let text = self.quoted()?;
            let ends = self.peek().is_none_or(|c| c.is_whitespace() || (key && c == ':'));
            if !ends {
                return Err(FilterError::at(self.at, "a blank is needed after the closing quote"));
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
                return Err(FilterError::at(
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
                .ok_or_else(|| FilterError::at(opened, "the quote is never closed"))?;
            self.at += 1;
            match c {
                '"' => return Ok(text),
                '\\' => match self.peek() {
                    Some(escaped @ ('"' | '\\')) => {
                        self.at += 1;
                        text.push(escaped);
                    }
                    _ => return Err(FilterError::at(self.at - 1, "'\\' stands before '\"' or '\\' alone")),
                },
                c => text.push(c),
            }
        }
    }
}

/// So much of what was typed as an error repeats.
pub fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

pub(super) fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A key or a word alone: in quotes where it would be read as something else.
pub(super) fn write_word(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if is_plain(text, &[':']) && !text.starts_with('-') {
        f.write_str(text)
    } else {
        quote(f, text)
    }
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

impl<C: fmt::Display> fmt::Display for Filter<C> {
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
pub(super) mod testing {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::{Comparison, Filter, Match, Term, Vocabulary};

    pub(in crate::domain) fn matches() -> impl Strategy<Value = Match> {
        let text = "[ -~\u{e6}\u{1f600}]{0,12}";
        // What begins with something is written without quotes: it holds nothing that needs them.
        let start = "[a-z0-9.@:<>\\\\-]{0,12}";
        prop_oneof![text.prop_map(Match::Exactly), start.prop_map(Match::StartsWith)]
    }

    pub(in crate::domain) fn comparisons() -> impl Strategy<Value = (Comparison, f64)> {
        let comparison = prop::sample::select(Comparison::ALL.map(|(_, comparison)| comparison).to_vec());
        (comparison, -1.0..2.0)
    }

    pub(in crate::domain) fn filters<C: Clone + Debug>(
        conditions: impl Strategy<Value = C>,
    ) -> impl Strategy<Value = Filter<C>> {
        let term = (any::<bool>(), conditions).prop_map(|(negated, condition)| Term { negated, condition });
        prop::collection::vec(term, 0..6).prop_map(|terms| Filter { terms })
    }

    /// Printed, a filter reads back as itself.
    pub(in crate::domain) fn reads_back<C: Vocabulary + PartialEq + Debug>(filter: &Filter<C>) {
        let text = filter.to_string();
        assert_eq!(Filter::parse(&text).as_ref(), Ok(filter), "{text}");
    }
}
