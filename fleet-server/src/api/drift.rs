//! Drift: what devices judged, and the histograms behind it.

use std::time::Duration;

use axum::extract::State;
use flotilla_api_types::drift::{DeviceDrift, FeatureHistogram};
use flotilla_api_types::{Page, Problem};
use flotilla_protocol::codec::{self, MAX_COMPONENT_BYTES, MAX_DOCUMENT_BYTES};
use flotilla_protocol::ids::{DeviceId, Digest, ModelLine};
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::sketch::ReferenceProfile;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::app::{App, Change};
use crate::clock;
use crate::domain::authz::Action;
use crate::domain::drift::histograms;
use crate::serve::MAX_WAIT;
use crate::store;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(features))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    line: Option<String>,
    device: Option<String>,
    limit: Option<u32>,
    /// `device/manifest` of the last row of the page before.
    cursor: Option<String>,
    /// Wait so long at most for news of drift before answering.
    #[serde(default)]
    wait_ms: u64,
}

/// The last judgement of every device and package
#[utoipa::path(get, path = "/drift", tag = "drift", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = Page<DeviceDrift>)))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<DeviceDrift>>, ApiError> {
    require(&caller, Action::Read)?;
    let line: Option<ModelLine> = query.line.as_deref().map(str::parse).transpose()?;
    let device: Option<DeviceId> = query.device.as_deref().map(str::parse).transpose()?;
    if query.wait_ms > 0 {
        let mut news = app.changes.listen();
        let wait = Duration::from_millis(query.wait_ms).min(MAX_WAIT);
        // Nothing new within the time is an answer too.
        let changed = tokio::time::timeout(wait, news.wait_for(|change| *change == Change::Drift)).await;
        drop(changed);
    }
    let limit = crate::api::page_limit(query.limit);
    let after = query
        .cursor
        .as_deref()
        .and_then(|cursor| cursor.split_once('/'))
        .unwrap_or_default();
    let items = store::telemetry::drift_list(&app.db, line.as_ref(), device.as_ref(), after, limit).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| format!("{}/{}", last.device, last.manifest));
    Ok(Json(Page { items, next_cursor }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SinceQuery {
    /// Hours to look back; a day if absent.
    hours: Option<u32>,
}

/// Every feature's histogram beside its reference, furthest first
#[utoipa::path(get, path = "/drift/{device}/{manifest}/features", tag = "drift",
    params(("device" = String, Path), ("manifest" = String, Path), SinceQuery), security(("token" = [])),
    responses((status = 200, body = Vec<FeatureHistogram>), (status = 404, body = Problem)))]
async fn features(
    caller: Caller,
    State(app): State<App>,
    Path((device, manifest)): Path<(String, String)>,
    Query(query): Query<SinceQuery>,
) -> Result<Json<Vec<FeatureHistogram>>, ApiError> {
    require(&caller, Action::Read)?;
    let device: DeviceId = device.parse()?;
    let manifest: Digest = manifest.parse()?;
    let since = clock::now_ms() - i64::from(query.hours.unwrap_or(24)) * 3_600_000;
    let seen = store::telemetry::sketch(&app.db, &device, &manifest, since.div_euclid(3_600_000))
        .await?
        .ok_or_else(|| ApiError::not_found("sketch of", format!("{device} under {manifest}")))?;
    let reference = reference(&app, &manifest).await?;
    Ok(Json(histograms(&reference, &seen)))
}

async fn reference(app: &App, manifest: &Digest) -> Result<ReferenceProfile, ApiError> {
    let version = store::models::get_by_manifest(&app.db, manifest)
        .await?
        .ok_or_else(|| ApiError::not_found("model version with manifest", manifest))?;
    let manifest: Manifest = codec::from_slice(&version.payload, MAX_DOCUMENT_BYTES)
        .map_err(|why| ApiError::Internal(format!("stored manifest: {why}")))?;
    let component = manifest
        .component(ComponentKind::Reference)
        .ok_or_else(|| ApiError::not_found("drift reference in", manifest.name.clone()))?;
    let bytes = app.blobs.get(&component.blob.sha256).await?;
    codec::from_slice(&bytes, MAX_COMPONENT_BYTES).map_err(|why| ApiError::Internal(why.to_string()))
}
