//! Stable names of the API's operations, and the `fleetctl` line that does the same as each one that changes something. The
//! console shows these lines; `fleetctl`'s tests parse them.

use utoipa::openapi::OpenApi;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{Operation, PathItem};

/// Method, path below `/api/v1`, name, command. Words in `<…>` are the caller's.
const CHANGES: &[(&str, &str, &str, &str)] = &[
    (
        "post",
        "/claim-tokens",
        "create_claim_token",
        "fleetctl tokens create --uses <n> --hours <n>",
    ),
    (
        "delete",
        "/claim-tokens/{id}",
        "revoke_claim_token",
        "fleetctl tokens revoke <id>",
    ),
    (
        "patch",
        "/devices/{id}",
        "update_device",
        "fleetctl devices tag <device> <name>=<value>",
    ),
    (
        "post",
        "/devices/{id}/alerts/acknowledge",
        "acknowledge_alerts",
        "fleetctl devices acknowledge <device>",
    ),
    (
        "post",
        "/devices/{id}/decommission",
        "decommission_device",
        "fleetctl devices decommission <device> --yes",
    ),
    (
        "post",
        "/device-actions",
        "change_devices",
        "fleetctl devices tag --filter <filter> <name>=<value> --yes --expect <n>",
    ),
    (
        "post",
        "/datasets",
        "create_dataset",
        "fleetctl datasets create --file <spec>",
    ),
    (
        "post",
        "/datasets/{id}/imports",
        "import_samples",
        "fleetctl datasets import <dataset> <file>",
    ),
    (
        "delete",
        "/imports/{id}",
        "cancel_import",
        "fleetctl datasets cancel-import <id>",
    ),
    (
        "post",
        "/datasets/{id}/versions",
        "create_dataset_version",
        "fleetctl versions create <dataset>",
    ),
    (
        "post",
        "/datasets/{id}/annotations",
        "annotate",
        "fleetctl labels annotate <dataset> <sample>=<label>",
    ),
    (
        "delete",
        "/datasets/{id}/annotations/{sample}",
        "remove_annotation",
        "fleetctl labels remove <dataset> <sample>",
    ),
    (
        "post",
        "/datasets/{id}/labeling-functions",
        "create_labeling_function",
        "fleetctl labels lf add <dataset> <name> --when <expression> --label <label>",
    ),
    (
        "delete",
        "/datasets/{id}/labeling-functions/{lf}",
        "delete_labeling_function",
        "fleetctl labels lf remove <dataset> <id>",
    ),
    (
        "post",
        "/datasets/{id}/label-model",
        "fit_label_model",
        "fleetctl labels fit <dataset>",
    ),
    (
        "post",
        "/runs",
        "create_run",
        "fleetctl runs create --dataset-version <id>",
    ),
    ("post", "/runs/{id}/cancel", "cancel_run", "fleetctl runs cancel <id>"),
    ("post", "/jobs/{id}/cancel", "cancel_job", "fleetctl jobs cancel <id>"),
    (
        "post",
        "/runs/{id}/evaluations",
        "evaluate_run",
        "fleetctl runs evaluate <id> --dataset-version <id>",
    ),
    (
        "post",
        "/models/{line}/versions",
        "package_model",
        "fleetctl models package <line> --run <id> --semver <semver>",
    ),
    (
        "post",
        "/models/{line}/imports",
        "import_model",
        "fleetctl models import <line> <file> --semver <semver> --dataset-version <id>",
    ),
    (
        "post",
        "/model-versions/{id}/signatures",
        "add_signature",
        "fleetctl sign import <id> <file>",
    ),
    (
        "post",
        "/rollouts",
        "create_rollout",
        "fleetctl rollouts create --model-version <id>",
    ),
    (
        "post",
        "/rollouts/preview",
        "preview_rollout",
        "fleetctl rollouts preview --model-version <id>",
    ),
    (
        "post",
        "/rollouts/{id}/start",
        "start_rollout",
        "fleetctl rollouts start <id>",
    ),
    (
        "post",
        "/rollouts/{id}/pause",
        "pause_rollout",
        "fleetctl rollouts pause <id>",
    ),
    (
        "post",
        "/rollouts/{id}/resume",
        "resume_rollout",
        "fleetctl rollouts resume <id>",
    ),
    (
        "post",
        "/rollouts/{id}/abort",
        "abort_rollout",
        "fleetctl rollouts abort <id>",
    ),
    ("post", "/sign-in-links", "create_sign_in_link", "fleetctl console"),
    ("post", "/session", "open_session", "fleetctl console --open"),
    ("delete", "/session", "close_session", "fleetctl sessions revoke <id>"),
    (
        "delete",
        "/sessions/{id}",
        "revoke_session",
        "fleetctl sessions revoke <id>",
    ),
];

/// Names every operation, and adds `x-cli` to those of the table.
pub(super) fn annotate(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let known = CHANGES
                .iter()
                .find(|(verb, place, _, _)| *verb == method && path.strip_prefix("/api/v1") == Some(*place));
            let Some((_, _, name, cli)) = known else {
                operation.operation_id = Some(derived(method, path));
                continue;
            };
            operation.operation_id = Some((*name).to_owned());
            let line = ExtensionsBuilder::new().add("x-cli", *cli).build();
            match &mut operation.extensions {
                Some(extensions) => extensions.merge(line),
                None => operation.extensions = Some(line),
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("get", item.get.as_mut()),
        ("put", item.put.as_mut()),
        ("post", item.post.as_mut()),
        ("patch", item.patch.as_mut()),
        ("delete", item.delete.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation?)))
}

/// `GET /api/v1/devices/{id}/timeline` is `get_devices_id_timeline`.
fn derived(method: &str, path: &str) -> String {
    let place = path.trim_start_matches("/api/v1").replace(['{', '}'], "");
    let words: Vec<&str> = place.split(['/', '-', '.']).filter(|word| !word.is_empty()).collect();
    format!("{method}_{}", words.join("_"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::api::documented;

    #[test]
    fn every_operation_has_a_name_and_every_change_a_command() {
        let (_, mut document) = documented();
        let mut names = BTreeSet::new();
        let mut without = Vec::new();
        let mut changes = 0;
        for (path, item) in &mut document.paths.paths {
            for (method, operation) in operations(item) {
                let name = operation.operation_id.clone().unwrap();
                assert!(names.insert(name.clone()), "two operations are called {name}");
                let cli = operation.extensions.as_ref().and_then(|all| all.get("x-cli"));
                if method == "get" {
                    continue;
                }
                changes += 1;
                without.extend(cli.is_none().then(|| format!("{method} {path}")));
            }
        }
        assert!(without.is_empty(), "no fleetctl line in CHANGES for {without:?}");
        assert_eq!(changes, CHANGES.len(), "CHANGES names routes that are not there");
    }

    #[test]
    fn the_committed_document_is_the_one_that_the_server_serves() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let (_, document) = documented();
        let present = document.to_pretty_json().unwrap();
        assert!(
            committed.trim_end() == present.trim_end(),
            "fleet-server/openapi.json is not what the server serves: run 'make openapi'"
        );
    }
}
