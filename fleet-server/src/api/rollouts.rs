//! Rollouts: planning, making, starting, pausing, aborting, watching.

mod deployments;
mod preview;

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use flotilla_api_types::Problem;
use flotilla_api_types::models::SignatureState;
use flotilla_api_types::rollouts::{CreateRollout, Rollout, RolloutPage, RolloutState};
use flotilla_protocol::ids::{ModelVersionId, RolloutId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::page_limit;
use crate::app::{App, Change, MAX_WAIT};
use crate::domain::authz::Action;
use crate::domain::rollout::{RolloutError, TargetExpression, check, phases_or_default};
use crate::store::models::StoredVersion;
use crate::store::rollouts::{Transition, Wanted};
use crate::store::{self, StoreError, Tx};
use crate::{audit, clock};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show))
        .merge(deployments::routes())
        .merge(preview::routes())
        .routes(routes!(start))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(abort))
}

/// A plan that can become a rollout.
struct Planned {
    target: TargetExpression,
    version: StoredVersion,
}

/// Refuses what could not be rolled out; the phases in force stand in `spec` afterwards.
async fn planned(app: &App, spec: &mut CreateRollout) -> Result<Planned, ApiError> {
    spec.phases = phases_or_default(&spec.phases);
    let refused = |error: RolloutError| ApiError::refused(error.to_string());
    check(&spec.phases, &spec.gates, spec.soak_s, spec.start_spread_s).map_err(refused)?;
    let target = TargetExpression::compile(&spec.target).map_err(|error| refused(error.into()))?;
    let version = store::models::get(&app.db, spec.model_version).await?;
    if version.version.signature != SignatureState::Signed {
        return Err(ApiError::Conflict(format!(
            "{} {} is not signed by its release role: sign it first ('fleetctl sign export', 'apply', 'import')",
            version.version.line, version.version.semver
        )));
    }
    Ok(Planned { target, version })
}

/// Make a draft
#[utoipa::path(post, path = "/rollouts", tag = "rollouts", request_body = CreateRollout, security(("token" = [])),
    responses((status = 201, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
async fn create(
    caller: Caller,
    State(app): State<App>,
    Json(mut spec): Json<CreateRollout>,
) -> Result<(StatusCode, Json<Rollout>), ApiError> {
    require(&caller, Action::Operate)?;
    let Planned { version, .. } = planned(&app, &mut spec).await?;
    let version = version.version;
    let id = RolloutId::new(Uuid::now_v7());
    let detail = [
        ("model", format!("{} {}", version.line, version.semver)),
        ("manifest", version.manifest.to_string()),
        ("target", spec.target.clone()),
    ];
    let mut tx = app.db.begin().await?;
    store::rollouts::create(&mut tx, id, &app.fleet.project, &spec, clock::now_ms()).await?;
    let record = audit::record(&caller.0.actor, "rollout.created", format!("rollout:{id}"), detail);
    store::audit::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Rollout(id));
    Ok((StatusCode::CREATED, Json(store::rollouts::get(&app.db, id).await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    /// Only in this state: `draft`, `running`, `paused`, `halted`, `completed` or `aborted`. Several: with commas between,
    /// or repeated.
    state: Option<String>,
    /// Only those of this model version.
    #[param(value_type = Option<String>)]
    model_version: Option<ModelVersionId>,
}

/// Values with commas between, each once.
fn states<T: Copy + PartialEq>(
    text: Option<&str>,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, ApiError> {
    let mut states = Vec::new();
    for word in text.unwrap_or_default().split(',').filter(|word| !word.is_empty()) {
        let state = all.iter().copied().find(|state| name(*state) == word).ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|state| name(*state)).collect();
            let shown: String = word.chars().take(40).collect();
            ApiError::refused(format!("'{shown}' is no state: {}", known.join(", ")))
        })?;
        if !states.contains(&state) {
            states.push(state);
        }
    }
    Ok(states)
}

/// Rollouts, newest first
#[utoipa::path(get, path = "/rollouts", tag = "rollouts", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = RolloutPage), (status = 422, body = Problem, description = "No such state")))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<RolloutPage>, ApiError> {
    require(&caller, Action::Read)?;
    let limit = page_limit(query.limit);
    let before = query.cursor.as_deref().map(str::parse).transpose()?;
    let wanted = Wanted {
        states: states(query.state.as_deref(), &RolloutState::ALL, RolloutState::as_str)?,
        model_version: query.model_version,
    };
    let items = store::rollouts::list(&app.db, &wanted, before, limit).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.id.to_string());
    Ok(Json(RolloutPage {
        items,
        next_cursor,
        total: store::rollouts::total(&app.db, &wanted).await?,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    /// Wait so long at most for a change.
    #[serde(default)]
    wait_ms: u64,
    /// The `updated_at` that the caller knows; a newer one is answered at once.
    since: Option<String>,
}

/// One rollout; with `wait_ms`, as soon as it changes
#[utoipa::path(get, path = "/rollouts/{id}", tag = "rollouts", params(("id" = String, Path), WaitQuery),
    security(("token" = [])), responses((status = 200, body = Rollout), (status = 404, body = Problem)))]
async fn show(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<Rollout>, ApiError> {
    require(&caller, Action::Read)?;
    let id: RolloutId = id.parse()?;
    let mut news = app.changes.listen();
    let deadline = tokio::time::Instant::now() + Duration::from_millis(query.wait_ms).min(MAX_WAIT);
    loop {
        let rollout = store::rollouts::get(&app.db, id).await?;
        let known = query.since.as_deref() == Some(rollout.updated_at.as_str());
        let changed = news.wait_for(|change| *change == Change::Rollout(id));
        if !known || tokio::time::timeout_at(deadline, changed).await != Ok(true) {
            return Ok(Json(rollout));
        }
    }
}

/// Start it
#[utoipa::path(post, path = "/rollouts/{id}/start", tag = "rollouts", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 200, body = Rollout), (status = 409, body = Problem)))]
async fn start(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<Rollout>, ApiError> {
    let allowed = [RolloutState::Draft];
    order(
        &caller,
        &app,
        &id,
        Order {
            verb: "started",
            to: RolloutState::Running,
            allowed: &allowed,
        },
    )
    .await
}

/// Deploy to no further device until it is resumed
#[utoipa::path(post, path = "/rollouts/{id}/pause", tag = "rollouts", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 200, body = Rollout), (status = 409, body = Problem)))]
async fn pause(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<Rollout>, ApiError> {
    let allowed = [RolloutState::Running];
    order(
        &caller,
        &app,
        &id,
        Order {
            verb: "paused",
            to: RolloutState::Paused,
            allowed: &allowed,
        },
    )
    .await
}

/// Go on after a pause, or after a failed gate: the failures so far then no longer count against it
#[utoipa::path(post, path = "/rollouts/{id}/resume", tag = "rollouts", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 200, body = Rollout), (status = 409, body = Problem)))]
async fn resume(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<Rollout>, ApiError> {
    let allowed = [RolloutState::Paused, RolloutState::Halted];
    order(
        &caller,
        &app,
        &id,
        Order {
            verb: "resumed",
            to: RolloutState::Running,
            allowed: &allowed,
        },
    )
    .await
}

/// End it: devices that have not finished keep what they run
#[utoipa::path(post, path = "/rollouts/{id}/abort", tag = "rollouts", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 200, body = Rollout), (status = 409, body = Problem)))]
async fn abort(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<Rollout>, ApiError> {
    // Aborting twice is aborting once.
    let allowed = [
        RolloutState::Draft,
        RolloutState::Running,
        RolloutState::Paused,
        RolloutState::Halted,
        RolloutState::Aborted,
    ];
    order(
        &caller,
        &app,
        &id,
        Order {
            verb: "aborted",
            to: RolloutState::Aborted,
            allowed: &allowed,
        },
    )
    .await
}

struct Order<'a> {
    verb: &'a str,
    to: RolloutState,
    allowed: &'a [RolloutState],
}

async fn order(caller: &Caller, app: &App, id: &str, order: Order<'_>) -> Result<Json<Rollout>, ApiError> {
    require(caller, Action::Operate)?;
    let id: RolloutId = id.parse()?;
    let rollout = store::rollouts::get(&app.db, id).await?;
    if !order.allowed.contains(&rollout.state) {
        return Err(ApiError::Conflict(format!(
            "rollout {id} is {}, it cannot be {}",
            rollout.state.as_str(),
            order.verb
        )));
    }
    if rollout.state == order.to {
        return Ok(Json(rollout));
    }
    let mut tx = app.db.begin().await?;
    carry_out(&mut tx, caller, &rollout, &order).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Rollout(id));
    app.changes.tell(Change::Targets);
    Ok(Json(store::rollouts::get(&app.db, id).await?))
}

async fn carry_out(tx: &mut Tx, caller: &Caller, rollout: &Rollout, order: &Order<'_>) -> Result<(), ApiError> {
    let now = clock::now_ms();
    let decision = format!("{} by {}", order.verb, caller.0.actor);
    let change = Transition {
        from: rollout.state,
        to: order.to,
        phase: None,
        decision: &decision,
    };
    if !store::rollouts::set_state(tx, rollout.id, &change, now).await? {
        return Err(ApiError::Conflict(
            "the rollout changed meanwhile; look again".to_owned(),
        ));
    }
    if order.to == RolloutState::Aborted {
        // The reconciler takes the orders back page by page; nobody is given them any more from here on.
        store::rollouts::begin_withdrawing(tx, rollout.id).await?;
    }
    if rollout.state == RolloutState::Halted && order.to == RolloutState::Running {
        store::rollouts::excuse_failures(tx, rollout.id).await?;
    }
    let detail = [("from", rollout.state.as_str().to_owned())];
    let record = audit::record(
        &caller.0.actor,
        &format!("rollout.{}", order.verb),
        format!("rollout:{}", rollout.id),
        detail,
    );
    store::audit::append(tx, &record).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
