//! `versions`: immutable dataset versions, which runs train on.

use clap::Subcommand;
use flotilla_api_types::Page;
use flotilla_api_types::datasets::{CreateDatasetVersion, DatasetVersion};
use serde_json::Value;

use crate::commands::{Context, PageArgs, with_more};
use crate::error::CliError;
use crate::output::{fields, pairs, table};

#[derive(Debug, Subcommand)]
pub(crate) enum VersionsCommand {
    /// Freeze a dataset's samples and labels
    Create {
        dataset: String,
        /// Leave out labels of the label model below this confidence; hand labels always count
        #[arg(long, default_value_t = 0.8)]
        min_confidence: f64,
        /// Only these slices
        #[arg(long = "slice", value_name = "NAME")]
        slices: Vec<String>,
        #[arg(long, default_value = "")]
        note: String,
    },
    /// One version, by id
    Show { id: String },
    /// All versions of a dataset
    List {
        dataset: String,
        #[command(flatten)]
        page: PageArgs,
    },
}

pub(crate) async fn run(context: &Context, command: VersionsCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        VersionsCommand::Create {
            dataset,
            min_confidence,
            slices,
            note,
        } => {
            let body = CreateDatasetVersion {
                min_confidence,
                slices: (!slices.is_empty()).then_some(slices),
                note,
            };
            let answer: Value = client
                .post(&["datasets", &dataset, "versions"])
                .json(&body)?
                .send()
                .await?;
            context.out.show(&answer, |version: DatasetVersion| describe(&version))
        }
        VersionsCommand::Show { id } => {
            let answer: Value = client.get(&["dataset-versions", &id]).send().await?;
            context.out.show(&answer, |version: DatasetVersion| describe(&version))
        }
        VersionsCommand::List { dataset, page } => list(context, &dataset, &page).await,
    }
}

pub(crate) async fn list(context: &Context, dataset: &str, page: &PageArgs) -> Result<(), CliError> {
    let answer: Value = page
        .ask(context.client.get(&["datasets", dataset, "versions"]))
        .send()
        .await?;
    context.out.show(&answer, |page: Page<DatasetVersion>| {
        let rows = page.items.into_iter().map(|version| {
            vec![
                version.number.to_string(),
                version.id.to_string(),
                version.train.to_string(),
                version.holdout.to_string(),
                version.hand_labels.to_string(),
                version.model_labels.to_string(),
                version.left_out.to_string(),
                version.created_at,
                version.note,
            ]
        });
        let header = [
            "no", "id", "train", "holdout", "by hand", "by model", "left out", "created", "note",
        ];
        with_more(table(&header, rows), page.next_cursor.as_deref())
    })
}

fn describe(version: &DatasetVersion) -> String {
    fields(&[
        ("version", version.number.to_string()),
        ("id", version.id.to_string()),
        ("digest", version.digest.to_string()),
        ("train, holdout", format!("{}, {}", version.train, version.holdout)),
        (
            "labels by hand, by model",
            format!("{}, {}", version.hand_labels, version.model_labels),
        ),
        ("left out", version.left_out.to_string()),
        ("classes", pairs(&version.classes)),
        ("slices", pairs(&version.slices)),
        ("note", version.note.clone()),
        ("created", version.created_at.clone()),
    ])
}
