//! Datasets and labels through the routes.

use axum::http::{Method, StatusCode};
use std::time::Duration;

use flotilla_api_types::datasets::{
    Dataset, DatasetVersion, ImportReport, LabelingFunction, LabelingFunctionConflicts, Sample, Split,
};
use flotilla_api_types::{JobState, Page};
use flotilla_protocol::ids::{DeviceId, Digest, JobId};
use flotilla_protocol::infer::Tensor;
use flotilla_protocol::messages::{self, HarvestReason};
use serde_json::{Value, json};
use uuid::Uuid;

use super::testing::{TestServer, rows, rows_csv};
use crate::domain::authz::Role;
use crate::heavy::Heavy;
use crate::store::jobs::{self, JobKind};
use crate::store::labels::{self, Guess, Settled};

async fn samples(server: &TestServer, query: &str) -> Vec<Sample> {
    server
        .get::<Page<Sample>>(&format!("/datasets/rows/samples?{query}"))
        .await
        .items
}

async fn with_rows() -> TestServer {
    let server = TestServer::new().await;
    server.post::<Dataset>("/datasets", &rows("rows")).await;
    let (status, body) = server.import("/datasets/rows/imports", rows_csv(20)).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    server
}

#[tokio::test]
async fn an_import_is_all_or_nothing_and_names_the_place() {
    let server = TestServer::new().await;
    server.post::<Dataset>("/datasets", &rows("rows")).await;
    let mut bad = rows_csv(700);
    bad.push_str("1.0,NaN,high\n");
    let (status, body) = server.import("/datasets/rows/imports", bad).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(body["errors"][0]["place"], "line 702, column y", "{body}");
    let dataset: Dataset = server.get("/datasets/rows").await;
    assert_eq!(
        (dataset.samples, dataset.feature_names.len()),
        (0, 0),
        "two batches were on their way"
    );

    let (status, body) = server.import("/datasets/rows/imports", rows_csv(700)).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let report: ImportReport = serde_json::from_value(body).unwrap();
    assert_eq!(
        (report.rows, report.samples, report.train, report.holdout),
        (700, 700, 560, 140)
    );
    let dataset: Dataset = server.get("/datasets/rows").await;
    assert_eq!(dataset.feature_names, ["x", "y"], "the truth never reaches the store");
    assert_eq!(server.audit_events().await, ["dataset.created", "dataset.imported"]);
}

#[tokio::test]
async fn what_is_there_is_not_added_twice_and_other_columns_are_refused() {
    let server = with_rows().await;
    let (_, body) = server.import("/datasets/rows/imports?slice=again", rows_csv(25)).await;
    let report: ImportReport = serde_json::from_value(body).unwrap();
    assert_eq!((report.samples, report.duplicates, report.rows), (5, 20, 25));
    let (status, body) = server.import("/datasets/rows/imports", "x,z,truth\n1,2,low\n").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        body["errors"][0]["message"]
            .as_str()
            .unwrap()
            .contains("x, y; the file gives x, z"),
        "{body}"
    );
    let (_, body) = server
        .import("/datasets/rows/imports?split=holdout", "x,y,truth\n91,92,low\n")
        .await;
    assert_eq!(
        (&body["holdout"], &body["train"]),
        (&json!(1), &json!(0)),
        "the query overrides the rule"
    );
    let dataset: Dataset = server.get("/datasets/rows").await;
    assert_eq!(
        dataset.slices,
        [("again".to_owned(), 5), ("import".to_owned(), 21)].into()
    );
}

#[tokio::test]
async fn residues_in_neither_split_are_left_out() {
    let server = TestServer::new().await;
    let mut spec = rows("rows");
    spec["split"]["train"] = json!([0, 1]);
    server.post::<Dataset>("/datasets", &spec).await;
    let (_, body) = server.import("/datasets/rows/imports", rows_csv(20)).await;
    assert_eq!(
        (&body["train"], &body["holdout"], &body["excluded"]),
        (&json!(8), &json!(4), &json!(8)),
        "{body}"
    );
}

#[tokio::test]
async fn rows_of_one_group_are_on_one_side() {
    let server = TestServer::new().await;
    let mut spec = rows("rows");
    spec["split"] = json!({"kind": "hash", "holdout": 0.4, "column": "truth"});
    let dataset: Dataset = server.post("/datasets", &spec).await;
    let shown = serde_json::to_value(dataset.split).unwrap();
    assert_eq!(shown, spec["split"]);
    let lines: Vec<String> = (0..60).map(|i| format!("{i},{},g{}", i * i, i % 12)).collect();
    let (status, body) = server
        .import("/datasets/rows/imports", format!("x,y,truth\n{}\n", lines.join("\n")))
        .await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let mut sides = std::collections::BTreeMap::new();
    for sample in samples(&server, "values=true").await {
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers below 60")]
        let group = sample.values.as_ref().unwrap()[0] as i32 % 12;
        assert_eq!(
            *sides.entry(group).or_insert(sample.split),
            sample.split,
            "group {group}"
        );
    }
    assert_eq!(sides.len(), 12);
    assert!(
        [Split::Train, Split::Holdout]
            .iter()
            .all(|side| sides.values().any(|s| s == side))
    );
}

#[tokio::test]
async fn datasets_that_cannot_work_are_refused_place_by_place() {
    let server = TestServer::new().await;
    let refused = async |change: &dyn Fn(&mut Value)| {
        let mut spec = rows("rows");
        change(&mut spec);
        let (status, body) = server.try_post("/datasets", &spec).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        format!(
            "{}: {}",
            body["errors"][0]["place"].as_str().unwrap(),
            body["errors"][0]["message"].as_str().unwrap()
        )
    };
    let table = [
        refused(&|spec| spec["name"] = json!("Rows")).await,
        refused(&|spec| spec["labels"] = json!(["a"])).await,
        refused(&|spec| spec["labels"] = json!(["a", "a"])).await,
        refused(&|spec| spec["split"]["train"] = json!([0, 7])).await,
        refused(&|spec| spec["split"]["holdout"] = json!([0])).await,
        refused(&|spec| {
            spec["shape"] = json!({"kind": "series", "case_columns": ["case"], "order_column": "t", "channels": ["x"],
                "window": 2, "hop": 2, "rate_hz": 1.0, "statistics": ["mean"]});
            spec["split"] = json!({"kind": "hash", "holdout": 0.2, "column": "person"});
        })
        .await,
    ];
    insta::assert_snapshot!(table.join("\n"), @r"
    name: 1 to 64 of a-z, 0-9 and '-' are needed
    labels: 2 to 1024 classes are needed, 1 are given
    labels[1]: 'a' stands twice
    shape: the split rule is not usable: residue 7 never occurs modulo 5
    shape: the split rule is not usable: residue 0 is in both splits
    shape: the split rule is not usable: 'person' is none of the case columns (case): a case never straddles splits
    ");
    server.post::<Dataset>("/datasets", &rows("rows")).await;
    assert_eq!(
        server.try_post("/datasets", &rows("rows")).await.0,
        StatusCode::CONFLICT
    );
}

#[tokio::test]
async fn roles_are_asked() {
    let server = with_rows().await;
    let none = r#"{"annotations": []}"#;
    for (role, path, body, expected) in [
        (Role::Viewer, "/datasets/rows/imports", "", StatusCode::FORBIDDEN),
        (Role::Auditor, "/datasets/rows/annotations", none, StatusCode::FORBIDDEN),
        (Role::Labeler, "/datasets/rows/annotations", none, StatusCode::OK),
        (Role::Labeler, "/datasets/rows/versions", "{}", StatusCode::FORBIDDEN),
    ] {
        let (status, answer) = server.send(role, Method::POST, path, "application/json", body).await;
        assert_eq!(status, expected, "{role} {path} {answer}");
    }
}

#[tokio::test]
async fn pages_and_filters_cover_every_sample_once() {
    let server = with_rows().await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page<Sample> = server.get(&format!("/datasets/rows/samples?limit=7{cursor}")).await;
        seen.extend(page.items.into_iter().map(|sample| sample.key));
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected: Vec<String> = (0..20).map(|row| format!("row={row}")).collect();
    assert_eq!(seen, expected);
    let held_out = samples(&server, "split=holdout&values=true").await;
    assert_eq!(held_out.len(), 4);
    assert_eq!(
        held_out[0].values.as_ref().unwrap()[1].to_bits(),
        2f32.to_bits(),
        "y of row 4"
    );
    label(&server, &held_out[..1], "low").await;
    assert_eq!(samples(&server, "labelled=true").await.len(), 1);
    assert_eq!(samples(&server, "labelled=false").await.len(), 19);
}

async fn label(server: &TestServer, samples: &[Sample], label: &str) {
    let annotations: Vec<Value> = samples
        .iter()
        .map(|s| json!({"sample": s.digest, "label": label}))
        .collect();
    server
        .post::<Value>("/datasets/rows/annotations", &json!({"annotations": annotations}))
        .await;
}

#[tokio::test]
async fn annotations_are_all_or_none() {
    let server = with_rows().await;
    let all = samples(&server, "").await;
    let stranger = Digest::of(b"stranger");
    let ask = json!({"annotations": [
        {"sample": all[0].digest, "label": "low"}, {"sample": stranger, "label": "low"}]});
    let (status, body) = server.try_post("/datasets/rows/annotations", &ask).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        body["errors"][0]["message"]
            .as_str()
            .unwrap()
            .contains(&stranger.to_string()),
        "{body}"
    );
    let ask = json!({"annotations": [{"sample": all[0].digest, "label": "medium"}]});
    let (status, body) = server.try_post("/datasets/rows/annotations", &ask).await;
    assert_eq!(
        (status, &body["errors"][0]["place"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("annotations[0].label"))
    );
    assert_eq!(samples(&server, "labelled=true").await.len(), 0);
    label(&server, &all[..2], "low").await;
    let ask = json!({"annotations": [
        {"sample": all[0].digest, "label": "low"}, {"sample": all[1].digest, "label": "high"},
        {"sample": all[2].digest, "label": "high"}]});
    let report: Value = server.post("/datasets/rows/annotations", &ask).await;
    assert_eq!(report, json!({"new": 1, "changed": 1, "unchanged": 1}));
}

#[tokio::test]
async fn a_label_is_taken_back_by_who_may_and_the_sample_is_in_the_queue_again() {
    let server = with_rows().await;
    let all = samples(&server, "").await;
    label(&server, &all[..2], "low").await;
    let path = |sample: &Digest, query: &str| format!("/datasets/rows/annotations/{sample}{query}");
    let remove = async |role: Role, path: String| server.send(role, Method::DELETE, &path, "", "").await;
    let first = all[0].digest;
    let (status, _) = remove(Role::Viewer, path(&first, "")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, body) = remove(Role::Labeler, path(&first, "?label=high")).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert!(body["detail"].as_str().unwrap().contains("'low'"), "{body}");
    assert_eq!(
        samples(&server, "labelled=true").await.len(),
        2,
        "nothing was taken back"
    );
    let (status, body) = remove(Role::Labeler, path(&first, "?label=low")).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    let (status, _) = remove(Role::Labeler, path(&all[1].digest, "")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let sample: Sample = server.get(&format!("/datasets/rows/samples/{first}")).await;
    assert_eq!((sample.label, sample.values), (None, None));
    let queue: Page<Sample> = server.get("/datasets/rows/queue").await;
    assert_eq!(queue.items[0].digest, first);
    for sample in [first, Digest::of(b"stranger")] {
        assert_eq!(remove(Role::Labeler, path(&sample, "")).await.0, StatusCode::NOT_FOUND);
    }
    let (status, _) = remove(Role::Labeler, "/datasets/rows/annotations/x".to_owned()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let events = server.audit_events().await;
    let removed = events.iter().filter(|event| *event == "dataset.annotation-removed");
    assert_eq!(removed.count(), 2, "{events:?}");
}

#[tokio::test]
async fn one_sample_is_read_with_its_values_where_they_are_asked_for() {
    let server = with_rows().await;
    let all = samples(&server, "values=true").await;
    let sample: Sample = server
        .get(&format!("/datasets/rows/samples/{}?values=true", all[3].digest))
        .await;
    assert_eq!(sample, all[3]);
    for (digest, status) in [
        (Digest::of(b"stranger").to_string(), StatusCode::NOT_FOUND),
        ("x".to_owned(), StatusCode::BAD_REQUEST),
    ] {
        let path = format!("/datasets/rows/samples/{digest}");
        assert_eq!(server.send(Role::Viewer, Method::GET, &path, "", "").await.0, status);
    }
}

#[tokio::test]
async fn what_was_passed_over_does_not_come_again_in_the_same_pass() {
    let server = with_rows().await;
    // Thirds, which no short text says exactly; ties; and many without a guess.
    let guesses = [
        ("low", 1.0 / 3.0),
        ("low", 2.0 / 3.0),
        ("high", 1.0 / 3.0),
        ("high", 0.0),
    ];
    guess(&server, &guesses).await;
    for order in ["uncertainty", "newest"] {
        let whole: Page<Sample> = server
            .get(&format!("/datasets/rows/queue?order={order}&limit=1000"))
            .await;
        assert_eq!((whole.items.len(), &whole.next_cursor), (20, &None));
        let (mut passed, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/datasets/rows/queue?order={order}&limit=3{cursor}");
            let page: Page<Sample> = server.get(&path).await;
            // One of each page is labelled, the others are skipped.
            if let Some(first) = page.items.first() {
                label(&server, std::slice::from_ref(first), "low").await;
            }
            passed.extend(page.items.into_iter().map(|sample| sample.digest));
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let expected: Vec<Digest> = whole.items.iter().map(|sample| sample.digest).collect();
        assert_eq!(passed, expected, "{order}");
        let left: Page<Sample> = server.get(&format!("/datasets/rows/queue?order={order}")).await;
        assert_eq!(left.items.len(), 13, "a new pass begins with what was skipped");
        for sample in passed {
            let path = format!("/datasets/rows/annotations/{sample}");
            server.send(Role::Labeler, Method::DELETE, &path, "", "").await;
        }
    }
    for bad in ["cursor=x", "cursor=7", "order=newest&cursor=3fe0000000000000.7"] {
        let path = format!("/datasets/rows/queue?{bad}");
        let (status, _) = server.send(Role::Viewer, Method::GET, &path, "", "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn conflicts_of_labeling_functions_are_counted_by_the_server() {
    let server = with_rows().await;
    let (status, body) = server
        .send(
            Role::Viewer,
            Method::GET,
            "/datasets/rows/labeling-function-conflicts",
            "",
            "",
        )
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    for (name, when, label) in [
        ("up", r#"f["x"] > 0.0"#, "high"),
        ("down", r#"f["x"] < 0.5"#, "low"),
        ("conflicts", r#"f["x"] > 0.5"#, "high"),
    ] {
        let function = json!({"name": name, "when": when, "label": label});
        server
            .post::<LabelingFunction>("/datasets/rows/labeling-functions", &function)
            .await;
    }
    let tasks = server.run_jobs();
    let started: Value = server.post("/datasets/rows/label-model", &json!({})).await;
    server.job_end(started["job"].as_str().unwrap()).await;
    assert_eq!(tasks.stop(std::time::Duration::from_secs(5)).await, 0);
    let found: LabelingFunctionConflicts = server.get("/datasets/rows/labeling-function-conflicts").await;
    let names: Vec<&str> = found.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["up", "down", "conflicts"]);
    let x: Vec<f32> = samples(&server, "split=train&values=true")
        .await
        .iter()
        .map(|sample| sample.values.as_ref().unwrap()[0])
        .collect();
    let count = |holds: fn(f32) -> bool| x.iter().filter(|x| holds(**x)).count() as u64;
    let (up, down, far) = (count(|x| x > 0.0), count(|x| x < 0.5), count(|x| x > 0.5));
    let between = count(|x| x > 0.0 && x < 0.5);
    assert!(between > 0 && far > 0, "the test says something: {x:?}");
    assert_eq!(found.samples, x.len() as u64);
    assert_eq!(found.overlaps, [[up, between, far], [between, down, 0], [far, 0, far]]);
    assert_eq!(found.conflicts, [[0, between, 0], [between, 0, 0], [0, 0, 0]]);
    // A function may be called what it likes: no route is in its way.
    let path = "/datasets/rows/labeling-functions/conflicts";
    let (status, _) = server.send(Role::Operator, Method::DELETE, path, "", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}

/// Gives the first samples these guesses.
async fn guess(server: &TestServer, guesses: &[(&str, f64)]) -> Vec<Sample> {
    let all = samples(server, "").await;
    let dataset: Dataset = server.get("/datasets/rows").await;
    let settled = Settled {
        summary: serde_json::from_value(
            json!({"model": "majority", "samples": 20, "iterations": 0, "coverage": 1.0,
            "conflict": 0.0, "prior": {}, "fitted_at": ""}),
        )
        .unwrap(),
        guesses: all
            .iter()
            .zip(guesses)
            .map(|(sample, (label, confidence))| Guess {
                sample: sample.digest,
                label: (*label).to_owned(),
                confidence: *confidence,
            })
            .collect(),
        statistics: vec![],
        conflicts: LabelingFunctionConflicts::default(),
    };
    let mut tx = server.app.db.begin().await.unwrap();
    let job = JobId::new(Uuid::now_v7());
    jobs::enqueue(&mut tx, job, JobKind::LabelModel, "", "", 0)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let claim = jobs::claim(&server.app.db, 1, 2).await.unwrap().unwrap();
    let mut tx = server.app.db.begin().await.unwrap();
    let generation = labels::begin_generation(&mut tx, dataset.id, &claim).await.unwrap();
    labels::add_guesses(&mut tx, generation, &settled.guesses)
        .await
        .unwrap();
    labels::publish(&mut tx, generation, None, &settled, 1).await.unwrap();
    tx.commit().await.unwrap();
    all
}

/// Fits the label model and waits for it.
async fn fit(server: &TestServer, ask: &Value) {
    let started: Value = server.post("/datasets/rows/label-model", ask).await;
    let job = server.job_end(started["job"].as_str().unwrap()).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fitting_one_slice_leaves_the_guesses_of_the_others() {
    let server = with_rows().await;
    server.import("/datasets/rows/imports?slice=again", rows_csv(25)).await;
    let tasks = server.run_jobs();
    let functions = "/datasets/rows/labeling-functions";
    let always = |name: &str, label: &str| json!({"name": name, "when": "f[\"x\"] > -1000.0", "label": label});
    server.post::<Value>(functions, &always("first", "low")).await;
    fit(&server, &json!({})).await;
    let removed = server
        .send(Role::Operator, Method::DELETE, &format!("{functions}/first"), "", "")
        .await;
    assert_eq!(removed.0, StatusCode::NO_CONTENT);
    server.post::<Value>(functions, &always("second", "high")).await;
    fit(&server, &json!({"slices": ["again"]})).await;
    for (slice, count, label) in [("import", 16, "low"), ("again", 4, "high")] {
        let of_slice = samples(&server, &format!("slice={slice}&split=train")).await;
        let guesses: Vec<_> = of_slice.iter().filter_map(|sample| sample.guess.as_ref()).collect();
        assert_eq!(guesses.len(), count, "{slice}");
        assert!(guesses.iter().all(|guess| guess.label == label), "{slice}: {guesses:?}");
    }
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn the_queue_shows_what_is_least_known_first() {
    let server = with_rows().await;
    let all = guess(&server, &[("low", 0.9), ("low", 0.6), ("high", 0.6), ("high", 0.99)]).await;
    label(&server, &all[5..], "low").await;
    let queue = async |query: &str| -> Vec<String> {
        let page: Page<Sample> = server.get(&format!("/datasets/rows/queue?{query}")).await;
        page.items.into_iter().map(|sample| sample.key).collect()
    };
    let expected = ["row=4", "row=1", "row=2", "row=0", "row=3"];
    assert_eq!(
        queue("order=uncertainty").await,
        expected,
        "no guess, then by confidence, ties in order"
    );
    assert_eq!(queue("split=train&limit=2").await, ["row=1", "row=2"]);
    assert_eq!(queue("order=newest&limit=2").await, ["row=4", "row=3"]);
}

#[tokio::test]
async fn a_version_takes_sure_guesses_for_training_and_hand_labels_alone_for_holdout() {
    let server = with_rows().await;
    let guesses = [("low", 0.9), ("low", 0.7), ("high", 0.95), ("low", 0.85), ("low", 0.99)];
    let all = guess(&server, &guesses).await;
    let freeze = json!({"min_confidence": 0.8});
    label(&server, &all[9..10], "high").await;
    let version: DatasetVersion = server.post("/datasets/rows/versions", &freeze).await;
    assert_eq!(
        (version.train, version.holdout, version.left_out),
        (3, 1, 16),
        "row 4 is held out: its guess is no label"
    );
    assert_eq!((version.hand_labels, version.model_labels, version.number), (1, 3, 1));
    let again: DatasetVersion = server.post("/datasets/rows/versions", &freeze).await;
    assert_eq!((again.number, again.digest), (2, version.digest));
    let page: Page<DatasetVersion> = server.get("/datasets/rows/versions?limit=1").await;
    assert_eq!(page.items, [again]);
    assert_eq!(page.next_cursor.as_deref(), Some("2"));
    assert_eq!(
        server
            .get::<DatasetVersion>(&format!("/dataset-versions/{}", version.id))
            .await,
        version
    );

    label(&server, &all[2..3], "low").await;
    let (status, body) = server.try_post("/datasets/rows/versions", &freeze).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        body["detail"],
        "the training split has one class: all 3 labels say 'low'; at least two classes are needed"
    );
}

#[tokio::test]
async fn a_versions_digest_does_not_depend_on_the_order_of_imports() {
    let mut digests = Vec::new();
    for reversed in [false, true] {
        let server = TestServer::new().await;
        let mut spec = rows("rows");
        spec["split"] = json!({"kind": "all", "split": "train"});
        server.post::<Dataset>("/datasets", &spec).await;
        let csv = rows_csv(20);
        let (header, lines) = csv.split_once('\n').unwrap();
        let mut lines: Vec<&str> = lines.lines().collect();
        if reversed {
            lines.reverse();
        }
        server
            .import("/datasets/rows/imports", format!("{header}\n{}\n", lines.join("\n")))
            .await;
        for sample in samples(&server, "values=true").await {
            let high = sample.values.as_ref().unwrap()[0] > 0.0;
            label(&server, &[sample], if high { "high" } else { "low" }).await;
        }
        digests.push(
            server
                .post::<DatasetVersion>("/datasets/rows/versions", &json!({}))
                .await
                .digest,
        );
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn labeling_functions_are_tried_before_they_are_kept() {
    let server = with_rows().await;
    let path = "/datasets/rows/labeling-functions";
    let function = |name: &str, when: &str, label: &str| json!({"name": name, "when": when, "label": label});
    for (bad, why) in [
        (function("a", r#"f["xx"] > 1.0"#, "low"), "did you mean"),
        (function("a", r#"f["x"] > 1.0"#, "lo"), "did you mean 'low'?"),
        (function("a", r#"f["x"] >"#, "low"), "cannot be read"),
        (
            function("a", r#"10 / int(f["x"] - f["x"]) > 1"#, "low"),
            "Division by zero",
        ),
    ] {
        let (status, body) = server.try_post(path, &bad).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        assert!(body["detail"].as_str().unwrap().contains(why), "{body}");
    }
    let good = function("above", r#"f["x"] > 0.0"#, "high");
    server.post::<Value>(path, &good).await;
    assert_eq!(server.try_post(path, &good).await.0, StatusCode::CONFLICT);
    let (status, _) = server
        .send(Role::Operator, Method::DELETE, &format!("{path}/above"), "", "")
        .await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let page: Page<Value> = server.get(path).await;
    assert!(page.items.is_empty());
}

#[tokio::test]
async fn harvested_samples_join_the_datasets_that_gather_their_line() {
    let server = TestServer::new().await;
    let mut spec = rows("rows");
    spec["harvest_line"] = json!("lines");
    server.post::<Dataset>("/datasets", &spec).await;
    server.import("/datasets/rows/imports", rows_csv(5)).await;
    let sample = |values: &[f32]| messages::Sample {
        captured_at: 7,
        line: "lines".parse().unwrap(),
        manifest: Digest::of(b"manifest"),
        input: Tensor::from_f32("input", vec![values.len() as u64], values).unwrap(),
        scores: vec![0.4, 0.6],
        predicted: "high".into(),
        reason: HarvestReason::Drift,
    };
    let device = DeviceId::new("press-07").unwrap();
    let sent = [
        sample(&[50.0, 51.0]),
        sample(&[50.0, 51.0]),
        sample(&[1.0]),
        sample(&[f32::NAN, 1.0]),
        sample(&[0.0, 0.0]),
    ];
    let mut tx = server.app.db.begin().await.unwrap();
    let harvested = crate::store::datasets::insert_harvested(&mut tx, &device, &sent.each_ref(), 9, 9)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        (harvested.new, harvested.beyond),
        (1, 0),
        "one is new; the others are there, of another shape, or no numbers"
    );
    let slice = format!("harvest/{}", Digest::of(b"manifest").short());
    let found = samples(&server, &format!("slice={slice}")).await;
    assert_eq!(
        (found.len(), found[0].split, found[0].predicted.as_deref()),
        (1, Split::Train, Some("high"))
    );
    assert!(found[0].key.starts_with("device=press-07/at=1970"), "{}", found[0].key);
    for (device, count) in [("press-07", 1), ("press-08", 0)] {
        assert_eq!(samples(&server, &format!("device={device}")).await.len(), count);
        for order in ["uncertainty", "newest"] {
            let path = format!("/datasets/rows/queue?order={order}&device={device}");
            let queue: Page<Sample> = server.get(&path).await;
            assert_eq!(queue.items.len(), count, "{path}");
        }
    }
    let (status, _) = server
        .send(Role::Viewer, Method::GET, "/datasets/rows/queue?device=a%20b", "", "")
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn freezing_takes_a_turn_and_no_more_memory_than_is_allowed() {
    let mut server = with_rows().await;
    let path = "/datasets/rows/imports?slice=few&split=train";
    server.import(path, "x,y,truth\n91,92,low\n93,94,high\n").await;
    let few = samples(&server, "slice=few").await;
    label(&server, &few[..1], "low").await;
    label(&server, &few[1..], "high").await;
    let freeze = async |server: &TestServer, ask: Value| server.try_post("/datasets/rows/versions", &ask).await;

    let begin = || server.app.heavy.begin(server.app.changes.stopping());
    let held: Vec<_> = std::iter::from_fn(begin).collect();
    assert!(!held.is_empty());
    let (status, body) = freeze(&server, json!({})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body["detail"].as_str().unwrap().contains("try again"), "{body}");
    drop(held);
    let (status, body) = freeze(&server, json!({})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");

    // Enough for two samples, not for all twenty-two.
    server.app.heavy = Heavy::new(2000);
    let (status, body) = freeze(&server, json!({})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .contains("training.max_dataset_bytes allows 2000"),
        "{body}"
    );
    let (status, body) = freeze(&server, json!({"slices": ["few"]})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let (status, body) = freeze(&server, json!({"slices": ["few", "nowhere"]})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(
        body["detail"].as_str().unwrap().contains("no slice 'nowhere'"),
        "{body}"
    );
}

#[tokio::test]
async fn a_list_counts_what_each_dataset_has_and_no_more() {
    let server = with_rows().await;
    for name in ["empty", "staged"] {
        server.post::<Dataset>("/datasets", &rows(name)).await;
    }
    for slice in ["import", "late"] {
        let path = format!("/datasets/staged/imports?slice={slice}");
        let first = if slice == "late" { 100 } else { 0 };
        let lines: Vec<String> = (first..first + 7).map(|i| format!("{i},{i},low")).collect();
        server.import(&path, format!("x,y,truth\n{}\n", lines.join("\n"))).await;
    }
    let mut tx = server.app.db.begin().await.unwrap();
    sqlx::query("UPDATE imports SET state = 'receiving' WHERE slice = 'late'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    label(&server, &samples(&server, "").await[..3], "low").await;

    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page<Dataset> = server.get(&format!("/datasets?limit=2{cursor}")).await;
        listed.extend(page.items);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let told: Vec<_> = listed
        .iter()
        .map(|dataset| (dataset.name.as_str(), dataset.samples, dataset.hand_labels))
        .collect();
    assert_eq!(told, [("rows", 20, 3), ("empty", 0, 0), ("staged", 7, 0)]);
    for dataset in &listed {
        let alone: Dataset = server.get(&format!("/datasets/{}", dataset.name)).await;
        assert_eq!(alone.slices, dataset.slices, "{}", dataset.name);
    }
}

#[tokio::test]
async fn a_list_is_narrowed_to_what_gathers_a_line() {
    let server = TestServer::new().await;
    for (name, line) in [
        ("first", Some("motions")),
        ("none", None),
        ("other", Some("sounds")),
        ("second", Some("motions")),
    ] {
        let mut spec = rows(name);
        spec["harvest_line"] = json!(line);
        server.post::<Dataset>("/datasets", &spec).await;
    }
    let (status, body) = server.import("/datasets/second/imports", rows_csv(20)).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let page: Page<Dataset> = server.get("/datasets?harvest_line=motions").await;
    let told: Vec<_> = page
        .items
        .iter()
        .map(|dataset| (dataset.name.as_str(), dataset.samples))
        .collect();
    assert_eq!(told, [("first", 0), ("second", 20)]);
    let page: Page<Dataset> = server.get("/datasets?harvest_line=motions&limit=1").await;
    let next = page.next_cursor.unwrap();
    let page: Page<Dataset> = server
        .get(&format!("/datasets?harvest_line=motions&limit=1&cursor={next}"))
        .await;
    assert_eq!(page.items[0].name, "second");
    let page: Page<Dataset> = server.get("/datasets?harvest_line=nobody").await;
    assert!(page.items.is_empty());
    let (status, _) = server
        .send(
            Role::Viewer,
            Method::GET,
            "/datasets?harvest_line=Two%20words",
            "",
            axum::body::Body::empty(),
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}
