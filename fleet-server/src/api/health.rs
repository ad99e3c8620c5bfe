//! Probes and metrics.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::Caller;
use crate::app::App;
use crate::domain::authz::Action;
use crate::store::documents;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(livez)).routes(routes!(readyz))
}

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Makes the process's recorder. Once per process.
    pub fn install() -> Result<Self, String> {
        PrometheusBuilder::new()
            .install_recorder()
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

pub(super) fn metrics_route(metrics: Metrics) -> Router<App> {
    Router::new()
        .route("/metrics", get(show_metrics))
        .layer(Extension(metrics))
}

async fn show_metrics(caller: Caller, Extension(metrics): Extension<Metrics>) -> Result<impl IntoResponse, ApiError> {
    require(&caller, Action::Read)?;
    metrics.0.run_upkeep();
    Ok((
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        metrics.0.render(),
    ))
}

/// Is the process alive?
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, description = "alive")))]
async fn livez() -> &'static str {
    "ok\n"
}

/// Can it answer: is the database there?
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, description = "ready"), (status = 503, description = "not ready")))]
async fn readyz(State(app): State<App>) -> (StatusCode, &'static str) {
    match documents::latest(&app.db, documents::ROOT).await {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(error) => {
            tracing::error!(%error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")
        }
    }
}
