//! `fleet-server`: makes a fleet (`init`), runs it (`serve`), and writes its OpenAPI document (`openapi`).

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fleet_server::config::{Config, LogFormat};
use fleet_server::init::InitOptions;
use fleet_server::{init, serve};

#[derive(Debug, Parser)]
#[command(name = "fleet-server", version, about = "The Flotilla fleet server")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new fleet: certificate authority, director key, database, blob folder, admin token; root and release keys
    /// into a folder of their own, to be kept offline
    Init(InitOptions),
    /// Run the server
    Serve {
        /// The file that `init` wrote
        #[arg(long)]
        config: PathBuf,
        /// Print the configuration in force and exit
        #[arg(long)]
        print_config: bool,
        /// Print a link that signs in to the console even where standard output is no terminal (a journal keeps what it is
        /// told, and the link lets its reader in)
        #[arg(long)]
        sign_in_link: bool,
    },
    /// Print the OpenAPI document and exit
    Openapi,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint_error(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the program's last word")]
fn eprint_error(error: &anyhow::Error) {
    eprintln!("fleet-server: {error:#}");
}

#[expect(clippy::print_stdout, reason = "what the commands are asked to print")]
fn run(arguments: Arguments) -> anyhow::Result<()> {
    // Two crypto providers are linked in; rustls must be told which one is ours, or it panics at the first handshake.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_already| anyhow::anyhow!("another TLS provider is installed already"))?;
    // Expressions are compiled by recursion; their caps are tried on a quarter of this.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(4 << 20)
        .build()?;
    match arguments.command {
        Command::Init(options) => {
            let made = runtime.block_on(init::init(&options))?;
            println!("{made}");
        }
        Command::Serve {
            config,
            print_config,
            sign_in_link,
        } => {
            let config = Config::load(&config)?;
            if print_config {
                println!("{}", config.to_toml()?);
                return Ok(());
            }
            start_logging(config.log);
            let sign_in = sign_in_link || std::io::stdout().is_terminal();
            serve::run(runtime, &config, sign_in)?;
        }
        Command::Openapi => {
            let (_, document) = fleet_server::api::documented();
            println!("{}", document.to_pretty_json()?);
        }
    }
    Ok(())
}

/// How much is logged is `RUST_LOG`'s to say, in tracing's own language (docs/operations.md): the one thing about the server that
/// the environment says and `config.rs` does not read.
fn start_logging(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy()
        .add_directive("rmqtt=warn".parse().unwrap_or_else(|_| tracing::Level::INFO.into()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
