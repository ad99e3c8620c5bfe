//! `models`: lines and versions, packaging of runs, import of ONNX files.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use flotilla_api_types::CountedPage;
use flotilla_api_types::models::{CreateModelVersion, DriftParameters, Model, ModelVersion, SignatureState};
use flotilla_protocol::ids::{DatasetVersionId, Digest, RunId};
use serde_json::Value;

use crate::client::Call;
use crate::commands::{Context, PageArgs, with_total};
use crate::error::CliError;
use crate::output::{bytes, fields, or_dash, table};

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Model lines, by name
    List {
        #[command(flatten)]
        narrow: NarrowArgs,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Versions, newest first: of a line, or of all lines
    Versions(VersionsArgs),
    /// Make a package of a finished run; it must pass its golden inputs
    Package(PackageArgs),
    /// Make a package of an ONNX file
    Import {
        line: String,
        file: PathBuf,
        #[arg(long)]
        semver: String,
        /// Gives features, labels, golden inputs and the drift reference
        #[arg(long, value_name = "ID")]
        dataset_version: String,
    },
    /// One version, by id
    Show { id: String },
}

/// Which versions.
#[derive(Debug, Args)]
pub(crate) struct VersionsArgs {
    /// Of this line; without it, of all
    line: Option<String>,
    /// Made of this run
    #[arg(long, value_name = "ID", conflicts_with = "line")]
    run: Option<RunId>,
    /// Made of this dataset version
    #[arg(long, value_name = "ID", conflicts_with = "line")]
    dataset_version: Option<DatasetVersionId>,
    /// What devices know by this digest; may be repeated
    #[arg(long = "manifest", value_name = "DIGEST", conflicts_with = "line")]
    manifests: Vec<Digest>,
    #[command(flatten)]
    narrow: NarrowArgs,
    #[command(flatten)]
    page: PageArgs,
}

/// Which lines or versions.
#[derive(Debug, Args)]
pub(crate) struct NarrowArgs {
    /// Versions in this state, or lines that have one
    #[arg(long, value_name = "STATE")]
    signature: Option<SignatureArg>,
    /// Stands in a line's name; in a version's number, digest, id or run
    #[arg(long)]
    text: Option<String>,
}

impl NarrowArgs {
    fn ask<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.maybe("signature", self.signature.map(SignatureArg::as_str))
            .maybe("text", self.text.as_ref())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SignatureArg {
    Unsigned,
    Signed,
    Revoked,
}

impl SignatureArg {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Signed => "signed",
            Self::Revoked => "revoked",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    line: String,
    #[arg(long)]
    run: RunId,
    #[arg(long)]
    semver: String,
    /// Only for these hardware classes
    #[arg(long = "hardware-class", value_name = "CLASS")]
    hardware_classes: Vec<String>,
    /// Only for these architectures (`x86_64`, `aarch64`, …)
    #[arg(long)]
    arch: Vec<String>,
    #[arg(long, default_value_t = 0)]
    min_ram_bytes: u64,
    /// Budget of one inference at the 95th percentile, microseconds; 0: none
    #[arg(long, default_value_t = 0)]
    p95_budget_us: u64,
    /// How long it may be newly installed
    #[arg(long, default_value_t = 180)]
    install_days: u32,
    /// Observations per drift judgement
    #[arg(long, default_value_t = DriftParameters::default().window)]
    drift_window: u64,
    /// On a feature's noise-corrected population stability index
    #[arg(long, default_value_t = DriftParameters::default().feature_threshold)]
    feature_threshold: f64,
    /// Share of features that must drift
    #[arg(long, default_value_t = DriftParameters::default().share_threshold)]
    share_threshold: f64,
}

pub(crate) async fn run(context: &Context, command: ModelsCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        ModelsCommand::List { narrow, page } => {
            let call = narrow.ask(page.ask(client.get(&["models"])));
            let answer: Value = call.send().await?;
            context.out.show(&answer, |page: CountedPage<Model>| {
                let shown = page.items.len();
                let rows = page.items.into_iter().map(|model| {
                    vec![
                        model.line.to_string(),
                        model.versions.to_string(),
                        model.unsigned.to_string(),
                        or_dash(model.latest),
                        model.devices.to_string(),
                        model.created_at,
                    ]
                });
                let table = table(&["line", "versions", "unsigned", "latest", "devices", "created"], rows);
                with_total(table, shown, page.next_cursor.as_deref(), page.total)
            })
        }
        ModelsCommand::Versions(args) => versions(context, &args).await,
        ModelsCommand::Package(args) => package(context, args).await,
        ModelsCommand::Import {
            line,
            file,
            semver,
            dataset_version,
        } => {
            let length = std::fs::metadata(&file)
                .map_err(|why| CliError::file(&file, why))?
                .len();
            let bar = context.out.byte_bar(length, &file.display().to_string());
            let path = ["models", line.as_str(), "imports"];
            let query = [("semver", semver), ("dataset_version", dataset_version)];
            let sent = client
                .upload(&path, &query, &file, "application/octet-stream", bar.clone())
                .await;
            bar.finish_and_clear();
            context.out.show(&sent?, |version: ModelVersion| describe(&version))
        }
        ModelsCommand::Show { id } => {
            let answer: Value = client.get(&["model-versions", &id]).send().await?;
            context.out.show(&answer, |version: ModelVersion| describe(&version))
        }
    }
}

async fn versions(context: &Context, args: &VersionsArgs) -> Result<(), CliError> {
    let client = &context.client;
    let manifests: Vec<String> = args.manifests.iter().map(ToString::to_string).collect();
    let call = match &args.line {
        Some(line) => client.get(&["models", line.as_str(), "versions"]),
        None => client
            .get(&["model-versions"])
            .maybe("run", args.run)
            .maybe("dataset_version", args.dataset_version)
            .maybe("manifest", (!manifests.is_empty()).then(|| manifests.join(","))),
    };
    let answer: Value = args.narrow.ask(args.page.ask(call)).send().await?;
    context.out.show(&answer, |page: CountedPage<ModelVersion>| {
        let shown = page.items.len();
        let table = if args.line.is_some() {
            of_one_line(page.items)
        } else {
            of_all_lines(page.items)
        };
        with_total(table, shown, page.next_cursor.as_deref(), page.total)
    })
}

fn of_one_line(versions: Vec<ModelVersion>) -> String {
    let rows = versions.into_iter().map(|version| {
        vec![
            version.semver,
            version.release_counter.to_string(),
            signature(version.signature).to_owned(),
            version.id.to_string(),
            version.manifest.short(),
            bytes(version.package_bytes),
            or_dash(version.devices),
            version.created_at,
        ]
    });
    let header = [
        "version",
        "counter",
        "signature",
        "id",
        "manifest",
        "package",
        "devices",
        "created",
    ];
    table(&header, rows)
}

fn of_all_lines(versions: Vec<ModelVersion>) -> String {
    let rows = versions.into_iter().map(|version| {
        vec![
            version.line.to_string(),
            version.semver.clone(),
            signature(version.signature).to_owned(),
            version.id.to_string(),
            version.manifest.short(),
            or_dash(run_name(&version)),
            or_dash(dataset_version_name(&version)),
            version.created_at,
        ]
    });
    let header = [
        "line",
        "version",
        "signature",
        "id",
        "manifest",
        "run",
        "dataset version",
        "created",
    ];
    table(&header, rows)
}

/// As people know it.
fn run_name(version: &ModelVersion) -> Option<String> {
    let name = version.run_name.as_ref()?;
    Some(format!("{}, seed {}", name.experiment, name.seed))
}

fn dataset_version_name(version: &ModelVersion) -> Option<String> {
    let name = version.dataset_version_name.as_ref()?;
    Some(format!("{} v{}", name.name, name.number))
}

/// An id, and what people know it by.
fn named(id: Option<impl std::fmt::Display>, name: Option<String>) -> String {
    match (id, name) {
        (Some(id), Some(name)) => format!("{name} ({id})"),
        (id, _) => or_dash(id),
    }
}

async fn package(context: &Context, args: PackageArgs) -> Result<(), CliError> {
    let body = CreateModelVersion {
        run: args.run,
        semver: args.semver,
        hardware_classes: args.hardware_classes,
        arch: args.arch,
        min_ram_bytes: args.min_ram_bytes,
        p95_budget_us: args.p95_budget_us,
        install_days: args.install_days,
        drift: DriftParameters {
            window: args.drift_window,
            feature_threshold: args.feature_threshold,
            share_threshold: args.share_threshold,
        },
    };
    let call = context.client.post(&["models", &args.line, "versions"]);
    let answer: Value = call.json(&body)?.send().await?;
    context.out.show(&answer, |version: ModelVersion| describe(&version))
}

const fn signature(state: SignatureState) -> &'static str {
    match state {
        SignatureState::Unsigned => "unsigned",
        SignatureState::Signed => "signed",
        SignatureState::Revoked => "revoked",
    }
}

pub(crate) fn describe(version: &ModelVersion) -> String {
    let golden = format!(
        "{} cases, largest difference {:.2e}",
        version.golden_cases, version.golden_max_diff
    );
    fields(&[
        ("model", format!("{} {}", version.line, version.semver)),
        ("id", version.id.to_string()),
        ("release counter", version.release_counter.to_string()),
        ("manifest", version.manifest.to_string()),
        ("signature", signature(version.signature).to_owned()),
        ("package", bytes(version.package_bytes)),
        ("golden gate", golden),
        ("run", named(version.run, run_name(version))),
        (
            "dataset version",
            named(version.dataset_version, dataset_version_name(version)),
        ),
        ("created", version.created_at.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn versions_are_those_of_a_line_or_of_all() {
        let id = "0192f0c1-2345-7abc-8def-0123456789ab";
        let digest = format!("sha256:{}", "0".repeat(64));
        let parses = |line: &str| {
            let words = std::iter::once("fleetctl").chain(line.split(' '));
            Cli::try_parse_from(words).is_ok()
        };
        for good in [
            "models versions".to_owned(),
            "models versions motions --text 1.2".to_owned(),
            format!("models versions --run {id} --signature signed"),
            format!("models versions --dataset-version {id}"),
            format!("models versions --manifest {digest} --manifest {digest}"),
        ] {
            assert!(parses(&good), "{good}");
        }
        for bad in [
            format!("models versions motions --run {id}"),
            format!("models versions motions --manifest {digest}"),
            "models versions --manifest 00".to_owned(),
        ] {
            assert!(!parses(&bad), "{bad}");
        }
    }
}
