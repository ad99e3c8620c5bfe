//! What people and scripts see: tables or the API's JSON on stdout, notes and bars on stderr. Colours and bars only where
//! a terminal is.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use flotilla_protocol::text;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config;
use crate::error::CliError;

/// ANSI colours that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Bad,
    Strong,
    Faint,
}

#[derive(Debug, Clone)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            colour: !json && stdout().is_terminal() && config::colours_allowed(),
        }
    }

    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// The API's answer: as it came, or read and told to a person.
    pub(crate) fn show<T: DeserializeOwned>(
        &self,
        answer: &Value,
        tell: impl FnOnce(T) -> String,
    ) -> Result<(), CliError> {
        if self.json {
            return self.print_json(answer);
        }
        let answer = shown(answer);
        let value = T::deserialize(&answer).map_err(|why| CliError::Answer {
            path: std::any::type_name::<T>().to_owned(),
            why: why.to_string(),
        })?;
        self.line(&tell(value))
    }

    pub(crate) fn print_json<T: Serialize>(&self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(|why| CliError::Failed(why.to_string()))?;
        self.line(&json_shown(&text))
    }

    /// Lines of the command's result. Whatever is in them, the terminal gets no control characters but our own colours.
    pub(crate) fn line(&self, text: &str) -> Result<(), CliError> {
        let mut out = stdout().lock();
        out.write_all(self.harmless(text).as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(())
    }

    /// A remark that is no part of the result.
    pub(crate) fn note(&self, text: &str) {
        // Where stderr cannot be written to, there is nobody to tell.
        drop(writeln!(stderr().lock(), "{}", self.harmless(text)));
    }

    fn harmless<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.colour {
            return lines_shown(text);
        }
        // Between our own sequences stands text like any other.
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((at, code)) = COLOURS.iter().filter_map(|code| Some((rest.find(code)?, *code))).min() {
            let (before, after) = rest.split_at(at);
            out.push_str(&lines_shown(before));
            out.push_str(code);
            rest = after.strip_prefix(code).unwrap_or_default();
        }
        out.push_str(&lines_shown(rest));
        Cow::Owned(out)
    }

    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Strong => "1",
            Tone::Faint => "2",
        };
        format!("\u{1b}[{code}m{}\u{1b}[0m", lines_shown(text))
    }

    /// A bar of `length` units on stderr; nothing where that is no terminal.
    pub(crate) fn bar(&self, length: u64, label: &str) -> ProgressBar {
        self.styled(
            ProgressBar::new(length),
            "  {msg:<28} {wide_bar} {pos}/{len} {elapsed}",
            label,
        )
    }

    /// The same for bytes.
    pub(crate) fn byte_bar(&self, length: u64, label: &str) -> ProgressBar {
        let template = "  {msg:<28} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";
        self.styled(ProgressBar::new(length), template, label)
    }

    pub(crate) fn spinner(&self, label: &str) -> ProgressBar {
        let bar = self.styled(ProgressBar::new_spinner(), "  {spinner} {wide_msg} {elapsed}", label);
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    fn styled(&self, bar: ProgressBar, template: &str, label: &str) -> ProgressBar {
        if self.json || !stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(text::escaped(label).into_owned());
        bar
    }
}

/// What [`Output::paint`] writes.
const COLOURS: [&str; 5] = ["\u{1b}[32m", "\u{1b}[31m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[0m"];

/// Text of several lines as a terminal may have it.
pub(crate) fn lines_shown(text: &str) -> Cow<'_, str> {
    text::escaped_but(text, |character| matches!(character, '\n' | '\t'))
}

/// An answer as a person may read it: nothing in its texts moves the cursor or turns the reading direction around.
fn shown(answer: &Value) -> Value {
    match answer {
        Value::String(text) => text::escaped(text).into_owned().into(),
        Value::Array(items) => items.iter().map(shown).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (text::escaped(name).into_owned(), shown(value)))
            .collect(),
        plain => plain.clone(),
    }
}

/// The same document, with what JSON does not escape by itself escaped in its own way. Such characters stand in its strings
/// alone.
fn json_shown(json: &str) -> Cow<'_, str> {
    if !json
        .chars()
        .any(|character| character != '\n' && text::is_deceptive(character))
    {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if character != '\n' && text::is_deceptive(character) {
            // Writing to a string cannot fail.
            write!(out, "\\u{:04x}", u32::from(character)).ok();
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// A list. Cells are never broken in the middle of an id; a terminal may wrap the line.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().map(|name| name.to_uppercase()));
    let mut empty = true;
    for row in rows {
        table.add_row(row.iter().map(|cell| text::escaped(cell).into_owned()));
        empty = false;
    }
    if empty {
        return "none".to_owned();
    }
    trimmed(&table.to_string())
}

/// One thing: names and values.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {}", text::escaped(value)))
        .collect();
    lines.join("\n")
}

fn trimmed(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    // Without borders every line still starts with the padding of its first cell.
    lines
        .iter()
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What may be missing.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `{a: 1, b: 2}` as `a=1 b=2`.
pub(crate) fn pairs<K: ToString, V: ToString>(map: impl IntoIterator<Item = (K, V)>) -> String {
    let words: Vec<String> = map
        .into_iter()
        .map(|(key, value)| format!("{}={}", key.to_string(), value.to_string()))
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(" ")
    }
}

/// Shares in [0, 1] as percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

pub(crate) fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// `1.4 MiB`
pub(crate) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

/// The lines of a table or of fields with one blank between words: what they say, whatever the widths.
#[cfg(test)]
pub(crate) fn squeezed(text: &str) -> Vec<String> {
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(squeeze).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_moves_no_cursor() {
        let evil = "ok\u{1b}[1A\u{1b}[2Krole\r\u{9b}2J\u{202e}";
        let tame = |text: &str| !text.chars().any(|c| c != '\n' && text::is_deceptive(c));
        assert!(tame(&table(&["label"], [vec![evil.to_owned()]])));
        assert!(tame(&fields(&[("label", format!("{evil}\nforged  row"))])));
        assert_eq!(fields(&[("label", format!("{evil}\nforged  row"))]).lines().count(), 1);
        let answer = serde_json::json!({"labels": [evil], evil: {"a": evil}});
        assert!(tame(&shown(&answer).to_string().replace("\\\\", "")));
        let json = serde_json::to_string_pretty(&answer).unwrap();
        assert!(!tame(&json) && tame(&json_shown(&json)));
        assert_eq!(serde_json::from_str::<Value>(&json_shown(&json)).unwrap(), answer);
        for colour in [false, true] {
            let out = Output { json: false, colour };
            let painted = out.paint(Tone::Bad, evil);
            let written = out.harmless(&format!("{painted} {evil}\n")).into_owned();
            let plain = COLOURS
                .iter()
                .fold(written.clone(), |text, code| text.replace(code, ""));
            assert!(tame(&plain), "{written:?}");
            assert_eq!(written.contains("\u{1b}[31m"), colour, "{written:?}");
        }
    }

    #[test]
    fn lists_and_single_things() {
        let rows = [
            vec!["press-07".to_owned(), "online".to_owned(), percent(0.125)],
            vec!["a".to_owned(), "offline".to_owned(), or_dash::<u8>(None)],
        ];
        insta::assert_snapshot!(table(&["device", "status", "share"], rows), @r"
        DEVICE    STATUS   SHARE
        press-07  online   12.5 %
        a         offline  -
        ");
        assert_eq!(table(&["device"], []), "none");
        let things = [("id", "7".to_owned()), ("tags", pairs([("line", "a"), ("site", "b")]))];
        insta::assert_snapshot!(fields(&things), @r"
        id    7
        tags  line=a site=b
        ");
    }
}
