//! Jobs: how far long work is.

use std::time::Duration;

use axum::extract::State;
use flotilla_api_types::{Job, Problem};
use flotilla_protocol::ids::JobId;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::app::{App, Change, MAX_WAIT};
use crate::domain::authz::Action;
use crate::store::jobs as store;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    /// Answer when the state or progress changes, or after so long. Ended jobs are answered at once.
    #[serde(default)]
    wait_ms: u64,
}

/// One job; with `wait_ms`, as soon as it changes
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", params(("id" = String, Path), WaitQuery),
    security(("token" = [])), responses((status = 200, body = Job), (status = 404, body = Problem)))]
async fn show(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<Job>, ApiError> {
    require(&caller, Action::Read)?;
    let id: JobId = id.parse()?;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(query.wait_ms).min(MAX_WAIT);
    // Listened for before reading, so that no change falls in between.
    let mut news = app.changes.listen();
    let first = store::get(&app.db, id).await?;
    loop {
        let job = store::get(&app.db, id).await?;
        if job != first || job.state.is_final() {
            return Ok(Json(job));
        }
        let changed = news.wait_for(|change| *change == Change::Job(id));
        if tokio::time::timeout_at(deadline, changed).await != Ok(true) {
            return Ok(Json(job));
        }
    }
}
