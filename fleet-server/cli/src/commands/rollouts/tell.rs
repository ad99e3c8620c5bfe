//! Rollouts as people read them.

use flotilla_api_types::rollouts::{Deployment, PhaseSize, Rollout, RolloutFailures, RolloutPreview};

use crate::output::{bytes, fields, or_dash, pairs, table};

fn size(phase: &PhaseSize) -> String {
    match phase {
        PhaseSize::Count { devices } => devices.to_string(),
        PhaseSize::Percent { percent } => format!("{percent}%"),
    }
}

pub(super) fn describe(rollout: &Rollout) -> String {
    let phases: Vec<String> = rollout.spec.phases.iter().map(size).collect();
    let head = fields(&[
        ("rollout", rollout.id.to_string()),
        ("model", format!("{} {}", rollout.line, rollout.semver)),
        ("state", rollout.state.as_str().to_owned()),
        ("phase", format!("{} (sizes: {})", rollout.phase + 1, phases.join(", "))),
        ("decision", rollout.decision.clone()),
        ("deployments", pairs(&rollout.counts)),
        ("devices", rollout.targeted.to_string()),
        ("waiting", or_dash(rollout.waiting)),
        ("target", rollout.spec.target.clone()),
        ("slot", rollout.spec.slot.to_string()),
        ("soak", format!("{} s", rollout.spec.soak_s)),
        ("start spread", format!("{} s", rollout.spec.start_spread_s)),
        ("created", rollout.created_at.clone()),
        ("updated", rollout.updated_at.clone()),
    ]);
    let rows = rollout.phases.iter().zip(phases).map(|(phase, size)| {
        vec![
            (phase.phase + 1).to_string(),
            size,
            or_dash(phase.reach),
            pairs(&phase.counts),
        ]
    });
    format!(
        "{head}\n\n{}",
        table(&["phase", "size", "reaches", "deployments"], rows)
    )
}

pub(super) fn deployment_table(deployments: &[Deployment]) -> String {
    let rows = deployments.iter().map(|deployment| {
        vec![
            deployment.device.to_string(),
            (deployment.phase + 1).to_string(),
            deployment.state.as_str().to_owned(),
            format!(
                "{} / {}",
                bytes(deployment.bytes_received),
                bytes(deployment.bytes_total)
            ),
            deployment.updated_at.clone(),
            or_dash(deployment.reason.as_ref()),
        ]
    });
    table(&["device", "phase", "state", "received", "updated", "reason"], rows)
}

/// The end of a list that shows a part: how many there are.
pub(super) fn with_total(table: String, shown: usize, total: u64) -> String {
    if (shown as u64) < total {
        format!("{table}\n{shown} of {total}")
    } else {
        table
    }
}

fn names<T: ToString>(devices: &[T]) -> String {
    let names: Vec<String> = devices.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(", ")
    }
}

pub(super) fn describe_failures(failures: &RolloutFailures) -> String {
    let rows = failures.items.iter().map(|cause| {
        vec![
            cause.count.to_string(),
            cause.cause.clone(),
            cause.last_seen.clone(),
            names(&cause.devices),
        ]
    });
    let table = table(&["devices", "cause", "last seen", "among them"], rows);
    with_total(table, failures.items.len(), failures.causes)
}

pub(super) fn describe_preview(preview: &RolloutPreview) -> String {
    let head = fields(&[
        ("model", format!("{} {}", preview.line, preview.semver)),
        ("selected", format!("{} of {} devices", preview.selected, preview.fleet)),
        ("ready", preview.ready.to_string()),
        (
            "to transfer",
            format!(
                "{} ({} per device)",
                bytes(preview.total_bytes),
                bytes(preview.package_bytes)
            ),
        ),
        ("first", names(&preview.first)),
        (
            "seed",
            format!("{0} (create with --seed {0} to begin with these devices)", preview.seed),
        ),
    ]);
    let phases = preview.phases.iter().map(|phase| {
        vec![
            (phase.phase + 1).to_string(),
            size(&phase.size),
            phase.devices.to_string(),
            phase.reach.to_string(),
        ]
    });
    let phases = table(&["phase", "size", "devices", "reaches"], phases);
    let obstacles = preview.obstacles.iter().map(|group| {
        vec![
            group.count.to_string(),
            group.obstacle.describe().to_owned(),
            if group.misfit { "would fail" } else { "-" }.to_owned(),
            group.needs.clone(),
            names(&group.devices),
        ]
    });
    let obstacles = table(&["devices", "obstacle", "", "needed", "among them"], obstacles);
    format!("{head}\n\n{phases}\n\nobstacles\n{obstacles}")
}
