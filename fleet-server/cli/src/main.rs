//! `fleetctl`: every step of Flotilla's loop from the command line, and the demo. A client of the fleet server's REST API
//! alone: it opens no database, speaks no MQTT and runs no model.

mod cli;
mod client;
mod commands;
mod config;
mod demo;
mod error;
mod files;
mod output;
mod signing;
mod tether;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::error::CliError;

#[tokio::main]
async fn main() -> ExitCode {
    // An error means that another part of the process installed it first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let cli = Cli::parse();
    let json = cli.global.json;
    match Box::pin(cli::run(cli)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}

/// On stderr: the problem document where scripts asked for JSON, else words.
fn complain(error: &CliError, json: bool) {
    let text = match error {
        CliError::Refused(problem) if json => serde_json::to_string(problem).unwrap_or_else(|_why| error.to_string()),
        _ => format!("fleetctl: {error}"),
    };
    let text = output::lines_shown(&text);
    // Where stderr cannot be written to, the exit code says it alone.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}
