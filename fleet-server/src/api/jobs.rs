//! Jobs: how far long work is, and stopping it.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
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
use crate::jobs::let_go;
use crate::store::jobs::{self as store, Cancelled, JobKind};
use crate::store::{StoreError, audit as audit_log};
use crate::{audit, clock};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(cancel))
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

/// What starting such a job takes, cancelling it takes as well.
const fn right(kind: JobKind) -> Action {
    match kind {
        JobKind::Train | JobKind::LabelModel => Action::Build,
        JobKind::BulkDevices => Action::Operate,
    }
}

/// Cancel a job
///
/// With the right that starts it. One that waits never begins; one that runs stops before it changes anything more, and its
/// message says how far it came. What it has done stays done. It stays cancelled when the server restarts.
#[utoipa::path(post, path = "/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 202, body = Job), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "It has ended")))]
async fn cancel(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Job>), ApiError> {
    require(&caller, Action::Read)?;
    let id: JobId = id.parse()?;
    let job = store::get(&app.db, id).await?;
    let kind: JobKind = job.kind.parse().map_err(ApiError::Internal)?;
    require(&caller, right(kind))?;
    let mut tx = app.db.begin().await?;
    let when = match store::cancel(&mut tx, id, clock::now_ms()).await? {
        Cancelled::AtOnce => {
            let_go(&mut tx, id, kind, &job.subject).await?;
            "while it waited"
        }
        Cancelled::Requested => "while it ran",
        Cancelled::TooLate => {
            return Err(ApiError::Conflict(format!(
                "job {id} has ended: there is nothing to cancel"
            )));
        }
    };
    let detail = [
        ("kind", job.kind),
        ("subject", job.subject),
        ("when", when.to_owned()),
        ("message", job.message),
    ];
    let record = audit::record(&caller.0.actor, "job.cancelled", format!("job:{id}"), detail);
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Job(id));
    Ok((StatusCode::ACCEPTED, Json(store::get(&app.db, id).await?)))
}

#[cfg(test)]
mod tests;
