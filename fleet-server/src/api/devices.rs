//! Devices: listing, one in detail, tags, decommissioning.

use axum::Extension;
use axum::extract::State;
use flotilla_api_types::devices::{Device, DeviceDetail, UpdateDevice};
use flotilla_api_types::{Page, Problem};
use flotilla_protocol::ids::DeviceId;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::page_limit;
use crate::app::{App, Change};
use crate::broker::BrokerHandle;
use crate::domain::authz::Action;
use crate::store::devices::DeviceFilter;
use crate::store::{self, StoreError};
use crate::{audit, clock};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, update))
        .routes(routes!(decommission))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    /// Part of a device's id or tags.
    q: Option<String>,
}

/// Devices, by id
#[utoipa::path(get, path = "/devices", tag = "devices", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = Page<Device>)))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Device>>, ApiError> {
    require(&caller, Action::Read)?;
    let limit = page_limit(query.limit);
    let filter = DeviceFilter {
        after: query.cursor.as_deref().map(str::parse).transpose()?,
        text: query.q.unwrap_or_default(),
        limit,
    };
    let items = store::devices::list(&app.db, &filter).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.id.to_string());
    Ok(Json(Page { items, next_cursor }))
}

/// One device: desired against reported, deployments, telemetry
#[utoipa::path(get, path = "/devices/{id}", tag = "devices", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, body = DeviceDetail), (status = 404, body = Problem)))]
async fn show(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<DeviceDetail>, ApiError> {
    require(&caller, Action::Read)?;
    Ok(Json(store::devices::get(&app.db, &id.parse()?).await?))
}

/// Most tags of a device, and most characters of a tag.
const MAX_TAGS: usize = 64;
const MAX_TAG_CHARS: usize = 256;

/// Replace a device's tags
#[utoipa::path(patch, path = "/devices/{id}", tag = "devices", params(("id" = String, Path)), request_body = UpdateDevice,
    security(("token" = [])),
    responses((status = 200, body = DeviceDetail), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn update(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Json(change): Json<UpdateDevice>,
) -> Result<Json<DeviceDetail>, ApiError> {
    require(&caller, Action::Operate)?;
    let id: DeviceId = id.parse()?;
    let too_long = |text: &String| text.chars().count() > MAX_TAG_CHARS;
    if change.tags.len() > MAX_TAGS || change.tags.iter().any(|(key, value)| too_long(key) || too_long(value)) {
        return Err(ApiError::refused(format!(
            "a device has at most {MAX_TAGS} tags of at most {MAX_TAG_CHARS} characters"
        )));
    }
    let mut tx = app.db.begin().await?;
    store::devices::set_tags(&mut tx, &id, &change.tags).await?;
    let tags = serde_json::to_string(&change.tags).unwrap_or_default();
    let record = audit::record(
        &caller.0.actor,
        "device.tagged",
        format!("device:{id}"),
        [("tags", tags)],
    );
    store::audit::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Device(id.clone()));
    Ok(Json(store::devices::get(&app.db, &id).await?))
}

/// Take a device out of the fleet: its connection is cut at once, its certificate is of no use any more
#[utoipa::path(post, path = "/devices/{id}/decommission", tag = "devices", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 200, body = DeviceDetail), (status = 404, body = Problem)))]
async fn decommission(
    caller: Caller,
    State(app): State<App>,
    Extension(broker): Extension<BrokerHandle>,
    Path(id): Path<String>,
) -> Result<Json<DeviceDetail>, ApiError> {
    require(&caller, Action::Operate)?;
    let id: DeviceId = id.parse()?;
    let mut tx = app.db.begin().await?;
    if store::devices::decommission(&mut tx, &id, clock::now_ms()).await? {
        let record = audit::record(&caller.0.actor, "device.decommissioned", format!("device:{id}"), []);
        store::audit::append(&mut tx, &record).await?;
    }
    tx.commit().await.map_err(StoreError::from)?;
    broker.cut_off(&id).await;
    app.changes.tell(Change::Device(id.clone()));
    Ok(Json(store::devices::get(&app.db, &id).await?))
}
