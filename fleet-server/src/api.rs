//! The REST API for people and their tools: one file per resource, each with its routes, handlers and rules. Bodies stand
//! in `flotilla-api-types`.
//!
//! Every route is in the OpenAPI document at `/openapi.json`. Nothing but `/livez` and `/readyz` is open.

pub mod auth;
pub mod error;
pub mod extract;
pub mod idempotency;

mod audit;
mod datasets;
mod devices;
mod docs;
mod drift;
mod health;
mod jobs;
mod labels;
mod models;
mod rollouts;
mod runs;
mod tokens;
mod trust;

use axum::{Extension, Router};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::api::docs::BearerToken;
use crate::app::App;
use crate::broker::BrokerHandle;

/// The document's frame; paths and schemas come from the routes.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Flotilla fleet server", description = "Labels, trains, packages, rolls out and watches models on devices."),
    modifiers(&BearerToken)
)]
struct Document;

/// Every documented route, and the document.
pub fn documented() -> (Router<App>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .nest("/api/v1", resources())
        .merge(health::routes())
        .split_for_parts()
}

fn resources() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(audit::routes())
        .merge(datasets::routes())
        .merge(devices::routes())
        .merge(drift::routes())
        .merge(jobs::routes())
        .merge(labels::routes())
        .merge(models::routes())
        .merge(rollouts::routes())
        .merge(runs::routes())
        .merge(tokens::routes())
        .merge(trust::routes())
}

/// The whole API behind authentication.
pub fn router(app: App, broker: BrokerHandle, metrics: Metrics) -> Router {
    let (routes, document) = documented();
    let routes = routes
        .merge(docs::routes(document))
        .merge(health::metrics_route(metrics))
        .layer(Extension(broker));
    auth::protect(routes, app.clone()).with_state(app)
}

pub use health::Metrics;

/// Clamps a page's size.
pub(crate) fn page_limit(asked: Option<u32>) -> u32 {
    asked.unwrap_or(100).clamp(1, 1000)
}
