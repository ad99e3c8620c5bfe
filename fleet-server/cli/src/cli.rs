//! The command line as a whole, and where each command is carried out.

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::client::Client;
use crate::commands::audit::AuditCommand;
use crate::commands::console::ConsoleArgs;
use crate::commands::datasets::DatasetsCommand;
use crate::commands::devices::DevicesCommand;
use crate::commands::drift::DriftCommand;
use crate::commands::fleet::TrustCommand;
use crate::commands::jobs::JobsCommand;
use crate::commands::labels::LabelsCommand;
use crate::commands::models::ModelsCommand;
use crate::commands::rollouts::RolloutsCommand;
use crate::commands::runs::RunsCommand;
use crate::commands::sessions::SessionsCommand;
use crate::commands::sign::SignCommand;
use crate::commands::tokens::TokensCommand;
use crate::commands::versions::VersionsCommand;
use crate::commands::{self, Context};
use crate::config::GlobalArgs;
use crate::demo::{self, DemoArgs};
use crate::error::CliError;
use crate::output::Output;
use crate::tether::{self, TetherArgs};

/// Every step of Flotilla's loop: from samples to labels, models, signed packages, rollouts, drift, and round again.
///
/// Exit codes: 0 done; 1 refused or failed; 2 usage; 3 the server cannot be reached; 4 what was waited for did not come.
#[derive(Debug, Parser)]
#[command(name = "fleetctl", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remember a server and a token file in the profile
    Login,
    /// Whom the server takes us for
    Me,
    /// A link that opens the web console signed in, once
    Console(ConsoleArgs),
    /// The fleet at a glance: devices, versions, what needs attention, live rollouts
    Overview,
    /// Who is signed in to the console
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// What this fleet trusts
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Claim tokens, with which devices enrol
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// Devices
    #[command(subcommand)]
    Devices(DevicesCommand),
    /// Datasets and their samples
    #[command(subcommand)]
    Datasets(DatasetsCommand),
    /// Labels: by functions, by a label model, by hand
    #[command(subcommand)]
    Labels(LabelsCommand),
    /// Immutable dataset versions
    #[command(subcommand)]
    Versions(VersionsCommand),
    /// Training runs
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Model packages
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Release signatures
    #[command(subcommand)]
    Sign(SignCommand),
    /// Rollouts
    #[command(subcommand)]
    Rollouts(RolloutsCommand),
    /// Drift
    #[command(subcommand)]
    Drift(DriftCommand),
    /// The audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Long work on the server
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Print completions for a shell
    Completions { shell: Shell },
    /// Carry real data once around the whole loop, on this machine
    Demo(DemoArgs),
    /// Run a program that ends when its parent does
    #[command(hide = true)]
    Tether(TetherArgs),
}

pub(crate) async fn run(cli: Cli) -> Result<(), CliError> {
    let out = Output::new(cli.global.json);
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fleetctl", &mut script);
            out.line(String::from_utf8_lossy(&script).trim_end())
        }
        Command::Tether(args) => tether::run(&args),
        Command::Demo(args) => demo::run(args, &out).await,
        Command::Sign(command) if command.is_offline() => commands::sign::run_offline(&out, command),
        command => {
            let context = Context {
                client: Client::new(&cli.global.connection(matches!(command, Command::Login))?)?,
                out,
            };
            ask(&context, &cli.global, command).await
        }
    }
}

/// Commands that ask the server.
async fn ask(context: &Context, global: &GlobalArgs, command: Command) -> Result<(), CliError> {
    match command {
        Command::Login => commands::fleet::login(context, global).await,
        Command::Me => commands::fleet::me(context).await,
        Command::Overview => commands::overview::run(context).await,
        Command::Console(args) => commands::console::run(context, &args).await,
        Command::Sessions(command) => commands::sessions::run(context, command).await,
        Command::Trust(command) => commands::fleet::trust(context, command).await,
        Command::Tokens(command) => commands::tokens::run(context, command).await,
        Command::Devices(command) => commands::devices::run(context, command).await,
        Command::Datasets(command) => commands::datasets::run(context, command).await,
        Command::Labels(command) => commands::labels::run(context, command).await,
        Command::Versions(command) => commands::versions::run(context, command).await,
        Command::Runs(command) => commands::runs::run(context, command).await,
        Command::Models(command) => commands::models::run(context, command).await,
        Command::Sign(command) => commands::sign::run(context, command).await,
        Command::Rollouts(command) => commands::rollouts::run(context, command).await,
        Command::Drift(command) => commands::drift::run(context, command).await,
        Command::Audit(command) => commands::audit::run(context, command).await,
        Command::Jobs(command) => commands::jobs::run(context, command).await,
        Command::Completions { .. } | Command::Demo(_) | Command::Tether(_) => {
            Err(CliError::Usage("this command asks no server".to_owned()))
        }
    }
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_calls_are_understood() {
        let id = "0192f0c1-2345-7abc-8def-0123456789ab";
        let apply = "sign apply request.json --key release.key -o signed.json --yes";
        for line in [
            "login --server https://fleet:8080 --token-file admin.token",
            "--json devices list --query press",
            "labels lf add motions still_arm --when f[0] --label standing",
            "labels fit motions --wait",
            "labels annotate motions sha256:00=standing",
            &format!("runs create --dataset-version {id} --hidden 64,32 --seed 3 --wait"),
            &format!("models package motions --run {id} --semver 1.0.0"),
            &format!("sign export {id} -o request.json"),
            apply,
            &format!("rollouts create --model-version {id} --phase 1 --phase 100% --start"),
            "drift list --line motions",
            "drift list --drifted --order severity",
            "drift list --drifted=false",
            "drift list --filter drifted:yes --sort=-severity",
            "overview",
            "runs list --status failed --text drift",
            "runs list --filter -status:failed --sort -holdout.accuracy",
            &format!("runs evaluations {id}"),
            "models list --signature unsigned",
            "labels remove motions sha256:00 --label walking",
            "labels lf conflicts motions",
            "labels queue motions --cursor 3fe0000000000000.7",
            "datasets sample motions sha256:00",
            "devices acknowledge press-07",
            "devices telemetry press-07 --from 2026-11-23T02:00:00Z",
            "audit list --event rollout.* --actor token:admin --subject device:press-07 --from 2026-11-23T02:00:00Z",
            "audit verify",
            "audit verify --device press-07",
            "completions bash",
            "demo --data digits --once",
        ] {
            let words = std::iter::once("fleetctl").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn usage_errors_have_exit_code_2() {
        let error = Cli::try_parse_from(["fleetctl", "runs", "create"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
