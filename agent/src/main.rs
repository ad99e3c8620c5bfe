//! The command line of the device agent.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use fleet_agent::clock::Clock;
use fleet_agent::config::{Config, LogFormat};
use fleet_agent::status::STATUS_PATH;
use fleet_agent::{enroll, files, http};
use flotilla_protocol::ids::DeviceId;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Longest answer of a running agent about itself.
const MAX_STATUS_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug, Parser)]
#[command(
    name = "fleet-agent",
    version,
    about = "Runs, updates and watches models on this device"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve inference, keep to the fleet's desired state, report.
    Run {
        #[arg(long)]
        config: PathBuf,
        /// Show the configuration in force and end.
        #[arg(long)]
        print_config: bool,
    },
    /// Join a fleet with a factory bundle.
    Enrol {
        #[arg(long)]
        bundle: PathBuf,
        #[arg(long)]
        config: PathBuf,
        /// The name to ask for.
        #[arg(long)]
        device_id: Option<DeviceId>,
    },
    /// Ask the running agent how it is.
    Status {
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Nobody may be reading; then there is nothing left to tell.
            match writeln!(std::io::stderr(), "fleet-agent: {why:#}") {
                Ok(()) | Err(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    match cli.command {
        Command::Run {
            config,
            print_config: true,
        } => print(&Config::load(&config)?.to_toml()?),
        Command::Run { config, .. } => {
            let config = prepared(&config)?;
            runtime.block_on(async {
                let stop = CancellationToken::new();
                let watching = stop_on_signals(stop.clone())?;
                let ended = fleet_agent::run(config, Clock::system(), stop).await;
                drop(watching);
                Ok(ended?)
            })
        }
        Command::Enrol {
            bundle,
            config,
            device_id,
        } => {
            let config = prepared(&config)?;
            let (store, _lock) = fleet_agent::open_data(&config)?;
            let enrolled = runtime.block_on(enroll::enrol(&config, &store, &Clock::system(), &bundle, device_id))?;
            print(&format!(
                "enrolled as '{}' in fleet {}\n",
                enrolled.device, enrolled.fleet
            ))
        }
        Command::Status { config } => runtime.block_on(status(&Config::load(&config)?)),
    }
}

fn prepared(path: &Path) -> anyhow::Result<Config> {
    let config = Config::load(path)?;
    let filter: Targets = config
        .log
        .filter
        .parse()
        .with_context(|| format!("log.filter = '{}' cannot be read", config.log.filter))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    match config.log.format {
        LogFormat::Text => registry.with(lines.with_filter(filter)).init(),
        LogFormat::Json => registry.with(lines.json().with_filter(filter)).init(),
    }
    fleet_agent::install_crypto();
    Ok(config)
}

/// SIGTERM and SIGINT ask for an orderly end.
fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<fleet_agent::tasks::Child<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(fleet_agent::tasks::spawn_child(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    }))
}

async fn status(config: &Config) -> anyhow::Result<()> {
    let path = config.data_dir.join("rest.addr");
    let address = files::read_capped(&path, 256)?
        .with_context(|| format!("{} is not there: has the agent been started?", path.display()))?;
    let address = String::from_utf8(address).context("rest.addr is not text")?;
    let url = format!("http://{}{STATUS_PATH}", address.trim());
    let body = http::get(&url, MAX_STATUS_BYTES)
        .await
        .context("the agent does not answer")?
        .body;
    let status: serde_json::Value = serde_json::from_slice(&body).context("the agent's answer cannot be read")?;
    print(&format!("{}\n", serde_json::to_string_pretty(&status)?))
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
