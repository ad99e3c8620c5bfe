//! Training runs: starting, watching, cancelling, evaluating.

#[cfg(test)]
mod tests;

use axum::extract::State;
use axum::http::StatusCode;
use flotilla_api_types::common::ProblemItem;
use flotilla_api_types::datasets::Split;
use flotilla_api_types::runs::{
    CreateEvaluation, CreateRun, Evaluation, MetricPoint, Run, RunStatus, StoredEvaluation,
};
use flotilla_api_types::{CountedPage, Page, Problem};
use flotilla_protocol::ids::{DatasetVersionId, JobId, RunId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::require;
use crate::api::error::{ApiError, STOPPING};
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::{begin_heavy, page_limit};
use crate::app::{App, Change};
use crate::domain::authz::Action;
use crate::domain::filter::Match;
use crate::domain::run_filter::{Condition, RunFilter};
use crate::store::jobs::{Cancelled, JobKind};
use crate::store::runs::{EvaluationFilter, EvaluationPosition, RunCursor, RunQuery, RunSort};
use crate::store::{StoreError, audit as audit_log, datasets, jobs, runs as store};
use crate::training::runner::{self, EvaluationError};
use crate::training::trainset::TrainsetError;
use crate::{audit, clock};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show))
        .routes(routes!(metrics))
        .routes(routes!(cancel))
        .routes(routes!(evaluate, evaluations))
}

/// It stands in an index.
const MAX_CAUSE: usize = 500;

/// Start a training run
#[utoipa::path(post, path = "/runs", tag = "runs", request_body = CreateRun, security(("token" = [])),
    responses((status = 201, body = Run), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn create(
    caller: Caller,
    State(app): State<App>,
    Json(mut ask): Json<CreateRun>,
) -> Result<(StatusCode, Json<Run>), ApiError> {
    require(&caller, Action::Build)?;
    ask.experiment = ask.experiment.trim().to_owned();
    if ask.experiment.is_empty() || ask.experiment.chars().count() > 100 {
        return Err(ApiError::invalid("experiment: 1 to 100 characters are needed"));
    }
    if ask.cause.chars().count() > MAX_CAUSE {
        return Err(ApiError::invalid(format!("cause: at most {MAX_CAUSE} characters")));
    }
    if ask.cause.is_empty() {
        "manual".clone_into(&mut ask.cause);
    }
    let version = datasets::get_version(&app.db, ask.dataset_version).await?;
    let dataset = datasets::get(&app.db, &app.fleet.project, &version.dataset.to_string()).await?;
    if let Some(features) = &dataset.features {
        runner::check_trainer(&ask.trainer, features, &dataset.spec.labels).map_err(|why| ApiError::Refused {
            detail: why.to_string(),
            errors: vec![ProblemItem {
                place: "trainer".to_owned(),
                message: why.to_string(),
            }],
        })?;
    }
    let (id, job, now) = (RunId::new(Uuid::now_v7()), JobId::new(Uuid::now_v7()), clock::now_ms());
    let detail = [
        ("experiment", ask.experiment.clone()),
        ("dataset_version", ask.dataset_version.to_string()),
        ("seed", ask.seed.to_string()),
        ("cause", ask.cause.clone()),
    ];
    let mut tx = app.db.begin().await?;
    store::create(&mut tx, &app.fleet.project, id, job, &ask, now).await?;
    jobs::enqueue(&mut tx, job, JobKind::Train, &id.to_string(), "", now).await?;
    let record = audit::record(&caller.0.actor, "run.created", format!("run:{id}"), detail);
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Job(job));
    Ok((
        StatusCode::CREATED,
        Json(store::get(&app.db, &app.fleet.project, id).await?.run),
    ))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// `status:finished experiment:motions holdout.accuracy:>0.9 -dataset:motions@2 free text`. Keys: `experiment`, `status`
    /// (scheduled, running, finished, failed, cancelled), `dataset` (name, or `name@number` of a version), `version` (a dataset
    /// version's id), `id`, `cause`, `hidden` (`64,32`); figures, compared with a number: `seed`, `epochs`, `batch_size`,
    /// `learning_rate`, `weight_decay`, `accuracy`, `loss`, `duration`, and any metric by its name. `-` negates, `*` at the end
    /// means "begins with" (of a figure: has it), double quotes keep blanks together.
    filter: Option<String>,
    /// `started`, `experiment`, `status`, `cause`, or a figure as in the filter; `-` in front: the newest or largest first. Runs
    /// that have no such figure come last either way. `-started` if absent.
    sort: Option<String>,
    /// Matches to skip, for a scrollbar; without `cursor`.
    offset: Option<u64>,
    /// Runs of this experiment alone.
    #[serde(default)]
    experiment: String,
    /// Runs in this state alone: `SCHEDULED`, `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.
    #[param(value_type = Option<String>)]
    status: Option<RunStatus>,
    /// Runs on this dataset version alone.
    dataset_version: Option<String>,
    /// Stands in the experiment's name, the cause, the id or the model's digest, whatever its case.
    #[serde(default)]
    text: String,
    limit: Option<u32>,
    /// Of the same order.
    #[serde(default)]
    cursor: String,
}

impl ListQuery {
    /// What has a parameter of its own is one more condition.
    fn filter(&self) -> Result<RunFilter, ApiError> {
        let mut filter = RunFilter::parse(self.filter.as_deref().unwrap_or_default())?;
        if !self.experiment.is_empty() {
            filter.require(Condition::Experiment(Match::Exactly(self.experiment.clone())));
        }
        if let Some(status) = self.status {
            filter.require(Condition::Status(status));
        }
        if let Some(version) = &self.dataset_version {
            let version: DatasetVersionId = version.parse()?;
            filter.require(Condition::Version(Match::Exactly(version.to_string())));
        }
        let text = self.text.trim();
        if !text.is_empty() {
            filter.require(Condition::Text(text.to_owned()));
        }
        Ok(filter)
    }

    fn asked(&self) -> Result<RunQuery, ApiError> {
        let sort: RunSort = self
            .sort
            .as_deref()
            .map_or(Ok(RunSort::default()), str::parse)
            .map_err(|why| ApiError::refused(format!("sort: {why}")))?;
        let after = match self.cursor.as_str() {
            "" => None,
            text => Some(
                RunCursor::decode(text, &sort)
                    .ok_or_else(|| ApiError::invalid("the cursor is not one that this list gave out in this order"))?,
            ),
        };
        Ok(RunQuery {
            filter: self.filter()?,
            sort,
            after,
            offset: self.offset.unwrap_or(0),
            limit: page_limit(self.limit),
        })
    }
}

/// Runs that match, in any order
#[utoipa::path(get, path = "/runs", tag = "runs", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = CountedPage<Run>), (status = 400, body = Problem),
        (status = 422, body = Problem, description = "The filter or the order says nothing")))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<CountedPage<Run>>, ApiError> {
    require(&caller, Action::Read)?;
    let asked = query.asked()?;
    let total = store::count(&app.db, &app.fleet.project, &asked.filter).await?;
    let rows = store::list(&app.db, &app.fleet.project, &asked).await?;
    let next_cursor = rows
        .last()
        .filter(|_| rows.len() == asked.limit as usize)
        .map(|(_, cursor)| cursor.encode());
    Ok(Json(CountedPage {
        items: rows.into_iter().map(|(run, _)| run).collect(),
        next_cursor,
        total,
    }))
}

async fn find(app: &App, id: &str) -> Result<Run, ApiError> {
    Ok(store::get(&app.db, &app.fleet.project, id.parse()?).await?.run)
}

/// One run
#[utoipa::path(get, path = "/runs/{id}", tag = "runs", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, body = Run), (status = 404, body = Problem)))]
async fn show(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<Run>, ApiError> {
    require(&caller, Action::Read)?;
    Ok(Json(find(&app, &id).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct MetricsQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Metrics, one point per epoch
#[utoipa::path(get, path = "/runs/{id}/metrics", tag = "runs", params(("id" = String, Path), MetricsQuery),
    security(("token" = [])), responses((status = 200, body = Page<MetricPoint>), (status = 404, body = Problem)))]
async fn metrics(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<MetricsQuery>,
) -> Result<Json<Page<MetricPoint>>, ApiError> {
    require(&caller, Action::Read)?;
    let run = find(&app, &id).await?;
    let limit = page_limit(query.limit.or(Some(1000)));
    let after: u64 = match query.cursor.as_deref().map(str::parse) {
        None => 0,
        Some(Ok(after)) => after,
        Some(Err(_not_a_number)) => return Err(ApiError::invalid("the cursor is not one that this list gave out")),
    };
    let items = store::metrics(&app.db, run.id, after, limit).await?;
    let next_cursor = (items.len() == limit as usize).then(|| (after + u64::from(limit)).to_string());
    Ok(Json(Page { items, next_cursor }))
}

/// Cancel a run
///
/// One that waits never starts; one that runs stops after its epoch.
#[utoipa::path(post, path = "/runs/{id}/cancel", tag = "runs", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 202, body = Run), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "It has ended")))]
async fn cancel(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Run>), ApiError> {
    require(&caller, Action::Build)?;
    let run = find(&app, &id).await?;
    let now = clock::now_ms();
    let mut tx = app.db.begin().await?;
    match jobs::cancel(&mut tx, run.job, now).await? {
        Cancelled::AtOnce => store::end(&mut tx, run.id, RunStatus::Killed, None, now).await?,
        Cancelled::Requested => {}
        Cancelled::TooLate => {
            return Err(ApiError::Conflict(format!(
                "run {} has ended: there is nothing to cancel",
                run.id
            )));
        }
    }
    let record = audit::record(&caller.0.actor, "run.cancel-requested", format!("run:{}", run.id), []);
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Job(run.job));
    Ok((StatusCode::ACCEPTED, Json(find(&app, &id).await?)))
}

/// Evaluate the run's model on a split of a dataset version
///
/// The exported model runs in the engine that devices run. The result is kept: asking again gives it back.
#[utoipa::path(post, path = "/runs/{id}/evaluations", tag = "runs", params(("id" = String, Path)),
    request_body = CreateEvaluation, security(("token" = [])),
    responses((status = 200, body = Evaluation), (status = 404, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem, description = "Enough of them run: Retry-After says when to ask again")))]
async fn evaluate(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Json(ask): Json<CreateEvaluation>,
) -> Result<Json<Evaluation>, ApiError> {
    require(&caller, Action::Build)?;
    let run = find(&app, &id).await?;
    if let Some(stored) = store::evaluation(&app.db, run.id, ask.dataset_version, ask.split).await? {
        return Ok(Json(stored));
    }
    let (_turn, stopping) = begin_heavy(&app)?;
    let on = (ask.dataset_version, ask.split);
    let evaluation = Box::pin(runner::evaluate(&app, &run, on, stopping)).await?;
    let detail = [
        ("dataset_version", ask.dataset_version.to_string()),
        ("split", ask.split.as_str().to_owned()),
        ("accuracy", format!("{:.4}", evaluation.accuracy)),
    ];
    let mut tx = app.db.begin().await?;
    store::add_evaluation(&mut tx, &evaluation, clock::now_ms()).await?;
    let record = audit::record(&caller.0.actor, "run.evaluated", format!("run:{}", run.id), detail);
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(Json(evaluation))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EvaluationsQuery {
    /// On this dataset version alone.
    dataset_version: Option<String>,
    /// On this split alone: `train` or `holdout`.
    #[param(value_type = Option<String>)]
    split: Option<Split>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// What the run's model was measured on, newest first
#[utoipa::path(get, path = "/runs/{id}/evaluations", tag = "runs", params(("id" = String, Path), EvaluationsQuery),
    security(("token" = [])),
    responses((status = 200, body = Page<StoredEvaluation>), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn evaluations(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<EvaluationsQuery>,
) -> Result<Json<Page<StoredEvaluation>>, ApiError> {
    require(&caller, Action::Read)?;
    let run = find(&app, &id).await?;
    let limit = page_limit(query.limit);
    let before = query.cursor.as_deref().map(position).transpose()?;
    let filter = EvaluationFilter {
        dataset_version: query.dataset_version.as_deref().map(str::parse).transpose()?,
        split: query.split,
    };
    let found = store::evaluations(&app.db, run.id, filter, before.as_ref(), limit).await?;
    let next_cursor = found
        .last()
        .filter(|_| found.len() == limit as usize)
        .map(|((at, version, split), _)| format!("{at}.{version}.{split}"));
    let items = found.into_iter().map(|(_, evaluation)| evaluation).collect();
    Ok(Json(Page { items, next_cursor }))
}

fn position(cursor: &str) -> Result<EvaluationPosition, ApiError> {
    let mut parts = cursor.splitn(3, '.');
    let at = parts.next().and_then(|at| at.parse().ok());
    match (at, parts.next(), parts.next()) {
        (Some(at), Some(version), Some(split)) => Ok((at, version.to_owned(), split.to_owned())),
        _ => Err(ApiError::invalid("the cursor is not one that this list gave out")),
    }
}

impl From<EvaluationError> for ApiError {
    fn from(error: EvaluationError) -> Self {
        match error {
            EvaluationError::Refused(why) => Self::refused(why),
            EvaluationError::Stopped => Self::Unavailable(STOPPING.to_owned()),
            EvaluationError::Samples(error) => error.into(),
        }
    }
}

impl From<TrainsetError> for ApiError {
    fn from(error: TrainsetError) -> Self {
        match error {
            TrainsetError::Store(error) => error.into(),
            TrainsetError::Sample { .. } | TrainsetError::Missing(_) | TrainsetError::TooLarge { .. } => {
                Self::refused(error.to_string())
            }
            TrainsetError::Blob(_) | TrainsetError::Version(_) | TrainsetError::Broken(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}
