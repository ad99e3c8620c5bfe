//! `drift`: what devices see, beside what their models were trained on.

use clap::Subcommand;
use flotilla_api_types::Page;
use flotilla_api_types::drift::{DeviceDrift, FeatureHistogram};
use serde_json::Value;

use crate::commands::{Context, PageArgs, with_more};
use crate::error::CliError;
use crate::output::{percent, table, yes_no};

#[derive(Debug, Subcommand)]
pub(crate) enum DriftCommand {
    /// The last judgement of every device and package
    List {
        /// Only this model line
        #[arg(long)]
        line: Option<String>,
        /// Only this device
        #[arg(long)]
        device: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// All features of one device and package, furthest first
    Show {
        device: String,
        /// Digest of the manifest
        manifest: String,
    },
}

pub(crate) async fn run(context: &Context, command: DriftCommand) -> Result<(), CliError> {
    let client = &context.client;
    match command {
        DriftCommand::List { line, device, page } => {
            let call = page
                .ask(client.get(&["drift"]))
                .maybe("line", line)
                .maybe("device", device);
            let answer: Value = call.send().await?;
            context.out.show(&answer, |page: Page<DeviceDrift>| {
                with_more(drift_table(&page.items), page.next_cursor.as_deref())
            })
        }
        DriftCommand::Show { device, manifest } => {
            let answer: Value = client.get(&["drift", &device, &manifest, "features"]).send().await?;
            context.out.show(&answer, |features: Vec<FeatureHistogram>| {
                let rows = features.into_iter().map(|feature| {
                    vec![
                        feature.name,
                        yes_no(feature.severity.drifted),
                        format!("{:.3}", feature.severity.psi),
                        format!("{:.3}", feature.severity.corrected),
                        histogram(&feature.reference),
                        histogram(&feature.seen),
                    ]
                });
                let header = ["feature", "drifted", "psi", "corrected", "reference", "seen"];
                table(&header, rows)
            })
        }
    }
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

/// Counts as a row of blocks, the fullest bin at full height.
fn histogram(counts: &[u64]) -> String {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let fullest = counts.iter().copied().max().unwrap_or(0).max(1);
    counts
        .iter()
        .map(|count| {
            let eighths = usize::try_from(count.saturating_mul(8).div_ceil(fullest)).unwrap_or(0);
            BLOCKS.get(eighths).copied().unwrap_or('█')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_show_what_is_there() {
        assert_eq!(histogram(&[0, 1, 4, 8]), " ▁▄█");
        assert_eq!(histogram(&[0, 0]), "  ");
        assert_eq!(histogram(&[1, 100]), "▁█", "the smallest count is still seen");
    }
}
