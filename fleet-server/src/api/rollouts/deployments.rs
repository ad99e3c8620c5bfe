//! What became of a rollout: its deployments, and its failures by cause.

use axum::extract::State;
use flotilla_api_types::Problem;
use flotilla_api_types::rollouts::{DeploymentPage, RolloutFailures};
use flotilla_protocol::ids::RolloutId;
use flotilla_protocol::report::DeploymentState;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::states;
use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::page_limit;
use crate::app::App;
use crate::domain::authz::Action;
use crate::store::deployments::DeploymentQuery;
use crate::store::{deployments as store, rollouts};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(deployments))
        .routes(routes!(failures))
}

/// Causes in one answer at most.
const MOST_CAUSES: u32 = 100;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    /// Only in this state: `pending`, `downloading`, `installing`, `verifying`, `soaking`, `success`, `failure`,
    /// `rolled-back`, `already-installed`, `no-longer-applicable` or `decommissioned`. Several: with commas between, or
    /// repeated.
    state: Option<String>,
    /// Only what failed for this cause, as `/failures` names it.
    cause: Option<String>,
}

/// What became of it, device by device
#[utoipa::path(get, path = "/rollouts/{id}/deployments", tag = "rollouts", params(("id" = String, Path), ListQuery),
    security(("token" = [])), responses((status = 200, body = DeploymentPage), (status = 404, body = Problem),
        (status = 422, body = Problem, description = "No such state")))]
async fn deployments(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Json<DeploymentPage>, ApiError> {
    require(&caller, Action::Read)?;
    let id: RolloutId = id.parse()?;
    let asked = DeploymentQuery {
        states: states(query.state.as_deref(), &DeploymentState::ALL, DeploymentState::as_str)?,
        cause: query.cause,
        after: query.cursor.unwrap_or_default(),
        limit: page_limit(query.limit),
    };
    let rollout = rollouts::get(&app.db, id).await?;
    let total = store::total(&app.db, id, &asked, &rollout.counts).await?;
    let items = store::list(&app.db, id, &asked).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == asked.limit as usize)
        .map(|last| last.device.to_string());
    Ok(Json(DeploymentPage {
        items,
        next_cursor,
        total,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct CausesQuery {
    /// Causes in the answer, at most 100.
    limit: Option<u32>,
}

/// Its failures by cause, the commonest first
///
/// Devices that failed or rolled back, grouped by what their reasons have in common. The devices of one cause are the
/// deployments with that `cause`.
#[utoipa::path(get, path = "/rollouts/{id}/failures", tag = "rollouts", params(("id" = String, Path), CausesQuery),
    security(("token" = [])), responses((status = 200, body = RolloutFailures), (status = 404, body = Problem)))]
async fn failures(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<CausesQuery>,
) -> Result<Json<RolloutFailures>, ApiError> {
    require(&caller, Action::Read)?;
    let id: RolloutId = id.parse()?;
    rollouts::exists(&app.db, id).await?;
    let limit = query.limit.unwrap_or(MOST_CAUSES).clamp(1, MOST_CAUSES);
    Ok(Json(store::failures(&app.db, id, limit).await?))
}
