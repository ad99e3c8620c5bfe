//! Imports in the making: nobody sees them, nobody waits for them, and what comes to nothing leaves nothing.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, StatusCode};
use flotilla_api_types::Page;
use flotilla_api_types::datasets::{Dataset, Import, ImportReport, ImportState, Sample};
use flotilla_protocol::ids::{DeviceId, Digest, ImportId};
use flotilla_protocol::infer::Tensor;
use flotilla_protocol::messages::{self, HarvestReason};
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use uuid::Uuid;

use crate::api::datasets::testing::{TestServer, rows, rows_csv};
use crate::clock;
use crate::domain::authz::Role;
use crate::reconcile::imports::sweep;
use crate::store::imports as store;

async fn with_dataset() -> TestServer {
    let server = TestServer::new().await;
    let mut spec = rows("rows");
    spec["harvest_line"] = json!("lines");
    server.post::<Dataset>("/datasets", &spec).await;
    server
}

/// A body that begins and never ends.
fn endless() -> Body {
    let first = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"x,y,truth\n1,2,low\n")) });
    Body::from_stream(first.chain(stream::pending()))
}

async fn samples(server: &TestServer) -> Vec<Sample> {
    server
        .get::<Page<Sample>>("/datasets/rows/samples?limit=1000")
        .await
        .items
}

/// Rows that lie in the table, seen or not.
async fn stored(server: &TestServer) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM stored_samples")
        .fetch_one(server.app.db.read())
        .await
        .unwrap()
}

async fn running(server: &TestServer, id: Uuid) -> Import {
    let begun = async {
        loop {
            let path = format!("/imports/{id}?wait_ms=1000");
            let (status, body) = server.send(Role::Viewer, Method::GET, &path, "", "").await;
            if status == StatusCode::OK {
                return serde_json::from_value(body).unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), begun).await.unwrap()
}

#[tokio::test]
async fn a_bad_line_near_the_end_leaves_nothing_behind() {
    let server = with_dataset().await;
    let (status, _) = server.import("/datasets/rows/imports", rows_csv(20)).await;
    assert_eq!(status, StatusCode::CREATED);
    let mut bad = rows_csv(900);
    bad.push_str("1.0,NaN,high\n");
    let id = Uuid::now_v7();
    let (status, _) = server
        .import(&format!("/datasets/rows/imports?slice=bad&import={id}"), bad)
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(samples(&server).await.len(), 20, "what was staged is not seen");
    assert!(stored(&server).await > 500, "three batches were staged");
    let import: Import = server.get(&format!("/imports/{id}")).await;
    assert_eq!(import.state, ImportState::Failed);
    assert!(import.error.as_ref().unwrap().contains("line 902"), "{import:?}");
    sweep(&server.app).await.unwrap();
    assert_eq!((stored(&server).await, samples(&server).await.len()), (20, 20));

    // What a failed import staged is no duplicate of the next, cleaned up or not.
    let mut bad = rows_csv(900);
    bad.push_str("x\n");
    server.import("/datasets/rows/imports", bad).await;
    let (_, body) = server.import("/datasets/rows/imports?slice=good", rows_csv(900)).await;
    let report: ImportReport = serde_json::from_value(body).unwrap();
    assert_eq!((report.samples, report.duplicates, report.rows), (880, 20, 900));
    sweep(&server.app).await.unwrap();
    let dataset: Dataset = server.get("/datasets/rows").await;
    assert_eq!(
        dataset.slices,
        [("good".to_owned(), 880), ("import".to_owned(), 20)].into()
    );
    let page: Page<Import> = server.get("/datasets/rows/imports").await;
    let states: Vec<ImportState> = page.items.iter().map(|import| import.state).collect();
    let expected = [
        ImportState::Finished,
        ImportState::Failed,
        ImportState::Failed,
        ImportState::Finished,
    ];
    assert_eq!(states, expected, "newest first");
    assert_eq!(page.items[0].report, Some(report));
    assert!((page.items[0].progress - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn an_import_under_way_is_shown_and_can_be_cancelled() {
    let server = with_dataset().await;
    let id = Uuid::now_v7();
    let path = format!("/datasets/rows/imports?import={id}");
    let cancel = async {
        let import = running(&server, id).await;
        assert_eq!(import.state, ImportState::Receiving);
        // One at a time.
        let (status, body) = server.import("/datasets/rows/imports", rows_csv(5)).await;
        assert_eq!(status, StatusCode::CONFLICT, "{body}");
        let path = format!("/imports/{id}");
        let of = async |role| server.send(role, Method::DELETE, &path, "", "").await.0;
        assert_eq!(of(Role::Viewer).await, StatusCode::FORBIDDEN);
        assert_eq!(of(Role::Operator).await, StatusCode::NO_CONTENT);
        assert_eq!(of(Role::Operator).await, StatusCode::CONFLICT, "it has ended");
    };
    let ((status, body), ()) = tokio::join!(server.import(&path, endless()), cancel);
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    let import: Import = server.get(&format!("/imports/{id}?wait_ms=5000")).await;
    assert_eq!(import.state, ImportState::Cancelled);
    assert_eq!(import.error.as_deref(), Some("cancelled by token:test"));
    assert_eq!(
        server.audit_events().await,
        ["dataset.created", "dataset.import-cancelled"]
    );
    let (status, body) = server.import("/datasets/rows/imports", rows_csv(5)).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
}

#[tokio::test]
async fn a_connection_that_goes_away_or_a_server_that_ends_cancels() {
    let server = with_dataset().await;
    let id = Uuid::now_v7();
    let path = format!("/datasets/rows/imports?import={id}");
    // The request's future is dropped, as the HTTP server does when the client hangs up.
    tokio::select! {
        answer = server.import(&path, endless()) => panic!("{answer:?}"),
        import = running(&server, id) => assert_eq!(import.state, ImportState::Receiving),
    }
    server.app.imports.ended().await;
    sweep(&server.app).await.unwrap();
    let import: Import = server.get(&format!("/imports/{id}")).await;
    assert_eq!(import.state, ImportState::Cancelled);

    // One that an earlier process left in the middle of reading.
    let dataset: Dataset = server.get("/datasets/rows").await;
    let old = store::NewImport {
        id: ImportId::new(Uuid::now_v7()),
        dataset: dataset.id,
        slice: "old",
        actor: "token:x",
        bytes_total: None,
    };
    store::begin(&server.app.db, &old, clock::now_ms()).await.unwrap();
    assert!(store::reading(&server.app.db, old.id, 10, 1).await.unwrap());
    stage(&server, &dataset, old.id, &[[7.0, 8.0], [9.0, 10.0]]).await;
    assert_eq!((stored(&server).await, samples(&server).await.len()), (2, 0));
    sweep(&server.app).await.unwrap();
    assert_eq!(stored(&server).await, 0);
    let import: Import = server.get(&format!("/imports/{}", old.id)).await;
    assert_eq!(import.state, ImportState::Cancelled);
    assert!(import.error.unwrap().contains("went away"));
}

async fn stage(server: &TestServer, dataset: &Dataset, import: ImportId, values: &[[f32; 2]]) {
    use crate::store::datasets::{NewSample, Origin, insert_samples};
    let batch: Vec<NewSample> = values.iter().copied().map(new_sample).collect();
    let origin = Origin {
        slice: "staged",
        import: Some(import),
    };
    let mut tx = server.app.db.begin().await.unwrap();
    insert_samples(&mut tx, dataset.id, origin, &batch, 1).await.unwrap();
    tx.commit().await.unwrap();
}

fn new_sample(values: [f32; 2]) -> crate::store::datasets::NewSample {
    let spec = flotilla_protocol::features::FeatureSpec::Row {
        columns: vec!["x".into(), "y".into()],
    };
    crate::store::datasets::NewSample {
        digest: crate::domain::dataset::sample_digest(&spec, &values).unwrap(),
        key: "row=0".into(),
        split: flotilla_api_types::datasets::Split::Train,
        values: values.to_vec(),
        harvested: None,
    }
}

#[tokio::test]
async fn what_a_device_harvests_is_not_lost_to_an_import_that_fails() {
    let server = with_dataset().await;
    server.import("/datasets/rows/imports", rows_csv(5)).await;
    let dataset: Dataset = server.get("/datasets/rows").await;
    let new = store::NewImport {
        id: ImportId::new(Uuid::now_v7()),
        dataset: dataset.id,
        slice: "staged",
        actor: "token:x",
        bytes_total: None,
    };
    store::begin(&server.app.db, &new, 1).await.unwrap();
    stage(&server, &dataset, new.id, &[[50.0, 51.0], [52.0, 53.0]]).await;
    let harvested = messages::Sample {
        captured_at: 7,
        line: "lines".parse().unwrap(),
        manifest: Digest::of(b"manifest"),
        input: Tensor::from_f32("input", vec![2], &[50.0, 51.0]).unwrap(),
        scores: vec![0.4, 0.6],
        predicted: "high".into(),
        reason: HarvestReason::Drift,
    };
    let device = DeviceId::new("press-07").unwrap();
    let mut tx = server.app.db.begin().await.unwrap();
    let added = crate::store::datasets::insert_harvested(&mut tx, &device, &[&harvested], 9, 9)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(added.new, 1, "staged is not there yet");
    assert_eq!(samples(&server).await.len(), 6);
    sweep(&server.app).await.unwrap();
    assert_eq!((samples(&server).await.len(), stored(&server).await), (6, 6));
}

/// Device acknowledgements and everything else go on while a file is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_write_between_the_batches_of_an_import() {
    let server = with_dataset().await;
    let id = Uuid::now_v7();
    let path = format!("/datasets/rows/imports?import={id}");
    let (mut between, mut staged) = (0, 0);
    let others = async {
        loop {
            let import = running(&server, id).await;
            if import.state.is_final() {
                break;
            }
            if import.state == ImportState::Reading {
                assert!(import.samples >= staged, "progress only grows");
                staged = import.samples;
                let tx = server.app.db.begin().await.unwrap();
                tx.commit().await.unwrap();
                between += 1;
                assert!(
                    samples(&server).await.is_empty() || is_final(&server, id).await,
                    "seen before it was finished"
                );
            }
        }
    };
    let ((status, body), ()) = tokio::join!(server.import(&path, rows_csv(10_000)), others);
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert!(between >= 5, "{between} transactions in 40 batches");
    let import: Import = server.get(&format!("/imports/{id}")).await;
    assert_eq!((import.samples, import.rows), (10_000, 10_000));
}

async fn is_final(server: &TestServer, id: Uuid) -> bool {
    server.get::<Import>(&format!("/imports/{id}")).await.state.is_final()
}
