//! What people and scripts see: tables or the API's JSON on stdout, notes and bars on stderr. Colours and bars only where
//! a terminal is.

use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
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
        let value = T::deserialize(answer).map_err(|why| CliError::Answer {
            path: std::any::type_name::<T>().to_owned(),
            why: why.to_string(),
        })?;
        self.line(&tell(value))
    }

    pub(crate) fn print_json<T: Serialize>(&self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(|why| CliError::Failed(why.to_string()))?;
        self.line(&text)
    }

    /// A line of the command's result.
    #[expect(clippy::unused_self, reason = "writing is the output's")]
    pub(crate) fn line(&self, text: &str) -> Result<(), CliError> {
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(())
    }

    /// A remark that is no part of the result.
    #[expect(clippy::unused_self, reason = "writing is the output's")]
    pub(crate) fn note(&self, text: &str) {
        // Where stderr cannot be written to, there is nobody to tell.
        drop(writeln!(stderr().lock(), "{text}"));
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
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
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
        bar.set_message(label.to_owned());
        bar
    }
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
        table.add_row(row);
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
        .map(|(name, value)| format!("{name:<width$}  {value}"))
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

#[cfg(test)]
mod tests {
    use super::*;

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
