//! Runs a program in this process's place that gets SIGTERM when its parent dies, however it dies: so that nothing of a
//! demo outlives it. Linux keeps the parent-death signal across `exec`; setting it needs no unsafe code this way.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use clap::Args;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::error::CliError;

#[derive(Debug, Args)]
pub(crate) struct TetherArgs {
    /// Process id of the parent
    #[arg(long)]
    parent: i32,
    program: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Returns only if the program cannot be run.
pub(crate) fn run(args: &TetherArgs) -> Result<(), CliError> {
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|why| CliError::Failed(why.to_string()))?;
    // It may have died before the signal was set.
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(args.parent) {
        return Err(CliError::Failed("the parent is gone".to_owned()));
    }
    let why = std::process::Command::new(&args.program).args(&args.arguments).exec();
    Err(CliError::file(&args.program, why))
}
