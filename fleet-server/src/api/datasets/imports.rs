//! Imports as resources: how far each one is, and cancelling it.

#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use flotilla_api_types::datasets::{Import, ImportState};
use flotilla_api_types::{Page, Problem};
use flotilla_protocol::ids::ImportId;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{PageQuery, find};
use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::page_limit;
use crate::app::{App, MAX_WAIT};
use crate::domain::authz::Action;
use crate::store::imports as store;
use crate::store::{StoreError, audit as audit_log};
use crate::{audit, clock};

/// Imports of a dataset, newest first
#[utoipa::path(get, path = "/datasets/{id}/imports", tag = "datasets",
    params(("id" = String, Path, description = "Id or name"), PageQuery), security(("token" = [])),
    responses((status = 200, body = Page<Import>), (status = 404, body = Problem)))]
pub(super) async fn list(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Import>>, ApiError> {
    require(&caller, Action::Read)?;
    let dataset = find(&app, &id).await?;
    let limit = page_limit(query.limit);
    let before: Option<ImportId> = query.cursor.as_deref().map(str::parse).transpose()?;
    let items = store::list(&app.db, dataset.id, before, limit).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.id.to_string());
    Ok(Json(Page { items, next_cursor }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Answer when it has gone on, or after so long. Ended imports are answered at once.
    #[serde(default)]
    wait_ms: u64,
}

/// One import; with `wait_ms`, as soon as it goes on
#[utoipa::path(get, path = "/imports/{id}", tag = "datasets", params(("id" = String, Path), WaitQuery),
    security(("token" = [])), responses((status = 200, body = Import), (status = 404, body = Problem)))]
pub(super) async fn show(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<Import>, ApiError> {
    require(&caller, Action::Read)?;
    let id: ImportId = id.parse()?;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(query.wait_ms).min(MAX_WAIT);
    // Listened for before reading, so that no change falls in between.
    let mut news = app.imports.listen();
    let first = store::get(&app.db, id).await?;
    let mut import = first.clone();
    while import == first && !import.state.is_final() {
        match tokio::time::timeout_at(deadline, news.changed()).await {
            Ok(Ok(())) => import = store::get(&app.db, id).await?,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok(Json(import))
}

/// Cancel an import: nothing of it stays
#[utoipa::path(delete, path = "/imports/{id}", tag = "datasets", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 204, description = "cancelled"), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "It has ended")))]
pub(super) async fn cancel(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    require(&caller, Action::Build)?;
    let id: ImportId = id.parse()?;
    let import = store::get(&app.db, id).await?;
    let mut tx = app.db.begin().await?;
    let why = format!("cancelled by {}", caller.0.actor);
    if !store::end(&mut tx, id, ImportState::Cancelled, &why, clock::now_ms()).await? {
        drop(tx);
        let state = store::get(&app.db, id).await?.state;
        return Err(ApiError::Conflict(format!(
            "the import has ended: it is {}",
            state.as_str()
        )));
    }
    let detail = [("dataset", import.dataset.to_string()), ("why", why)];
    let record = audit::record(
        &caller.0.actor,
        "dataset.import-cancelled",
        format!("import:{id}"),
        detail,
    );
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.imports.cancel(id);
    app.import_moved(id);
    Ok(StatusCode::NO_CONTENT)
}
