//! `drift`: what devices see, beside what their models were trained on.

use clap::{Args, Subcommand, ValueEnum};
use flotilla_api_types::drift::{ClassShare, DeviceDrift, DriftFeatures, DriftPoint};
use flotilla_api_types::{CountedPage, Page};
use serde_json::Value;

use crate::client::{Call, Client};
use crate::commands::{Context, PageArgs, with_total};
use crate::error::CliError;
use crate::output::{or_dash, percent, table, yes_no};

#[derive(Debug, Subcommand)]
pub(crate) enum DriftCommand {
    /// The last judgements of devices and packages, or those that match
    List(ListArgs),
    /// All features of a package on a device, beside what it was trained on, furthest first
    Show {
        #[command(flatten)]
        place: Place,
    },
    /// The statistic hour by hour
    Series {
        #[command(flatten)]
        place: Place,
        /// Show this feature's statistic too
        #[arg(long)]
        feature: Option<String>,
    },
    /// How often each class is predicted, beside the training data's mix
    Classes {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// `drifted:yes line:motions -version:2.0.0 severity:>0.5 text`: keys line, version, model, device, manifest, slice, drifted
    /// (yes, no), severity (share of drifted features), alarms; `-` negates, `*` at the end: begins with
    #[arg(long, short, allow_hyphen_values = true)]
    filter: Option<String>,
    /// device, severity, line or at; `-` in front: largest first
    #[arg(long, allow_hyphen_values = true)]
    sort: Option<String>,
    /// Only this model line
    #[arg(long)]
    line: Option<String>,
    /// Only this device
    #[arg(long)]
    device: Option<String>,
    /// Only those that drifted, or (`false`) only those that did not
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    drifted: Option<bool>,
    /// `severity`: the same as `--sort=-severity`
    #[arg(long, conflicts_with = "sort")]
    order: Option<OrderArg>,
    #[command(flatten)]
    page: PageArgs,
}

impl ListArgs {
    fn ask<'a>(&self, client: &'a Client) -> Call<'a> {
        self.page
            .ask(client.get(&["drift"]))
            .maybe("filter", self.filter.as_ref())
            .maybe("sort", self.sort.as_ref())
            .maybe("line", self.line.as_ref())
            .maybe("device", self.device.as_ref())
            .maybe("drifted", self.drifted)
            .maybe("order", self.order.map(OrderArg::as_str))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderArg {
    Device,
    Severity,
}

impl OrderArg {
    /// As the API writes it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Severity => "severity",
        }
    }
}

/// Whose data, of which package, of what time.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// A device, or '*' for every device that runs the package
    device: String,
    /// Digest of the manifest, or a model line: its newest version
    manifest: String,
    /// RFC 3339; a day before `--to` if absent
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// RFC 3339; now if absent
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

impl Place {
    fn ask<'a>(&self, client: &'a Client, what: &str) -> Call<'a> {
        client
            .get(&["drift", &self.device, &self.manifest, what])
            .maybe("from", self.from.as_ref())
            .maybe("to", self.to.as_ref())
    }
}

pub(crate) async fn run(context: &Context, command: DriftCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        DriftCommand::List(args) => {
            let answer: Value = args.ask(client).send().await?;
            context.out.show(&answer, |page: CountedPage<DeviceDrift>| {
                let (shown, next) = (page.items.len(), page.next_cursor.as_deref());
                with_total(drift_table(&page.items), shown, next, page.total)
            })
        }
        DriftCommand::Show { place } => {
            let answer: Value = place.ask(client, "features").send().await?;
            context.out.show(&answer, |answer: DriftFeatures| {
                let rows = answer.items.into_iter().map(|feature| {
                    vec![
                        feature.name,
                        yes_no(feature.severity.drifted),
                        format!("{:.3}", feature.severity.psi),
                        format!("{:.3}", feature.severity.corrected),
                        histogram(&feature.reference),
                        histogram(&feature.seen),
                        feature.slice,
                    ]
                });
                let header = [
                    "feature",
                    "drifted",
                    "psi",
                    "corrected",
                    "reference",
                    "seen",
                    "beside slice",
                ];
                table(&header, rows)
            })
        }
        DriftCommand::Series { place, feature } => {
            let call = place.ask(client, "series").maybe("feature", feature);
            let answer: Value = call.send().await?;
            context
                .out
                .show(&answer, |page: Page<DriftPoint>| series_table(&page.items))
        }
        DriftCommand::Classes { place } => {
            let answer: Value = place.ask(client, "classes").send().await?;
            context.out.show(&answer, |page: Page<ClassShare>| {
                let rows = page.items.into_iter().map(|class| {
                    vec![
                        class.label,
                        percent(class.reference),
                        percent(class.seen),
                        class.seen_count.to_string(),
                    ]
                });
                table(&["class", "reference", "seen", "predictions"], rows)
            })
        }
    }
}

fn series_table(points: &[DriftPoint]) -> String {
    let rows = points.iter().map(|point| {
        vec![
            point.at.clone(),
            point.count.to_string(),
            or_dash(point.drifted.map(|drifted| if drifted { "DRIFTED" } else { "no" })),
            or_dash(point.share.map(percent)),
            point.nearest_slice.clone(),
            or_dash(
                point
                    .feature
                    .as_ref()
                    .map(|feature| format!("{:.3}", feature.corrected)),
            ),
        ]
    });
    let header = [
        "hour",
        "observations",
        "drift",
        "features",
        "nearest slice",
        "feature's statistic",
    ];
    table(&header, rows)
}

pub(crate) fn drift_table(rows: &[DeviceDrift]) -> String {
    let rows = rows.iter().map(|row| {
        let worst: Vec<&str> = row.worst.iter().take(3).map(|feature| feature.name.as_str()).collect();
        vec![
            row.device.to_string(),
            format!("{} {}", row.line, row.semver),
            if row.drifted { "DRIFTED" } else { "-" }.to_owned(),
            percent(row.share),
            format!("{} of {}", row.alarms, row.judgements),
            row.nearest_slice.clone(),
            row.at.clone(),
            worst.join(" "),
            row.manifest.to_string(),
        ]
    });
    let header = [
        "device",
        "model",
        "drift",
        "features",
        "alarms",
        "nearest slice",
        "at",
        "worst",
        "manifest",
    ];
    table(&header, rows)
}

/// Shares as a row of blocks, the fullest bin at full height.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "eighths of a share of the fullest are 0 to 8"
)]
fn histogram(shares: &[f64]) -> String {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let fullest = shares.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    shares
        .iter()
        .map(|share| {
            let eighths = (share / fullest * 8.0).ceil().clamp(0.0, 8.0) as usize;
            BLOCKS.get(eighths).copied().unwrap_or('█')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_show_what_is_there() {
        assert_eq!(histogram(&[0.0, 0.1, 0.4, 0.8]), " ▁▄█");
        assert_eq!(histogram(&[0.0, 0.0]), "  ");
        assert_eq!(histogram(&[0.01, 0.99]), "▁█", "the smallest share is still seen");
    }
}
