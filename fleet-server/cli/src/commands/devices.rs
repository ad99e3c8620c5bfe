//! `devices`: what is in the field, what it runs, what it says.

use std::time::Duration;

use clap::{Args, Subcommand};
use flotilla_api_types::devices::{
    AcknowledgeAlerts, BulkAction, BulkDevices, Device, DeviceAuditGap, DeviceCounts, DeviceDetail, DevicePage,
    DeviceStatus, TagChange, UpdateDevice,
};
use flotilla_api_types::overview::{DeviceHours, TimelineEvent};
use flotilla_api_types::{Job, Page};
use serde_json::Value;

use crate::commands::{Context, PageArgs, jobs, parse_pair, to_map, with_more};
use crate::error::CliError;
use crate::output::{bytes, fields, or_dash, pairs, table};

/// Changes to a whole fleet take a while.
const BULK_PATIENCE: Duration = Duration::from_hours(1);

#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// All devices, or those that match a filter
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// id, status, model, drift, inferences, class, agent, `enrolled_at` or `last_seen`; `-` in front: largest first
        #[arg(long, allow_hyphen_values = true)]
        sort: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// How many devices match a filter, by status
    Count {
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// One device in full
    Show { id: String },
    /// Everything about a device, newest first: both audit logs, deployments, judgements, comings and goings
    Timeline {
        id: String,
        #[command(flatten)]
        page: PageArgs,
    },
    /// A device's inferences, failures and latency by the hour
    Telemetry {
        id: String,
        /// RFC 3339; a day before `--to` if absent
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// RFC 3339; now if absent
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
    },
    /// Say that the attack a device reported has been looked at: its alert is over until it reports another one
    Acknowledge { id: String },
    /// Replace a device's tags (none given: remove all); with --keep, --remove or --filter, change some and leave the others
    Tag {
        /// The device, then its tags; with --filter the tags alone
        #[arg(value_name = "DEVICE | NAME=VALUE")]
        words: Vec<String>,
        #[command(flatten)]
        bulk: BulkArgs,
        /// Leave the device's other tags as they are
        #[arg(long)]
        keep: bool,
        /// Tags to take away; the others stay
        #[arg(long, value_name = "NAME")]
        remove: Vec<String>,
    },
    /// Refuse the device, or all that match, for ever
    Decommission {
        #[arg(required_unless_present = "filter", conflicts_with = "filter")]
        id: Option<String>,
        #[command(flatten)]
        bulk: BulkArgs,
    },
}

/// Which devices.
#[derive(Debug, Clone, Args)]
pub(crate) struct FilterArgs {
    /// `status:alert site:oslo -model:2.0.0 drift:>0.2 text`: statuses online, offline, updating, alert, decommissioned; keys id,
    /// model, class, arch, agent, drift; any other is a tag's; `-` negates, `*` at the end: begins with
    #[arg(long, short, visible_alias = "query", short_alias = 'q', allow_hyphen_values = true)]
    filter: Option<String>,
}

/// Many devices at once.
#[derive(Debug, Clone, Args)]
pub(crate) struct BulkArgs {
    /// All devices that match, as in `devices list`
    #[arg(long, allow_hyphen_values = true)]
    filter: Option<String>,
    /// Say that it is meant: many devices change, or it cannot be undone
    #[arg(long)]
    yes: bool,
    /// Only if so many match
    #[arg(long, value_name = "COUNT", requires = "filter")]
    expect: Option<u64>,
}

pub(crate) async fn run(context: &Context, command: DevicesCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        DevicesCommand::List { filter, sort, page } => {
            let call = page
                .ask(client.get(&["devices"]))
                .maybe("filter", filter.filter)
                .maybe("sort", sort);
            let answer: Value = call.send().await?;
            context.out.show(&answer, |page: DevicePage| {
                let shown = page.items.len() as u64;
                let table = table(
                    &["device", "status", "model", "inferences", "drift", "last seen", "tags"],
                    page.items.into_iter().map(row),
                );
                let more = with_more(table, page.next_cursor.as_deref());
                if shown < page.total {
                    format!("{more}\n{shown} of {}", page.total)
                } else {
                    more
                }
            })
        }
        DevicesCommand::Count { filter } => {
            let call = client.get(&["device-counts"]).maybe("filter", filter.filter);
            let answer: Value = call.send().await?;
            context
                .out
                .show(&answer, |counts: DeviceCounts| describe_counts(&counts))
        }
        DevicesCommand::Timeline { id, page } => {
            let answer: Value = page.ask(client.get(&["devices", &id, "timeline"])).send().await?;
            context.out.show(&answer, |page: Page<TimelineEvent>| {
                let rows = page
                    .items
                    .into_iter()
                    .map(|event| vec![event.at, event.event, event.actor, pairs(event.detail)]);
                with_more(
                    table(&["at", "event", "by", "detail"], rows),
                    page.next_cursor.as_deref(),
                )
            })
        }
        DevicesCommand::Telemetry { id, from, to } => {
            let call = client.get(&["devices", &id, "telemetry"]);
            let answer: Value = call.maybe("from", from).maybe("to", to).send().await?;
            context.out.show(&answer, |hours: DeviceHours| hour_table(&hours))
        }
        DevicesCommand::Acknowledge { id } => acknowledge(context, &id).await,
        DevicesCommand::Show { id } => {
            let answer: Value = client.get(&["devices", &id]).send().await?;
            context.out.show(&answer, |detail: DeviceDetail| describe(&detail))
        }
        DevicesCommand::Tag {
            words,
            bulk,
            keep,
            remove,
        } => tag(context, words, bulk, keep, remove).await,
        DevicesCommand::Decommission { id, bulk } => decommission(context, id, bulk).await,
    }
}

async fn tag(
    context: &Context,
    words: Vec<String>,
    bulk: BulkArgs,
    keep: bool,
    remove: Vec<String>,
) -> Result<(), CliError> {
    let mut words = words.into_iter();
    let device = if bulk.filter.is_none() { words.next() } else { None };
    let tags = words
        .map(|word| parse_pair(&word).map_err(CliError::Usage))
        .collect::<Result<Vec<_>, _>>()?;
    if bulk.filter.is_some() {
        let change = TagChange {
            set: to_map(tags),
            remove,
        };
        return change_all(context, bulk, BulkAction::Tag(change)).await;
    }
    let id = device.ok_or_else(|| CliError::Usage("name a device, or give --filter".to_owned()))?;
    let set = to_map(tags);
    let body = if keep || !remove.is_empty() {
        UpdateDevice {
            change: Some(TagChange { set, remove }),
            ..UpdateDevice::default()
        }
    } else {
        UpdateDevice {
            tags: Some(set),
            ..UpdateDevice::default()
        }
    };
    let answer: Value = context.client.patch(&["devices", &id]).json(&body)?.send().await?;
    context.out.show(&answer, |device: Device| {
        format!("{}: {}", device.id, pairs(device.tags))
    })
}

async fn decommission(context: &Context, id: Option<String>, bulk: BulkArgs) -> Result<(), CliError> {
    let Some(id) = id else {
        return change_all(context, bulk, BulkAction::Decommission).await;
    };
    if !bulk.yes {
        return Err(CliError::Usage(format!(
            "{id} can never come back under its keys: repeat with --yes if that is meant"
        )));
    }
    let answer: Value = context.client.post(&["devices", &id, "decommission"]).send().await?;
    crate::commands::done(&context.out, &answer, &format!("{id} decommissioned"))
}

/// Acknowledges the attack that the device shows now, and no other.
async fn acknowledge(context: &Context, id: &str) -> Result<(), CliError> {
    let client = &context.client;
    let seen: DeviceDetail = client.get(&["devices", id]).send().await?;
    let attack = seen.last_attack.filter(|attack| !attack.acknowledged);
    let body = AcknowledgeAlerts {
        attack_at: attack.as_ref().map(|attack| attack.at.clone()),
    };
    let call = client.post(&["devices", id, "alerts", "acknowledge"]);
    let answer: Value = call.json(&body)?.send().await?;
    let told = match attack {
        Some(attack) => format!("{id}: {} of {} acknowledged", attack.attack, attack.at),
        None => format!("{id}: there is no alert of an attack"),
    };
    crate::commands::done(&context.out, &answer, &told)
}

/// One action on all that match: refused unless it is said to be meant, or if their number is another.
async fn change_all(context: &Context, bulk: BulkArgs, action: BulkAction) -> Result<(), CliError> {
    let filter = bulk.filter.unwrap_or_default();
    let counts: DeviceCounts = context
        .client
        .get(&["device-counts"])
        .query("filter", &filter)
        .send()
        .await?;
    if !bulk.yes {
        return Err(CliError::Usage(format!(
            "{} devices match: repeat with --yes --expect {0} if they are meant",
            counts.total
        )));
    }
    let order = BulkDevices {
        filter: Some(filter),
        ids: None,
        action,
        expected_total: bulk.expect.unwrap_or(counts.total),
    };
    let job: Job = context.client.post(&["device-actions"]).json(&order)?.send().await?;
    let job = jobs::wait(context, &job.id.to_string(), BULK_PATIENCE).await?;
    if context.out.is_json() {
        return context.out.print_json(&job);
    }
    context.out.line(&job.message)
}

pub(crate) fn describe_counts(counts: &DeviceCounts) -> String {
    fields(&[
        ("total", counts.total.to_string()),
        ("online", counts.online.to_string()),
        ("offline", counts.offline.to_string()),
        ("decommissioned", counts.decommissioned.to_string()),
        ("updating", counts.updating.to_string()),
        ("alert", counts.alert.to_string()),
    ])
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

fn hour_table(hours: &DeviceHours) -> String {
    let rows = hours.hours.iter().map(|hour| {
        let figures = [hour.inferences, hour.failures, hour.p50_us, hour.p95_us];
        let mut row = vec![hour.hour.clone(), hour.line.clone(), named(&hour.semver)];
        row.extend(figures.map(|figure| figure.to_string()));
        row
    });
    let header = ["hour", "model", "version", "inferences", "failures", "p50 us", "p95 us"];
    table(&header, rows)
}

/// A version, where the server knows the package.
fn named(semver: &str) -> String {
    or_dash(Some(semver).filter(|semver| !semver.is_empty()))
}

/// The newest declared loss, and how many there were.
fn audit_gaps(gaps: &[DeviceAuditGap]) -> String {
    or_dash(gaps.first().map(|gap| {
        format!(
            "{}; the last one lost {} entries after entry {} of epoch {} ({})",
            gaps.len(),
            gap.lost,
            gap.after_count,
            gap.after_epoch,
            gap.at
        )
    }))
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
        ("audit gaps", audit_gaps(&detail.audit_gaps)),
        ("tags", pairs(&device.tags)),
        ("error", or_dash(detail.error.as_ref())),
        (
            "last attack",
            or_dash(detail.last_attack.as_ref().map(|a| {
                let looked_at = if a.acknowledged { " (acknowledged)" } else { "" };
                format!("{} at {}{looked_at}: {}", a.attack, a.at, a.detail)
            })),
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
            "version",
            "manifest",
            "inferences",
            "failures",
            "p50 us",
            "p95 us",
            "bundles",
        ],
        detail.telemetry.iter().map(|t| {
            let figures = [t.inferences, t.failures, t.p50_us, t.p95_us, t.bundles];
            let mut row = vec![t.line.to_string(), named(&t.semver), t.manifest.short()];
            row.extend(figures.map(|figure| figure.to_string()));
            row
        }),
    );
    format!("{head}\n\ndeployments\n{deployments}\n\ntelemetry\n{telemetry}")
}
