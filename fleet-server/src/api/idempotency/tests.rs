//! Tests of `Idempotency-Key` through the real routes: what runs, how often, and what is kept of it.

use axum::Router;
use futures_util::future::join_all;
use tower::ServiceExt as _;

use super::*;
use crate::api::auth;
use crate::api::datasets::testing::{TestServer, rows};
use crate::domain::authz::Role;
use crate::store::tokens;

const TOKEN: &str = "flt_test";

struct Bench {
    server: TestServer,
    routes: Router,
}

async fn bench() -> Bench {
    let server = TestServer::new().await;
    let mut tx = server.app.db.begin().await.unwrap();
    tokens::create_api_token(&mut tx, "t", &tokens::hash_token(TOKEN), &[Role::Admin], 0)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let routes = auth::protect(crate::api::documented().0, server.app.clone()).with_state(server.app.clone());
    Bench { server, routes }
}

impl Bench {
    async fn post(&self, path: &str, key: &str, body: Value) -> (StatusCode, axum::http::HeaderMap, String) {
        let request = Request::post(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .header(HEADER, key)
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (parts.status, parts.headers, String::from_utf8_lossy(&body).into_owned())
    }

    async fn claim_tokens(&self) -> usize {
        let tokens = tokens::list_claim_tokens(&self.server.app.db, None, 100).await.unwrap();
        tokens.len()
    }
}

fn token_of(uses: u32) -> Value {
    serde_json::json!({"uses": uses, "lifetime_s": 60})
}

#[tokio::test]
async fn of_several_at_the_same_time_one_runs() {
    let bench = bench().await;
    let answers = join_all((0..6).map(|_| bench.post("/claim-tokens", "k", token_of(1)))).await;
    let made = answers
        .iter()
        .filter(|(status, ..)| *status == StatusCode::CREATED)
        .count();
    assert_eq!((made, bench.claim_tokens().await), (1, 1), "{answers:?}");
    for (status, headers, body) in answers {
        let told = body.contains("under way") && headers.contains_key(header::RETRY_AFTER);
        assert!(
            status == StatusCode::CREATED || (status == StatusCode::CONFLICT && (told || body.contains("already"))),
            "{status} {body}"
        );
    }
}

#[tokio::test]
async fn a_secret_is_answered_once_and_never_kept() {
    let bench = bench().await;
    let (status, _, first) = bench.post("/claim-tokens", "k", token_of(2)).await;
    assert_eq!(status, StatusCode::CREATED);
    let first: Value = serde_json::from_str(&first).unwrap();
    let (secret, id) = (&first["factory_bundle"]["claim_token"], first["id"].as_str().unwrap());
    let secret = secret.as_str().unwrap();
    let kept: Vec<u8> = sqlx::query_scalar("SELECT body FROM idempotency_keys")
        .fetch_one(bench.server.app.db.read())
        .await
        .unwrap();
    assert!(!String::from_utf8_lossy(&kept).contains(secret));
    let (status, _, again) = bench.post("/claim-tokens", "k", token_of(2)).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(again.contains(id) && again.contains("shown once"), "{again}");
    assert_eq!(bench.claim_tokens().await, 1);
}

#[tokio::test]
async fn what_was_refused_frees_its_key_and_what_ran_is_told_again() {
    let bench = bench().await;
    let (status, ..) = bench.post("/claim-tokens", "k", token_of(0)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let dataset = serde_json::to_value(rows("rows")).unwrap();
    let (status, _, first) = bench.post("/datasets", "k", dataset.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    let (status, headers, again) = bench.post("/datasets", "k", dataset).await;
    assert_eq!((status, &again), (StatusCode::CREATED, &first));
    assert!(headers.contains_key("idempotency-replayed"));
    let (status, _, other) = bench.post("/datasets", "k", serde_json::json!({"name": "other"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(other.contains("another request"), "{other}");
}

/// Fields by which answers give secrets away.
const SECRET_FIELDS: [&str; 5] = ["factory_bundle", "claim_token", "secret", "code", "password"];

#[test]
fn every_route_that_answers_a_secret_is_known() {
    let document = serde_json::to_value(crate::api::documented().1).unwrap();
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(responses) = item["post"]["responses"].as_object() else {
            continue;
        };
        for (_, response) in responses.iter().filter(|(status, _)| status.starts_with('2')) {
            let schema = &response["content"]["application/json"]["schema"];
            let named = schema["$ref"]
                .as_str()
                .and_then(|name| document.pointer(name.trim_start_matches('#')))
                .unwrap_or(schema);
            let text = named.to_string();
            if SECRET_FIELDS
                .iter()
                .any(|field| text.contains(&format!("\"{field}\":")))
            {
                seen += 1;
                assert!(
                    SECRETS.iter().any(|(known, _)| known == path),
                    "{path} answers a secret"
                );
            }
        }
    }
    assert_eq!(seen, SECRETS.len(), "nothing else is withheld");
}
