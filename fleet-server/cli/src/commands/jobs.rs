//! `jobs`: long work on the server, looked at, waited for or cancelled.

use std::time::Duration;

use clap::Subcommand;
use flotilla_api_types::{Job, JobState};
use serde_json::Value;
use tokio::time::Instant;

use crate::commands::Context;
use crate::error::CliError;
use crate::output::{fields, or_dash, percent};

/// One long poll: short enough that a missed change is not missed for long.
const POLL: Duration = Duration::from_secs(5);

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// One job
    Show { id: String },
    /// Wait until it ends; exit code 4 if it fails or the time is up
    Wait {
        id: String,
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        timeout_s: u64,
    },
    /// Cancel it: what waits never begins, what runs stops; what it has done stays done
    Cancel { id: String },
}

pub(crate) async fn run(context: &Context, command: JobsCommand) -> Result<(), CliError> {
    match command {
        JobsCommand::Show { id } => {
            let answer: Value = context.client.get(&["jobs", &id]).send().await?;
            context.out.show(&answer, |job: Job| describe(&job))
        }
        JobsCommand::Wait { id, timeout_s } => {
            let job = wait(context, &id, Duration::from_secs(timeout_s)).await?;
            if context.out.is_json() {
                return context.out.print_json(&job);
            }
            context.out.line(&describe(&job))
        }
        JobsCommand::Cancel { id } => {
            let answer: Value = context.client.post(&["jobs", &id, "cancel"]).send().await?;
            context.out.show(&answer, |job: Job| describe(&job))
        }
    }
}

/// Waits until the job succeeded; a bar shows its progress.
pub(crate) async fn wait(context: &Context, id: &str, timeout: Duration) -> Result<Job, CliError> {
    let deadline = Instant::now() + timeout;
    let bar = context.out.bar(100, "job");
    let mut job: Job = context.client.get(&["jobs", id]).send().await?;
    while !job.state.is_final() {
        bar.set_message(job.message.clone());
        bar.set_position(percent_of(job.progress));
        if Instant::now() >= deadline {
            bar.finish_and_clear();
            return Err(CliError::Waited(format!(
                "job {id} still runs after {} s: {}",
                timeout.as_secs(),
                job.message
            )));
        }
        let patience = POLL.min(deadline.saturating_duration_since(Instant::now()));
        job = context
            .client
            .get(&["jobs", id])
            .query("wait_ms", patience.as_millis())
            .send()
            .await?;
    }
    bar.finish_and_clear();
    if job.state == JobState::Succeeded {
        return Ok(job);
    }
    let why = job.error.unwrap_or(job.message);
    Err(CliError::Waited(format!(
        "job {id} ({}) {}: {why}",
        job.kind,
        state(job.state)
    )))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=100"
)]
fn percent_of(progress: f64) -> u64 {
    (progress * 100.0).clamp(0.0, 100.0) as u64
}

const fn state(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn describe(job: &Job) -> String {
    let stops = if job.cancel_requested && !job.state.is_final() {
        ", about to stop"
    } else {
        ""
    };
    fields(&[
        ("job", job.id.to_string()),
        ("kind", job.kind.clone()),
        ("subject", job.subject.clone()),
        ("state", format!("{}{stops}", state(job.state))),
        ("progress", percent(job.progress)),
        ("message", job.message.clone()),
        ("error", or_dash(job.error.as_ref())),
        ("created", job.created_at.clone()),
        ("updated", job.updated_at.clone()),
    ])
}
