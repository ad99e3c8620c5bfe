//! `runs`: training, its metrics, and evaluation on other dataset versions.

use clap::{Args, Subcommand, ValueEnum};
use flotilla_api_types::runs::{
    ClassWeights, CreateEvaluation, CreateRun, Evaluation, MetricPoint, MlpParameters, Run, RunStatus,
    StoredEvaluation, Trainer,
};
use flotilla_api_types::{CountedPage, Page};
use flotilla_protocol::ids::DatasetVersionId;
use serde_json::Value;

use crate::client::{Call, Client};
use crate::commands::datasets::SplitArg;
use crate::commands::{Context, PageArgs, WaitArgs, jobs, with_more, with_total};
use crate::error::CliError;
use crate::output::{fields, or_dash, pairs, percent, table};

#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// Train a multilayer perceptron on a dataset version
    Create(CreateArgs),
    /// All runs, or those that match, newest first
    List(ListArgs),
    /// One run
    Show { id: String },
    /// Metrics, one point per epoch
    Metrics { id: String },
    /// Measure a finished run on a dataset version
    Evaluate {
        id: String,
        #[arg(long, value_name = "ID")]
        dataset_version: DatasetVersionId,
        #[arg(long, default_value = "holdout")]
        split: SplitArg,
    },
    /// What a run's model was measured on, newest first
    Evaluations {
        id: String,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Stop a run
    Cancel { id: String },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// `status:finished experiment:motions holdout.accuracy:>0.9 -dataset:motions@2 text`: statuses scheduled, running, finished,
    /// failed, cancelled; keys experiment, dataset, version, id, cause, hidden; numbers seed, epochs, `batch_size`,
    /// `learning_rate`, `weight_decay`, accuracy, loss, duration and any metric; `-` negates, `*` at the end: begins with
    #[arg(long, short, allow_hyphen_values = true)]
    filter: Option<String>,
    /// started, experiment, status, cause, a number or a metric such as `holdout.ece`; `-` in front: newest or largest first
    #[arg(long, allow_hyphen_values = true)]
    sort: Option<String>,
    /// Only runs of this experiment
    #[arg(long)]
    experiment: Option<String>,
    /// Only runs in this state
    #[arg(long)]
    status: Option<StatusArg>,
    /// Only runs on this dataset version
    #[arg(long, value_name = "ID")]
    dataset_version: Option<DatasetVersionId>,
    /// Stands in the experiment's name, the cause, the id or the model's digest
    #[arg(long)]
    text: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

impl ListArgs {
    fn ask<'a>(&self, client: &'a Client) -> Call<'a> {
        self.page
            .ask(client.get(&["runs"]))
            .maybe("filter", self.filter.as_ref())
            .maybe("sort", self.sort.as_ref())
            .maybe("experiment", self.experiment.as_ref())
            .maybe("status", self.status.map(StatusArg::as_str))
            .maybe("dataset_version", self.dataset_version)
            .maybe("text", self.text.as_ref())
    }
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Made when it does not exist
    #[arg(long, default_value = "default")]
    experiment: String,
    #[arg(long, value_name = "ID")]
    dataset_version: DatasetVersionId,
    /// Units of each hidden layer
    #[arg(long, value_delimiter = ',', default_value = "32")]
    hidden: Vec<u32>,
    #[arg(long, default_value_t = 0.01)]
    learning_rate: f64,
    #[arg(long, default_value_t = 0.1)]
    weight_decay: f64,
    #[arg(long, default_value_t = 100)]
    epochs: u32,
    #[arg(long, default_value_t = 16)]
    batch_size: u32,
    /// Let every class count alike in the loss, however many samples it has
    #[arg(long, value_name = "HOW", default_value = "none")]
    class_weights: ClassWeightsArg,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Why it is made
    #[arg(long, default_value = "manual")]
    cause: String,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusArg {
    Scheduled,
    Running,
    Finished,
    Failed,
    Killed,
}

impl StatusArg {
    /// As the API writes it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Killed => "KILLED",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ClassWeightsArg {
    None,
    Balanced,
}

impl From<ClassWeightsArg> for ClassWeights {
    fn from(arg: ClassWeightsArg) -> Self {
        match arg {
            ClassWeightsArg::None => Self::None,
            ClassWeightsArg::Balanced => Self::Balanced,
        }
    }
}

pub(crate) async fn run(context: &Context, command: RunsCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        RunsCommand::Create(args) => create(context, args).await,
        RunsCommand::List(args) => {
            let answer: Value = args.ask(client).send().await?;
            context.out.show(&answer, |page: CountedPage<Run>| {
                let (shown, next) = (page.items.len(), page.next_cursor.as_deref());
                with_total(run_table(&page.items), shown, next, page.total)
            })
        }
        RunsCommand::Evaluations { id, page } => {
            let answer: Value = page.ask(client.get(&["runs", &id, "evaluations"])).send().await?;
            context.out.show(&answer, |page: Page<StoredEvaluation>| {
                with_more(evaluation_table(&page.items), page.next_cursor.as_deref())
            })
        }
        RunsCommand::Show { id } => {
            let answer: Value = client.get(&["runs", &id]).send().await?;
            context.out.show(&answer, |run: Run| describe(&run))
        }
        RunsCommand::Metrics { id } => {
            let answer: Value = client.get(&["runs", &id, "metrics"]).send().await?;
            context.out.show(&answer, |page: Page<MetricPoint>| {
                let rows = page
                    .items
                    .into_iter()
                    .map(|point| vec![point.name, point.step.to_string(), format!("{:.6}", point.value)]);
                with_more(table(&["metric", "step", "value"], rows), page.next_cursor.as_deref())
            })
        }
        RunsCommand::Evaluate {
            id,
            dataset_version,
            split,
        } => {
            let body = CreateEvaluation {
                dataset_version,
                split: match split {
                    SplitArg::Train => flotilla_api_types::datasets::Split::Train,
                    SplitArg::Holdout => flotilla_api_types::datasets::Split::Holdout,
                },
            };
            let answer: Value = client.post(&["runs", &id, "evaluations"]).json(&body)?.send().await?;
            context
                .out
                .show(&answer, |evaluation: Evaluation| describe_evaluation(&evaluation))
        }
        RunsCommand::Cancel { id } => {
            let answer: Value = client.post(&["runs", &id, "cancel"]).send().await?;
            crate::commands::done(&context.out, &answer, &format!("{id} is being cancelled"))
        }
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let body = CreateRun {
        experiment: args.experiment,
        dataset_version: args.dataset_version,
        trainer: Trainer::Mlp(MlpParameters {
            hidden: args.hidden,
            learning_rate: args.learning_rate,
            weight_decay: args.weight_decay,
            epochs: args.epochs,
            batch_size: args.batch_size,
            class_weights: args.class_weights.into(),
        }),
        seed: args.seed,
        cause: args.cause,
    };
    let mut answer: Value = context.client.post(&["runs"]).json(&body)?.send().await?;
    if args.wait.wait {
        let run: Run = serde_json::from_value(answer).map_err(|why| CliError::Failed(why.to_string()))?;
        jobs::wait(context, &run.job.to_string(), args.wait.timeout()).await?;
        answer = context.client.get(&["runs", &run.id.to_string()]).send().await?;
    }
    context.out.show(&answer, |run: Run| describe(&run))
}

const fn status(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Scheduled => "scheduled",
        RunStatus::Running => "running",
        RunStatus::Finished => "finished",
        RunStatus::Failed => "failed",
        RunStatus::Killed => "killed",
    }
}

fn run_table(runs: &[Run]) -> String {
    let rows = runs.iter().map(|run| {
        vec![
            run.id.to_string(),
            run.experiment.clone(),
            status(run.status).to_owned(),
            run.seed.to_string(),
            or_dash(dataset(run)),
            or_dash(run.metrics.get("holdout.accuracy").copied().map(percent)),
            run.cause.clone(),
            run.created_at.clone(),
        ]
    });
    let header = [
        "run",
        "experiment",
        "status",
        "seed",
        "dataset",
        "holdout accuracy",
        "cause",
        "created",
    ];
    table(&header, rows)
}

/// `motions v3`
fn dataset(run: &Run) -> Option<String> {
    let of = run.dataset_version_name.as_ref()?;
    Some(format!("{} v{}", of.name, of.number))
}

fn describe(run: &Run) -> String {
    let Trainer::Mlp(mlp) = &run.trainer;
    let trainer = format!(
        "mlp hidden={:?} learning_rate={} weight_decay={} epochs={} batch_size={} class_weights={}",
        mlp.hidden,
        mlp.learning_rate,
        mlp.weight_decay,
        mlp.epochs,
        mlp.batch_size,
        match mlp.class_weights {
            ClassWeights::None => "none",
            ClassWeights::Balanced => "balanced",
        }
    );
    fields(&[
        ("run", run.id.to_string()),
        ("experiment", run.experiment.clone()),
        ("status", status(run.status).to_owned()),
        ("progress", or_dash(run.progress.map(percent))),
        ("dataset version", run.dataset_version.to_string()),
        ("dataset", or_dash(dataset(run))),
        ("trainer", trainer),
        ("seed", run.seed.to_string()),
        ("cause", run.cause.clone()),
        (
            "metrics",
            pairs(run.metrics.iter().map(|(name, value)| (name, format!("{value:.4}")))),
        ),
        ("model", or_dash(run.model)),
        ("job", run.job.to_string()),
        ("error", or_dash(run.error.as_ref())),
        ("created", run.created_at.clone()),
        ("finished", or_dash(run.finished_at.as_ref())),
    ])
}

fn evaluation_table(evaluations: &[StoredEvaluation]) -> String {
    let rows = evaluations.iter().map(|stored| {
        let evaluation = &stored.evaluation;
        vec![
            stored.created_at.clone(),
            evaluation.dataset_version.to_string(),
            evaluation.split.as_str().to_owned(),
            evaluation.samples.to_string(),
            percent(evaluation.accuracy),
            format!("{:.4}", evaluation.log_loss),
            format!("{:.4}", evaluation.calibration_error),
        ]
    });
    let header = [
        "at",
        "dataset version",
        "split",
        "samples",
        "accuracy",
        "log loss",
        "calibration error",
    ];
    table(&header, rows)
}

fn describe_evaluation(evaluation: &Evaluation) -> String {
    let head = fields(&[
        ("samples", evaluation.samples.to_string()),
        ("accuracy", percent(evaluation.accuracy)),
        ("log loss", format!("{:.4}", evaluation.log_loss)),
        ("calibration error", format!("{:.4}", evaluation.calibration_error)),
    ]);
    let rows = evaluation
        .classes
        .iter()
        .zip(&evaluation.confusion)
        .map(|(class, confused)| {
            let confused: Vec<String> = confused.iter().map(ToString::to_string).collect();
            vec![
                class.label.clone(),
                percent(class.precision),
                percent(class.recall),
                percent(class.f1),
                class.support.to_string(),
                confused.join(" "),
            ]
        });
    let header = ["class", "precision", "recall", "f1", "support", "taken for"];
    format!("{head}\n\n{}", table(&header, rows))
}
