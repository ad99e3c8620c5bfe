//! Authentication: every request but the health probes carries a bearer token. Who it is goes into the request; what it
//! may do is asked of [`crate::domain::authz`] by each handler.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::api::error::ApiError;
use crate::api::extract::Caller;
use crate::api::idempotency;
use crate::app::App;
use crate::domain::authz::{Action, authorize};
use crate::store::tokens;

/// What is open: probes, which say nothing of the fleet.
const OPEN: [&str; 2] = ["/livez", "/readyz"];

/// What people read in a browser, which can ask for a password but not for a bearer token.
const READ_IN_BROWSERS: [&str; 2] = ["/docs", "/openapi.json"];

/// Puts authentication (and, inside it, idempotency) around all routes.
pub(super) fn protect(routes: Router<App>, app: App) -> Router<App> {
    routes
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(app.clone(), idempotency::replay))
        .layer(middleware::from_fn_with_state(app, authenticate))
}

/// Refuses what the caller's roles do not permit.
pub fn require(caller: &Caller, action: Action) -> Result<(), ApiError> {
    if authorize(&caller.0, action) {
        Ok(())
    } else {
        Err(ApiError::Forbidden(action.describe().to_owned()))
    }
}

async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let token = bearer(&request)
        .map(str::to_owned)
        .or_else(|| password(&request))
        .map(|token| tokens::hash_token(&token));
    match caller(&app, token).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(ApiError::Unauthenticated) if READ_IN_BROWSERS.contains(&request.uri().path()) => {
            let mut response = ApiError::Unauthenticated.into_response();
            let ask = HeaderValue::from_static("Basic realm=\"Flotilla: the token is the password\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, ask);
            response
        }
        Err(error) => error.into_response(),
    }
}

/// The token as the password of HTTP Basic authentication, for pages alone: a browser sends it along by itself, which no
/// route that changes something may accept.
fn password(request: &Request) -> Option<String> {
    if request.method() != Method::GET || !READ_IN_BROWSERS.contains(&request.uri().path()) {
        return None;
    }
    let value = request
        .headers()
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    Some(decoded.split_once(':')?.1.to_owned())
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim)
}

async fn caller(app: &App, token_hash: Option<String>) -> Result<Caller, ApiError> {
    let hash = token_hash.ok_or(ApiError::Unauthenticated)?;
    let principal = tokens::find_api_token(&app.db, &hash)
        .await?
        .ok_or(ApiError::Unauthenticated)?;
    Ok(Caller(principal))
}

async fn unknown(request: Request) -> ApiError {
    ApiError::not_found("resource", request.uri().path())
}

async fn wrong_method(request: Request) -> Response {
    let error = ApiError::invalid(format!(
        "{} is not possible on {}",
        request.method(),
        request.uri().path()
    ));
    let mut response = error.into_response();
    *response.status_mut() = axum::http::StatusCode::METHOD_NOT_ALLOWED;
    response
}
