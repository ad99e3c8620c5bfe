//! `labels`: labeling functions and the label model that settles them, the queue for people, labels by hand.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use flotilla_api_types::Page;
use flotilla_api_types::datasets::{
    Annotation, AnnotationReport, CreateAnnotations, CreateLabelingFunction, FitLabelModel, LabelModel, LabelModelKind,
    LabelingFunction, Sample, StartedJob,
};
use serde_json::Value;

use crate::commands::datasets::{SplitArg, sample_table};
use crate::commands::{Context, WaitArgs, done, jobs, parse_pair, with_more};
use crate::error::CliError;
use crate::files;
use crate::output::{fields, or_dash, pairs, percent, table};

#[derive(Debug, Subcommand)]
pub(crate) enum LabelsCommand {
    /// Labeling functions: a condition over the features and the label it votes for
    #[command(subcommand)]
    Lf(FunctionCommand),
    /// Apply all labeling functions and settle their votes
    Fit(FitArgs),
    /// What is best labelled by hand next
    Queue(QueueArgs),
    /// Label samples by hand: all of them, or none
    Annotate {
        dataset: String,
        /// CSV with columns sample,label, or JSON lines
        #[arg(long, short, value_name = "FILE", conflicts_with = "pairs")]
        file: Option<PathBuf>,
        #[arg(value_parser = parse_pair, value_name = "SAMPLE=LABEL")]
        pairs: Vec<(String, String)>,
    },
    /// The last label model
    Model { dataset: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FunctionCommand {
    /// Add a labeling function
    Add {
        dataset: String,
        name: String,
        /// CEL over the features: `f["accel_y.std"] < 1.5`; false = it abstains
        #[arg(long)]
        when: String,
        #[arg(long)]
        label: String,
    },
    /// All of them, and how they do
    List { dataset: String },
    /// Remove one, by id
    Remove { dataset: String, id: String },
}

#[derive(Debug, Args)]
pub(crate) struct FitArgs {
    dataset: String,
    #[arg(long, default_value = "dawid-skene")]
    model: ModelArg,
    /// Only these slices
    #[arg(long = "slice", value_name = "NAME")]
    slices: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    dataset: String,
    #[arg(long, default_value = "uncertainty")]
    order: OrderArg,
    #[arg(long)]
    slice: Option<String>,
    #[arg(long)]
    split: Option<SplitArg>,
    /// Only what this device sent
    #[arg(long)]
    device: Option<String>,
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// With the raw values (`--json` shows them)
    #[arg(long)]
    values: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModelArg {
    DawidSkene,
    Majority,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderArg {
    Uncertainty,
    Newest,
}

pub(crate) async fn run(context: &Context, command: LabelsCommand) -> Result<(), CliError> {
    match command {
        LabelsCommand::Lf(command) => functions(context, command).await,
        LabelsCommand::Fit(args) => fit(context, args).await,
        LabelsCommand::Queue(args) => queue(context, args).await,
        LabelsCommand::Annotate { dataset, file, pairs } => {
            let annotations = match file {
                Some(file) => read_annotations(&file)?,
                None => parse_annotations(pairs)?,
            };
            if annotations.is_empty() {
                return Err(CliError::Usage("no labels: give --file or SAMPLE=LABEL".to_owned()));
            }
            let call = context.client.post(&["datasets", &dataset, "annotations"]);
            let answer: Value = call.json(&CreateAnnotations { annotations })?.send().await?;
            context.out.show(&answer, |report: AnnotationReport| {
                format!(
                    "{} new, {} changed, {} unchanged",
                    report.new, report.changed, report.unchanged
                )
            })
        }
        LabelsCommand::Model { dataset } => {
            let answer: Value = context
                .client
                .get(&["datasets", &dataset, "label-model"])
                .send()
                .await?;
            context.out.show(&answer, |model: LabelModel| describe(&model))
        }
    }
}

async fn functions(context: &Context, command: FunctionCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        FunctionCommand::Add {
            dataset,
            name,
            when,
            label,
        } => {
            let body = CreateLabelingFunction { name, when, label };
            let call = client.post(&["datasets", &dataset, "labeling-functions"]);
            let answer: Value = call.json(&body)?.send().await?;
            context
                .out
                .show(&answer, |f: LabelingFunction| format!("{} ({})", f.name, f.id))
        }
        FunctionCommand::List { dataset } => {
            let answer: Value = client.get(&["datasets", &dataset, "labeling-functions"]).send().await?;
            context.out.show(&answer, |page: Page<LabelingFunction>| {
                with_more(function_table(&page.items), page.next_cursor.as_deref())
            })
        }
        FunctionCommand::Remove { dataset, id } => {
            let answer: Value = client
                .delete(&["datasets", &dataset, "labeling-functions", &id])
                .send()
                .await?;
            done(&context.out, &answer, &format!("{id} removed"))
        }
    }
}

pub(crate) fn function_table(functions: &[LabelingFunction]) -> String {
    let rows = functions.iter().map(|f| {
        let statistics = f.statistics.as_ref();
        vec![
            f.name.clone(),
            f.label.clone(),
            or_dash(statistics.map(|s| percent(s.coverage))),
            or_dash(statistics.map(|s| percent(s.conflict))),
            or_dash(statistics.and_then(|s| s.accuracy).map(percent)),
            or_dash(statistics.map(|s| s.errors)),
            f.id.to_string(),
            f.when.clone(),
        ]
    });
    let header = [
        "name",
        "votes for",
        "coverage",
        "conflict",
        "accuracy",
        "errors",
        "id",
        "when",
    ];
    table(&header, rows)
}

async fn fit(context: &Context, args: FitArgs) -> Result<(), CliError> {
    let body = FitLabelModel {
        model: match args.model {
            ModelArg::DawidSkene => LabelModelKind::DawidSkene,
            ModelArg::Majority => LabelModelKind::Majority,
        },
        slices: (!args.slices.is_empty()).then_some(args.slices),
    };
    let call = context.client.post(&["datasets", &args.dataset, "label-model"]);
    let answer: Value = call.json(&body)?.send().await?;
    if !args.wait.wait {
        return context
            .out
            .show(&answer, |started: StartedJob| format!("job {}", started.job));
    }
    let started: StartedJob = serde_json::from_value(answer).map_err(|why| CliError::Failed(why.to_string()))?;
    jobs::wait(context, &started.job.to_string(), args.wait.timeout()).await?;
    let answer: Value = context
        .client
        .get(&["datasets", &args.dataset, "label-model"])
        .send()
        .await?;
    context.out.show(&answer, |model: LabelModel| describe(&model))
}

async fn queue(context: &Context, args: QueueArgs) -> Result<(), CliError> {
    let order = match args.order {
        OrderArg::Uncertainty => "uncertainty",
        OrderArg::Newest => "newest",
    };
    let call = context
        .client
        .get(&["datasets", &args.dataset, "queue"])
        .query("order", order);
    let call = call.query("limit", args.limit).maybe("slice", args.slice);
    let call = call.maybe("split", args.split.map(SplitArg::as_str));
    let call = call.maybe("device", args.device);
    let call = if args.values { call.query("values", true) } else { call };
    let answer: Value = call.send().await?;
    context
        .out
        .show(&answer, |page: Page<Sample>| sample_table(&page.items))
}

fn describe(model: &LabelModel) -> String {
    let kind = match model.model {
        LabelModelKind::DawidSkene => "Dawid–Skene",
        LabelModelKind::Majority => "majority",
    };
    fields(&[
        ("model", kind.to_owned()),
        ("samples", model.samples.to_string()),
        ("iterations", model.iterations.to_string()),
        ("with a vote", percent(model.coverage)),
        ("in conflict", percent(model.conflict)),
        ("right, of those labelled by hand", or_dash(model.accuracy.map(percent))),
        (
            "prior",
            pairs(model.prior.iter().map(|(label, share)| (label, percent(*share)))),
        ),
        ("fitted", model.fitted_at.clone()),
    ])
}

fn parse_annotations(pairs: Vec<(String, String)>) -> Result<Vec<Annotation>, CliError> {
    pairs
        .into_iter()
        .map(|(sample, label)| {
            let sample = sample.parse().map_err(|why| CliError::Usage(format!("{why}")))?;
            Ok(Annotation { sample, label })
        })
        .collect()
}

/// CSV (`sample,label`) or, where the name says `json`, one object per line.
fn read_annotations(path: &Path) -> Result<Vec<Annotation>, CliError> {
    let text = files::read_text(path)?;
    let is_json = path
        .extension()
        .is_some_and(|extension| extension.to_string_lossy().starts_with("json"));
    if is_json {
        return (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(number, line)| {
                serde_json::from_str(line).map_err(|why| CliError::file(path, format!("line {number}: {why}")))
            })
            .collect();
    }
    csv::Reader::from_reader(text.as_bytes())
        .into_deserialize()
        .map(|row| row.map_err(|why| CliError::file(path, why)))
        .collect()
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::ids::Digest;

    use super::*;

    #[test]
    fn both_forms_of_annotations_are_read_and_bad_lines_named() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"x");
        let csv = dir.path().join("a.csv");
        std::fs::write(&csv, format!("sample,label\n{digest},walking\n")).unwrap();
        let jsonl = dir.path().join("a.jsonl");
        std::fs::write(&jsonl, format!("{{\"sample\":\"{digest}\",\"label\":\"walking\"}}\n\n")).unwrap();
        assert_eq!(read_annotations(&csv).unwrap(), read_annotations(&jsonl).unwrap());
        std::fs::write(&jsonl, "\n{\"sample\":\"x\",\"label\":\"walking\"}\n").unwrap();
        let error = read_annotations(&jsonl).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        std::fs::write(&csv, "sample,lable\nsha256:00,walking\n").unwrap();
        assert!(read_annotations(&csv).is_err());
    }
}
