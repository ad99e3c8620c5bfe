//! `fleetctl demo`: real data once around the whole loop, with real processes, on this machine. Everything it does goes
//! through the same REST API, offline signing and device interfaces that a user has; what it knows of a data set stands in
//! a specification file.
//!
//! Left out on purpose: any access to the server's database or the devices' stores. The truth is the scorer's and the
//! scripted human's alone.

mod data;
mod fleet;
mod processes;
mod report;
mod score;
mod spec;
mod steps;
mod story;
mod stream;

use std::path::{Path, PathBuf};

use clap::Args;
use flotilla_api_types::sessions::SignInLink;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::CliError;
use crate::files;
use crate::output::Output;

use self::fleet::Fleet;
use self::report::Report;
use self::spec::DemoSpec;
use self::story::Story;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Name of a specification, or path of one
    #[arg(long, default_value = "motions")]
    data: String,
    /// Folder of the named specifications
    #[arg(long, default_value = "fleet-server/cli/demo", value_name = "DIR")]
    specs: PathBuf,
    /// Stop everything at the end, and fail unless every figure holds
    #[arg(long)]
    once: bool,
    /// Where the fleet lives; an earlier demo's folder is replaced
    #[arg(long, default_value = "demo-run")]
    dir: PathBuf,
    /// Folder of fleet-server and fleet-agent [default: this program's]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

pub(crate) async fn run(args: DemoArgs, out: &Output) -> Result<(), CliError> {
    let spec = DemoSpec::load(&args.spec_path())?;
    let programs = match &args.bin_dir {
        Some(programs) => programs.clone(),
        None => crate::config::own_program()?
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default(),
    };
    let mut fleet = Fleet::prepare(&args.dir, &programs)?;
    let mut story = Story::new(out.clone(), steps::COUNT);
    let mut report = Report::default();
    let mut signals = Signals::new()?;

    let ended = tokio::select! {
        ended = Box::pin(play(&spec, &mut fleet, &mut story, &mut report, args.once)) => ended.map(|()| End::Played),
        () = signals.received() => Ok(End::Interrupted),
    };
    out.note("stopping …");
    for complaint in fleet.stop().await {
        out.note(&complaint);
    }
    match ended? {
        End::Interrupted => Ok(()),
        End::Played => verdict(&report),
    }
}

enum End {
    Played,
    Interrupted,
}

/// The loop, then the table. Without `once`, everything stays as it is until a signal comes.
async fn play(
    spec: &DemoSpec,
    fleet: &mut Fleet,
    story: &mut Story,
    report: &mut Report,
    once: bool,
) -> Result<(), CliError> {
    let sensors = steps::run(spec, fleet, story, report).await?;
    tell_end(fleet, story, report)?;
    if !once {
        let file = fleet.token_file();
        let token = files::read_text(&file)?;
        let api = &fleet.api;
        let link: SignInLink = fleet.client()?.post(&["sign-in-links"]).send().await?;
        story.out().line(&format!(
            "\nEverything is left running.\n  console    {}   (signs in once; for another link: fleetctl console)\n  \
             API        {api}/api/v1\n  API docs   {api}/docs\n  token      {}   (kept in {})\n  \
             try        export FLOTILLA_PROFILE={}; fleetctl devices list\nCtrl-C stops it.",
            link.url,
            token.trim(),
            file.display(),
            fleet.profile().display()
        ))?;
        std::future::pending::<()>().await;
    }
    drop(sensors);
    Ok(())
}

fn tell_end(fleet: &Fleet, story: &mut Story, report: &Report) -> Result<(), CliError> {
    story.finish();
    let out = story.out();
    out.line(&format!("\n{}\n", report.summary(story.done())))?;
    for verdict in report.verdicts() {
        if verdict.holds {
            story.good(&verdict.what)?;
        } else {
            story.bad(&verdict.what)?;
        }
    }
    out.line(&format!("\n{}", report.figure_lines()))?;
    out.line(&format!("\nlogs: {}", fleet.path("logs").display()))
}

fn verdict(report: &Report) -> Result<(), CliError> {
    let failures = report.failures();
    if failures.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "the demo's bars do not all hold: {}",
        failures.join("; ")
    )))
}

impl DemoArgs {
    fn spec_path(&self) -> PathBuf {
        let given = Path::new(&self.data);
        if given.extension().is_some_and(|extension| extension == "toml") {
            return given.to_owned();
        }
        self.specs.join(format!("{}.toml", self.data))
    }
}

/// What asks the demo to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
