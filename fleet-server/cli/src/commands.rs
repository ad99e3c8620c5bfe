//! The commands: verbs on nouns, a file per noun. Each asks the API and tells the answer.

pub(crate) mod audit;
pub(crate) mod console;
pub(crate) mod datasets;
pub(crate) mod devices;
pub(crate) mod drift;
pub(crate) mod fleet;
pub(crate) mod jobs;
pub(crate) mod labels;
pub(crate) mod models;
pub(crate) mod overview;
pub(crate) mod rollouts;
pub(crate) mod runs;
pub(crate) mod sessions;
pub(crate) mod sign;
pub(crate) mod tokens;
pub(crate) mod versions;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::client::{Call, Client};
use crate::error::CliError;
use crate::output::Output;

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) out: Output,
}

/// Which part of a list.
#[derive(Debug, Clone, Args)]
pub(crate) struct PageArgs {
    /// At most so many
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u32,
    /// Where the last page ended
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

impl PageArgs {
    pub(crate) fn ask<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.query("limit", self.limit).maybe("cursor", self.cursor.as_ref())
    }
}

/// Whether to wait for long work, and how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArgs {
    /// Wait until it is done
    #[arg(long)]
    pub(crate) wait: bool,
    /// Seconds to wait at the most
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub(crate) timeout_s: u64,
}

impl WaitArgs {
    pub(crate) const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }
}

/// `key=value`
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not NAME=VALUE")),
    }
}

pub(crate) fn to_map(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}

/// The end of a list's table: says that there is more, and how to get it.
pub(crate) fn with_more(table: String, next_cursor: Option<&str>) -> String {
    match next_cursor {
        Some(cursor) => format!("{table}\nmore: --cursor {cursor}"),
        None => table,
    }
}

/// The same for a list that is counted: says how many there are beyond the page.
pub(crate) fn with_total(table: String, shown: usize, next_cursor: Option<&str>, total: u64) -> String {
    let more = with_more(table, next_cursor);
    if shown as u64 == total {
        return more;
    }
    format!("{more}\n{shown} of {total}")
}

/// The empty answer of a deletion, told.
pub(crate) fn done(out: &Output, answer: &Value, told: &str) -> Result<(), CliError> {
    if out.is_json() {
        return out.print_json(answer);
    }
    out.line(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_need_a_name() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_pair("a").is_err());
        assert!(parse_pair("=b").is_err());
    }
}
