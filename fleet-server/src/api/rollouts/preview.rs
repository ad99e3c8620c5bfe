//! What a rollout would do, before it exists.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use flotilla_api_types::Problem;
use flotilla_api_types::rollouts::{CreateRollout, RolloutPreview};
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Planned, planned};
use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json};
use crate::app::App;
use crate::domain::authz::Action;
use crate::domain::rollout::plan::Order;
use crate::domain::rollout::preview::{Candidate, Plan, Preview};
use crate::packaging::signer::read_manifest;
use crate::store::devices;

/// Previews under way at the same time; more wait. Each looks at the whole fleet, and whoever may read may ask for one.
const AT_ONCE: usize = 2;
/// Devices looked at per query.
const PAGE: u32 = 1000;

#[derive(Debug, Clone)]
struct Turns(Arc<Semaphore>);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(preview))
        .layer(Extension(Turns(Arc::new(Semaphore::new(AT_ONCE)))))
}

/// What a rollout would do if it were started now
///
/// How many devices the target selects, which of them have an obstacle, how far each phase reaches, who would be first, and
/// how many bytes it would take. Changes nothing and tells nothing that cannot be read elsewhere, so that reading is all that
/// is needed. What is answered here can be created as it is; with the answer's `seed` the rollout begins with the same devices.
#[utoipa::path(post, path = "/rollouts/preview", tag = "rollouts", request_body = CreateRollout, security(("token" = [])),
    responses((status = 200, body = RolloutPreview), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
async fn preview(
    caller: Caller,
    State(app): State<App>,
    Extension(Turns(turns)): Extension<Turns>,
    Json(mut spec): Json<CreateRollout>,
) -> Result<Json<RolloutPreview>, ApiError> {
    require(&caller, Action::Read)?;
    let Planned { target, version } = planned(&app, &mut spec).await?;
    let (version, payload) = (version.version, version.payload);
    let manifest = read_manifest(&payload)
        .map_err(|why| ApiError::Internal(format!("the manifest of model version {}: {why}", version.id)))?;
    let seed = spec.seed.unwrap_or_else(rand::random);
    let order = Order::seeded(seed);
    let plan = Plan {
        target: &target,
        manifest: &manifest,
        digest: version.manifest,
        order: &order,
    };
    // Never closed.
    let turn = turns
        .acquire()
        .await
        .map_err(|why| ApiError::Internal(why.to_string()))?;
    let seen = walk(&app, &spec, &plan).await?;
    drop(turn);
    Ok(Json(RolloutPreview {
        line: version.line.to_string(),
        semver: version.semver,
        fleet: seen.fleet,
        selected: seen.selected,
        ready: seen.ready(),
        obstacles: seen.obstacles(&manifest),
        phases: seen.phases(&spec.phases),
        first: seen.first(),
        seed,
        package_bytes: version.package_bytes,
        total_bytes: version.package_bytes.saturating_mul(seen.fetching()),
    }))
}

/// Looks at the whole fleet, page by page; holds no more than one page.
async fn walk(app: &App, spec: &CreateRollout, plan: &Plan<'_>) -> Result<Preview, ApiError> {
    let mut seen = Preview::default();
    let mut after = String::new();
    loop {
        let page = devices::candidates_page(&app.db, &spec.slot, &after, PAGE).await?;
        for row in &page {
            let candidate = Candidate {
                id: &row.device.id,
                tags: &row.device.tags,
                facts: &row.device.facts,
                installed: row.installed.as_ref(),
                is_busy: row.is_busy,
            };
            seen.look_at(plan, &candidate);
        }
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = last.device.id.to_string(),
            _ => return Ok(seen),
        }
    }
}
