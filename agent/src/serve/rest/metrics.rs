//! Prometheus text exposition under Triton's metric names, so that dashboards made for it work.
//!
//! Counts begin at a model's activation. Triton's division of the compute time into input, infer and output is not made:
//! the whole is `compute_infer`.

use std::sync::Arc;

use crate::inference::{ModelInfo, Totals};

type Metric = (&'static str, &'static str, fn(&Totals) -> u64);

const METRICS: [Metric; 7] = [
    ("nv_inference_request_success", "Requests answered", |totals| {
        totals.requests_succeeded
    }),
    ("nv_inference_request_failure", "Requests not answered", |totals| {
        totals.requests_failed
    }),
    ("nv_inference_count", "Rows answered", |totals| totals.rows_succeeded),
    (
        "nv_inference_exec_count",
        "Runs of the model that were answered",
        |totals| totals.requests_succeeded,
    ),
    (
        "nv_inference_request_duration_us",
        "Time of answered requests, waiting included, microseconds",
        |totals| totals.request_us,
    ),
    (
        "nv_inference_queue_duration_us",
        "Time of answered requests spent waiting, microseconds",
        |totals| totals.queue_us,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Time of answered requests spent computing, microseconds",
        |totals| totals.compute_us,
    ),
];

pub(super) fn exposition(models: &[(Arc<ModelInfo>, Totals)]) -> String {
    let mut lines = Vec::new();
    for (name, help, value) in METRICS {
        lines.push(format!("# HELP {name} {help}"));
        lines.push(format!("# TYPE {name} counter"));
        for (model, totals) in models {
            let version = escaped(&model.manifest.semver);
            lines.push(format!(
                "{name}{{model=\"{}\",version=\"{version}\"}} {}",
                model.name(),
                value(totals)
            ));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A label's value: backslash, quote and line feed are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
