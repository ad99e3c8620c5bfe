//! Authentication: every request but the health probes and the sign-in carries a bearer token or a session's cookie. Who it
//! is goes into the request; what it may do is asked of [`crate::domain::authz`] by each handler.
//!
//! Browsers send cookies by themselves, also when another site makes them ask. Therefore a request under a cookie that
//! changes something must also carry a header that only our own pages can set.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_protocol::ids::{ApiTokenId, Digest, FleetId};

use crate::api::error::ApiError;
use crate::api::extract::Caller;
use crate::api::idempotency;
use crate::app::{App, Change};
use crate::clock;
use crate::domain::authz::{Action, authorize};
use crate::refusals::Refusals;
use crate::store::sessions::{self, OpenSession};
use crate::store::tokens;

/// What is open: probes, which say nothing of the fleet.
const OPEN: [&str; 2] = ["/livez", "/readyz"];

/// Where a sign-in link becomes a session: open to POST alone.
const SIGN_IN: &str = "/api/v1/session";

/// What people read in a browser, which can ask for a password but not for a bearer token.
const READ_IN_BROWSERS: [&str; 2] = ["/docs", "/openapi.json"];

/// The session's cookie. Browsers keep cookies by host, whatever the port: with the end of its fleet's id in the name, a server
/// does not sign out who is signed in to another one beside it. The end, because an id begins with when it was made.
pub(super) fn cookie_name(fleet: FleetId) -> String {
    format!("flotilla_session_{:08x}", fleet.0.as_u128() & u128::from(u32::MAX))
}

const CSRF_HEADER: &str = "x-csrf-token";

/// The console's mark on what nobody is there to have asked for: an open tab follows the fleet by itself, day and night. It
/// can only make a session end earlier.
const BACKGROUND_HEADER: &str = "x-flotilla-background";

/// By what the caller proved who it is; put into the request by the authentication layer.
#[derive(Debug, Clone)]
pub(super) enum Credential {
    Token(ApiTokenId),
    Session(Box<OpenSession>),
}

impl Credential {
    pub(super) fn session(&self) -> Option<&OpenSession> {
        match self {
            Self::Token(_) => None,
            Self::Session(session) => Some(session),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Credential {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::Unauthenticated)
    }
}

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
    let path = request.uri().path();
    let opens = path == SIGN_IN && request.method() == Method::POST;
    if OPEN.contains(&path) {
        return next.run(request).await;
    }
    if opens {
        return told(&app, next.run(request).await);
    }
    let presented = Presented::by(&request, app.fleet.id);
    match identify(&app, &presented).await {
        Ok((caller, credential)) => {
            let changes = presented.changes;
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(credential);
            let response = next.run(request).await;
            if changes { told(&app, response) } else { response }
        }
        Err(error) => {
            let unknown = matches!(error, ApiError::Unauthenticated | ApiError::UnknownToken);
            if unknown && presented.token.is_some() {
                tell_refused(&request);
            }
            let mut response = error.into_response();
            if unknown && READ_IN_BROWSERS.contains(&request.uri().path()) {
                let ask = HeaderValue::from_static("Basic realm=\"Flotilla: the token is the password\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, ask);
            }
            response
        }
    }
}

/// Somebody tried a token that is none, or not any more.
fn tell_refused(request: &Request) {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = peer.map_or_else(|| "(unknown)".to_owned(), |peer| peer.0.ip().to_string());
    if let Some(refusals) = request.extensions().get::<Refusals>() {
        let path: String = request.uri().path().chars().take(200).collect();
        refusals.tell(
            "token.refused",
            format!("address:{address}"),
            [("method", request.method().to_string()), ("path", path)],
        );
    }
}

/// What changed something stands in the audit log: whoever follows events looks there.
fn told(app: &App, response: Response) -> Response {
    if response.status().is_success() {
        app.changes.tell(Change::Audit);
    }
    response
}

const fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// What a request shows to say who it comes from.
struct Presented {
    token: Option<String>,
    cookie: Option<String>,
    csrf: Option<Digest>,
    changes: bool,
    /// A person had no part in it: the session is no less idle for it.
    background: bool,
}

impl Presented {
    fn by(request: &Request, fleet: FleetId) -> Self {
        let csrf = request.headers().get(CSRF_HEADER);
        let changes = !is_safe(request.method());
        Self {
            token: bearer(request).map(str::to_owned).or_else(|| password(request)),
            cookie: session_cookie(request.headers(), fleet),
            csrf: csrf.map(|sent| Digest::of(sent.as_bytes())),
            changes,
            background: !changes && request.headers().contains_key(BACKGROUND_HEADER),
        }
    }
}

async fn identify(app: &App, presented: &Presented) -> Result<(Caller, Credential), ApiError> {
    if let Some(token) = &presented.token {
        return by_token(app, token).await;
    }
    let Some(cookie) = &presented.cookie else {
        return Err(ApiError::Unauthenticated);
    };
    let session = by_cookie(app, cookie, presented.background).await?;
    // Digests are compared, so that the time it takes tells nothing.
    if presented.changes && presented.csrf != Some(Digest::of(session.csrf.as_bytes())) {
        return Err(ApiError::Csrf);
    }
    Ok((
        Caller(session.principal.clone()),
        Credential::Session(Box::new(session)),
    ))
}

async fn by_token(app: &App, token: &str) -> Result<(Caller, Credential), ApiError> {
    let (id, principal) = tokens::find_api_token(&app.db, &tokens::hash_token(token))
        .await?
        .ok_or(ApiError::UnknownToken)?;
    Ok((Caller(principal), Credential::Token(id)))
}

async fn by_cookie(app: &App, cookie: &str, background: bool) -> Result<OpenSession, ApiError> {
    let now = clock::now_ms();
    let session = sessions::find(&app.db, &tokens::hash_token(cookie), now)
        .await?
        .ok_or(ApiError::SessionExpired)?;
    if !background && session.is_seen_due(now) {
        sessions::seen(&app.db, &session.id, now).await?;
    }
    Ok(session)
}

/// Is what the request was let in by still good?
pub(super) async fn is_still_good(app: &App, credential: &Credential, cookie: Option<&str>) -> Result<bool, ApiError> {
    match (credential, cookie) {
        (Credential::Session(_), Some(cookie)) => {
            let found = sessions::find(&app.db, &tokens::hash_token(cookie), clock::now_ms()).await?;
            Ok(found.is_some())
        }
        (Credential::Session(_), None) => Ok(false),
        (Credential::Token(id), _) => Ok(tokens::is_good(&app.db, *id).await?),
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

/// The session's secret, as the browser sent it. Those of other fleets are not looked at.
pub(super) fn session_cookie(headers: &axum::http::HeaderMap, fleet: FleetId) -> Option<String> {
    let ours = cookie_name(fleet);
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == ours)
        .map(|(_, value)| value.to_owned())
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_cookie_is_that_of_the_own_fleet() {
        let [ours, theirs] = [0xabcd_0000_0001, 0xabcd_0000_0002].map(|id| FleetId::new(Uuid::from_u128(id)));
        assert_eq!(cookie_name(ours), "flotilla_session_00000001");
        let headers = |cookies: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for cookie in cookies {
                headers.append(COOKIE, HeaderValue::from_static(cookie));
            }
            headers
        };
        let both = headers(&["flotilla_session=old; flotilla_session_00000002=b; flotilla_session_00000001=a"]);
        assert_eq!(session_cookie(&both, ours).as_deref(), Some("a"));
        assert_eq!(session_cookie(&both, theirs).as_deref(), Some("b"));
        let apart = headers(&["flotilla_session_00000002=b", "x=1;flotilla_session_00000001=a"]);
        assert_eq!(session_cookie(&apart, ours).as_deref(), Some("a"));
        let none = headers(&["flotilla_session=old; flotilla_session_000000011=c"]);
        assert_eq!(session_cookie(&none, ours), None);
    }
}
