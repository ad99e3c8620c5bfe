//! Lists of versions over all lines, through the real routes.

use axum::http::Method;
use uuid::Uuid;

use super::*;
use crate::api::datasets::testing::TestServer;
use crate::domain::authz::Role as ApiRole;
use crate::store::models::NewVersion;

fn payload(semver: &str) -> Vec<u8> {
    format!("manifest of {semver}").into_bytes()
}

async fn register(server: &TestServer, line: &str, semver: &str, run: Option<RunId>) {
    let version = NewVersion {
        id: ModelVersionId::new(Uuid::now_v7()),
        line: line.parse().unwrap(),
        semver: semver.to_owned(),
        release_counter: 1,
        payload: payload(semver),
        run,
        dataset_version: None,
        components: Vec::new(),
        package_bytes: 1,
        golden_max_diff: 0.0,
        golden_cases: 1,
    };
    let mut tx = server.app.db.begin().await.unwrap();
    store::create(&mut tx, &server.app.fleet.project, &version, 1)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn found(server: &TestServer, query: &str) -> (Vec<String>, u64) {
    let page: CountedPage<ModelVersion> = server.get(&format!("/model-versions{query}")).await;
    let items = page.items.into_iter().map(|version| version.semver).collect();
    (items, page.total)
}

fn all(semvers: &[&str]) -> (Vec<String>, u64) {
    let items: Vec<String> = semvers.iter().map(|semver| (*semver).to_owned()).collect();
    let total = items.len() as u64;
    (items, total)
}

async fn three() -> (TestServer, RunId) {
    let server = TestServer::new().await;
    let run = RunId::new(Uuid::now_v7());
    for (line, semver, made_of) in [
        ("motions", "1.0.0", Some(run)),
        ("sounds", "2.0.0", None),
        ("clouds", "3.0.0", Some(run)),
    ] {
        register(&server, line, semver, made_of).await;
    }
    (server, run)
}

#[tokio::test]
async fn versions_are_found_whatever_their_line() {
    let (server, run) = three().await;
    assert_eq!(found(&server, "").await, all(&["3.0.0", "2.0.0", "1.0.0"]));
    assert_eq!(found(&server, &format!("?run={run}")).await, all(&["3.0.0", "1.0.0"]));
    let nothing = format!("?run={}&dataset_version={}", run, Uuid::nil());
    assert_eq!(found(&server, &nothing).await, all(&[]));
    let digest = |semver: &str| Digest::of(&payload(semver));
    let (first, second) = (digest("1.0.0"), digest("2.0.0"));
    for query in [
        format!("?manifest={first}&manifest={second}"),
        format!("?manifest={first},{second},{first}"),
    ] {
        assert_eq!(found(&server, &query).await, all(&["2.0.0", "1.0.0"]), "{query}");
    }
    assert_eq!(found(&server, "?text=3.0&signature=unsigned").await, all(&["3.0.0"]));
    assert_eq!(found(&server, "?signature=signed").await, all(&[]));
}

#[tokio::test]
async fn they_come_page_by_page_and_are_counted_once() {
    let (server, _) = three().await;
    let page: CountedPage<ModelVersion> = server.get("/model-versions?limit=2").await;
    assert_eq!((page.items.len(), page.total), (2, 3));
    let cursor = page.next_cursor.unwrap();
    let rest: CountedPage<ModelVersion> = server.get(&format!("/model-versions?limit=2&cursor={cursor}")).await;
    assert_eq!(rest.items[0].semver, "1.0.0");
    assert_eq!((rest.items.len(), rest.total, rest.next_cursor), (1, 3, None));
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    let server = TestServer::new().await;
    let many: Vec<String> = (0..=MOST_MANIFESTS)
        .map(|at| Digest::of(&at.to_le_bytes()).to_string())
        .collect();
    for query in [
        "manifest=".to_owned(),
        "manifest=latest".to_owned(),
        format!("manifest={}", many.join(",")),
        "run=7".to_owned(),
        "cursor=7".to_owned(),
        "signature=lost".to_owned(),
    ] {
        let path = format!("/model-versions?{query}");
        let (status, problem) = server
            .send(ApiRole::Viewer, Method::GET, &path, "", Body::empty())
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {problem}");
    }
}
