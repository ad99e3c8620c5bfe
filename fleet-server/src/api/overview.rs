//! The fleet at a glance, and one device's past.

use axum::extract::State;
use flotilla_api_types::overview::{Attention, AttentionKind, DeviceHours, Overview, TimelineEvent};
use flotilla_api_types::rollouts::RolloutState;
use flotilla_api_types::{Page, Problem};
use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::trust::Root;
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
use crate::domain::authz::{Action, authorize};
use crate::domain::device_filter::DeviceFilter;
use crate::store::overview::{self as store, Position};
use crate::store::{device_summaries, devices, documents};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(overview))
        .routes(routes!(timeline))
        .routes(routes!(telemetry))
}

/// Rows of the list of what needs attention.
const MOST_ATTENTION: usize = 50;
/// A root that lapses within so long is to be renewed.
const ROOT_SOON_MS: i64 = 30 * 24 * 3600 * 1000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Counts, versions, what needs attention, live rollouts, the last 24 hours
#[utoipa::path(get, path = "/overview", tag = "overview", security(("token" = [])),
    responses((status = 200, body = Overview)))]
async fn overview(caller: Caller, State(app): State<App>) -> Result<Json<Overview>, ApiError> {
    require(&caller, Action::Read)?;
    let now = clock::now_ms();
    let rollouts = store::live_rollouts(&app.db).await?;
    let mut attention = store::attention(&app.db, now).await?;
    attention.extend(root_lapses(&app, now).await?);
    attention.extend(
        rollouts
            .iter()
            .filter(|rollout| rollout.state == RolloutState::Halted)
            .map(|rollout| {
                let about = Attention {
                    kind: AttentionKind::HaltedRollout,
                    id: rollout.id.to_string(),
                    title: format!("rollout of {} {} halted", rollout.line, rollout.semver),
                    detail: rollout.decision.clone(),
                    at: rollout.updated_at.clone(),
                };
                (clock::from_rfc3339(&rollout.updated_at).unwrap_or(now), about)
            }),
    );
    // Tokens are the business of those who may make them.
    let operates = authorize(&caller.0, Action::Operate);
    attention.retain(|(_, about)| operates || about.kind != AttentionKind::ExpiringToken);
    attention.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    attention.truncate(MOST_ATTENTION);
    Ok(Json(Overview {
        devices: device_summaries::counts(&app.db, &DeviceFilter::default()).await?,
        versions: store::spread(&app.db).await?,
        attention: attention.into_iter().map(|(_, about)| about).collect(),
        rollouts,
        last_24h: store::spend(&app.db, now).await?,
        first_steps: store::first_steps(&app.db).await?,
    }))
}

async fn root_lapses(app: &App, now: i64) -> Result<Option<(i64, Attention)>, ApiError> {
    let (version, root) = documents::latest(&app.db, documents::ROOT).await?;
    let root = Root::verify_self(&root).map_err(|why| ApiError::Internal(format!("root {version}: {why}")))?;
    let expires = root.header.expires;
    if expires.saturating_sub(now) > ROOT_SOON_MS {
        return Ok(None);
    }
    let about = Attention {
        kind: AttentionKind::ExpiringDocument,
        id: version.to_string(),
        title: format!("root {version} lapses at {}", clock::rfc3339(expires)),
        detail: "devices take no orders under a root that has lapsed: sign a new one".to_owned(),
        at: clock::rfc3339(now),
    };
    Ok(Some((now, about)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Everything about one device, newest first: both audit logs, deployments, judgements, comings and goings
#[utoipa::path(get, path = "/devices/{id}/timeline", tag = "devices", params(("id" = String, Path), PageQuery),
    security(("token" = [])), responses((status = 200, body = Page<TimelineEvent>), (status = 404, body = Problem)))]
async fn timeline(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<TimelineEvent>>, ApiError> {
    require(&caller, Action::Read)?;
    let id = known(&app, &id).await?;
    let limit = page_limit(query.limit);
    let before = query.cursor.as_deref().map(position).transpose()?;
    let rows = store::timeline(&app.db, &id, before.as_ref(), limit).await?;
    let next_cursor = rows
        .last()
        .filter(|_| rows.len() == limit as usize)
        .map(|((at, source, tie), _)| format!("{at}~{source}~{tie}"));
    Ok(Json(Page {
        items: rows.into_iter().map(|(_, event)| event).collect(),
        next_cursor,
    }))
}

fn position(cursor: &str) -> Result<Position, ApiError> {
    let mut parts = cursor.splitn(3, '~');
    let read = |part: Option<&str>| part.map(str::to_owned);
    match (read(parts.next()), read(parts.next()), read(parts.next())) {
        (Some(at), Some(source), Some(tie)) => at
            .parse()
            .ok()
            .zip(source.parse().ok())
            .map(|(at, source)| (at, source, tie)),
        _ => None,
    }
    .ok_or_else(|| ApiError::invalid("the cursor is not one that this list gave out"))
}

async fn known(app: &App, id: &str) -> Result<DeviceId, ApiError> {
    let id: DeviceId = id.parse()?;
    match devices::identity(app.db.read(), &id).await? {
        Some(_) => Ok(id),
        None => Err(ApiError::not_found("device", id)),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SpanQuery {
    /// RFC 3339; a day before `to` if absent.
    from: Option<String>,
    /// RFC 3339; now if absent.
    to: Option<String>,
}

/// A device's inferences, failures and latency by the hour
#[utoipa::path(get, path = "/devices/{id}/telemetry", tag = "devices", params(("id" = String, Path), SpanQuery),
    security(("token" = [])), responses((status = 200, body = DeviceHours), (status = 404, body = Problem)))]
async fn telemetry(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<SpanQuery>,
) -> Result<Json<DeviceHours>, ApiError> {
    require(&caller, Action::Read)?;
    let device = known(&app, &id).await?;
    let time = |text: &String| {
        clock::from_rfc3339(text).ok_or_else(|| ApiError::invalid(format!("'{text}' is no time: 2026-01-31T12:00:00Z")))
    };
    let to = query.to.as_ref().map_or_else(|| Ok(clock::now_ms()), time)?;
    let from = query
        .from
        .as_ref()
        .map_or_else(|| Ok(to.saturating_sub(DAY_MS)), time)?;
    Ok(Json(DeviceHours {
        hours: store::hours(&app.db, &device, from, to).await?,
        device,
        from: clock::rfc3339(from),
        to: clock::rfc3339(to),
    }))
}
