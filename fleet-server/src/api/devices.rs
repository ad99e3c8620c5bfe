//! Devices: listing, one in detail, tags, decommissioning; one action on many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use flotilla_api_types::common::ProblemItem;
use flotilla_api_types::devices::{
    AcknowledgeAlerts, BulkAction, BulkDevices, DeviceCounts, DeviceDetail, DevicePage, TagChange, UpdateDevice,
};
use flotilla_api_types::{Job, Problem};
use flotilla_protocol::ids::{DeviceId, JobId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::page_limit;
use crate::app::{App, Change};
use crate::broker::BrokerHandle;
use crate::domain::authz::Action;
use crate::domain::device_filter::DeviceFilter;
use crate::domain::tags;
use crate::jobs::bulk::BulkOrder;
use crate::store::device_summaries::{self, Cursor, DeviceQuery, Meant, Sort};
use crate::store::devices::Acknowledged;
use crate::store::jobs::JobKind;
use crate::store::{self, StoreError};
use crate::{audit, clock};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(counts))
        .routes(routes!(bulk))
        .routes(routes!(show, update))
        .routes(routes!(decommission))
        .routes(routes!(acknowledge))
        .layer(Extension(CountCache::default()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    /// Matches to skip, for a scrollbar; without `cursor`.
    offset: Option<u64>,
    /// `status:alert site:oslo -model:2.0.0 drift:>0.2 free text`. Keys: `status` (online, offline, updating, alert,
    /// decommissioned), `id`, `model` (line, version or `line@version`), `class`, `arch`, `agent`, `drift`; any other is a tag's.
    /// `-` negates, `*` at the end means "begins with", double quotes keep blanks together.
    filter: Option<String>,
    /// `id`, `status`, `model`, `drift`, `inferences`, `class`, `agent`, `enrolled_at`, `last_seen`; `-` in front: largest first.
    sort: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FilterQuery {
    /// As in the list.
    filter: Option<String>,
}

/// Counts of the last second, so that scrolling does not count again and again. Bounded.
#[derive(Debug, Clone, Default)]
struct CountCache(Arc<Mutex<Counted>>);

/// By filter: when it was counted, and what came of it.
type Counted = BTreeMap<String, (i64, DeviceCounts)>;

const COUNTS_FRESH_MS: i64 = 1000;
const MOST_COUNTS: usize = 256;

impl CountCache {
    async fn get(&self, app: &App, filter: &DeviceFilter) -> Result<DeviceCounts, ApiError> {
        let key = filter.to_string();
        let now = clock::now_ms();
        let known = self.lock(|counts| counts.get(&key).copied());
        if let Some((at, counts)) = known
            && now.saturating_sub(at) < COUNTS_FRESH_MS
        {
            return Ok(counts);
        }
        let counts = device_summaries::counts(&app.db, filter).await?;
        self.lock(|cache| {
            cache.retain(|_, (at, _)| now.saturating_sub(*at) < COUNTS_FRESH_MS);
            if cache.len() < MOST_COUNTS {
                cache.insert(key, (now, counts));
            }
        });
        Ok(counts)
    }

    fn lock<T>(&self, look: impl FnOnce(&mut Counted) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn parse_filter(text: Option<&str>) -> Result<DeviceFilter, ApiError> {
    DeviceFilter::parse(text.unwrap_or_default()).map_err(|why| ApiError::Refused {
        detail: format!("filter: {why}"),
        errors: vec![ProblemItem {
            place: format!("filter, column {}", why.column),
            message: why.why,
        }],
    })
}

/// Devices that match a filter, in any order
#[utoipa::path(get, path = "/devices", tag = "devices", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = DevicePage), (status = 422, body = Problem, description = "The filter says nothing")))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Extension(cache): Extension<CountCache>,
    Query(query): Query<ListQuery>,
) -> Result<Json<DevicePage>, ApiError> {
    require(&caller, Action::Read)?;
    let sort: Sort = query
        .sort
        .as_deref()
        .map_or(Ok(Sort::default()), str::parse)
        .map_err(|why| ApiError::refused(format!("sort: {why}")))?;
    let after = match query.cursor.as_deref() {
        None => None,
        Some(text) => Some(
            Cursor::decode(text, sort)
                .ok_or_else(|| ApiError::invalid("the cursor is not one that this list gave out in this order"))?,
        ),
    };
    let filter = parse_filter(query.filter.as_deref())?;
    let total = cache.get(&app, &filter).await?.total;
    let asked = DeviceQuery {
        filter,
        sort,
        after,
        offset: query.offset.unwrap_or(0),
        limit: page_limit(query.limit),
        matches: Some(total),
    };
    let rows = device_summaries::list(&app.db, &asked).await?;
    let next_cursor = rows
        .last()
        .filter(|_| rows.len() == asked.limit as usize)
        .map(|(_, cursor)| cursor.encode());
    Ok(Json(DevicePage {
        items: rows.into_iter().map(|(device, _)| device).collect(),
        next_cursor,
        total,
    }))
}

/// How many devices match a filter, by status
#[utoipa::path(get, path = "/device-counts", tag = "devices", params(FilterQuery), security(("token" = [])),
    responses((status = 200, body = DeviceCounts), (status = 422, body = Problem)))]
async fn counts(
    caller: Caller,
    State(app): State<App>,
    Extension(cache): Extension<CountCache>,
    Query(query): Query<FilterQuery>,
) -> Result<Json<DeviceCounts>, ApiError> {
    require(&caller, Action::Read)?;
    let filter = parse_filter(query.filter.as_deref())?;
    Ok(Json(cache.get(&app, &filter).await?))
}

/// One device: desired against reported, deployments, telemetry
#[utoipa::path(get, path = "/devices/{id}", tag = "devices", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, body = DeviceDetail), (status = 404, body = Problem)))]
async fn show(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<DeviceDetail>, ApiError> {
    require(&caller, Action::Read)?;
    Ok(Json(store::devices::get(&app.db, &id.parse()?).await?))
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    tags::check(tags).map_err(|why| ApiError::refused(why.to_string()))
}

/// Replace a device's tags, or change some of them
///
/// A change that says what its author saw is refused where somebody else was faster, and leaves alone what it is not about.
#[utoipa::path(patch, path = "/devices/{id}", tag = "devices", params(("id" = String, Path)), request_body = UpdateDevice,
    security(("token" = [])),
    responses((status = 200, body = DeviceDetail), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "A tag that is to change is another by now"),
        (status = 422, body = Problem)))]
async fn update(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Json(update): Json<UpdateDevice>,
) -> Result<Json<DeviceDetail>, ApiError> {
    require(&caller, Action::Operate)?;
    let id: DeviceId = id.parse()?;
    let mut tx = app.db.begin().await?;
    let now = store::devices::tags(&mut tx, &id).await?;
    let tags = match (update.tags, &update.change) {
        (Some(tags), None) if update.seen.is_none() => tags,
        (None, Some(change)) => {
            if let Some(seen) = &update.seen {
                check_seen(change, seen, &now)?;
            }
            store::devices::tagged(&now, change)
        }
        _ => {
            return Err(ApiError::refused(
                "give either 'tags' or 'change'; 'seen' goes with 'change'",
            ));
        }
    };
    check_tags(&tags)?;
    store::devices::set_tags(&mut tx, &id, &tags).await?;
    let tags = serde_json::to_string(&tags).unwrap_or_default();
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

/// Refuses to change a tag that is not as its author saw it, unless somebody else did just that.
fn check_seen(
    change: &TagChange,
    seen: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> Result<(), ApiError> {
    let Some(name) = change
        .set
        .keys()
        .chain(&change.remove)
        .find(|name| seen.get(*name) != now.get(*name) && change.set.get(*name) != now.get(*name))
    else {
        return Ok(());
    };
    Err(ApiError::Conflict(match now.get(name) {
        Some(value) => format!("tag '{name}' is '{value}' by now: look again"),
        None => format!("tag '{name}' is gone by now: look again"),
    }))
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

/// Say that the attack a device reported has been looked at
///
/// Its alert is over until the device reports another attack. Alerts of errors, drift and failed deployments end when what they
/// speak of ends. Where there is no alert of an attack, nothing happens.
#[utoipa::path(post, path = "/devices/{id}/alerts/acknowledge", tag = "devices", params(("id" = String, Path)),
    request_body = AcknowledgeAlerts, security(("token" = [])),
    responses((status = 200, body = DeviceDetail), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "Another attack was reported meanwhile")))]
async fn acknowledge(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Json(ask): Json<AcknowledgeAlerts>,
) -> Result<Json<DeviceDetail>, ApiError> {
    require(&caller, Action::Operate)?;
    let id: DeviceId = id.parse()?;
    let meant = ask.attack_at.as_deref();
    if meant.is_some_and(|at| clock::from_rfc3339(at).is_none()) {
        return Err(ApiError::invalid(
            "attack_at: an RFC 3339 time such as 2026-11-23T02:00:00Z is needed",
        ));
    }
    let mut tx = app.db.begin().await?;
    let acknowledged = store::devices::acknowledge_attack(&mut tx, &id, meant).await?;
    match acknowledged {
        Acknowledged::Done(attack) => {
            let detail = [("attack", attack.attack), ("attack_at", attack.at)];
            let subject = format!("device:{id}");
            let record = audit::record(&caller.0.actor, "device.alerts-acknowledged", subject, detail);
            store::audit::append(&mut tx, &record).await?;
        }
        Acknowledged::Nothing => {}
        Acknowledged::Another(attack) => {
            return Err(ApiError::Conflict(format!(
                "the last attack is of {} by now ({}): look again",
                attack.at, attack.attack
            )));
        }
    }
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Device(id.clone()));
    Ok(Json(store::devices::get(&app.db, &id).await?))
}

/// Devices that may be named one by one; more are found by a filter.
const MOST_IDS: usize = 1000;

/// One action on many devices, as a job
///
/// The number of devices that the caller means is part of the order: if it is another by now, nothing happens. A device that
/// would have too many tags is left as it is; the job's message counts them.
#[utoipa::path(post, path = "/device-actions", tag = "devices", request_body = BulkDevices, security(("token" = [])),
    responses((status = 202, body = Job), (status = 409, body = Problem, description = "Another number of devices"),
        (status = 422, body = Problem)))]
async fn bulk(
    caller: Caller,
    State(app): State<App>,
    Json(order): Json<BulkDevices>,
) -> Result<(StatusCode, Json<Job>), ApiError> {
    require(&caller, Action::Operate)?;
    if let BulkAction::Tag(change) = &order.action {
        check_tags(&change.set)?;
        if change.set.is_empty() && change.remove.is_empty() {
            return Err(ApiError::refused("name tags to set or to remove"));
        }
    }
    let filter = order
        .filter
        .as_deref()
        .map(|text| parse_filter(Some(text)))
        .transpose()?;
    let (meant, subject) = match (&filter, &order.ids) {
        (Some(filter), None) => (Meant::Matching(filter), filter.to_string()),
        (None, Some(ids)) if ids.len() <= MOST_IDS => (Meant::Named(ids), format!("{} devices", ids.len())),
        (None, Some(_)) => {
            return Err(ApiError::refused(format!(
                "name at most {MOST_IDS} devices; more are found by a filter"
            )));
        }
        _ => return Err(ApiError::refused("give either 'filter' or 'ids'")),
    };
    // The order is a job before its devices are counted: what was counted is what it will be carried out on.
    let id = JobId::new(Uuid::now_v7());
    let now = clock::now_ms();
    let ordered = BulkOrder {
        actor: caller.0.actor.clone(),
        order: order.clone(),
    };
    let payload = serde_json::to_string(&ordered).map_err(|why| ApiError::Internal(why.to_string()))?;
    let mut tx = app.db.begin().await?;
    store::jobs::enqueue(&mut tx, id, JobKind::BulkDevices, &subject, &payload, now).await?;
    let total = device_summaries::keep_for_job(&mut tx, id, meant).await?;
    if total != order.expected_total {
        return Err(ApiError::Conflict(format!(
            "{total} devices are meant by now, not {}: look again",
            order.expected_total
        )));
    }
    let record = audit::record(
        &caller.0.actor,
        "devices.bulk-requested",
        format!("job:{id}"),
        [
            ("devices", total.to_string()),
            ("which", subject.clone()),
            ("action", ordered.describe()),
        ],
    );
    store::audit::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Job(id));
    Ok((StatusCode::ACCEPTED, Json(store::jobs::get(&app.db, id).await?)))
}

#[cfg(test)]
mod tests;
