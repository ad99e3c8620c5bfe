//! From samples to signed packages through the routes, with the job runner.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_api_types::datasets::{Dataset, DatasetVersion, LabelModel, LabelingFunction, Sample};
use flotilla_api_types::drift::{ClassShare, DriftFeatures, DriftPoint};
use flotilla_api_types::models::{ManifestDocument, Model, ModelVersion, SignatureState};
use flotilla_api_types::runs::{Evaluation, MetricPoint, Run, RunStatus, StoredEvaluation};
use flotilla_api_types::{CountedPage, Job, JobState, Page};
use flotilla_protocol::codec::{self, MAX_COMPONENT_BYTES};
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::sketch::{ReferenceProfile, SketchSet};
use flotilla_protocol::trust::{Document as _, Envelope, KeyPair, Role};
use serde_json::{Value, json};

use crate::api::datasets::testing::{TestServer, rows, rows_csv};
use crate::domain::authz::Role as ApiRole;
use crate::heavy::Heavy;
use crate::packaging::signer::read_manifest;
use crate::store::jobs::{self, Progress, Retry};
use crate::store::{StoreError, runs};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cli/demo");

fn demo() -> Value {
    let text = std::fs::read_to_string(format!("{DEMO}/motions.toml")).unwrap();
    serde_json::to_value(toml::from_str::<toml::Value>(&text).unwrap()).unwrap()
}

/// Motions imported, labelled by functions and some by hand, and frozen.
async fn frozen_motions(server: &TestServer) -> DatasetVersion {
    let demo = demo();
    server.post::<Dataset>("/datasets", &demo["dataset"]).await;
    let csv = std::fs::read(format!("{DEMO}/data/basic_motions.csv")).unwrap();
    let (status, report) = server.import("/datasets/motions/imports", csv).await;
    assert_eq!(status, StatusCode::CREATED, "{report}");
    assert!(report["excluded"].as_u64().unwrap() > 0, "{report}");
    for function in demo["labeling_functions"].as_array().unwrap() {
        server
            .post::<LabelingFunction>("/datasets/motions/labeling-functions", function)
            .await;
    }
    let started: Value = server.post("/datasets/motions/label-model", &json!({})).await;
    let job = server.job_end(started["job"].as_str().unwrap()).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    let model: LabelModel = server.get("/datasets/motions/label-model").await;
    assert!(
        model.coverage > 0.8 && (model.prior.values().sum::<f64>() - 1.0).abs() < 1e-6,
        "{model:?}"
    );
    let functions: Page<LabelingFunction> = server.get("/datasets/motions/labeling-functions").await;
    assert!(
        functions
            .items
            .iter()
            .all(|f| f.statistics.as_ref().unwrap().coverage > 0.0)
    );
    label_holdout(server).await;
    server
        .post("/datasets/motions/versions", &json!({"min_confidence": 0.8}))
        .await
}

/// The truth of a sample stands in the file that the server never kept.
async fn label_holdout(server: &TestServer) {
    let csv = std::fs::read_to_string(format!("{DEMO}/data/basic_motions.csv")).unwrap();
    let truth: std::collections::HashMap<String, String> = csv
        .lines()
        .skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            (
                format!("case={}-{}", cells[0], cells[1]),
                cells[cells.len() - 1].to_owned(),
            )
        })
        .collect();
    let page: Page<Sample> = server.get("/datasets/motions/samples?split=holdout&limit=1000").await;
    let annotations: Vec<Value> = page
        .items
        .iter()
        .map(|sample| json!({"sample": sample.digest, "label": truth[sample.key.split('/').next().unwrap()]}))
        .collect();
    server
        .post::<Value>("/datasets/motions/annotations", &json!({"annotations": annotations}))
        .await;
}

async fn train(server: &TestServer, version: &DatasetVersion, seed: u64) -> Run {
    let ask =
        json!({"experiment": "motions", "dataset_version": version.id, "trainer": demo()["trainer"], "seed": seed});
    let run: Run = server.post("/runs", &ask).await;
    assert_eq!((run.status, run.cause.as_str()), (RunStatus::Scheduled, "manual"));
    server.job_end(run.job).await;
    server.get(&format!("/runs/{}", run.id)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_csv_file_to_a_signed_package() {
    let server = TestServer::new().await;
    let tasks = server.run_jobs();
    let version = frozen_motions(&server).await;
    let run = train(&server, &version, 1).await;
    assert_eq!((run.status, &run.error), (RunStatus::Finished, &None), "{run:?}");
    assert!(run.metrics["holdout.accuracy"] > 0.8, "{:?}", run.metrics);
    for name in [
        "train.loss",
        "train.accuracy",
        "holdout.log_loss",
        "holdout.ece",
        "duration_s",
    ] {
        assert!(run.metrics.contains_key(name), "{name} is missing: {:?}", run.metrics);
    }
    let points: Page<MetricPoint> = server.get(&format!("/runs/{}/metrics", run.id)).await;
    assert_eq!(points.items.len(), 300, "loss and accuracy of 150 epochs");
    let same = train(&server, &version, 1).await;
    assert_eq!(same.model, run.model, "same data, parameters and seed");
    assert_ne!(train(&server, &version, 2).await.model, run.model);
    balanced(&server, &version, &run).await;

    evaluations(&server, &run, &version).await;
    let packaged = packaging(&server, &run).await;
    drift_of_a_package(&server, &packaged).await;
    signatures(&server, &packaged).await;
    imports(&server, &run, &version).await;
    narrowed(&server, &run, &version).await;
    let lines: Page<Model> = server.get("/models").await;
    assert_eq!(
        (lines.items[0].versions, lines.items[0].latest.as_deref()),
        (2, Some("1.1.0"))
    );
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
    stopping(&server, &run).await;
    let lines: Page<Model> = server.get("/models").await;
    assert_eq!(lines.items[0].versions, 2, "no half of a package");
    let events = server.audit_events().await;
    for event in [
        "label-model.fitted",
        "dataset.frozen",
        "run.finished",
        "model.packaged",
        "signature.refused",
        "model.signed",
    ] {
        assert!(events.iter().any(|e| e == event), "{event}: {events:?}");
    }
}

/// Classes of unequal size, weighed alike: another model of the same data and seed.
async fn balanced(server: &TestServer, version: &DatasetVersion, run: &Run) {
    let mut trainer = demo()["trainer"].clone();
    trainer["class_weights"] = json!("balanced");
    let ask = json!({"experiment": "motions", "dataset_version": version.id, "trainer": trainer, "seed": run.seed});
    let weighed: Run = server.post("/runs", &ask).await;
    server.job_end(weighed.job).await;
    let weighed: Run = server.get(&format!("/runs/{}", weighed.id)).await;
    assert_eq!(weighed.status, RunStatus::Finished, "{weighed:?}");
    assert_ne!(weighed.model, run.model);
    trainer["class_weights"] = json!("fair");
    let ask = json!({"experiment": "motions", "dataset_version": version.id, "trainer": trainer, "seed": 1});
    assert_eq!(server.try_post("/runs", &ask).await.0, StatusCode::BAD_REQUEST);
}

async fn evaluations(server: &TestServer, run: &Run, version: &DatasetVersion) {
    let path = format!("/runs/{}/evaluations", run.id);
    let ask = json!({"dataset_version": version.id, "split": "holdout"});
    let evaluation: Evaluation = server.post(&path, &ask).await;
    assert_eq!(evaluation.samples, version.holdout);
    assert_eq!(
        evaluation.accuracy.to_bits(),
        run.metrics["holdout.accuracy"].to_bits(),
        "the one that was stored"
    );
    let later: DatasetVersion = server
        .post(
            "/datasets/motions/versions",
            &json!({"min_confidence": 0.9, "note": "surer"}),
        )
        .await;
    let ask = json!({"dataset_version": later.id, "split": "train"});
    too_much_at_once(server, run, &ask).await;
    let evaluation: Evaluation = server.post(&path, &ask).await;
    assert_eq!(evaluation.samples, later.train);
    assert_eq!(server.post::<Evaluation>(&path, &ask).await, evaluation);
    stored_evaluations(server, &path, (version, &later), &evaluation).await;

    server.post::<Dataset>("/datasets", &rows("rows")).await;
    server.import("/datasets/rows/imports", rows_csv(10)).await;
    let other = two_class_version(server).await;
    let (status, body) = server
        .try_post(&path, &json!({"dataset_version": other.id, "split": "train"}))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body["detail"].as_str().unwrap().contains("other features"), "{body}");
}

/// Those that training made, and the one that was asked for, which is the newest.
async fn stored_evaluations(
    server: &TestServer,
    path: &str,
    (version, later): (&DatasetVersion, &DatasetVersion),
    newest: &Evaluation,
) {
    let whole: Page<StoredEvaluation> = server.get(path).await;
    assert_eq!(&whole.items[0].evaluation, newest);
    assert_eq!(newest.dataset_version, later.id);
    let rest = &whole.items[1..];
    assert!(
        !rest.is_empty()
            && rest
                .iter()
                .all(|stored| stored.evaluation.dataset_version == version.id)
    );
    assert!(rest.iter().all(|stored| stored.created_at <= whole.items[0].created_at));
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page: Page<StoredEvaluation> = server.get(&format!("{path}?limit=1{cursor}")).await;
        paged.extend(page.items);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, whole.items);
    let one = format!("{path}?dataset_version={}&split=holdout", version.id);
    let one: Page<StoredEvaluation> = server.get(&one).await;
    let expected: Vec<_> = rest
        .iter()
        .filter(|stored| stored.evaluation.split.as_str() == "holdout")
        .cloned()
        .collect();
    assert!(expected.len() == 1 && one.items == expected, "{one:?}");
    for (path, status) in [
        (format!("{path}?cursor=x"), StatusCode::BAD_REQUEST),
        (format!("{path}?split=test"), StatusCode::BAD_REQUEST),
        (format!("/runs/{}/evaluations", version.id), StatusCode::NOT_FOUND),
    ] {
        assert_eq!(
            server.send(ApiRole::Viewer, Method::GET, &path, "", "").await.0,
            status,
            "{path}"
        );
    }
}

/// Lists of runs, lines and versions, narrowed.
async fn narrowed(server: &TestServer, run: &Run, version: &DatasetVersion) {
    let total = async |path: &str| {
        let (status, body) = server.send(ApiRole::Viewer, Method::GET, path, "", "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        let items = body["items"].as_array().unwrap().len() as u64;
        (body["total"].as_u64().unwrap(), items)
    };
    let all = total("/runs").await.0;
    assert!(all >= 4);
    let run_id = run.id.to_string().to_uppercase();
    for (query, expected) in [
        ("status=FINISHED".to_owned(), all),
        ("status=FAILED".to_owned(), 0),
        (format!("dataset_version={}", version.id), all),
        (format!("dataset_version={}", run.id), 0),
        ("text=MOTI".to_owned(), all),
        ("text=%25".to_owned(), 0),
        (format!("text={run_id}&status=FINISHED&experiment=motions"), 1),
        ("experiment=other".to_owned(), 0),
        (
            "filter=status:finished%20-experiment:other&sort=-accuracy".to_owned(),
            all,
        ),
        ("filter=accuracy:*&experiment=motions&text=moti".to_owned(), all),
        ("filter=-accuracy:*".to_owned(), 0),
        ("filter=seed:2%20epochs:%3E1%20dataset:motions".to_owned(), 1),
        (format!("filter=dataset:motions@{}&sort=loss", version.number), all),
        ("filter=dataset:other".to_owned(), 0),
    ] {
        assert_eq!(total(&format!("/runs?{query}")).await, (expected, expected), "{query}");
    }
    assert_eq!(total("/runs?limit=1&status=FINISHED").await, (all, 1));
    in_order(server, version).await;
    let signed = run.id;
    for (path, expected) in [
        ("/models?signature=signed".to_owned(), 1),
        ("/models?signature=unsigned&text=OTION".to_owned(), 1),
        ("/models?signature=revoked".to_owned(), 0),
        ("/models?text=digits".to_owned(), 0),
        ("/models/motions/versions".to_owned(), 2),
        ("/models/motions/versions?signature=signed".to_owned(), 1),
        ("/models/motions/versions?text=1.1".to_owned(), 1),
        (format!("/models/motions/versions?text={signed}&signature=signed"), 1),
        ("/models/motions/versions?signature=revoked".to_owned(), 0),
    ] {
        assert_eq!(total(&path).await, (expected, expected), "{path}");
    }
    assert_eq!(total("/models/motions/versions?limit=1").await, (2, 1));
    let lines: CountedPage<Model> = server.get("/models").await;
    assert_eq!((lines.items[0].versions, lines.items[0].unsigned), (2, 1));
    for (path, status) in [
        ("/models/digits/versions", StatusCode::NOT_FOUND),
        ("/models?signature=good", StatusCode::BAD_REQUEST),
        ("/runs?status=done", StatusCode::BAD_REQUEST),
        ("/runs?dataset_version=x", StatusCode::BAD_REQUEST),
        ("/runs?cursor=x", StatusCode::BAD_REQUEST),
        ("/runs?filter=acuracy:1", StatusCode::UNPROCESSABLE_ENTITY),
        ("/runs?sort=acuracy", StatusCode::UNPROCESSABLE_ENTITY),
        ("/drift?cursor=x", StatusCode::BAD_REQUEST),
        ("/drift?filter=site:oslo", StatusCode::UNPROCESSABLE_ENTITY),
        ("/drift?sort=worst", StatusCode::UNPROCESSABLE_ENTITY),
        (
            "/drift?filter=drifted:yes&line=motions&sort=-at&order=severity&offset=3",
            StatusCode::OK,
        ),
    ] {
        assert_eq!(
            server.send(ApiRole::Viewer, Method::GET, path, "", "").await.0,
            status,
            "{path}"
        );
    }
}

/// By number, by cursor and at once it is the same list, and its rows have names.
async fn in_order(server: &TestServer, version: &DatasetVersion) {
    let path = "/runs?sort=-accuracy&filter=status:finished";
    let whole: CountedPage<Run> = server.get(path).await;
    let accuracy = |run: &Run| run.metrics["holdout.accuracy"];
    assert!(whole.items.is_sorted_by(|a, b| accuracy(a) >= accuracy(b)), "{whole:?}");
    let name = whole.items[0].dataset_version_name.as_ref().unwrap();
    assert_eq!((name.name.as_str(), name.number), ("motions", version.number));
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    for offset in 0..whole.items.len() {
        let by_cursor: CountedPage<Run> = server.get(&format!("{path}&limit=1{cursor}")).await;
        let by_number: CountedPage<Run> = server.get(&format!("{path}&limit=1&offset={offset}")).await;
        assert_eq!(by_cursor.items, by_number.items);
        paged.extend(by_cursor.items);
        cursor = format!("&cursor={}", by_cursor.next_cursor.unwrap());
    }
    assert_eq!(paged, whole.items);
    let worse = format!("{path}{cursor}").replace("-accuracy", "loss");
    let (status, body) = server.send(ApiRole::Viewer, Method::GET, &worse, "", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "a cursor belongs to its order: {body}");
}

/// While as many run as may, the next is told to come back.
async fn too_much_at_once(server: &TestServer, run: &Run, evaluation: &Value) {
    let begin = || server.app.heavy.begin(server.app.changes.stopping());
    let held: Vec<_> = std::iter::from_fn(begin).collect();
    assert!(!held.is_empty());
    let package = json!({"run": run.id, "semver": "1.0.0"});
    for (path, ask) in [
        (format!("/runs/{}/evaluations", run.id), evaluation),
        ("/models/motions/versions".to_owned(), &package),
    ] {
        let (status, body) = server.try_post(&path, ask).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {body}");
        assert!(body["detail"].as_str().unwrap().contains("try again"), "{body}");
    }
    let path = format!(
        "/models/motions/imports?semver=1.1.0&dataset_version={}",
        run.dataset_version
    );
    let (status, _) = server
        .send(ApiRole::Operator, Method::POST, &path, "application/octet-stream", "x")
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

/// What is evaluated or packaged when the server stops is broken off.
async fn stopping(server: &TestServer, run: &Run) {
    let later: DatasetVersion = server
        .post("/datasets/motions/versions", &json!({"min_confidence": 0.85}))
        .await;
    server.app.changes.stop();
    let evaluation = json!({"dataset_version": later.id, "split": "train"});
    let package = json!({"run": run.id, "semver": "9.0.0"});
    for (path, ask) in [
        (format!("/runs/{}/evaluations", run.id), evaluation),
        ("/models/motions/versions".to_owned(), package),
    ] {
        let (status, body) = server.try_post(&path, &ask).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {body}");
        assert!(body["detail"].as_str().unwrap().contains("is stopping"), "{body}");
    }
}

/// Of the rows dataset, labelled by hand.
async fn two_class_version(server: &TestServer) -> DatasetVersion {
    let page: Page<Sample> = server.get("/datasets/rows/samples?values=true&limit=1000").await;
    let annotations: Vec<Value> = page
        .items
        .iter()
        .map(|s| json!({"sample": s.digest, "label": if s.values.as_ref().unwrap()[0] > 0.0 { "high" } else { "low" }}))
        .collect();
    server
        .post::<Value>("/datasets/rows/annotations", &json!({"annotations": annotations}))
        .await;
    server.post("/datasets/rows/versions", &json!({})).await
}

async fn packaging(server: &TestServer, run: &Run) -> ModelVersion {
    let ask = json!({"run": run.id, "semver": "1.0.0", "hardware_classes": ["watch"], "p95_budget_us": 50_000});
    let version: ModelVersion = server.post("/models/motions/versions", &ask).await;
    assert_eq!(
        (version.release_counter, version.signature),
        (1, SignatureState::Unsigned)
    );
    assert!(
        version.golden_cases > 0 && version.golden_max_diff < 1e-4,
        "{version:?}"
    );
    let stored = crate::store::models::get(&server.app.db, version.id).await.unwrap();
    let manifest = read_manifest(&stored.payload).unwrap();
    assert_eq!(manifest.provenance.run, Some(run.id));
    assert_eq!(manifest.labels, ["standing", "walking", "running", "badminton"]);
    assert_eq!(manifest.hardware_classes, ["watch"]);
    for (component, sources) in manifest.components.iter().zip(&stored.components) {
        assert_eq!((component.kind, component.blob.sha256), (sources.kind, sources.digest));
        for source in &sources.sources {
            server.app.blobs.get(&source.blob.sha256).await.unwrap();
        }
    }
    let (status, body) = server.try_post("/models/motions/versions", &ask).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    version
}

/// Two devices' sketches of two hours, one of them far from the training data.
async fn drift_of_a_package(server: &TestServer, version: &ModelVersion) {
    let stored = crate::store::models::get(&server.app.db, version.id).await.unwrap();
    let manifest = read_manifest(&stored.payload).unwrap();
    let component = manifest.component(ComponentKind::Reference).unwrap();
    let bytes = server.app.blobs.get(&component.blob.sha256).await.unwrap();
    let profile: ReferenceProfile = codec::from_slice(&bytes, MAX_COMPONENT_BYTES).unwrap();
    let sketch = |value: f32, count: usize| {
        let mut sketch = SketchSet::new(component.blob.sha256, &profile);
        for _ in 0..count {
            sketch.observe(&profile, &vec![value; profile.features.len()], Some(2));
        }
        sketch
    };
    let from = 1_795_399_200_000_i64;
    let mut tx = server.app.db.begin().await.unwrap();
    for (device, hour, sketch) in [
        ("a", 0, sketch(1e6, 200)),
        ("b", 0, sketch(1e6, 100)),
        ("a", 5, sketch(0.0, 3)),
    ] {
        sqlx::query("INSERT INTO sketches VALUES ($1, $2, $3, $4)")
            .bind(from / 3_600_000 + hour)
            .bind(device)
            .bind(version.manifest.to_string())
            .bind(codec::to_vec(&sketch).unwrap())
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let time = "from=2026-11-23T02:00:00Z&to=2026-11-23T08:00:00Z";
    let of = |device: &str, what: &str| format!("/drift/{device}/{}/{what}?{time}", version.manifest);
    let features: DriftFeatures = server.get(&of("a", "features")).await;
    assert_eq!(features.package.version, version.id);
    assert_eq!(features.items.len(), profile.features.len());
    let first = &features.items[0];
    assert!(first.severity.drifted && first.seen_count == 203, "{first:?}");
    assert_eq!(
        (first.edges.len(), first.reference.len()),
        (first.seen.len() + 1, first.seen.len())
    );
    // The line's newest version, on every device.
    let all: DriftFeatures = server.get(&format!("/drift/*/motions/features?{time}")).await;
    assert_eq!((all.items[0].seen_count, &all.package), (303, &features.package));
    let classes: Page<ClassShare> = server.get(&of("*", "classes")).await;
    assert!(
        (classes.items[2].seen - 1.0).abs() < 1e-9 && classes.items[2].reference < 0.5,
        "{classes:?}"
    );
    let series: Page<DriftPoint> = server
        .get(&format!("{}&feature={}", of("a", "series"), first.name))
        .await;
    let told: Vec<(&str, u64, Option<bool>)> = series
        .items
        .iter()
        .map(|point| (point.at.as_str(), point.count, point.drifted))
        .collect();
    assert_eq!(
        told,
        [
            ("2026-11-23T02:00:00.000Z", 200, Some(true)),
            ("2026-11-23T07:00:00.000Z", 3, None)
        ]
    );
    assert_eq!(series.items[0].feature.as_ref().unwrap().name, first.name);
    for (path, status) in [
        (of("c", "features"), StatusCode::NOT_FOUND),
        (format!("{}&feature=nothing", of("a", "series")), StatusCode::NOT_FOUND),
        (
            format!("/drift/a/{}/series?from=yesterday", version.manifest),
            StatusCode::BAD_REQUEST,
        ),
        (
            format!("/drift/a/{}/series?from=2020-01-01T00:00:00Z", version.manifest),
            StatusCode::BAD_REQUEST,
        ),
        ("/drift/a/unknown/classes".to_owned(), StatusCode::NOT_FOUND),
    ] {
        let (found, body) = server.send(ApiRole::Viewer, Method::GET, &path, "", "").await;
        assert_eq!(found, status, "{path}: {body}");
    }
}

async fn signatures(server: &TestServer, version: &ModelVersion) {
    let path = format!("/model-versions/{}/signatures", version.id);
    let document: ManifestDocument = server.get(&format!("/model-versions/{}/manifest", version.id)).await;
    assert_eq!((document.role.as_str(), &document.envelope), ("release/motions", &None));
    let payload = STANDARD.decode(&document.payload).unwrap();
    let role: Role = document.role.parse().unwrap();
    let signed = |payload: &[u8], key: &KeyPair| {
        let mut envelope = Envelope::unsigned(payload.to_vec());
        envelope.add_signature(key, &role, Manifest::SCHEMA).unwrap();
        json!({"envelope": STANDARD.encode(envelope.encode().unwrap())})
    };
    let (status, body) = server
        .try_post(&path, &signed(&payload, &KeyPair::from_seed(&[7; 32])))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body["detail"].as_str().unwrap().contains("arbitrary-package"), "{body}");
    let mut altered = payload.clone();
    *altered.last_mut().unwrap() ^= 1;
    let (status, body) = server.try_post(&path, &signed(&altered, &server.release[0])).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body["detail"].as_str().unwrap().contains("altered-content"), "{body}");

    for _twice in 0..2 {
        let (status, body) = server.try_post(&path, &signed(&payload, &server.release[0])).await;
        assert_eq!(
            (status, &body["signature"]),
            (StatusCode::ACCEPTED, &json!("unsigned")),
            "one of two keys, whatever often"
        );
    }
    let (status, body) = server.try_post(&path, &signed(&payload, &server.release[1])).await;
    assert_eq!((status, &body["signature"]), (StatusCode::OK, &json!("signed")));
    let document: ManifestDocument = server.get(&format!("/model-versions/{}/manifest", version.id)).await;
    let envelope = STANDARD.decode(document.envelope.unwrap()).unwrap();
    assert_eq!(Envelope::decode(&envelope).unwrap().claimed_signers().len(), 2);
    server
        .app
        .blobs
        .get(&flotilla_protocol::ids::Digest::of(&envelope))
        .await
        .unwrap();
    let may_not = server
        .send(
            ApiRole::Operator,
            Method::POST,
            &path,
            "application/json",
            r#"{"envelope":""}"#,
        )
        .await;
    assert_eq!(may_not.0, StatusCode::FORBIDDEN);
}

async fn imports(server: &TestServer, run: &Run, version: &DatasetVersion) {
    let path = format!("/models/motions/imports?semver=1.1.0&dataset_version={}", version.id);
    let onnx = server.app.blobs.get(&run.model.unwrap()).await.unwrap();
    let send = async |bytes: Vec<u8>| {
        server
            .send(
                ApiRole::Operator,
                Method::POST,
                &path,
                "application/octet-stream",
                bytes,
            )
            .await
    };
    for bad in [onnx[..onnx.len() / 2].to_vec(), b"no model".to_vec(), Vec::new()] {
        let (status, body) = send(bad).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
    let (status, body) = send(onnx.to_vec()).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let imported: ModelVersion = serde_json::from_value(body).unwrap();
    assert_eq!((imported.release_counter, imported.run), (2, None));
    let document: ManifestDocument = server.get(&format!("/model-versions/{}/manifest", imported.id)).await;
    let code = document.content["provenance"]["code_version"].as_str().unwrap();
    assert!(code.contains("golden outputs are this engine's own"), "{code}");
}

async fn endless_run(server: &TestServer) -> Run {
    server.post::<Dataset>("/datasets", &rows("rows")).await;
    server.import("/datasets/rows/imports", rows_csv(200)).await;
    let version = two_class_version(server).await;
    let trainer = json!({"kind": "mlp", "hidden": [8], "learning_rate": 0.01, "weight_decay": 0.0, "epochs": 1_000_000,
        "batch_size": 16});
    let ask = json!({"experiment": "endless", "dataset_version": version.id, "trainer": trainer, "seed": 1});
    server.post("/runs", &ask).await
}

/// Waits until the job trains.
async fn training(server: &TestServer, run: &Run) {
    let trains = async {
        loop {
            let job: Job = server.get(&format!("/jobs/{}?wait_ms=1000", run.job)).await;
            assert!(!job.state.is_final(), "{job:?}");
            if job.message.starts_with("epoch") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), trains)
        .await
        .expect("it does not train");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_run_is_cancelled_and_a_waiting_one_never_starts() {
    let server = TestServer::new().await;
    let run = endless_run(&server).await;
    let tasks = server.run_jobs();
    training(&server, &run).await;
    let (status, _) = server.try_post(&format!("/runs/{}/cancel", run.id), &json!({})).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(server.job_end(run.job).await.state, JobState::Cancelled);
    assert_eq!(
        server.get::<Run>(&format!("/runs/{}", run.id)).await.status,
        RunStatus::Killed
    );
    let (status, _) = server.try_post(&format!("/runs/{}/cancel", run.id), &json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);

    let ask =
        json!({"experiment": "endless", "dataset_version": run.dataset_version, "trainer": run.trainer, "seed": 2});
    let waiting: Run = server.post("/runs", &ask).await;
    let killed: Run = server.post(&format!("/runs/{}/cancel", waiting.id), &json!({})).await;
    assert_eq!(killed.status, RunStatus::Killed);
    let runs: Page<Run> = server.get("/runs?experiment=endless").await;
    assert_eq!(
        runs.items.iter().map(|run| run.id).collect::<Vec<_>>(),
        [waiting.id, run.id]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_gives_its_job_back_to_the_queue() {
    let server = TestServer::new().await;
    let run = endless_run(&server).await;
    let tasks = server.run_jobs();
    training(&server, &run).await;
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0, "it stops after an epoch");
    let job: Job = server.get(&format!("/jobs/{}", run.job)).await;
    assert_eq!(job.state, JobState::Queued);
    assert_eq!(
        server.get::<Run>(&format!("/runs/{}", run.id)).await.status,
        RunStatus::Scheduled
    );
    let claim = jobs::claim(&server.app.db, 1, 2).await.unwrap().unwrap();
    assert_eq!(
        (claim.epoch, claim.attempts),
        (2, 1),
        "the stop was not held against it"
    );
}

#[tokio::test]
async fn a_worker_whose_lease_ran_out_changes_nothing_and_three_attempts_are_enough() {
    let server = TestServer::new().await;
    let run = endless_run(&server).await;
    let db = &server.app.db;
    let lost = jobs::claim(db, 100, 200).await.unwrap().unwrap();
    assert_eq!(jobs::claim(db, 150, 250).await.unwrap(), None, "the lease holds");
    let mut held = jobs::claim(db, 201, 300).await.unwrap().unwrap();
    assert_eq!((lost.epoch, held.epoch, held.attempts), (1, 2, 2));
    let progress = Progress {
        share: 0.5,
        message: "half".into(),
    };
    let mut tx = db.begin().await.unwrap();
    assert!(matches!(
        jobs::fence(&mut tx, &lost, 999).await,
        Err(StoreError::Conflict(_))
    ));
    let finished = jobs::finish(&mut tx, &lost, JobState::Succeeded, &progress, None, 1).await;
    assert!(matches!(finished, Err(StoreError::Conflict(_))));
    assert!(matches!(
        jobs::requeue(&mut tx, &lost, Retry::Forgiven, "", 1).await,
        Err(StoreError::Conflict(_))
    ));
    jobs::fence(&mut tx, &held, 300).await.unwrap();
    drop(tx);
    assert!(matches!(
        jobs::heartbeat(db, &lost, &progress, 1, 999).await,
        Err(StoreError::Conflict(_))
    ));
    assert!(!jobs::heartbeat(db, &held, &progress, 1, 300).await.unwrap());
    held = jobs::claim(db, 301, 400).await.unwrap().unwrap();
    assert_eq!(held.attempts, 3);

    let tasks = server.run_jobs();
    let job = server.job_end(run.job).await;
    let why = Some("gave up after 3 attempts; last heard: 'half'");
    assert_eq!((job.state, job.error.as_deref()), (JobState::Failed, why));
    let stored = runs::get(db, &server.app.fleet.project, run.id).await.unwrap().run;
    assert_eq!((stored.status, stored.error.as_deref()), (RunStatus::Failed, why));
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_trained_fails_with_its_reason() {
    let server = TestServer::new().await;
    let run = endless_run(&server).await;
    let tasks = server.run_jobs();
    training(&server, &run).await;
    server.try_post(&format!("/runs/{}/cancel", run.id), &json!({})).await;
    let trainer = json!({"kind": "mlp", "hidden": [8], "learning_rate": 1e30, "weight_decay": 0.0, "epochs": 20,
        "batch_size": 16});
    let ask = json!({"experiment": "diverges", "dataset_version": run.dataset_version, "trainer": trainer, "seed": 1});
    let diverging: Run = server.post("/runs", &ask).await;
    let job = server.job_end(diverging.job).await;
    assert_eq!(job.state, JobState::Failed);
    let stored: Run = server.get(&format!("/runs/{}", diverging.id)).await;
    assert_eq!(stored.status, RunStatus::Failed);
    assert!(stored.error.unwrap().contains("lower the learning rate"));
    let ask = json!({"run": diverging.id, "semver": "1.0.0"});
    let (status, body) = server.try_post("/models/rows/versions", &ask).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body["detail"].as_str().unwrap().contains("has no model"), "{body}");
    let mut bad =
        json!({"experiment": "bad", "dataset_version": run.dataset_version, "trainer": run.trainer, "seed": 1});
    bad["trainer"]["epochs"] = json!(0);
    let (status, body) = server.try_post("/runs", &bad).await;
    assert_eq!(
        (status, &body["errors"][0]["place"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("trainer"))
    );
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_for_a_while_is_tried_again_later_not_three_times_at_once() {
    let server = TestServer::new().await;
    server.post::<Dataset>("/datasets", &rows("rows")).await;
    server.import("/datasets/rows/imports", rows_csv(200)).await;
    let version = two_class_version(&server).await;
    // The version's blob cannot be read for a while: its name leads in a circle.
    let hex = version.digest.hex();
    let (folder, rest) = hex.split_at(2);
    let blob = server.app.upload_dir.with_file_name("blobs").join(folder).join(rest);
    let aside = blob.with_extension("aside");
    std::fs::rename(&blob, &aside).unwrap();
    std::os::unix::fs::symlink(&blob, &blob).unwrap();
    let trainer = json!({"kind": "mlp", "hidden": [8], "learning_rate": 0.01, "weight_decay": 0.0, "epochs": 2,
        "batch_size": 16});
    let ask = json!({"experiment": "patient", "dataset_version": version.id, "trainer": trainer, "seed": 1});
    let run: Run = server.post("/runs", &ask).await;
    let tasks = server.run_jobs();
    let waits = async {
        loop {
            let job: Job = server.get(&format!("/jobs/{}?wait_ms=1000", run.job)).await;
            assert!(!job.state.is_final(), "{job:?}");
            if job.state == JobState::Queued && job.message.starts_with("waiting 2 s") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waits)
        .await
        .expect("it does not wait");
    std::fs::remove_file(&blob).unwrap();
    std::fs::rename(&aside, &blob).unwrap();
    // Nothing tells the runner: it wakes when the job is due.
    let job = server.job_end(run.job).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_more_memory_than_is_allowed_is_refused_with_the_settings_name() {
    let mut server = TestServer::new().await;
    let run = endless_run(&server).await;
    server.app.heavy = Heavy::new(1000);
    let tasks = server.run_jobs();
    let job = server.job_end(run.job).await;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    let why = job.error.unwrap();
    assert!(
        why.contains("take 2880 bytes") && why.contains("training.max_dataset_bytes allows 1000"),
        "{why}"
    );
    let path = format!(
        "/models/rows/imports?semver=1.0.0&dataset_version={}",
        run.dataset_version
    );
    let (status, body) = server
        .send(ApiRole::Operator, Method::POST, &path, "application/octet-stream", "x")
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(
        body["detail"].as_str().unwrap().contains("training.max_dataset_bytes"),
        "{body}"
    );
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
}
