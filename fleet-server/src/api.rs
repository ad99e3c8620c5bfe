//! The REST API for people and their tools: one file per resource, each with its routes, handlers and rules. Bodies stand
//! in `flotilla-api-types`.
//!
//! Every route is in the OpenAPI document at `/openapi.json`. Nothing but `/livez`, `/readyz`, signing in and the console's
//! files is open.

pub mod auth;
pub mod error;
pub mod extract;
pub mod idempotency;

mod audit;
mod console;
mod datasets;
mod devices;
mod docs;
mod drift;
mod events;
mod headers;
mod health;
mod jobs;
mod labels;
mod models;
mod operations;
mod overview;
mod rollouts;
mod runs;
mod sessions;
mod stopping;
mod tokens;
mod trust;

use axum::{Extension, Router, middleware};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::api::docs::BearerToken;
use crate::api::error::ApiError;
use crate::app::App;
use crate::broker::BrokerHandle;
use crate::heavy::{Stopping, Turn};
use crate::refusals::Refusals;
use crate::tasks::Shutdown;

/// The document's frame; paths and schemas come from the routes.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Flotilla fleet server", description = "Labels, trains, packages, rolls out and watches models on devices."),
    modifiers(&BearerToken)
)]
struct Document;

/// Every documented route, and the document.
pub fn documented() -> (Router<App>, utoipa::openapi::OpenApi) {
    let (routes, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .nest("/api/v1", resources())
        .merge(health::routes())
        .split_for_parts();
    operations::annotate(&mut document);
    (routes, document)
}

fn resources() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(audit::routes())
        .merge(datasets::routes())
        .merge(devices::routes())
        .merge(drift::routes())
        .merge(events::routes())
        .merge(jobs::routes())
        .merge(labels::routes())
        .merge(models::routes())
        .merge(overview::routes())
        .merge(rollouts::routes())
        .merge(runs::routes())
        .merge(sessions::routes())
        .merge(tokens::routes())
        .merge(trust::routes())
}

/// What the API reaches besides [`App`].
#[derive(Debug, Clone)]
pub struct Around {
    pub broker: BrokerHandle,
    pub metrics: Metrics,
    /// Where tokens that are none go on record.
    pub refusals: Refusals,
    pub url: PublicUrl,
    /// Ends event streams, which end by nothing else.
    pub shutdown: Shutdown,
}

/// The whole API behind authentication.
pub fn router(app: App, around: Around) -> Router {
    let (routes, document) = documented();
    let routes = routes
        .merge(docs::routes(document))
        .merge(health::metrics_route(around.metrics))
        .layer(Extension(around.broker))
        .layer(Extension(around.url))
        .layer(Extension(around.shutdown));
    auth::protect(routes, app.clone())
        .layer(Extension(around.refusals))
        .layer(middleware::from_fn_with_state(app.clone(), stopping::cut_short))
        .layer(middleware::from_fn(headers::guard))
        .layer(middleware::from_fn(console::serve))
        .with_state(app)
}

pub use health::Metrics;
pub use sessions::{PublicUrl, make_link};

/// A turn for work that takes a processor and much memory. It stops when the request is dropped and when the server stops.
pub(crate) fn begin_heavy(app: &App) -> Result<(Turn, Stopping), ApiError> {
    app.heavy.begin(app.changes.stopping()).ok_or_else(|| {
        ApiError::Unavailable(
            "as many evaluations, packagings and freezings run as may at a time: nothing was changed, try again when one has \
             ended"
                .to_owned(),
        )
    })
}

/// Clamps a page's size.
pub(crate) fn page_limit(asked: Option<u32>) -> u32 {
    asked.unwrap_or(100).clamp(1, 1000)
}
