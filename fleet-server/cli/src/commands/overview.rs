//! `overview`: the fleet at a glance.

use flotilla_api_types::overview::{Attention, AttentionKind, AttentionTotal, FirstSteps, Overview};
use serde_json::Value;

use crate::commands::Context;
use crate::commands::devices::describe_counts;
use crate::error::CliError;
use crate::output::{bytes, fields, pairs, table};

pub(crate) async fn run(context: &Context) -> Result<(), CliError> {
    let answer: Value = context.client.get(&["overview"]).send().await?;
    context.out.show(&answer, |overview: Overview| describe(&overview))
}

fn describe(overview: &Overview) -> String {
    let versions = table(
        &["model", "version", "devices"],
        overview
            .versions
            .iter()
            .map(|spread| vec![spread.line.clone(), spread.semver.clone(), spread.devices.to_string()]),
    );
    let attention = table(
        &["at", "kind", "about", "what", "detail"],
        overview.attention.iter().map(attention_row),
    );
    let rollouts = table(
        &["rollout", "model", "state", "phase", "devices"],
        overview.rollouts.iter().map(|rollout| {
            vec![
                rollout.id.to_string(),
                format!("{} {}", rollout.line, rollout.semver),
                rollout.state.as_str().to_owned(),
                (rollout.phase + 1).to_string(),
                pairs(&rollout.counts),
            ]
        }),
    );
    let day = fields(&[
        ("inferences", overview.last_24h.inferences.to_string()),
        ("failures", overview.last_24h.failures.to_string()),
        ("packages received", bytes(overview.last_24h.bytes)),
    ]);
    let mut parts = vec![
        format!("devices\n{}", describe_counts(&overview.devices)),
        format!("versions\n{versions}"),
        format!("needs attention{}\n{attention}", totals(&overview.attention_totals)),
        format!("live rollouts: {}\n{rollouts}", overview.rollouts_total),
        format!("last 24 hours\n{day}"),
    ];
    let missing = missing(overview.first_steps);
    if !missing.is_empty() {
        parts.push(format!("not there yet: {}", missing.join(", ")));
    }
    parts.join("\n\n")
}

const fn kind_text(kind: AttentionKind) -> &'static str {
    match kind {
        AttentionKind::Drift => "drift",
        AttentionKind::Attack => "attack",
        AttentionKind::FailedDeployment => "failed deployment",
        AttentionKind::UnsignedVersion => "unsigned version",
        AttentionKind::ExpiringToken => "expiring token",
        AttentionKind::ExpiringDocument => "expiring document",
        AttentionKind::HaltedRollout => "halted rollout",
        AttentionKind::DeviceError => "device error",
    }
}

fn attention_row(about: &Attention) -> Vec<String> {
    vec![
        about.at.clone(),
        kind_text(about.kind).to_owned(),
        about.id.clone(),
        about.title.clone(),
        about.detail.clone(),
    ]
}

/// How much there is of each kind, of which the table shows the worst.
fn totals(totals: &[AttentionTotal]) -> String {
    let words: Vec<String> = totals
        .iter()
        .map(|of| format!("{} {}", of.total, kind_text(of.kind)))
        .collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(": {}", words.join(", "))
    }
}

/// What a newcomer still has to make.
fn missing(steps: FirstSteps) -> Vec<&'static str> {
    [
        (steps.has_devices, "devices"),
        (steps.has_datasets, "datasets"),
        (steps.has_labels, "labels"),
        (steps.has_runs, "runs"),
        (steps.has_models, "models"),
        (steps.has_rollouts, "rollouts"),
    ]
    .into_iter()
    .filter(|(there, _)| !there)
    .map(|(_, what)| what)
    .collect()
}

#[cfg(test)]
mod tests {
    use flotilla_api_types::devices::DeviceCounts;
    use flotilla_api_types::overview::{Spend, VersionSpread};

    use super::*;
    use crate::output::squeezed;

    #[test]
    fn everything_in_it_is_told() {
        let overview = Overview {
            devices: DeviceCounts {
                total: 3,
                online: 2,
                offline: 1,
                alert: 1,
                ..DeviceCounts::default()
            },
            versions: vec![VersionSpread {
                line: "motions".into(),
                semver: "1.0.0".into(),
                devices: 2,
            }],
            attention: vec![Attention {
                kind: AttentionKind::Attack,
                id: "press-07".into(),
                title: "refused an attack: rollback".into(),
                detail: "counter 3 after 4".into(),
                at: "2026-11-23T02:00:00.000Z".into(),
            }],
            versions_total: 1,
            attention_totals: vec![AttentionTotal {
                kind: AttentionKind::Attack,
                total: 4,
            }],
            rollouts: vec![],
            rollouts_total: 0,
            last_24h: Spend {
                bytes: 1 << 20,
                inferences: 10,
                failures: 1,
            },
            first_steps: FirstSteps {
                has_devices: true,
                has_models: true,
                ..FirstSteps::default()
            },
        };
        let told = squeezed(&describe(&overview));
        for expected in [
            "devices",
            "total 3",
            "alert 1",
            "needs attention: 4 attack",
            "motions 1.0.0 2",
            "2026-11-23T02:00:00.000Z attack press-07 refused an attack: rollback counter 3 after 4",
            "live rollouts: 0",
            "none",
            "inferences 10",
            "packages received 1.00 MiB",
            "not there yet: datasets, labels, runs, rollouts",
        ] {
            assert!(told.iter().any(|line| line == expected), "{expected}: {told:#?}");
        }
    }
}
