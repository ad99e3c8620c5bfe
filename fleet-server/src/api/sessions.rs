//! Signing in to the console: one-time links, sessions, and who has one.
//!
//! A link's code stands in the fragment of its address, which browsers keep to themselves. The session's secret is in a
//! cookie that scripts cannot read and other sites cannot make a browser send.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flotilla_api_types::sessions::{OpenSession, Session, SessionInfo, SignInLink};
use flotilla_api_types::{Page, Problem};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::{Credential, cookie_name, require};
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::page_limit;
use crate::app::{App, Change};
use crate::domain::authz::{Action, PrincipalRef, authorize};
use crate::store::sessions::{self as store, NewSession};
use crate::store::{StoreError, tokens};
use crate::{audit, clock, init};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_link))
        .routes(routes!(open, show, close))
        .routes(routes!(list))
        .routes(routes!(revoke))
        .layer(Extension(Attempts::default()))
}

/// Where people's browsers reach this server.
#[derive(Debug, Clone)]
pub struct PublicUrl(Arc<str>);

impl PublicUrl {
    pub fn new(url: &str) -> Self {
        Self(url.trim_end_matches('/').into())
    }

    /// A link that opens the console signed in.
    fn sign_in(&self, code: &str) -> String {
        format!("{}/#/sign-in/{code}", self.0)
    }

    fn is_tls(&self) -> bool {
        self.0.starts_with("https://")
    }
}

/// Makes a link that signs in as `subject`.
pub async fn make_link(app: &App, url: &PublicUrl, subject: PrincipalRef, actor: &str) -> Result<SignInLink, ApiError> {
    let code = init::new_token().map_err(|why| ApiError::Internal(why.to_string()))?;
    let now = clock::now_ms();
    let mut tx = app.db.begin().await?;
    let expires_at = store::create_link(&mut tx, &tokens::hash_token(&code), subject, now).await?;
    let (kind, id) = subject.parts();
    let record = audit::record(actor, "sign-in-link.created", format!("{kind}:{id}"), []);
    crate::store::audit::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(SignInLink {
        url: url.sign_in(&code),
        code,
        expires_at: clock::rfc3339(expires_at),
    })
}

/// Make a link that signs in to the console, once, within ten minutes
///
/// With an API token alone: a session cannot lengthen itself.
#[utoipa::path(post, path = "/sign-in-links", tag = "access", security(("token" = [])),
    responses((status = 201, body = SignInLink), (status = 403, body = Problem)))]
async fn create_link(
    caller: Caller,
    credential: Credential,
    State(app): State<App>,
    url: Option<Extension<PublicUrl>>,
) -> Result<(StatusCode, Json<SignInLink>), ApiError> {
    require(&caller, Action::Administer)?;
    let Credential::Token(token) = credential else {
        return Err(ApiError::Forbidden(
            "make a link from a session: use an API token ('fleetctl console')".to_owned(),
        ));
    };
    let Some(Extension(url)) = url else {
        return Err(ApiError::Unavailable("this server does not serve a console".to_owned()));
    };
    let link = make_link(&app, &url, PrincipalRef::ApiToken(token), &caller.0.actor).await?;
    Ok((StatusCode::CREATED, Json(link)))
}

/// Sign in with a link's code: sets the session's cookie
#[utoipa::path(post, path = "/session", tag = "access", request_body = OpenSession,
    responses((status = 200, body = Session), (status = 401, body = Problem, description = "The code is of no use"),
        (status = 429, body = Problem)))]
async fn open(
    State(app): State<App>,
    Extension(attempts): Extension<Attempts>,
    url: Option<Extension<PublicUrl>>,
    address: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    Json(sent): Json<OpenSession>,
) -> Result<Response, ApiError> {
    let now = clock::now_ms();
    let address = address.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |Extension(ConnectInfo(peer))| {
        peer.ip()
    });
    let code = tokens::hash_token(&sent.code);
    // A stranger's guesses must not keep out who has a good link: behind a proxy all of them come from one address.
    if !store::is_link(&app.db, &code, now).await? {
        attempts.check(address, now)?;
    }
    let secret = init::new_token().map_err(|why| ApiError::Internal(why.to_string()))?;
    let csrf = init::new_token().map_err(|why| ApiError::Internal(why.to_string()))?;
    let user_agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let user_agent: String = user_agent.chars().take(200).collect();
    let mut tx = app.db.begin().await?;
    let subject = store::take_link(&mut tx, &code, now).await?;
    let opened = match subject {
        None => None,
        Some(subject) => {
            let new = NewSession {
                hash: &tokens::hash_token(&secret),
                subject,
                csrf: &csrf,
                user_agent: &user_agent,
            };
            store::open(&mut tx, &new, now).await?
        }
    };
    let Some(session) = opened else {
        attempts.failed(address, now);
        let record = audit::record(
            &format!("address:{address}"),
            "session.refused",
            "sign-in-link:",
            [("user_agent", user_agent)],
        );
        crate::store::audit::append(&mut tx, &record).await?;
        tx.commit().await.map_err(StoreError::from)?;
        return Err(ApiError::LinkRefused(
            "the sign-in link was used, has lapsed, or never was: make a new one with 'fleetctl console'".to_owned(),
        ));
    };
    let record = audit::record(
        &session.principal.actor,
        "session.opened",
        format!("session:{}", session.id),
        [("address", address.to_string()), ("user_agent", user_agent)],
    );
    crate::store::audit::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Session(session.id.clone()));
    let tls = url.is_some_and(|Extension(url)| url.is_tls());
    let cookie = cookie(&app, &secret, store::LIFETIME_MS / 1000, tls)?;
    let mut response = Json(told(&session)).into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

fn cookie(app: &App, value: &str, max_age_s: i64, tls: bool) -> Result<HeaderValue, ApiError> {
    let name = cookie_name(app.fleet.id);
    let secure = if tls { "; Secure" } else { "" };
    HeaderValue::try_from(format!(
        "{name}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={max_age_s}{secure}"
    ))
    .map_err(|why| ApiError::Internal(why.to_string()))
}

fn told(session: &store::OpenSession) -> Session {
    let principal = &session.principal;
    let name = principal
        .actor
        .split_once(':')
        .map_or(principal.actor.as_str(), |(_, name)| name);
    Session {
        actor: principal.actor.clone(),
        name: name.to_owned(),
        roles: principal.roles.iter().map(ToString::to_string).collect(),
        capabilities: Action::ALL
            .into_iter()
            .filter(|action| authorize(principal, *action))
            .map(|action| action.as_str().to_owned())
            .collect(),
        csrf: session.csrf.clone(),
        expires_at: clock::rfc3339(session.expires_at),
        idle_expires_at: clock::rfc3339(session.last_seen.saturating_add(store::IDLE_MS).min(session.expires_at)),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Who is signed in
#[utoipa::path(get, path = "/session", tag = "access", security(("session" = [])),
    responses((status = 200, body = Session), (status = 401, body = Problem, description = "Nobody, or not any more")))]
async fn show(credential: Credential) -> Result<Json<Session>, ApiError> {
    let session = credential
        .session()
        .ok_or_else(|| ApiError::not_found("session", "of an API token"))?;
    Ok(Json(told(session)))
}

/// Sign out
#[utoipa::path(delete, path = "/session", tag = "access", security(("session" = [])),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem)))]
async fn close(
    caller: Caller,
    credential: Credential,
    State(app): State<App>,
    url: Option<Extension<PublicUrl>>,
) -> Result<Response, ApiError> {
    let session = credential
        .session()
        .ok_or_else(|| ApiError::not_found("session", "of an API token"))?;
    end(&app, &caller, &session.id, "signed out").await?;
    let tls = url.is_some_and(|Extension(url)| url.is_tls());
    let mut response = StatusCode::NO_CONTENT.into_response();
    response
        .headers_mut()
        .insert(header::SET_COOKIE, cookie(&app, "", 0, tls)?);
    Ok(response)
}

async fn end(app: &App, caller: &Caller, id: &str, why: &str) -> Result<(), ApiError> {
    let mut tx = app.db.begin().await?;
    if !store::close(&mut tx, id).await? {
        return Err(ApiError::not_found("session", id));
    }
    let record = audit::record(
        &caller.0.actor,
        "session.closed",
        format!("session:{id}"),
        [("why", why.to_owned())],
    );
    crate::store::audit::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Session(id.to_owned()));
    Ok(())
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Open sessions, newest first
#[utoipa::path(get, path = "/sessions", tag = "access", params(PageQuery), security(("token" = [])),
    responses((status = 200, body = Page<SessionInfo>), (status = 403, body = Problem)))]
async fn list(
    caller: Caller,
    credential: Credential,
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<SessionInfo>>, ApiError> {
    require(&caller, Action::Administer)?;
    let limit = page_limit(query.limit);
    let current = credential.session().map(|session| session.id.as_str());
    let items = store::list(&app.db, query.cursor.as_deref(), current, limit, clock::now_ms()).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.id.clone());
    Ok(Json(Page { items, next_cursor }))
}

/// End somebody's session
#[utoipa::path(delete, path = "/sessions/{id}", tag = "access", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 204), (status = 403, body = Problem), (status = 404, body = Problem)))]
async fn revoke(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    require(&caller, Action::Administer)?;
    end(&app, &caller, &id, "revoked").await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Failed attempts that an address has in a minute.
const MOST_FAILURES: u32 = 10;
const MINUTE_MS: i64 = 60_000;
/// Addresses remembered. When all are fresh, further ones wait: nothing grows.
const MOST_ADDRESSES: usize = 1024;

/// Who failed to sign in, and how often within the minute.
#[derive(Debug, Clone, Default)]
struct Attempts(Arc<Mutex<BTreeMap<IpAddr, Failures>>>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    since: i64,
    count: u32,
}

impl Attempts {
    /// Refuses an address that failed too often.
    fn check(&self, address: IpAddr, now: i64) -> Result<(), ApiError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, failures| now.saturating_sub(failures.since) < MINUTE_MS);
        let since = match known.get(&network(address)) {
            Some(failures) if failures.count >= MOST_FAILURES => failures.since,
            None if known.len() >= MOST_ADDRESSES => now,
            _ => return Ok(()),
        };
        let left_ms = since.saturating_add(MINUTE_MS).saturating_sub(now).max(0);
        Err(ApiError::TooMany {
            retry_after_s: u64::try_from(left_ms).unwrap_or(0).div_ceil(1000).max(1),
        })
    }

    fn failed(&self, address: IpAddr, now: i64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = known
            .entry(network(address))
            .or_insert(Failures { since: now, count: 0 });
        failures.count = failures.count.saturating_add(1);
    }
}

/// An IPv6 host has a whole network to ask from: it counts as one.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
