//! The audit log: reading and verifying.

#[cfg(test)]
mod tests;

use axum::extract::State;
use flotilla_api_types::audit::{AuditEvent, AuditVerification, DeviceChainVerification};
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
use crate::app::App;
use crate::clock;
use crate::domain::authz::Action;
use crate::domain::device_filter::Match;
use crate::store;
use crate::store::audit::AuditFilter;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(verify))
        .routes(routes!(verify_device))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    /// Only events of this name, such as `rollout.halted`; with `*` at the end, of names that begin so: `rollout.*`.
    #[serde(default)]
    event: String,
    /// Only what this actor did: `token:admin`, `device:press-07`; with `*` at the end, actors that begin so.
    #[serde(default)]
    actor: String,
    /// Only what was done to this: `rollout:<id>`, `device:press-07`; with `*` at the end, subjects that begin so.
    #[serde(default)]
    subject: String,
    /// Only what happened then or later: RFC 3339.
    from: Option<String>,
    /// Only what happened before: RFC 3339.
    to: Option<String>,
    /// A device's own chain instead of the server's log.
    device: Option<String>,
}

impl ListQuery {
    fn filter(&self) -> Result<AuditFilter, ApiError> {
        let wanted = |text: &str| match text.strip_suffix('*') {
            Some(start) => Some(Match::StartsWith(start.to_owned())),
            None => (!text.is_empty()).then(|| Match::Exactly(text.to_owned())),
        };
        let time = |name: &str, text: &Option<String>| {
            let Some(text) = text else { return Ok(None) };
            clock::from_rfc3339(text).map(Some).ok_or_else(|| {
                ApiError::invalid(format!(
                    "{name}: an RFC 3339 time such as 2026-11-23T02:00:00Z is needed"
                ))
            })
        };
        Ok(AuditFilter {
            event: wanted(&self.event),
            actor: wanted(&self.actor),
            subject: wanted(&self.subject),
            from: time("from", &self.from)?,
            to: time("to", &self.to)?,
        })
    }
}

/// Events that match, newest first
#[utoipa::path(get, path = "/audit", tag = "audit", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = Page<AuditEvent>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem)))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<AuditEvent>>, ApiError> {
    require(&caller, Action::ReadAudit)?;
    let limit = page_limit(query.limit);
    let filter = query.filter()?;
    let cursor = query.cursor.as_deref();
    let (items, next) = if let Some(device) = &query.device {
        device_page(&app, &device.parse()?, cursor, &filter, limit).await?
    } else {
        let before = cursor.map(number).transpose()?;
        let items = store::audit::list(&app.db, before, &filter, limit).await?;
        let next = items.last().map(|last| last.index.to_string());
        (items, next)
    };
    let next_cursor = next.filter(|_| items.len() == limit as usize);
    Ok(Json(Page { items, next_cursor }))
}

async fn device_page(
    app: &App,
    device: &DeviceId,
    cursor: Option<&str>,
    filter: &AuditFilter,
    limit: u32,
) -> Result<(Vec<AuditEvent>, Option<String>), ApiError> {
    let before = match cursor.map(|cursor| cursor.split_once('.')) {
        None => None,
        Some(Some((epoch, index))) => Some((number(epoch)?, number(index)?)),
        Some(None) => return Err(bad_cursor()),
    };
    let found = store::audit::list_device(&app.db, device, before, filter, limit).await?;
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
///
/// Chains that hold are counted; the first that do not are named. How far a chain of a device goes stands at
/// `/audit/verify/{device}`.
#[utoipa::path(get, path = "/audit/verify", tag = "audit", security(("token" = [])),
    responses((status = 200, body = AuditVerification), (status = 401, body = Problem), (status = 403, body = Problem)))]
async fn verify(caller: Caller, State(app): State<App>) -> Result<Json<AuditVerification>, ApiError> {
    require(&caller, Action::ReadAudit)?;
    Ok(Json(store::audit::verify(&app.db).await?))
}

/// Recompute one device's chain from its entries
#[utoipa::path(get, path = "/audit/verify/{device}", tag = "audit", params(("device" = String, Path)),
    security(("token" = [])),
    responses((status = 200, body = DeviceChainVerification), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem, description = "The server has no entry of that device")))]
async fn verify_device(
    caller: Caller,
    State(app): State<App>,
    Path(device): Path<String>,
) -> Result<Json<DeviceChainVerification>, ApiError> {
    require(&caller, Action::ReadAudit)?;
    let device: DeviceId = device.parse()?;
    let verified = store::audit::verify_device(&app.db, &device).await?;
    verified
        .map(Json)
        .ok_or_else(|| ApiError::not_found("audit chain of device", device))
}
