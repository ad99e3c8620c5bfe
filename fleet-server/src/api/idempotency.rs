//! `Idempotency-Key` on creation: the same key with the same request gets the first answer again; with another request it
//! is refused. Keys are kept for a day.
//!
//! Two requests with one key at the same time are not serialised: the second may find that the thing exists already, which
//! says the same.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use flotilla_protocol::ids::Digest;

use crate::api::error::ApiError;
use crate::api::extract::Caller;
use crate::app::App;
use crate::clock;
use crate::store::StoreError;
use crate::store::idempotency::{self as keys, StoredResponse};

const HEADER: &str = "idempotency-key";
/// Bodies of creation are small; uploads, which are not, are idempotent by their content.
const MAX_REQUEST: usize = 1 << 20;
const MAX_RESPONSE: usize = 1 << 20;

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
    let mut named = parts.uri.path().as_bytes().to_vec();
    named.extend_from_slice(&body);
    let fingerprint = Digest::of(&named);
    let actor = caller.0.actor.as_str();
    if let Some(first) = keys::find(&app.db, actor, key, clock::now_ms()).await? {
        if first.request != fingerprint {
            return Err(ApiError::Conflict(format!(
                "Idempotency-Key '{key}' was used for another request; take a new one"
            )));
        }
        return Ok(answer(first));
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_RESPONSE)
        .await
        .map_err(|why| ApiError::Internal(why.to_string()))?;
    let stored = StoredResponse {
        request: fingerprint,
        status: parts.status.as_u16(),
        body: body.to_vec(),
    };
    let mut tx = app.db.begin().await?;
    keys::keep(&mut tx, actor, key, &stored, clock::now_ms()).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn answer(stored: StoredResponse) -> Response {
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
