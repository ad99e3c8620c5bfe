//! The audit log: reading and verifying.

use axum::extract::State;
use flotilla_api_types::audit::{AuditEvent, AuditVerification};
use flotilla_api_types::{Page, Problem};
use flotilla_protocol::ids::DeviceId;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Query};
use crate::api::page_limit;
use crate::app::App;
use crate::domain::authz::Action;
use crate::store;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(verify))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    /// Only events of this name, such as `rollout.halted`.
    #[serde(default)]
    event: String,
    /// A device's own chain instead of the server's log.
    device: Option<String>,
}

/// Events, newest first
#[utoipa::path(get, path = "/audit", tag = "audit", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = Page<AuditEvent>), (status = 401, body = Problem), (status = 403, body = Problem)))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<AuditEvent>>, ApiError> {
    require(&caller, Action::ReadAudit)?;
    let limit = page_limit(query.limit);
    let (items, next) = if let Some(device) = &query.device {
        device_page(&app, &device.parse()?, &query, limit).await?
    } else {
        let before = query.cursor.as_deref().map(number).transpose()?;
        let items = store::audit::list(&app.db, before, &query.event, limit).await?;
        let next = items.last().map(|last| last.index.to_string());
        (items, next)
    };
    let next_cursor = next.filter(|_| items.len() == limit as usize);
    Ok(Json(Page { items, next_cursor }))
}

async fn device_page(
    app: &App,
    device: &DeviceId,
    query: &ListQuery,
    limit: u32,
) -> Result<(Vec<AuditEvent>, Option<String>), ApiError> {
    let before = match query.cursor.as_deref().map(|cursor| cursor.split_once('.')) {
        None => None,
        Some(Some((epoch, index))) => Some((number(epoch)?, number(index)?)),
        Some(None) => return Err(bad_cursor()),
    };
    let found = store::audit::list_device(&app.db, device, before, &query.event, limit).await?;
    let next = found.last().map(|(epoch, event)| format!("{epoch}.{}", event.index));
    Ok((found.into_iter().map(|(_, event)| event).collect(), next))
}

fn number(cursor: &str) -> Result<u64, ApiError> {
    cursor.parse().map_err(|_not_a_number| bad_cursor())
}

fn bad_cursor() -> ApiError {
    ApiError::invalid("the cursor is not one that this list gave out")
}

/// Recompute every chain from its entries
#[utoipa::path(get, path = "/audit/verify", tag = "audit", security(("token" = [])),
    responses((status = 200, body = AuditVerification), (status = 401, body = Problem), (status = 403, body = Problem)))]
async fn verify(caller: Caller, State(app): State<App>) -> Result<Json<AuditVerification>, ApiError> {
    require(&caller, Action::ReadAudit)?;
    Ok(Json(store::audit::verify(&app.db).await?))
}
