//! `console`: a one-time link that opens the web console signed in.

use std::process::{Command, Stdio};

use clap::Args;
use flotilla_api_types::sessions::SignInLink;
use serde_json::Value;

use crate::commands::Context;
use crate::error::CliError;

#[derive(Debug, Clone, Args)]
pub(crate) struct ConsoleArgs {
    /// Open it in the browser
    #[arg(long)]
    open: bool,
}

/// What opens an address on a desktop.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

pub(crate) async fn run(context: &Context, args: &ConsoleArgs) -> Result<(), CliError> {
    let answer: Value = context.client.post(&["sign-in-links"]).send().await?;
    let url = answer.get("url").and_then(Value::as_str).unwrap_or_default().to_owned();
    context.out.show(&answer, |link: SignInLink| {
        format!("{}\ngood once, until {}", link.url, link.expires_at)
    })?;
    if args.open {
        open(&url)?;
    }
    Ok(())
}

fn open(url: &str) -> Result<(), CliError> {
    let opened = Command::new(OPENER)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match opened {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(CliError::Failed(format!(
            "{OPENER} ended with {status}: open the link yourself"
        ))),
        Err(why) => Err(CliError::Failed(format!("{OPENER}: {why}: open the link yourself"))),
    }
}
