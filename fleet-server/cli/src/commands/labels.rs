//! `labels`: labeling functions and the label model that settles them, the queue for people, labels by hand.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use flotilla_api_types::Page;
use flotilla_api_types::datasets::{
    Annotation, AnnotationReport, CreateAnnotations, CreateLabelingFunction, FitLabelModel, LabelModel, LabelModelKind,
    LabelingFunction, LabelingFunctionConflicts, Sample, StartedJob, VotingFunction,
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
    /// Take a sample's label back; it is in the queue again
    Remove {
        dataset: String,
        sample: String,
        /// Only if it is still labelled so
        #[arg(long)]
        label: Option<String>,
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
    /// How often two of them vote together and against each other, most conflicts first
    Conflicts { dataset: String },
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
    /// Where the last page ended: what was passed over does not come again
    #[arg(long)]
    cursor: Option<String>,
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
        LabelsCommand::Remove { dataset, sample, label } => {
            let call = context.client.delete(&["datasets", &dataset, "annotations", &sample]);
            let answer: Value = call.maybe("label", label).send().await?;
            done(
                &context.out,
                &answer,
                &format!("{sample} has no label by hand any more"),
            )
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
        FunctionCommand::Conflicts { dataset } => {
            let call = client.get(&["datasets", &dataset, "labeling-function-conflicts"]);
            let answer: Value = call.send().await?;
            context
                .out
                .show(&answer, |found: LabelingFunctionConflicts| conflict_table(&found))
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

/// Every two functions that vote together somewhere.
fn conflict_table(found: &LabelingFunctionConflicts) -> String {
    let cell = |table: &[Vec<u64>], row: usize, column: usize| {
        let row = table.get(row).and_then(|row| row.get(column));
        row.copied().unwrap_or(0)
    };
    let mut pairs = Vec::new();
    for (row, first) in found.functions.iter().enumerate() {
        for (column, second) in found.functions.iter().enumerate().skip(row + 1) {
            let overlap = cell(&found.overlaps, row, column);
            if overlap > 0 {
                pairs.push((cell(&found.conflicts, row, column), overlap, first, second));
            }
        }
    }
    pairs.sort_by_key(|(conflict, overlap, ..)| std::cmp::Reverse((*conflict, *overlap)));
    let name = |function: &VotingFunction| format!("{} ({})", function.name, function.label);
    let rows = pairs.into_iter().map(|(conflict, overlap, first, second)| {
        vec![name(first), name(second), overlap.to_string(), conflict.to_string()]
    });
    let table = table(&["function", "and", "both vote", "in conflict"], rows);
    format!("{table}\nof {} samples, fitted {}", found.samples, found.fitted_at)
}

pub(crate) fn function_table(functions: &[LabelingFunction]) -> String {
    let rows = functions.iter().map(|f| {
        let statistics = f.statistics.as_ref();
        vec![
            f.name.clone(),
            f.label.clone(),
            or_dash(statistics.map(|s| percent(s.coverage))),
            or_dash(statistics.map(|s| percent(s.overlap))),
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
        "overlap",
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
    let call = call.query("limit", args.limit).maybe("cursor", args.cursor);
    let call = call.maybe("slice", args.slice);
    let call = call.maybe("split", args.split.map(SplitArg::as_str));
    let call = call.maybe("device", args.device);
    let call = if args.values { call.query("values", true) } else { call };
    let answer: Value = call.send().await?;
    context.out.show(&answer, |page: Page<Sample>| {
        with_more(sample_table(&page.items), page.next_cursor.as_deref())
    })
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
    use crate::output::squeezed;

    #[test]
    fn functions_that_meet_are_told_with_the_worst_first() {
        let function = |name: &str, label: &str| VotingFunction {
            id: "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap(),
            name: name.to_owned(),
            label: label.to_owned(),
        };
        let found = LabelingFunctionConflicts {
            samples: 9,
            fitted_at: "then".to_owned(),
            functions: vec![
                function("low", "a"),
                function("high", "b"),
                function("lower", "a"),
                function("far", "b"),
            ],
            overlaps: vec![vec![4, 1, 3, 0], vec![1, 5, 2, 0], vec![3, 2, 6, 0], vec![0, 0, 0, 7]],
            conflicts: vec![vec![0, 1, 0, 0], vec![1, 0, 2, 0], vec![0, 2, 0, 0], vec![0, 0, 0, 0]],
        };
        let expected = [
            "FUNCTION AND BOTH VOTE IN CONFLICT",
            "high (b) lower (a) 2 2",
            "low (a) high (b) 1 1",
            "low (a) lower (a) 3 0",
            "of 9 samples, fitted then",
        ];
        assert_eq!(squeezed(&conflict_table(&found)), expected);
    }

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
