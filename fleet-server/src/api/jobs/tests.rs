//! Cancelling through the real routes: who may, when it is too late, and what stays as it was.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Method;
use flotilla_api_types::JobState;
use flotilla_api_types::devices::DevicePage;
use flotilla_api_types::runs::{Run, RunStatus};
use flotilla_protocol::ids::RunId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::api::datasets::testing::TestServer;
use crate::domain::authz::Role;
use crate::store::runs;
use crate::testing;

/// Devices a and b, and an order to take both out of the fleet.
async fn ordered() -> (TestServer, Job) {
    let server = TestServer::new().await;
    for (seed, name) in (1..).zip(["a", "b"]) {
        testing::enrol(&server.app.db, name, seed, BTreeMap::new())
            .await
            .unwrap();
    }
    let order = json!({"filter": "", "expected_total": 2, "action": "decommission"});
    let job = server.post("/device-actions", &order).await;
    (server, job)
}

async fn cancel_as(server: &TestServer, role: Role, id: impl std::fmt::Display) -> (StatusCode, Value) {
    let path = format!("/jobs/{id}/cancel");
    server.send(role, Method::POST, &path, "", Body::empty()).await
}

async fn devices_left(server: &TestServer) -> u64 {
    let page: DevicePage = server.get("/devices?filter=-status:decommissioned").await;
    page.total
}

async fn times_on_record(server: &TestServer) -> usize {
    let events = server.audit_events().await;
    events.iter().filter(|event| *event == "job.cancelled").count()
}

#[tokio::test]
async fn an_order_that_waits_is_cancelled_by_whoever_may_give_it() {
    let (server, job) = ordered().await;
    for role in [Role::Viewer, Role::Labeler, Role::ReleaseSigner, Role::Auditor] {
        let (status, problem) = cancel_as(&server, role, job.id).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{role}: {problem}");
    }
    assert_eq!(times_on_record(&server).await, 0);
    let (status, body) = cancel_as(&server, Role::Operator, job.id).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    assert_eq!(
        (&body["state"], &body["message"], &body["cancel_requested"]),
        (&json!("cancelled"), &json!("cancelled before it began"), &json!(true))
    );
    let (status, problem) = cancel_as(&server, Role::Operator, job.id).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::CONFLICT, &json!("conflict")),
        "{problem}"
    );
    let (status, _) = cancel_as(&server, Role::Operator, Uuid::nil()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(times_on_record(&server).await, 1);
    assert_eq!(store::next_due(&server.app.db).await.unwrap(), None, "it never begins");
    assert_eq!(devices_left(&server).await, 2);
}

#[tokio::test]
async fn what_was_cancelled_stays_so_when_the_server_comes_back() {
    let (server, job) = ordered().await;
    // A server that had begun and was killed.
    let now = clock::now_ms();
    let claim = store::claim(&server.app.db, now, now - 1).await.unwrap().unwrap();
    assert_eq!(claim.id, job.id);
    for _twice in 0..2 {
        let (status, body) = cancel_as(&server, Role::Admin, job.id).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        assert_eq!(
            (&body["state"], &body["cancel_requested"]),
            (&json!("running"), &json!(true))
        );
    }
    let tasks = server.run_jobs();
    let ended = server.job_end(job.id).await;
    assert_eq!(
        (ended.state, ended.message.as_str()),
        (JobState::Cancelled, "cancelled")
    );
    assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
    assert_eq!(devices_left(&server).await, 2);
    let events = server.audit_events().await;
    assert!(
        events.iter().any(|event| event == "devices.bulk-cancelled"),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_job_that_is_done_cannot_be_cancelled() {
    let (server, job) = ordered().await;
    let tasks = server.run_jobs();
    assert_eq!(server.job_end(job.id).await.state, JobState::Succeeded);
    assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
    let (status, problem) = cancel_as(&server, Role::Admin, job.id).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(times_on_record(&server).await, 0);
}

#[tokio::test]
async fn cancelling_what_is_built_takes_the_right_to_build_and_ends_its_run() {
    let server = TestServer::new().await;
    let (run, job) = (RunId::new(Uuid::now_v7()), JobId::new(Uuid::now_v7()));
    let fitting = JobId::new(Uuid::now_v7());
    let trainer = json!({"kind": "mlp", "hidden": [8], "learning_rate": 0.01, "weight_decay": 0.0, "epochs": 2,
        "batch_size": 16});
    let ask = json!({"experiment": "x", "dataset_version": Uuid::nil(), "trainer": trainer, "seed": 1});
    let ask = serde_json::from_value(ask).unwrap();
    let mut tx = server.app.db.begin().await.unwrap();
    runs::create(&mut tx, &server.app.fleet.project, run, job, &ask, 1)
        .await
        .unwrap();
    for (id, kind) in [(job, JobKind::Train), (fitting, JobKind::LabelModel)] {
        store::enqueue(&mut tx, id, kind, &run.to_string(), "{}", 1)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    for id in [job, fitting] {
        let (status, _) = cancel_as(&server, Role::Labeler, id).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let (status, body) = cancel_as(&server, Role::Operator, id).await;
        assert_eq!(
            (status, &body["state"]),
            (StatusCode::ACCEPTED, &json!("cancelled")),
            "{body}"
        );
    }
    let run: Run = server.get(&format!("/runs/{run}")).await;
    assert_eq!(run.status, RunStatus::Killed);
    assert_eq!(times_on_record(&server).await, 2);
}
