//! `Idempotency-Key` on creation: the same key with the same request runs once and gets the first answer again; with another
//! request it is refused. Keys are kept for a day.
//!
//! The key is taken before the request runs: of several at the same time one runs, and the others are told to come back. A
//! refused request frees its key. An answer with a secret in it is not kept: whoever repeats the request learns what was
//! made, and that its secret was shown once.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use flotilla_protocol::ids::Digest;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::extract::Caller;
use crate::app::App;
use crate::clock;
use crate::store::StoreError;
use crate::store::idempotency::{self as keys, Answer, Held, Key, Taken};

const HEADER: &str = "idempotency-key";
/// Bodies of creation are small; uploads, which are not, are idempotent by their content.
const MAX_REQUEST: usize = 1 << 20;
const MAX_RESPONSE: usize = 1 << 20;
/// A running request says so often that it goes on.
const HOLD_AGAIN: Duration = Duration::from_secs(10);

/// Routes whose answers hold a secret, and where in the answer the id of what was made stands. A test holds that no other
/// route answers one.
const SECRETS: [(&str, &str); 2] = [("/api/v1/claim-tokens", "/id"), ("/api/v1/sign-in-links", "")];

pub(super) async fn replay(State(app): State<App>, request: Request, next: Next) -> Response {
    let key = request
        .headers()
        .get(HEADER)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let caller = request.extensions().get::<Caller>().cloned();
    let json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    match (key, caller) {
        (Some(key), Some(caller)) if request.method() == Method::POST && json => {
            with_key(&app, &caller, &key, request, next)
                .await
                .unwrap_or_else(ApiError::into_response)
        }
        _ => next.run(request).await,
    }
}

async fn with_key(app: &App, caller: &Caller, key: &str, request: Request, next: Next) -> Result<Response, ApiError> {
    if key.is_empty() || key.len() > 128 {
        return Err(ApiError::invalid("Idempotency-Key must have 1 to 128 characters"));
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_REQUEST)
        .await
        .map_err(|why| ApiError::TooLarge(format!("the body cannot be read: {why}")))?;
    let secret = SECRETS.iter().find(|(path, _)| *path == parts.uri.path());
    let mut named = parts.uri.to_string().into_bytes();
    named.extend_from_slice(&body);
    let actor = caller.0.actor.as_str();
    let name = Key { actor, key };
    let held = match keys::take(&app.db, name, Digest::of(&named), clock::now_ms()).await? {
        Taken::Ours(held) => held,
        Taken::Running => {
            return Err(ApiError::UnderWay(format!(
                "a request with Idempotency-Key '{key}' is under way: ask again for its answer"
            )));
        }
        Taken::Other => {
            return Err(ApiError::refused(format!(
                "Idempotency-Key '{key}' was used for another request; take a new one"
            )));
        }
        Taken::Answered(first) if first.withheld => {
            let made = String::from_utf8_lossy(&first.body).into_owned();
            return Err(ApiError::Conflict(format!(
                "Idempotency-Key '{key}' made {made} already. Its secret was shown once and is not kept: if it is lost, make \
                 another with a new key"
            )));
        }
        Taken::Answered(first) => return Ok(answer(first)),
    };
    let response = run(app, &held, Request::from_parts(parts, Body::from(body)), next).await;
    finish(app, held, response, secret.map(|(path, id)| (*path, *id))).await
}

/// Holds the key while the request runs.
async fn run(app: &App, held: &Held<'_>, request: Request, next: Next) -> Response {
    let running = next.run(request);
    tokio::pin!(running);
    loop {
        tokio::select! {
            response = &mut running => return response,
            () = tokio::time::sleep(HOLD_AGAIN) => {
                if let Err(error) = held.hold(&app.db, clock::now_ms()).await {
                    tracing::warn!(%error, "an Idempotency-Key cannot be held longer");
                }
            }
        }
    }
}

async fn finish(
    app: &App,
    held: Held<'_>,
    response: Response,
    secret: Option<(&str, &str)>,
) -> Result<Response, ApiError> {
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        let mut tx = app.db.begin().await?;
        held.free(&mut tx).await?;
        tx.commit().await.map_err(StoreError::from)?;
        return Ok(Response::from_parts(parts, body));
    }
    let body = to_bytes(body, MAX_RESPONSE)
        .await
        .map_err(|why| ApiError::Internal(why.to_string()))?;
    let mut tx = app.db.begin().await?;
    let first = Answer {
        status: parts.status.as_u16(),
        body: secret.map_or_else(|| body.to_vec(), |(path, id)| made(path, id, &body).into_bytes()),
        withheld: secret.is_some(),
    };
    held.answer(&mut tx, &first).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// `claim-tokens 0192…`
fn made(path: &str, id: &str, body: &[u8]) -> String {
    let kind = path.rsplit('/').next().unwrap_or_default();
    let id = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|body| body.pointer(id)?.as_str().map(str::to_owned));
    id.map_or_else(|| format!("one of {kind}"), |id| format!("one of {kind}, {id},"))
}

fn answer(stored: Answer) -> Response {
    let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK);
    let mut response = (status, Bytes::from(stored.body)).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert("idempotency-replayed", HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests;
