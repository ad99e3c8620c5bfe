//! `datasets`: made from a specification, filled from files, read as samples.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use flotilla_api_types::Page;
use flotilla_api_types::datasets::{
    CreateDataset, Dataset, Import, ImportReport, ImportState, LabelSource, Sample, SampleLabel, SampleShape,
};
use indicatif::ProgressBar;
use serde_json::Value;
use uuid::Uuid;

use crate::commands::{Context, PageArgs, versions, with_more};
use crate::error::CliError;
use crate::files;
use crate::output::{bytes, fields, or_dash, pairs, percent, table};

/// How often the server is asked how far an import is.
const WATCH_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetsCommand {
    /// Make a dataset from a specification (JSON, or TOML where the name ends so)
    Create {
        #[arg(long, short, value_name = "SPEC")]
        file: PathBuf,
    },
    /// All datasets
    List {
        /// Only those that gather what devices running this model line keep
        #[arg(long, value_name = "LINE")]
        harvest_line: Option<String>,
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
    /// Imports of a dataset, newest first: how far, and how they ended
    Imports {
        dataset: String,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Cancel an import that is under way: nothing of it stays
    CancelImport { import: String },
    /// Samples of a dataset
    Samples(SamplesArgs),
    /// One sample, by digest
    Sample {
        dataset: String,
        digest: String,
        /// With the raw values (`--json` shows them)
        #[arg(long)]
        values: bool,
    },
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
    /// Only what this device sent
    #[arg(long)]
    device: Option<String>,
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
        DatasetsCommand::List { harvest_line, page } => {
            let call = page.ask(client.get(&["datasets"])).maybe("harvest_line", harvest_line);
            let answer: Value = call.send().await?;
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
        DatasetsCommand::Imports { dataset, page } => {
            let answer: Value = page.ask(client.get(&["datasets", &dataset, "imports"])).send().await?;
            context.out.show(&answer, |page: Page<Import>| {
                with_more(import_table(&page.items), page.next_cursor.as_deref())
            })
        }
        DatasetsCommand::CancelImport { import } => {
            let answer: Value = client.delete(&["imports", &import]).send().await?;
            crate::commands::done(&context.out, &answer, &format!("{import} is cancelled"))
        }
        DatasetsCommand::Sample {
            dataset,
            digest,
            values,
        } => {
            let call = client.get(&["datasets", &dataset, "samples", &digest]);
            let call = if values { call.query("values", true) } else { call };
            let answer: Value = call.send().await?;
            context.out.show(&answer, |sample: Sample| sample_table(&[sample]))
        }
        DatasetsCommand::Samples(args) => samples(context, args).await,
        DatasetsCommand::Versions { dataset, page } => versions::list(context, &dataset, &page).await,
    }
}

async fn import(context: &Context, dataset: &str, query: &[(&str, String)], file: &Path) -> Result<(), CliError> {
    let length = std::fs::metadata(file).map_err(|why| CliError::file(file, why))?.len();
    let label = file.display().to_string();
    let bar = context.out.byte_bar(length, &label);
    let path = ["datasets", dataset, "imports"];
    // Named here, so that the server's side of it can be watched while the request is open.
    let id = Uuid::now_v7().to_string();
    let mut query = query.to_vec();
    query.push(("import", id.clone()));
    let sent = {
        let upload = context.client.upload(&path, &query, file, "text/csv", bar.clone());
        tokio::select! {
            sent = upload => sent,
            never = watch(context, &id, &bar) => match never {},
        }
    };
    bar.finish_and_clear();
    context
        .out
        .show(&sent?, |report: ImportReport| describe_import(&report))
}

/// Once the file is sent, the bar shows how much of it the server has read. Never ends by itself.
#[expect(clippy::infinite_loop, reason = "it is dropped when the upload is answered")]
async fn watch(context: &Context, id: &str, bar: &ProgressBar) -> std::convert::Infallible {
    let mut reading = false;
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        // What cannot be read now is read the next time: the upload's own answer is what counts.
        let Ok(import) = context.client.get(&["imports", id]).send::<Import>().await else {
            continue;
        };
        if import.state == ImportState::Reading {
            if !reading {
                reading = true;
                bar.set_message("reading");
            }
            bar.set_position(import.bytes_read);
        }
    }
}

fn import_table(imports: &[Import]) -> String {
    let rows = imports.iter().map(|import| {
        vec![
            import.id.to_string(),
            import.slice.clone(),
            import.state.as_str().to_owned(),
            percent(import.progress),
            import.rows.to_string(),
            import.samples.to_string(),
            import.started_by.clone(),
            import.created_at.clone(),
            or_dash(import.error.as_ref()),
        ]
    });
    let header = [
        "import", "slice", "state", "progress", "rows", "samples", "by", "started", "why",
    ];
    table(&header, rows)
}

pub(crate) fn describe_import(report: &ImportReport) -> String {
    fields(&[
        ("import", report.import.to_string()),
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
        .maybe("device", args.device)
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
