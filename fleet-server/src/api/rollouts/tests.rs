//! Planning, listing and following rollouts through the real routes, with the reconciler.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use flotilla_api_types::rollouts::{
    Deployment, DeploymentPage, Obstacle, Rollout, RolloutFailures, RolloutPage, RolloutPreview, RolloutState,
};
use flotilla_protocol::ids::SlotName;
use flotilla_protocol::report::{DeploymentReport, DeploymentState, DeviceReport, InstalledModel, SlotReport};
use serde_json::{Value, json};

use crate::api::datasets::testing::TestServer;
use crate::app::Change;
use crate::domain::authz::Role;
use crate::reconcile;
use crate::store::devices;
use crate::tasks::Tasks;
use crate::testing::{self, NOW, enrol, id, manifest, report, version};

fn site(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("site".to_owned(), name.to_owned())])
}

/// `d-0` to `d-5` in Oslo and `far` in Bergen; `d-1` has another hardware class.
async fn fleet() -> TestServer {
    let server = TestServer::new().await;
    for n in 0..6u8 {
        enrol(&server.app.db, &format!("d-{n}"), n, site("oslo")).await.unwrap();
    }
    enrol(&server.app.db, "far", 100, site("bergen")).await.unwrap();
    let mut other = report("d-1", 1);
    other.facts.hardware_class = "nuc".into();
    say(&server, other).await;
    server
}

async fn say(server: &TestServer, report: DeviceReport) {
    let mut tx = server.app.db.begin().await.unwrap();
    devices::apply_report(&mut tx, &report, b"", NOW).await.unwrap();
    tx.commit().await.unwrap();
    server.app.changes.tell(Change::Device(report.device));
}

/// The reconciler, until the returned tasks are stopped.
fn run_reconciler(server: &TestServer) -> Tasks {
    let mut tasks = Tasks::default();
    let shutdown = tasks.shutdown();
    tasks.spawn("rollouts", reconcile::rollouts::run(server.app.clone(), shutdown));
    tasks
}

async fn rollout_when(server: &TestServer, id: &str, wanted: impl Fn(&Rollout) -> bool) -> Rollout {
    let mut rollout: Rollout = server.get(&format!("/rollouts/{id}")).await;
    for _ in 0..100 {
        if wanted(&rollout) {
            return rollout;
        }
        let path = format!("/rollouts/{id}?wait_ms=2000&since={}", rollout.updated_at);
        rollout = server.get(&path).await;
    }
    panic!("{rollout:?}");
}

async fn deployments(server: &TestServer, id: &str, query: &str) -> DeploymentPage {
    server.get(&format!("/rollouts/{id}/deployments{query}")).await
}

fn ended(deployment: &Deployment, state: DeploymentState, reason: Option<&str>) -> DeviceReport {
    DeviceReport {
        deployments: vec![DeploymentReport {
            deployment: deployment.id,
            slot: SlotName::main(),
            state,
            reason: reason.map(str::to_owned),
            bytes_received: 1000,
            bytes_total: 1000,
        }],
        ..report(deployment.device.as_str(), 9)
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn a_preview_says_what_the_rollout_then_does() {
    let server = fleet().await;
    let (version, digest) = version(&server.app.db).await;
    let package = manifest();
    let mut has_it = report("d-2", 1);
    has_it.slots = vec![SlotReport {
        slot: SlotName::main(),
        active: Some(InstalledModel {
            line: package.name,
            manifest: digest,
            semver: package.semver,
            release_counter: 1,
        }),
        committed: true,
    }];
    say(&server, has_it).await;
    let mut spec = json!({"model_version": version, "target": "device.tags.site == 'oslo'", "seed": 11,
        "phases": [{"kind": "count", "devices": 2}, {"kind": "percent", "percent": 50.0}, {"kind": "percent", "percent": 100.0}]});
    let preview: RolloutPreview = server.post("/rollouts/preview", &spec).await;
    assert_eq!((preview.fleet, preview.selected, preview.ready), (7, 6, 4));
    let obstacles: Vec<_> = preview
        .obstacles
        .iter()
        .map(|group| (group.obstacle, group.misfit, group.count, group.devices[0].as_str()))
        .collect();
    assert_eq!(
        obstacles,
        [
            (Obstacle::HardwareClass, true, 1, "d-1"),
            (Obstacle::AlreadyInstalled, false, 1, "d-2"),
        ]
    );
    let phases: Vec<_> = preview
        .phases
        .iter()
        .map(|phase| (phase.devices, phase.reach))
        .collect();
    assert_eq!(phases, [(2, 2), (1, 3), (3, 6)]);
    assert_eq!((preview.package_bytes, preview.total_bytes), (1000, 4000));
    assert_eq!((preview.seed, preview.first.len()), (11, 6));
    // Without a seed the preview takes one, and says which.
    spec.as_object_mut().unwrap().remove("seed");
    let preview: RolloutPreview = server.post("/rollouts/preview", &spec).await;
    spec["seed"] = json!(preview.seed);

    let draft: Rollout = server.post("/rollouts", &spec).await;
    let rollout = draft.id.to_string();
    assert_eq!((draft.waiting, draft.phases[0].reach), (None, None));
    let tasks = run_reconciler(&server);
    let _: Rollout = server.post(&format!("/rollouts/{rollout}/start"), &json!({})).await;
    let started = rollout_when(&server, &rollout, |rollout| rollout.targeted == 2).await;
    assert_eq!(started.waiting, Some(4));
    let reach: Vec<_> = started.phases.iter().map(|phase| phase.reach).collect();
    assert_eq!(reach, [Some(2), Some(3), Some(6)]);
    let given = deployments(&server, &rollout, "").await;
    let mut canaries = preview.first[..2].to_vec();
    canaries.sort();
    let given: Vec<_> = given.items.into_iter().map(|deployment| deployment.device).collect();
    assert_eq!(given, canaries);

    // A device that comes to match is taken in, one that does not any more is let go.
    let retagged = |device: &str, to: &str| (format!("/devices/{device}"), json!({"tags": {"site": to}}).to_string());
    let (path, body) = retagged("far", "oslo");
    server
        .send(Role::Operator, Method::PATCH, &path, "application/json", body)
        .await;
    let leaves = preview.first.last().unwrap();
    let (path, body) = retagged(leaves.as_str(), "bergen");
    server
        .send(Role::Operator, Method::PATCH, &path, "application/json", body)
        .await;
    let now: Rollout = server.get(&format!("/rollouts/{rollout}")).await;
    assert_eq!((now.targeted, now.waiting), (2, Some(4)));
    // Everybody succeeds, phase by phase, to the end.
    for most in [2, 3, 6] {
        rollout_when(&server, &rollout, |rollout| rollout.targeted == most).await;
        for deployment in deployments(&server, &rollout, "?state=pending").await.items {
            say(&server, ended(&deployment, DeploymentState::Success, None)).await;
        }
    }
    let done = rollout_when(&server, &rollout, |rollout| rollout.state == RolloutState::Completed).await;
    let reach: Vec<_> = done.phases.iter().map(|phase| phase.reach).collect();
    assert_eq!((reach, done.waiting), (vec![Some(2), Some(3), Some(6)], None));
    let given = deployments(&server, &rollout, "").await;
    let given: Vec<&str> = given
        .items
        .iter()
        .map(|deployment| deployment.device.as_str())
        .collect();
    assert!(given.contains(&"far") && !given.contains(&leaves.as_str()), "{given:?}");
    assert_eq!(tasks.stop(std::time::Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn a_preview_changes_nothing_and_refuses_what_could_not_be_created() {
    let server = fleet().await;
    let (version, _) = version(&server.app.db).await;
    let ask = async |role, path: &str, spec: Value| {
        server
            .send(role, Method::POST, path, "application/json", spec.to_string())
            .await
            .0
    };
    let good = json!({"model_version": version});
    assert_eq!(
        ask(Role::Viewer, "/rollouts/preview", good.clone()).await,
        StatusCode::OK
    );
    assert_eq!(ask(Role::Viewer, "/rollouts", good).await, StatusCode::FORBIDDEN);
    let unknown = "0192f0c1-0000-7000-8000-000000000001";
    for (spec, status) in [
        (json!({"model_version": unknown}), StatusCode::NOT_FOUND),
        (
            json!({"model_version": version, "target": "device.colour == 'red'"}),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            json!({"model_version": version, "phases": [{"kind": "count", "devices": 1}]}),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (json!({"model_version": version, "seed": -1}), StatusCode::BAD_REQUEST),
    ] {
        for path in ["/rollouts/preview", "/rollouts"] {
            assert_eq!(ask(Role::Operator, path, spec.clone()).await, status, "{path} {spec}");
        }
    }
    let page: RolloutPage = server.get("/rollouts").await;
    assert_eq!(page.total, 0);
    assert!(server.audit_events().await.is_empty());
}

#[tokio::test]
async fn rollouts_and_deployments_are_filtered_counted_and_grouped() {
    let server = fleet().await;
    let (version, _) = version(&server.app.db).await;
    let spec = json!({"model_version": version, "phases": [{"kind": "percent", "percent": 100.0}]});
    for verb in ["", "abort"] {
        let draft: Rollout = server.post("/rollouts", &spec).await;
        if !verb.is_empty() {
            let _: Rollout = server.post(&format!("/rollouts/{}/{verb}", draft.id), &json!({})).await;
        }
    }
    let rollout = testing::running(&server.app.db, version, spec.clone())
        .await
        .to_string();
    for (query, total) in [
        ("", 3),
        ("?state=running", 1),
        ("?state=draft,aborted", 2),
        ("?state=draft&state=running", 2),
        ("?state=draft&state=running,aborted&limit=1", 3),
        ("?state=halted", 0),
    ] {
        let page: RolloutPage = server.get(&format!("/rollouts{query}")).await;
        assert_eq!(page.total, total, "{query}");
        assert!(
            page.items.len() as u64 == total || page.next_cursor.is_some(),
            "{query}"
        );
    }
    let tasks = run_reconciler(&server);
    rollout_when(&server, &rollout, |rollout| rollout.targeted == 7).await;
    for deployment in &deployments(&server, &rollout, "").await.items[..3] {
        let why = format!("golden outputs differ by 0.{}", deployment.device.as_str().len());
        say(&server, ended(deployment, DeploymentState::RolledBack, Some(&why))).await;
    }
    let failed: RolloutFailures = server.get(&format!("/rollouts/{rollout}/failures")).await;
    assert_eq!((failed.devices, failed.causes, failed.items[0].count), (3, 1, 3));
    assert_eq!(failed.items[0].cause, "golden outputs differ by #");
    assert_eq!(failed.items[0].devices, ["d-0", "d-1", "d-2"].map(id));
    for (query, total) in [
        ("?cause=golden%20outputs%20differ%20by%20%23", 3),
        ("?cause=golden%20outputs%20differ%20by%20%23&state=failure", 0),
        ("?state=rolled-back&limit=1", 3),
        ("?state=pending&state=rolled-back", 7),
    ] {
        assert_eq!(deployments(&server, &rollout, query).await.total, total, "{query}");
    }
    for path in [
        "/rollouts?state=sick".to_owned(),
        format!("/rollouts/{rollout}/deployments?state=running"),
    ] {
        let (status, problem) = server.send(Role::Viewer, Method::GET, &path, "", "").await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {problem}");
    }
    let unknown = "/rollouts/0192f0c1-0000-7000-8000-000000000001/failures";
    let (status, _) = server.send(Role::Viewer, Method::GET, unknown, "", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(tasks.stop(std::time::Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn a_canary_that_leaves_gives_its_place_to_another() {
    let server = fleet().await;
    let (version, _) = version(&server.app.db).await;
    let rollout = testing::running(&server.app.db, version, json!({})).await.to_string();
    let tasks = run_reconciler(&server);
    rollout_when(&server, &rollout, |rollout| rollout.targeted == 1).await;
    let canary = deployments(&server, &rollout, "").await.items.remove(0).device;
    let mut tx = server.app.db.begin().await.unwrap();
    assert!(devices::decommission(&mut tx, &canary, NOW).await.unwrap());
    tx.commit().await.unwrap();
    server.app.changes.tell(Change::Device(canary.clone()));
    let now = rollout_when(&server, &rollout, |rollout| rollout.targeted == 2).await;
    assert_eq!((now.phase, now.phases[0].reach), (0, Some(2)), "{}", now.decision);
    let other = deployments(&server, &rollout, "?state=pending").await;
    assert_eq!((other.total, other.items[0].phase), (1, 0));
    assert_ne!(other.items[0].device, canary);
    assert_eq!(tasks.stop(std::time::Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn devices_that_say_nothing_fail_while_a_rollout_is_paused_too() {
    let server = fleet().await;
    let (version, _) = version(&server.app.db).await;
    let spec = json!({"gates": {"min_success": 1.0, "device_timeout_s": 1}});
    let rollout = testing::running(&server.app.db, version, spec).await.to_string();
    let tasks = run_reconciler(&server);
    rollout_when(&server, &rollout, |rollout| rollout.targeted == 1).await;
    let _: Rollout = server.post(&format!("/rollouts/{rollout}/pause"), &json!({})).await;
    let now = rollout_when(&server, &rollout, |rollout| rollout.counts.contains_key("failure")).await;
    assert_eq!(now.state, RolloutState::Paused);
    // Resumed, the gate sees it.
    let _: Rollout = server.post(&format!("/rollouts/{rollout}/resume"), &json!({})).await;
    let now = rollout_when(&server, &rollout, |rollout| rollout.state == RolloutState::Halted).await;
    assert!(now.decision.starts_with("phase 1 failed its gate"), "{}", now.decision);
    assert_eq!(tasks.stop(std::time::Duration::from_secs(10)).await, 0);
}
