//! The fleet at a glance, and one device's past.

use axum::extract::State;
use flotilla_api_types::overview::{Attention, AttentionKind, AttentionTotal, DeviceHours, Overview, TimelineEvent};
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
use crate::store::attention::{self, Concern};
use crate::store::overview::{self as store, Position};
use crate::store::{device_summaries, devices, documents};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(overview))
        .routes(routes!(timeline))
        .routes(routes!(telemetry))
}

/// A root that lapses within so long needs attention.
const ROOT_SOON_MS: i64 = 30 * 24 * 3600 * 1000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Counts, versions, what needs attention, live rollouts, the last 24 hours
#[utoipa::path(get, path = "/overview", tag = "overview", security(("token" = [])),
    responses((status = 200, body = Overview)))]
async fn overview(caller: Caller, State(app): State<App>) -> Result<Json<Overview>, ApiError> {
    require(&caller, Action::Read)?;
    let now = clock::now_ms();
    let mut concerns = attention::concerns(&app.db, now).await?;
    concerns.extend(root_lapses(&app, now).await?);
    // Tokens are the business of those who may make them.
    let operates = authorize(&caller.0, Action::Operate);
    concerns.retain(|concern| operates || concern.kind != AttentionKind::ExpiringToken);
    concerns.sort_by_key(|concern| concern.kind);
    Ok(Json(Overview {
        devices: device_summaries::counts(&app.db, &DeviceFilter::default()).await?,
        versions: store::spread(&app.db).await?,
        versions_total: store::count_spread(&app.db).await?,
        attention_totals: concerns
            .iter()
            .map(|concern| AttentionTotal {
                kind: concern.kind,
                total: concern.total,
            })
            .collect(),
        attention: concerns.into_iter().flat_map(|concern| concern.worst).collect(),
        rollouts: store::live_rollouts(&app.db).await?,
        rollouts_total: store::count_live(&app.db).await?,
        last_24h: store::spend(&app.db, now).await?,
        first_steps: store::first_steps(&app.db).await?,
    }))
}

async fn root_lapses(app: &App, now: i64) -> Result<Option<Concern>, ApiError> {
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
        // No command makes a root yet: nothing may be asked of the operator that cannot be done.
        detail:
            "from then on devices install nothing new; what runs goes on. This version has no command for a second root"
                .to_owned(),
        at: clock::rfc3339(now),
    };
    Ok(Some(Concern {
        kind: about.kind,
        total: 1,
        worst: vec![about],
    }))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::body::Body;
    use axum::http::Method;
    use flotilla_protocol::report::DeviceReport;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::datasets::testing::TestServer;
    use crate::domain::authz::Role;
    use crate::testing;

    #[tokio::test]
    async fn what_needs_attention_stands_by_severity_with_its_totals() {
        let server = TestServer::new().await;
        for uses in 1..=12 {
            let order = json!({"uses": uses, "lifetime_s": 600, "tags": {}});
            server.post::<Value>("/claim-tokens", &order).await;
        }
        testing::enrol(&server.app.db, "press-07", 1, BTreeMap::new())
            .await
            .unwrap();
        let mut tx = server.app.db.begin().await.unwrap();
        let told = DeviceReport {
            error: Some("disk full".into()),
            ..testing::report("press-07", 1)
        };
        devices::apply_report(&mut tx, &told, b"report", testing::NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let ask = async |role| {
            let (_, body) = server.send(role, Method::GET, "/overview", "", Body::empty()).await;
            let totals: Vec<(String, u64)> = body["attention_totals"]
                .as_array()
                .unwrap()
                .iter()
                .map(|of| (of["kind"].as_str().unwrap().to_owned(), of["total"].as_u64().unwrap()))
                .collect();
            (totals, body["attention"].as_array().unwrap().clone())
        };
        let (totals, items) = ask(Role::Operator).await;
        let of = |kind: &str, total| (kind.to_owned(), total);
        assert_eq!(
            totals,
            [
                of("device-error", 1),
                of("expiring-document", 1),
                of("expiring-token", 12)
            ]
        );
        assert_eq!(items.len(), 12, "ten of the tokens");
        assert_eq!(
            (&items[0]["id"], &items[0]["detail"]),
            (&json!("press-07"), &json!("disk full"))
        );
        let root = items.iter().find(|item| item["kind"] == "expiring-document").unwrap();
        let told = root["detail"].as_str().unwrap();
        assert!(
            told.contains("install nothing new") && told.contains("no command"),
            "{told}"
        );
        let (totals, _) = ask(Role::Viewer).await;
        assert_eq!(
            totals,
            [of("device-error", 1), of("expiring-document", 1)],
            "tokens are no viewer's business"
        );
    }
}
