//! `rollouts`: a signed model version to devices, phase by phase.

mod tell;

use std::time::Duration;

use clap::{Args, Subcommand};
use flotilla_api_types::rollouts::{
    CreateRollout, DeploymentPage, Gates, Harvest, PhaseSize, Rollout, RolloutFailures, RolloutPage, RolloutPreview,
    RolloutState,
};
use flotilla_protocol::ids::{ModelVersionId, SlotName};
use flotilla_protocol::report::DeploymentState;
use serde_json::Value;
use tokio::time::Instant;

use crate::client::{Call, Client};
use crate::commands::{Context, PageArgs, with_more};
use crate::error::CliError;
use crate::output::{Output, pairs, table};

use tell::{deployment_table, describe, describe_failures, describe_preview, with_total};

/// One long poll.
const POLL: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutsCommand {
    /// What a rollout would do if it were started now; changes nothing
    Preview(PlanArgs),
    /// Draft a rollout
    Create(CreateArgs),
    /// Start a draft
    Start {
        id: String,
    },
    Pause {
        id: String,
    },
    Resume {
        id: String,
    },
    /// End it; what is installed stays
    Abort {
        id: String,
    },
    Show {
        id: String,
    },
    List {
        /// Only in this state: draft, running, paused, halted, completed or aborted; repeat for more
        #[arg(long = "state", value_parser = parse_state, value_delimiter = ',')]
        states: Vec<RolloutState>,
        /// Only those of this model version
        #[arg(long, value_name = "ID")]
        model_version: Option<ModelVersionId>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Its devices, one by one
    Deployments {
        id: String,
        /// Only in this state: pending, downloading, installing, verifying, soaking, success, failure, rolled-back,
        /// already-installed, no-longer-applicable or decommissioned; repeat for more
        #[arg(long = "state", value_parser = parse_deployment_state, value_delimiter = ',')]
        states: Vec<DeploymentState>,
        /// Only what failed for this cause, as `rollouts failures` names it
        #[arg(long)]
        cause: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Its failures by cause, the commonest first
    Failures {
        id: String,
        /// At most so many causes
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Follow it to its end; exit code 4 if it halts, is aborted, or the time is up
    Watch {
        id: String,
        #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
        timeout_s: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Start it at once
    #[arg(long)]
    start: bool,
}

/// What a rollout is to do.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[arg(long, value_name = "ID")]
    model_version: ModelVersionId,
    #[arg(long, default_value = "main")]
    slot: SlotName,
    /// CEL over `device` (`id`, `tags`, `arch`, `hardware_class`, `agent_version`)
    #[arg(long, default_value = "true")]
    target: String,
    /// A phase: how many devices it reaches in all, `3` or `25%`; repeat for more [default: one device, then all]
    #[arg(long = "phase", value_parser = parse_phase, value_name = "SIZE")]
    phases: Vec<PhaseSize>,
    /// Share of a phase's devices that must succeed
    #[arg(long, default_value_t = Gates::default().min_success)]
    min_success: f64,
    /// A device that says nothing for so long has failed
    #[arg(long, default_value_t = Gates::default().device_timeout_s, value_name = "SECONDS")]
    device_timeout_s: u64,
    /// How long a device serves the new model before it commits
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    soak_s: f64,
    /// Errors per thousand inferences above which a soaking device rolls back
    #[arg(long, default_value_t = 10)]
    max_error_permille: u32,
    /// Per device; 0: unlimited
    #[arg(long, default_value_t = 0)]
    max_bytes_per_s: u64,
    /// Devices of a phase start at different moments within so long, at most a day; 0: at once
    #[arg(long = "start-spread", default_value_t = 0, value_name = "SECONDS")]
    start_spread_s: u64,
    /// Devices keep inputs for labeling while their data drifts
    #[arg(long)]
    harvest_on_drift: bool,
    /// Devices keep inputs answered with less confidence than this
    #[arg(long, default_value_t = 0.0)]
    harvest_below: f32,
    /// At most so many per device
    #[arg(long, default_value_t = 100)]
    harvest_max: u32,
    /// The order in which devices are chosen: the seed that a preview named gives its order [default: one of its own]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u32>,
}

pub(crate) async fn run(context: &Context, command: RolloutsCommand) -> Result<(), CliError> {
    let client = &context.client;
    let tell = |rollout: Rollout| describe(&rollout);
    match command {
        RolloutsCommand::Preview(plan) => {
            let body = plan.into_body();
            let answer: Value = client.ask(&["rollouts", "preview"]).json(&body)?.send().await?;
            context
                .out
                .show(&answer, |preview: RolloutPreview| describe_preview(&preview))
        }
        RolloutsCommand::Create(CreateArgs { plan, start }) => {
            let mut answer: Value = client.post(&["rollouts"]).json(&plan.into_body())?.send().await?;
            if start {
                let rollout: Rollout = serde_json::from_value(answer).map_err(|e| CliError::Failed(e.to_string()))?;
                answer = client
                    .post(&["rollouts", &rollout.id.to_string(), "start"])
                    .send()
                    .await?;
            }
            context.out.show(&answer, tell)
        }
        RolloutsCommand::Start { id } => act(context, &id, "start").await,
        RolloutsCommand::Pause { id } => act(context, &id, "pause").await,
        RolloutsCommand::Resume { id } => act(context, &id, "resume").await,
        RolloutsCommand::Abort { id } => act(context, &id, "abort").await,
        RolloutsCommand::Show { id } => {
            let answer: Value = client.get(&["rollouts", &id]).send().await?;
            context.out.show(&answer, tell)
        }
        RolloutsCommand::List {
            states,
            model_version,
            page,
        } => {
            let call = page
                .ask(client.get(&["rollouts"]))
                .maybe("model_version", model_version);
            let answer: Value = with_states(call, &states, RolloutState::as_str).send().await?;
            context.out.show(&answer, list_table)
        }
        RolloutsCommand::Deployments {
            id,
            states,
            cause,
            page,
        } => {
            let call = page.ask(client.get(&["rollouts", &id, "deployments"]));
            let call = with_states(call, &states, DeploymentState::as_str).maybe("cause", cause);
            let answer: Value = call.send().await?;
            context.out.show(&answer, |page: DeploymentPage| {
                let table = with_more(deployment_table(&page.items), page.next_cursor.as_deref());
                with_total(table, page.items.len(), page.total)
            })
        }
        RolloutsCommand::Failures { id, limit } => {
            let call = client.get(&["rollouts", &id, "failures"]).query("limit", limit);
            let answer: Value = call.send().await?;
            context
                .out
                .show(&answer, |failures: RolloutFailures| describe_failures(&failures))
        }
        RolloutsCommand::Watch { id, timeout_s } => {
            let timeout = Duration::from_secs(timeout_s);
            let rollout = watch(&context.out, client, &id, timeout, |line| {
                context.out.note(line);
                Ok(())
            })
            .await?;
            if context.out.is_json() {
                return context.out.print_json(&rollout);
            }
            context.out.line(&describe(&rollout))
        }
    }
}

fn list_table(page: RolloutPage) -> String {
    let shown = page.items.len();
    let rows = page.items.into_iter().map(|rollout| {
        vec![
            rollout.id.to_string(),
            format!("{} {}", rollout.line, rollout.semver),
            rollout.state.as_str().to_owned(),
            (rollout.phase + 1).to_string(),
            pairs(rollout.counts),
            rollout.targeted.to_string(),
            rollout.updated_at,
        ]
    });
    let header = [
        "rollout",
        "model",
        "state",
        "phase",
        "deployments",
        "devices",
        "updated",
    ];
    let table = with_more(table(&header, rows), page.next_cursor.as_deref());
    with_total(table, shown, page.total)
}

async fn act(context: &Context, id: &str, verb: &str) -> Result<(), CliError> {
    let answer: Value = context.client.post(&["rollouts", id, verb]).send().await?;
    context.out.show(&answer, |rollout: Rollout| describe(&rollout))
}

/// Follows a rollout until it is complete; every change is told as a line.
pub(crate) async fn watch(
    out: &Output,
    client: &Client,
    id: &str,
    timeout: Duration,
    tell: impl Fn(&str) -> Result<(), CliError>,
) -> Result<Rollout, CliError> {
    let deadline = Instant::now() + timeout;
    let mut rollout: Rollout = client.get(&["rollouts", id]).send().await?;
    let bar = out.bar(rollout.targeted, "rollout");
    let mut told = String::new();
    loop {
        let line = progress(&rollout);
        bar.set_length(rollout.targeted);
        bar.set_position(finished(&rollout));
        if line != told {
            bar.suspend(|| tell(&line))?;
            told = line;
        }
        let ended = match rollout.state {
            RolloutState::Completed => Some(Ok(())),
            RolloutState::Halted | RolloutState::Aborted => Some(Err(format!(
                "rollout {id} {}: {}",
                rollout.state.as_str(),
                rollout.decision
            ))),
            _ if Instant::now() >= deadline => Some(Err(format!(
                "rollout {id} is not complete after {} s: {}",
                timeout.as_secs(),
                rollout.decision
            ))),
            _ => None,
        };
        if let Some(ended) = ended {
            bar.finish_and_clear();
            return ended.map(|()| rollout).map_err(CliError::Waited);
        }
        let patience = POLL.min(deadline.saturating_duration_since(Instant::now()));
        let call = client.get(&["rollouts", id]).query("wait_ms", patience.as_millis());
        rollout = call.query("since", &rollout.updated_at).send().await?;
    }
}

/// Deployments that have ended, well or badly.
fn finished(rollout: &Rollout) -> u64 {
    let is_final = |state: &str| DeploymentState::parse(state).is_some_and(DeploymentState::is_final);
    rollout
        .counts
        .iter()
        .filter(|(state, _)| is_final(state))
        .map(|(_, count)| count)
        .sum()
}

fn progress(rollout: &Rollout) -> String {
    let phase = rollout.phase + 1;
    let counts = pairs(&rollout.counts);
    format!(
        "phase {phase}, {}: {counts}; {}",
        rollout.state.as_str(),
        rollout.decision
    )
}

impl PlanArgs {
    fn into_body(self) -> CreateRollout {
        let harvest = (self.harvest_on_drift || self.harvest_below > 0.0).then_some(Harvest {
            on_drift: self.harvest_on_drift,
            below_confidence: self.harvest_below,
            max_samples: self.harvest_max,
        });
        CreateRollout {
            model_version: self.model_version,
            slot: self.slot,
            target: self.target,
            phases: self.phases,
            gates: Gates {
                min_success: self.min_success,
                device_timeout_s: self.device_timeout_s,
            },
            soak_s: self.soak_s,
            max_error_permille: self.max_error_permille,
            max_bytes_per_s: self.max_bytes_per_s,
            start_spread_s: self.start_spread_s,
            harvest,
            seed: self.seed,
        }
    }
}

fn parse_state(text: &str) -> Result<RolloutState, String> {
    RolloutState::parse(text).ok_or_else(|| {
        let known = RolloutState::ALL.map(RolloutState::as_str).join(", ");
        format!("'{text}' is no state: {known}")
    })
}

fn parse_deployment_state(text: &str) -> Result<DeploymentState, String> {
    DeploymentState::parse(text).ok_or_else(|| {
        let known = DeploymentState::ALL.map(DeploymentState::as_str).join(", ");
        format!("'{text}' is no state: {known}")
    })
}

fn with_states<'a, T: Copy>(call: Call<'a>, states: &[T], name: impl Fn(T) -> &'static str) -> Call<'a> {
    let names: Vec<&str> = states.iter().map(|state| name(*state)).collect();
    call.maybe("state", (!names.is_empty()).then(|| names.join(",")))
}

/// `3` devices, or `25%` of them.
fn parse_phase(text: &str) -> Result<PhaseSize, String> {
    let wrong = || format!("'{text}' is neither a number of devices (3) nor a share of them (25%)");
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.trim().parse().map_err(|_not_a_number| wrong())?;
        if percent > 0.0 && percent <= 100.0 {
            return Ok(PhaseSize::Percent { percent });
        }
        return Err(wrong());
    }
    match text.parse() {
        Ok(devices) if devices > 0 => Ok(PhaseSize::Count { devices }),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_counts_or_shares() {
        assert_eq!(parse_phase("3"), Ok(PhaseSize::Count { devices: 3 }));
        assert_eq!(parse_phase("12.5%"), Ok(PhaseSize::Percent { percent: 12.5 }));
        for bad in ["", "0", "-1", "0%", "101%", "NaN%", "all"] {
            assert!(parse_phase(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn states_are_the_servers() {
        assert_eq!(parse_state("halted"), Ok(RolloutState::Halted));
        assert_eq!(parse_deployment_state("rolled-back"), Ok(DeploymentState::RolledBack));
        assert!(parse_state("rolled-back").unwrap_err().contains("halted"));
        assert!(parse_deployment_state("Failure").unwrap_err().contains("failure"));
    }
}
