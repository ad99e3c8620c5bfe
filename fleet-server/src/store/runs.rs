//! Experiments, runs, their metrics, and evaluations. How lists of runs are filtered and ordered stands in `query`.

mod query;

use std::collections::BTreeMap;

use flotilla_api_types::datasets::Split;
use flotilla_api_types::models::DatasetVersionName;
use flotilla_api_types::runs::{CreateRun, Evaluation, MetricPoint, Run, RunStatus, StoredEvaluation, Trainer};
use flotilla_protocol::ids::{DatasetVersionId, Digest, ExperimentId, JobId, RunId};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::clock;
use crate::domain::run_filter::RunFilter;
use crate::store::{Db, StoreError, Tx, json, parsed, statements, to_i64, to_json, to_u64};

pub use query::{RunCursor, RunOrder, RunQuery, RunSort, UnknownSort, sample_queries};

statements! {
    EXPERIMENT = "SELECT id FROM experiments WHERE project_id = $1 AND name = $2";
    CREATE_EXPERIMENT = "INSERT INTO experiments (id, project_id, name, created_at) VALUES ($1, $2, $3, $4)";
    CREATE = "INSERT INTO runs (id, experiment, dataset_version, trainer, seed, cause, status, job, metrics, created_at,
        project_id, experiment_name, hidden, search)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '{}', $9, $10, $11, $12, $13)";
    UNFILED = "SELECT r.id, r.trainer, r.seed, r.cause, r.metrics, e.project_id AS project, e.name AS experiment
        FROM runs r JOIN experiments e ON e.id = r.experiment WHERE r.project_id = '' AND r.id > $1 ORDER BY r.id LIMIT 500";
    FILE = "UPDATE runs SET project_id = $2, experiment_name = $3, hidden = $4, search = $5 WHERE id = $1";
    SET_FIGURE = "INSERT INTO run_figures (run, name, value) VALUES ($1, $2, $3)
        ON CONFLICT (run, name) DO UPDATE SET value = excluded.value";
    SET_STATUS = "UPDATE runs SET status = $2 WHERE id = $1";
    FINISH = "UPDATE runs SET status = $2, metrics = $3, model = $4, golden = $5, finished_at = $6 WHERE id = $1";
    END = "UPDATE runs SET status = $2, error = $3, finished_at = $4 WHERE id = $1";
    CLEAR_METRICS = "DELETE FROM run_metrics WHERE run = $1";
    ADD_METRIC = "INSERT INTO run_metrics (run, name, step, value) VALUES ($1, $2, $3, $4)
        ON CONFLICT (run, name, step) DO UPDATE SET value = excluded.value";
    METRICS = "SELECT name, step, value FROM run_metrics WHERE run = $1 ORDER BY name, step LIMIT $2 OFFSET $3";
    ADD_EVALUATION = "INSERT INTO evaluations (run, dataset_version, split, result, created_at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (run, dataset_version, split) DO UPDATE SET result = excluded.result";
    EVALUATION = "SELECT result FROM evaluations WHERE run = $1 AND dataset_version = $2 AND split = $3";
    EVALUATIONS = "SELECT result, created_at FROM evaluations WHERE run = $1 AND (created_at < $2 OR (created_at = $2
        AND (dataset_version > $3 OR (dataset_version = $3 AND split > $4))))
        AND ($5 = '' OR dataset_version = $5) AND ($6 = '' OR split = $6)
        ORDER BY created_at DESC, dataset_version, split LIMIT $7";
}

/// A run, and the blob of its golden set.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRun {
    pub run: Run,
    pub golden: Option<Digest>,
}

const fn status_text(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Scheduled => "SCHEDULED",
        RunStatus::Running => "RUNNING",
        RunStatus::Finished => "FINISHED",
        RunStatus::Failed => "FAILED",
        RunStatus::Killed => "KILLED",
    }
}

fn status_of(text: &str) -> Result<RunStatus, StoreError> {
    [
        RunStatus::Scheduled,
        RunStatus::Running,
        RunStatus::Finished,
        RunStatus::Failed,
        RunStatus::Killed,
    ]
    .into_iter()
    .find(|status| status_text(*status) == text)
    .ok_or_else(|| StoreError::corrupt("run status", text))
}

/// Adds a run that waits for its job; makes the experiment where there is none of that name.
pub async fn create(
    tx: &mut Tx,
    project: &str,
    id: RunId,
    job: JobId,
    run: &CreateRun,
    now: i64,
) -> Result<(), StoreError> {
    let experiment = experiment(tx, project, &run.experiment, now).await?;
    sqlx::query(CREATE)
        .bind(id.to_string())
        .bind(experiment)
        .bind(run.dataset_version.to_string())
        .bind(to_json("trainer", &run.trainer)?)
        .bind(run.seed.to_string())
        .bind(&run.cause)
        .bind(status_text(RunStatus::Scheduled))
        .bind(job.to_string())
        .bind(now)
        .bind(project)
        .bind(&run.experiment)
        .bind(hidden_of(&run.trainer))
        .bind(search_of(&run.experiment, &run.cause, id))
        .execute(&mut **tx)
        .await?;
    for (name, value) in figures_of(&run.trainer, run.seed) {
        set_figure(tx, id, name, value).await?;
    }
    Ok(())
}

/// `64,32`
fn hidden_of(Trainer::Mlp(mlp): &Trainer) -> String {
    let units: Vec<String> = mlp.hidden.iter().map(ToString::to_string).collect();
    units.join(",")
}

fn search_of(experiment: &str, cause: &str, id: RunId) -> String {
    format!("{experiment} {cause} {id}").to_lowercase()
}

/// The numbers that a run is started with.
fn figures_of(Trainer::Mlp(mlp): &Trainer, seed: u64) -> [(&'static str, f64); 5] {
    #[expect(
        clippy::cast_precision_loss,
        reason = "seeds are looked for by comparing; the whole one stands in its run"
    )]
    let seed = seed as f64;
    [
        ("seed", seed),
        ("epochs", f64::from(mlp.epochs)),
        ("batch_size", f64::from(mlp.batch_size)),
        ("learning_rate", mlp.learning_rate),
        ("weight_decay", mlp.weight_decay),
    ]
}

/// What runs are found by, for those that were there before there was any of it.
pub async fn fill_missing(db: &Db) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let rows = sqlx::query(UNFILED).bind(&after).fetch_all(db.read()).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut tx = db.begin().await?;
        for row in &rows {
            after = row.try_get("id")?;
            file(&mut tx, row).await?;
        }
        tx.commit().await?;
    }
}

async fn file(tx: &mut Tx, row: &SqliteRow) -> Result<(), StoreError> {
    let id: RunId = parsed("run id", row.try_get("id")?)?;
    let trainer: Trainer = json("trainer", row.try_get("trainer")?)?;
    let metrics: BTreeMap<String, f64> = json("metrics", row.try_get("metrics")?)?;
    let (experiment, cause): (&str, &str) = (row.try_get("experiment")?, row.try_get("cause")?);
    sqlx::query(FILE)
        .bind(id.to_string())
        .bind(row.try_get::<String, _>("project")?)
        .bind(experiment.to_owned())
        .bind(hidden_of(&trainer))
        .bind(search_of(experiment, cause, id))
        .execute(&mut **tx)
        .await?;
    for (name, value) in figures_of(&trainer, parsed("seed", row.try_get("seed")?)?) {
        set_figure(tx, id, name, value).await?;
    }
    for (name, value) in &metrics {
        set_figure(tx, id, name, *value).await?;
    }
    Ok(())
}

/// What lists are filtered and ordered by. What is no number is nowhere in an order.
async fn set_figure(tx: &mut Tx, id: RunId, name: &str, value: f64) -> Result<(), StoreError> {
    if !value.is_finite() {
        return Ok(());
    }
    sqlx::query(SET_FIGURE)
        .bind(id.to_string())
        .bind(name)
        .bind(value)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn experiment(tx: &mut Tx, project: &str, name: &str, now: i64) -> Result<String, StoreError> {
    let found: Option<String> = sqlx::query_scalar(EXPERIMENT)
        .bind(project)
        .bind(name)
        .fetch_optional(&mut **tx)
        .await?;
    if let Some(id) = found {
        return Ok(id);
    }
    let id = ExperimentId::new(Uuid::now_v7()).to_string();
    sqlx::query(CREATE_EXPERIMENT)
        .bind(&id)
        .bind(project)
        .bind(name)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(id)
}

pub async fn get(db: &Db, project: &str, id: RunId) -> Result<StoredRun, StoreError> {
    let rows = query::one(project, id).fetch_all(db).await?;
    run_of(rows.first().ok_or_else(|| StoreError::not_found("run", id))?)
}

/// A page in the query's order; each run with where a next page would begin.
pub async fn list(db: &Db, project: &str, asked: &RunQuery) -> Result<Vec<(Run, RunCursor)>, StoreError> {
    let Some(figure) = asked.figure() else {
        return page(db, project, asked).await;
    };
    let mut found = if asked.begins_without() {
        Vec::new()
    } else {
        page(db, project, asked).await?
    };
    let left = asked
        .limit
        .saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
    if left == 0 {
        return Ok(found);
    }
    let skipped = if asked.after.is_none() && asked.offset > 0 && found.is_empty() {
        asked
            .offset
            .saturating_sub(count(db, project, &asked.with(figure)).await?)
    } else {
        0
    };
    let rest = page(db, project, &asked.without(figure, skipped, left)).await?;
    found.extend(rest.into_iter().map(|(run, _)| {
        let cursor = asked.cursor_without(run.id);
        (run, cursor)
    }));
    Ok(found)
}

async fn page(db: &Db, project: &str, asked: &RunQuery) -> Result<Vec<(Run, RunCursor)>, StoreError> {
    let rows = asked.page(project).fetch_all(db).await?;
    rows.iter()
        .map(|row| {
            let run = run_of(row)?.run;
            let cursor = asked.sort.cursor(row, run.id)?;
            Ok((run, cursor))
        })
        .collect()
}

/// How many match, on all pages.
pub async fn count(db: &Db, project: &str, filter: &RunFilter) -> Result<u64, StoreError> {
    query::count(project, filter).count(db).await
}

fn run_of(row: &SqliteRow) -> Result<StoredRun, StoreError> {
    let digest = |column: &str| -> Result<Option<Digest>, StoreError> {
        let text: Option<&str> = row.try_get(column)?;
        text.map(|text| parsed("digest", text)).transpose()
    };
    let finished_at: Option<i64> = row.try_get("finished_at")?;
    let dataset: Option<&str> = row.try_get("dataset")?;
    let named = dataset.map(|id| {
        Ok::<_, StoreError>(DatasetVersionName {
            dataset: parsed("dataset id", id)?,
            name: row.try_get("dataset_name")?,
            number: to_u64(row.try_get("dataset_number")?),
        })
    });
    let run = Run {
        id: parsed("run id", row.try_get("id")?)?,
        experiment: row.try_get("experiment")?,
        dataset_version: parsed("dataset version id", row.try_get("dataset_version")?)?,
        dataset_version_name: named.transpose()?,
        trainer: json("trainer", row.try_get("trainer")?)?,
        seed: parsed("seed", row.try_get("seed")?)?,
        cause: row.try_get("cause")?,
        status: status_of(row.try_get("status")?)?,
        progress: row.try_get("progress")?,
        job: parsed("job id", row.try_get("job")?)?,
        metrics: json("metrics", row.try_get("metrics")?)?,
        model: digest("model")?,
        error: row.try_get("error")?,
        created_at: clock::rfc3339(row.try_get("created_at")?),
        finished_at: finished_at.map(clock::rfc3339),
    };
    Ok(StoredRun {
        run,
        golden: digest("golden")?,
    })
}

/// Starts a run anew: what an earlier attempt measured is forgotten.
pub async fn start(tx: &mut Tx, id: RunId) -> Result<(), StoreError> {
    sqlx::query(CLEAR_METRICS)
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    set_status(tx, id, RunStatus::Running).await
}

/// For statuses that are not the last.
pub async fn set_status(tx: &mut Tx, id: RunId, status: RunStatus) -> Result<(), StoreError> {
    sqlx::query(SET_STATUS)
        .bind(id.to_string())
        .bind(status_text(status))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What a finished run leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    pub metrics: BTreeMap<String, f64>,
    /// Blobs.
    pub model: Digest,
    pub golden: Digest,
    pub evaluations: Vec<Evaluation>,
}

pub async fn finish(tx: &mut Tx, id: RunId, finished: &Finished, now: i64) -> Result<(), StoreError> {
    sqlx::query(FINISH)
        .bind(id.to_string())
        .bind(status_text(RunStatus::Finished))
        .bind(to_json("metrics", &finished.metrics)?)
        .bind(finished.model.to_string())
        .bind(finished.golden.to_string())
        .bind(now)
        .execute(&mut **tx)
        .await?;
    for (name, value) in &finished.metrics {
        set_figure(tx, id, name, *value).await?;
    }
    for evaluation in &finished.evaluations {
        add_evaluation(tx, evaluation, now).await?;
    }
    Ok(())
}

/// Ends a run without a model.
pub async fn end(tx: &mut Tx, id: RunId, status: RunStatus, error: Option<&str>, now: i64) -> Result<(), StoreError> {
    sqlx::query(END)
        .bind(id.to_string())
        .bind(status_text(status))
        .bind(error)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub async fn add_metrics(tx: &mut Tx, id: RunId, points: &[MetricPoint]) -> Result<(), StoreError> {
    for point in points {
        sqlx::query(ADD_METRIC)
            .bind(id.to_string())
            .bind(&point.name)
            .bind(to_i64(point.step))
            .bind(point.value)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// By name, then step; after so many.
pub async fn metrics(db: &Db, id: RunId, after: u64, limit: u32) -> Result<Vec<MetricPoint>, StoreError> {
    let rows = sqlx::query(METRICS)
        .bind(id.to_string())
        .bind(i64::from(limit))
        .bind(to_i64(after))
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| {
            Ok(MetricPoint {
                name: row.try_get("name")?,
                step: to_u64(row.try_get("step")?),
                value: row.try_get("value")?,
            })
        })
        .collect()
}

pub async fn add_evaluation(tx: &mut Tx, evaluation: &Evaluation, now: i64) -> Result<(), StoreError> {
    sqlx::query(ADD_EVALUATION)
        .bind(evaluation.run.to_string())
        .bind(evaluation.dataset_version.to_string())
        .bind(evaluation.split.as_str())
        .bind(to_json("evaluation", evaluation)?)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub async fn evaluation(
    db: &Db,
    run: RunId,
    version: DatasetVersionId,
    split: Split,
) -> Result<Option<Evaluation>, StoreError> {
    let result: Option<String> = sqlx::query_scalar(EVALUATION)
        .bind(run.to_string())
        .bind(version.to_string())
        .bind(split.as_str())
        .fetch_optional(db.read())
        .await?;
    result.map(|text| json("evaluation", &text)).transpose()
}

/// Where a page of evaluations ended: time, dataset version, split.
pub type EvaluationPosition = (i64, String, String);

/// What a list of evaluations is narrowed to; what is absent narrows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct EvaluationFilter {
    pub dataset_version: Option<DatasetVersionId>,
    pub split: Option<Split>,
}

/// Newest first, below `before`; each with its position.
pub async fn evaluations(
    db: &Db,
    run: RunId,
    filter: EvaluationFilter,
    before: Option<&EvaluationPosition>,
    limit: u32,
) -> Result<Vec<(EvaluationPosition, StoredEvaluation)>, StoreError> {
    let (at, version, split) = before.map_or((i64::MAX, "", ""), |(at, version, split)| {
        (*at, version.as_str(), split.as_str())
    });
    let only = filter.dataset_version.map(|version| version.to_string());
    let rows = sqlx::query(EVALUATIONS)
        .bind(run.to_string())
        .bind(at)
        .bind(version)
        .bind(split)
        .bind(only.unwrap_or_default())
        .bind(filter.split.map_or("", Split::as_str))
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| {
            let at: i64 = row.try_get("created_at")?;
            let evaluation: Evaluation = json("evaluation", row.try_get("result")?)?;
            let position = (
                at,
                evaluation.dataset_version.to_string(),
                evaluation.split.as_str().to_owned(),
            );
            let created_at = clock::rfc3339(at);
            Ok((position, StoredEvaluation { evaluation, created_at }))
        })
        .collect()
}

#[cfg(test)]
mod tests;
