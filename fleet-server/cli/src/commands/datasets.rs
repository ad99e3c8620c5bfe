//! `datasets`: made from a specification, filled from files, read as samples.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use flotilla_api_types::Page;
use flotilla_api_types::datasets::{
    CreateDataset, Dataset, ImportReport, LabelSource, Sample, SampleLabel, SampleShape,
};
use serde_json::Value;

use crate::commands::{Context, PageArgs, versions, with_more};
use crate::error::CliError;
use crate::files;
use crate::output::{bytes, fields, or_dash, pairs, percent, table};

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetsCommand {
    /// Make a dataset from a specification (JSON, or TOML where the name ends so)
    Create {
        #[arg(long, short, value_name = "SPEC")]
        file: PathBuf,
    },
    /// All datasets
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// One dataset, by name or id
    Show { dataset: String },
    /// Import a CSV file: all of it, or an error and nothing of it
    Import {
        dataset: String,
        file: PathBuf,
        /// Name of the slice that its samples form
        #[arg(long, default_value = "import")]
        slice: String,
        /// Put all of them into this split, whatever the dataset's rule says
        #[arg(long)]
        split: Option<SplitArg>,
    },
    /// Samples of a dataset
    Samples(SamplesArgs),
    /// Immutable versions of a dataset
    Versions {
        dataset: String,
        #[command(flatten)]
        page: PageArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SamplesArgs {
    dataset: String,
    #[arg(long)]
    slice: Option<String>,
    #[arg(long)]
    split: Option<SplitArg>,
    /// Only samples with a label, or only without
    #[arg(long)]
    labelled: Option<bool>,
    /// With the raw values (`--json` shows them)
    #[arg(long)]
    values: bool,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitArg {
    Train,
    Holdout,
}

impl SplitArg {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Holdout => "holdout",
        }
    }
}

pub(crate) async fn run(context: &Context, command: DatasetsCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        DatasetsCommand::Create { file } => {
            let body: CreateDataset = files::read_spec(&file)?;
            let answer: Value = client.post(&["datasets"]).json(&body)?.send().await?;
            context.out.show(&answer, |dataset: Dataset| describe(&dataset))
        }
        DatasetsCommand::List { page } => {
            let answer: Value = page.ask(client.get(&["datasets"])).send().await?;
            context.out.show(&answer, |page: Page<Dataset>| {
                let rows = page.items.into_iter().map(|dataset| {
                    vec![
                        dataset.name,
                        dataset.id.to_string(),
                        dataset.samples.to_string(),
                        dataset.hand_labels.to_string(),
                        dataset.labels.len().to_string(),
                        dataset.created_at,
                    ]
                });
                let table = table(&["name", "id", "samples", "hand labels", "classes", "created"], rows);
                with_more(table, page.next_cursor.as_deref())
            })
        }
        DatasetsCommand::Show { dataset } => {
            let answer: Value = client.get(&["datasets", &dataset]).send().await?;
            context.out.show(&answer, |dataset: Dataset| describe(&dataset))
        }
        DatasetsCommand::Import {
            dataset,
            file,
            slice,
            split,
        } => {
            let mut query = vec![("slice", slice)];
            query.extend(split.map(|split| ("split", split.as_str().to_owned())));
            import(context, &dataset, &query, &file).await
        }
        DatasetsCommand::Samples(args) => samples(context, args).await,
        DatasetsCommand::Versions { dataset, page } => versions::list(context, &dataset, &page).await,
    }
}

async fn import(context: &Context, dataset: &str, query: &[(&str, String)], file: &Path) -> Result<(), CliError> {
    let length = std::fs::metadata(file).map_err(|why| CliError::file(file, why))?.len();
    let bar = context.out.byte_bar(length, &file.display().to_string());
    let path = ["datasets", dataset, "imports"];
    let sent = context.client.upload(&path, query, file, "text/csv", bar.clone()).await;
    bar.finish_and_clear();
    context
        .out
        .show(&sent?, |report: ImportReport| describe_import(&report))
}

pub(crate) fn describe_import(report: &ImportReport) -> String {
    fields(&[
        ("slice", report.slice.clone()),
        ("rows", report.rows.to_string()),
        ("samples", report.samples.to_string()),
        ("train", report.train.to_string()),
        ("holdout", report.holdout.to_string()),
        ("in neither split", report.excluded.to_string()),
        ("there before", report.duplicates.to_string()),
        ("read", bytes(report.bytes)),
        ("file", report.file.to_string()),
    ])
}

async fn samples(context: &Context, args: SamplesArgs) -> Result<(), CliError> {
    let call = context.client.get(&["datasets", &args.dataset, "samples"]);
    let call = args.page.ask(call).maybe("slice", args.slice);
    let call = call
        .maybe("split", args.split.map(SplitArg::as_str))
        .maybe("labelled", args.labelled);
    let call = if args.values { call.query("values", true) } else { call };
    let answer: Value = call.send().await?;
    context.out.show(&answer, |page: Page<Sample>| {
        with_more(sample_table(&page.items), page.next_cursor.as_deref())
    })
}

pub(crate) fn sample_table(samples: &[Sample]) -> String {
    let rows = samples.iter().map(|sample| {
        vec![
            sample.digest.to_string(),
            sample.key.clone(),
            sample.slice.clone(),
            sample.split.as_str().to_owned(),
            or_dash(sample.label.as_ref().map(label)),
            or_dash(sample.guess.as_ref().map(label)),
            or_dash(sample.predicted.as_ref()),
        ]
    });
    table(
        &["sample", "key", "slice", "split", "label", "guess", "device said"],
        rows,
    )
}

fn label(label: &SampleLabel) -> String {
    match label.source {
        LabelSource::Hand => format!("{} (by hand)", label.label),
        LabelSource::Model => format!("{} ({})", label.label, percent(label.confidence)),
    }
}

fn shape(shape: &SampleShape) -> String {
    match shape {
        SampleShape::Row { columns } => format!("rows of {} columns", columns.len()),
        SampleShape::Series {
            channels,
            window,
            hop,
            rate_hz,
            ..
        } => format!(
            "windows of {window} steps (hop {hop}) × {} channels at {rate_hz} Hz",
            channels.len()
        ),
    }
}

fn describe(dataset: &Dataset) -> String {
    fields(&[
        ("name", dataset.name.clone()),
        ("id", dataset.id.to_string()),
        ("samples are", shape(&dataset.shape)),
        ("features", dataset.feature_names.len().to_string()),
        ("classes", dataset.labels.join(" ")),
        ("dropped columns", dataset.drop_columns.join(" ")),
        ("samples", dataset.samples.to_string()),
        ("slices", pairs(&dataset.slices)),
        ("hand labels", dataset.hand_labels.to_string()),
        ("harvests from", or_dash(dataset.harvest_line.as_ref())),
        ("created", dataset.created_at.clone()),
    ])
}
