//! Who am I, and the fleet's public trust documents.

use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_api_types::common::{Me, Problem, TrustDocuments};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json};
use crate::app::App;
use crate::domain::authz::Action;
use crate::store::documents;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(me)).routes(routes!(trust))
}

/// Who the token stands for
#[utoipa::path(get, path = "/me", tag = "access", security(("token" = [])),
    responses((status = 200, body = Me), (status = 401, body = Problem)))]
async fn me(Caller(principal): Caller) -> Json<Me> {
    Json(Me {
        actor: principal.actor,
        roles: principal.roles.iter().map(ToString::to_string).collect(),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// The fleet's public trust documents
#[utoipa::path(get, path = "/trust", tag = "access", security(("token" = [])),
    responses((status = 200, body = TrustDocuments), (status = 401, body = Problem)))]
async fn trust(caller: Caller, State(app): State<App>) -> Result<Json<TrustDocuments>, ApiError> {
    require(&caller, Action::Read)?;
    let (root_version, root) = documents::latest(&app.db, documents::ROOT).await?;
    let (_, head) = documents::latest(&app.db, documents::HEAD).await?;
    Ok(Json(TrustDocuments {
        fleet: app.fleet.id,
        fleet_name: app.fleet.name.clone(),
        root: STANDARD.encode(root),
        root_version,
        head: STANDARD.encode(head),
        ca_pem: app.fleet.ca_pem.clone(),
        broker: app.fleet.broker_url.clone(),
        device_api: app.fleet.device_api_url.clone(),
    }))
}
