//! The event stream: what changed, numbered, one line of JSON each. It ends with the session, with the token, or with the
//! server; whoever falls behind is told to ask for everything again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use flotilla_api_types::Problem;
use flotilla_api_types::events::{ChangeEvent, HelloEvent, ResetEvent, Resource};
use futures_util::Stream;
use futures_util::stream::unfold;
use metrics::{counter, gauge};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::{self, Credential, require};
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Query};
use crate::app::App;
use crate::domain::authz::{Action, Principal, authorize};
use crate::events::{Event, EventHub, Following};
use crate::tasks::Shutdown;

/// Streams at a time: one per browser, not per tab.
const MOST_STREAMS: usize = 512;
/// A comment goes out when nothing else did for so long; then the session is looked at as well.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events read from the ring at a time.
const CHUNK: usize = 64;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(stream))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// The same as the header `Last-Event-ID`, for clients that cannot set it.
    last_event_id: Option<String>,
}

/// What changes, as server-sent events
///
/// `hello` first, then `change` (its data is a `ChangeEvent`); `reset` when events were missed.
#[utoipa::path(get, path = "/events", tag = "events", params(EventsQuery), security(("token" = []), ("session" = [])),
    responses((status = 200, body = ChangeEvent, content_type = "text/event-stream"), (status = 401, body = Problem),
        (status = 503, body = Problem, description = "Too many streams")))]
async fn stream(
    caller: Caller,
    credential: Credential,
    State(app): State<App>,
    shutdown: Option<Extension<Shutdown>>,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    require(&caller, Action::Read)?;
    let hub = app.changes.events();
    let following = hub
        .follow(MOST_STREAMS)
        .ok_or_else(|| ApiError::Unavailable(format!("{MOST_STREAMS} event streams are open already")))?;
    let asked = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
        .or(query.last_event_id);
    let news = hub.watch();
    let (position, missed) = match asked.filter(|id| !id.is_empty()) {
        None => (hub.latest(), None),
        Some(id) => match hub.seq_of(&id) {
            Some(seq) if hub.after(seq, 1).is_ok() => (seq, None),
            Some(_) => (hub.latest(), Some("gap")),
            None => (hub.latest(), Some("epoch")),
        },
    };
    gauge!("flotilla_event_streams").increment(1);
    let follower = Follower {
        cookie: auth::session_cookie(&headers, app.fleet.id),
        greeting: vec![Some(Greeting::Hello), missed.map(Greeting::Reset)]
            .into_iter()
            .rev()
            .flatten()
            .collect(),
        look_at: Instant::now() + KEEP_ALIVE,
        app,
        hub,
        news,
        position,
        waiting: Vec::new(),
        principal: caller.0,
        credential,
        shutdown: shutdown.map(|Extension(shutdown)| shutdown),
        _counted: Counted(following),
    };
    let events = unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Takes the stream out of the count when it ends.
struct Counted(#[expect(dead_code, reason = "held for its drop")] Following);

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!("flotilla_event_streams").decrement(1);
    }
}

enum Greeting {
    Hello,
    Reset(&'static str),
}

/// One client, and how far it has read.
struct Follower {
    app: App,
    hub: EventHub,
    news: watch::Receiver<u64>,
    /// Everything up to here has been sent, or is in `waiting`.
    position: u64,
    /// Read and not yet sent, newest first.
    waiting: Vec<Arc<Event>>,
    /// To be sent before anything else, last first.
    greeting: Vec<Greeting>,
    principal: Principal,
    credential: Credential,
    cookie: Option<String>,
    look_at: Instant,
    shutdown: Option<Shutdown>,
    _counted: Counted,
}

impl Follower {
    /// The next event to send; `None` ends the stream.
    async fn next(&mut self) -> Option<sse::Event> {
        if let Some(greeting) = self.greeting.pop() {
            return Some(self.greet(&greeting));
        }
        loop {
            if self.shutdown.as_ref().is_some_and(Shutdown::is_stopping) {
                return None;
            }
            while let Some(event) = self.waiting.pop() {
                if self.is_about_us(&event) && !self.is_still_good().await {
                    return None;
                }
                if self.may_see(event.resource) {
                    let id = self.hub.id(event.seq);
                    return Some(sse::Event::default().id(id).event("change").data(&event.data));
                }
            }
            // Taken before reading, so that nothing falls in between.
            self.news.borrow_and_update();
            match self.hub.after(self.position, CHUNK) {
                Ok(events) if events.is_empty() => {}
                Ok(mut events) => {
                    self.position = events.last().map_or(self.position, |last| last.seq);
                    events.reverse();
                    self.waiting = events;
                    continue;
                }
                Err(_gap) => {
                    self.position = self.hub.latest();
                    return Some(self.greet(&Greeting::Reset("gap")));
                }
            }
            if !self.wait().await {
                return None;
            }
        }
    }

    /// Until there is something new; `false` ends the stream.
    async fn wait(&mut self) -> bool {
        let stopped = async {
            match &mut self.shutdown {
                Some(shutdown) => shutdown.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped => return false,
            changed = self.news.changed() => return changed.is_ok(),
            () = tokio::time::sleep_until(self.look_at) => {}
        }
        self.look_at = Instant::now() + KEEP_ALIVE;
        self.is_still_good().await
    }

    async fn is_still_good(&self) -> bool {
        match auth::is_still_good(&self.app, &self.credential, self.cookie.as_deref()).await {
            Ok(good) => good,
            Err(error) => {
                tracing::warn!(%error, "an event stream ends: its session cannot be looked up");
                false
            }
        }
    }

    fn is_about_us(&self, event: &Event) -> bool {
        event.resource == Resource::Session && self.credential.session().is_some_and(|own| own.id == event.id)
    }

    fn may_see(&self, resource: Resource) -> bool {
        let action = match resource {
            Resource::Audit => Action::ReadAudit,
            Resource::Token => Action::Operate,
            Resource::Session => Action::Administer,
            _ => Action::Read,
        };
        authorize(&self.principal, action)
    }

    fn greet(&self, greeting: &Greeting) -> sse::Event {
        let id = self.hub.id(self.position);
        match greeting {
            Greeting::Hello => {
                let hello = HelloEvent {
                    id: id.clone(),
                    server_version: env!("CARGO_PKG_VERSION").to_owned(),
                };
                sse::Event::default().event("hello").id(id).data(as_json(&hello))
            }
            Greeting::Reset(reason) => {
                counter!("flotilla_event_resets_total", "reason" => *reason).increment(1);
                let reset = ResetEvent {
                    reason: (*reason).to_owned(),
                };
                sse::Event::default().event("reset").id(id).data(as_json(&reset))
            }
        }
    }
}

/// Our own bodies have nothing that JSON cannot say.
fn as_json<T: Serialize>(body: &T) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

#[cfg(test)]
mod tests;
