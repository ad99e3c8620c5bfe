//! `devices`: what is in the field, what it runs, what it says.

use clap::Subcommand;
use flotilla_api_types::Page;
use flotilla_api_types::devices::{Device, DeviceDetail, DeviceStatus, UpdateDevice};
use serde_json::Value;

use crate::commands::{Context, PageArgs, parse_pair, to_map, with_more};
use crate::error::CliError;
use crate::output::{bytes, fields, or_dash, pairs, table};

#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// All devices
    List {
        /// Only devices whose id or tags contain this
        #[arg(long, short)]
        query: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// One device in full
    Show { id: String },
    /// Replace a device's tags (none given: remove all)
    Tag {
        id: String,
        #[arg(value_parser = parse_pair, value_name = "NAME=VALUE")]
        tags: Vec<(String, String)>,
    },
    /// Refuse the device for ever
    Decommission {
        id: String,
        /// It cannot be undone: say that it is meant
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &Context, command: DevicesCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        DevicesCommand::List { query, page } => {
            let call = page.ask(client.get(&["devices"])).maybe("q", query);
            let answer: Value = call.send().await?;
            context.out.show(&answer, |page: Page<Device>| {
                let table = table(
                    &["device", "status", "model", "inferences", "drift", "last seen", "tags"],
                    page.items.into_iter().map(row),
                );
                with_more(table, page.next_cursor.as_deref())
            })
        }
        DevicesCommand::Show { id } => {
            let answer: Value = client.get(&["devices", &id]).send().await?;
            context.out.show(&answer, |detail: DeviceDetail| describe(&detail))
        }
        DevicesCommand::Tag { id, tags } => {
            let body = UpdateDevice { tags: to_map(tags) };
            let answer: Value = client.patch(&["devices", &id]).json(&body)?.send().await?;
            context.out.show(&answer, |device: Device| {
                format!("{}: {}", device.id, pairs(device.tags))
            })
        }
        DevicesCommand::Decommission { id, yes } => {
            if !yes {
                return Err(CliError::Usage(format!(
                    "{id} can never come back under its keys: repeat with --yes if that is meant"
                )));
            }
            let answer: Value = client.post(&["devices", &id, "decommission"]).send().await?;
            crate::commands::done(&context.out, &answer, &format!("{id} decommissioned"))
        }
    }
}

const fn status(device: &Device) -> &'static str {
    match device.status {
        DeviceStatus::Online => "online",
        DeviceStatus::Offline => "offline",
        DeviceStatus::Decommissioned => "decommissioned",
    }
}

fn models(device: &Device) -> String {
    let words: Vec<String> = device
        .models
        .iter()
        .map(|model| {
            let soaking = if model.committed { "" } else { " (soaking)" };
            format!("{} {}{soaking}", model.line, model.semver)
        })
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(", ")
    }
}

fn row(device: Device) -> Vec<String> {
    vec![
        device.id.to_string(),
        status(&device).to_owned(),
        models(&device),
        device.inferences.to_string(),
        if device.drifted { "DRIFTED" } else { "-" }.to_owned(),
        or_dash(device.last_seen),
        pairs(device.tags),
    ]
}

fn describe(detail: &DeviceDetail) -> String {
    let device = &detail.device;
    let head = fields(&[
        ("device", device.id.to_string()),
        ("status", status(device).to_owned()),
        ("model", models(device)),
        ("drifted", crate::output::yes_no(device.drifted)),
        ("hardware", format!("{} ({})", device.hardware_class, device.arch)),
        (
            "memory, free disk",
            format!("{}, {}", bytes(detail.ram_bytes), bytes(detail.disk_free_bytes)),
        ),
        ("agent", device.agent_version.clone()),
        ("signing key", device.thumbprint.to_string()),
        ("enrolled", device.enrolled_at.clone()),
        ("last seen", or_dash(device.last_seen.as_ref())),
        (
            "boots, reports",
            format!("{}, {}", detail.boot_count, detail.report_counter),
        ),
        ("audit entries", detail.audit_entries.to_string()),
        ("tags", pairs(&device.tags)),
        ("error", or_dash(detail.error.as_ref())),
        (
            "last attack",
            or_dash(
                detail
                    .last_attack
                    .as_ref()
                    .map(|a| format!("{} at {}: {}", a.attack, a.at, a.detail)),
            ),
        ),
    ]);
    let deployments = table(
        &["rollout", "state", "updated", "reason"],
        detail.deployments.iter().map(|d| {
            vec![
                d.rollout.clone(),
                d.state.as_str().to_owned(),
                d.updated_at.clone(),
                or_dash(d.reason.as_ref()),
            ]
        }),
    );
    let telemetry = table(
        &[
            "model",
            "manifest",
            "inferences",
            "failures",
            "p50 us",
            "p95 us",
            "bundles",
        ],
        detail.telemetry.iter().map(|t| {
            let figures = [t.inferences, t.failures, t.p50_us, t.p95_us, t.bundles];
            let mut row = vec![t.line.to_string(), t.manifest.short()];
            row.extend(figures.map(|figure| figure.to_string()));
            row
        }),
    );
    format!("{head}\n\ndeployments\n{deployments}\n\ntelemetry\n{telemetry}")
}
