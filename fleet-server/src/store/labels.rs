//! What is known of samples' classes: hand labels, labeling functions, the label model's guesses, and the queue of samples
//! that a person should look at next.

use flotilla_api_types::datasets::{
    Annotation, AnnotationReport, LabelModel, LabelingFunction, LabelingFunctionStatistics, Sample,
};
use flotilla_protocol::ids::{DatasetId, Digest, LabelingFunctionId};
use sqlx::Row as _;

use crate::store::datasets::{SampleFilter, sample_of};
use crate::store::{Db, StoreError, Tx, json, parsed, statements, to_json};

statements! {
    HAND_LABEL = "SELECT a.label FROM samples s LEFT JOIN annotations a ON a.dataset = s.dataset AND a.digest = s.digest
        WHERE s.dataset = $1 AND s.digest = $2";
    ANNOTATE = "INSERT INTO annotations (dataset, digest, label, actor, at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (dataset, digest) DO UPDATE SET label = excluded.label, actor = excluded.actor, at = excluded.at";
    QUEUE_UNCERTAIN = "SELECT s.ordinal, s.digest, s.sample_key, s.slice, s.split, s.predicted, s.created_at,
        CASE WHEN $4 = 'values' THEN s.raw END AS raw, a.label AS hand, g.label AS guess, g.confidence
        FROM samples s
        LEFT JOIN annotations a ON a.dataset = s.dataset AND a.digest = s.digest
        LEFT JOIN guesses g ON g.dataset = s.dataset AND g.digest = s.digest
        WHERE s.dataset = $1 AND a.digest IS NULL AND ($2 = '' OR s.slice = $2) AND ($3 = '' OR s.split = $3)
        AND ($6 = '' OR s.device = $6)
        ORDER BY COALESCE(g.confidence, 0), s.ordinal LIMIT $5";
    QUEUE_NEWEST = "SELECT s.ordinal, s.digest, s.sample_key, s.slice, s.split, s.predicted, s.created_at,
        CASE WHEN $4 = 'values' THEN s.raw END AS raw, a.label AS hand, g.label AS guess, g.confidence
        FROM samples s
        LEFT JOIN annotations a ON a.dataset = s.dataset AND a.digest = s.digest
        LEFT JOIN guesses g ON g.dataset = s.dataset AND g.digest = s.digest
        WHERE s.dataset = $1 AND a.digest IS NULL AND ($2 = '' OR s.slice = $2) AND ($3 = '' OR s.split = $3)
        AND ($6 = '' OR s.device = $6)
        ORDER BY s.ordinal DESC LIMIT $5";
    CREATE_FUNCTION = "INSERT INTO labeling_functions (id, dataset, name, expression, label, statistics, created_at)
        VALUES ($1, $2, $3, $4, $5, NULL, $6)";
    FUNCTIONS = "SELECT id, name, expression, label, statistics FROM labeling_functions WHERE dataset = $1
        ORDER BY created_at, id";
    DELETE_FUNCTION = "DELETE FROM labeling_functions WHERE dataset = $1 AND (id = $2 OR name = $2)";
    SET_STATISTICS = "UPDATE labeling_functions SET statistics = $2 WHERE id = $1";
    CLEAR_GUESSES = "DELETE FROM guesses WHERE dataset = $1";
    CLEAR_SLICE = "DELETE FROM guesses WHERE dataset = $1
        AND digest IN (SELECT s.digest FROM samples s WHERE s.dataset = $1 AND s.slice = $2)";
    GUESS = "INSERT INTO guesses (dataset, digest, label, confidence) VALUES ($1, $2, $3, $4)";
    SET_MODEL = "INSERT INTO label_models (dataset, summary, fitted_at) VALUES ($1, $2, $3)
        ON CONFLICT (dataset) DO UPDATE SET summary = excluded.summary, fitted_at = excluded.fitted_at";
    MODEL = "SELECT summary FROM label_models WHERE dataset = $1";
}

/// What came of a set of annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Annotated {
    Done(AnnotationReport),
    /// The dataset has no such samples: drop the transaction.
    Unknown(Vec<Digest>),
}

/// Sets hand labels.
pub async fn annotate(
    tx: &mut Tx,
    dataset: DatasetId,
    annotations: &[Annotation],
    actor: &str,
    now: i64,
) -> Result<Annotated, StoreError> {
    let mut report = AnnotationReport {
        new: 0,
        changed: 0,
        unchanged: 0,
    };
    let mut unknown = Vec::new();
    for annotation in annotations {
        let before: Option<Option<String>> = sqlx::query_scalar(HAND_LABEL)
            .bind(dataset.to_string())
            .bind(annotation.sample.to_string())
            .fetch_optional(&mut **tx)
            .await?;
        match before {
            None => unknown.push(annotation.sample),
            Some(Some(label)) if label == annotation.label => report.unchanged += 1,
            Some(Some(_)) => report.changed += 1,
            Some(None) => report.new += 1,
        }
        if !unknown.is_empty() {
            continue;
        }
        sqlx::query(ANNOTATE)
            .bind(dataset.to_string())
            .bind(annotation.sample.to_string())
            .bind(&annotation.label)
            .bind(actor)
            .bind(now)
            .execute(&mut **tx)
            .await?;
    }
    Ok(if unknown.is_empty() {
        Annotated::Done(report)
    } else {
        Annotated::Unknown(unknown)
    })
}

/// What a person should label next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueOrder {
    /// No guess first, then the least confident guess; ties in the dataset's order.
    Uncertainty,
    Newest,
}

/// Samples without a hand label.
pub async fn queue(
    db: &Db,
    dataset: DatasetId,
    order: QueueOrder,
    filter: &SampleFilter<'_>,
    limit: u32,
) -> Result<Vec<Sample>, StoreError> {
    let rows = sqlx::query(match order {
        QueueOrder::Uncertainty => QUEUE_UNCERTAIN,
        QueueOrder::Newest => QUEUE_NEWEST,
    })
    .bind(dataset.to_string())
    .bind(filter.slice.unwrap_or_default())
    .bind(filter.split_text())
    .bind(filter.values_text())
    .bind(i64::from(limit))
    .bind(filter.device_text())
    .fetch_all(db.read())
    .await?;
    rows.iter().map(sample_of).collect()
}

pub async fn create_function(
    tx: &mut Tx,
    dataset: DatasetId,
    function: &LabelingFunction,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query(CREATE_FUNCTION)
        .bind(function.id.to_string())
        .bind(dataset.to_string())
        .bind(&function.name)
        .bind(&function.when)
        .bind(&function.label)
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::or_exists(error, || format!("labeling function '{}'", function.name)))?;
    Ok(())
}

/// In order of creation.
pub async fn functions(db: &Db, dataset: DatasetId) -> Result<Vec<LabelingFunction>, StoreError> {
    let rows = sqlx::query(FUNCTIONS)
        .bind(dataset.to_string())
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| {
            let statistics: Option<&str> = row.try_get("statistics")?;
            Ok(LabelingFunction {
                id: parsed("labeling function id", row.try_get("id")?)?,
                name: row.try_get("name")?,
                when: row.try_get("expression")?,
                label: row.try_get("label")?,
                statistics: statistics.map(|text| json("statistics", text)).transpose()?,
            })
        })
        .collect()
}

/// By id or by name.
pub async fn delete_function(tx: &mut Tx, dataset: DatasetId, id_or_name: &str) -> Result<(), StoreError> {
    let gone = sqlx::query(DELETE_FUNCTION)
        .bind(dataset.to_string())
        .bind(id_or_name)
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if gone == 0 {
        return Err(StoreError::not_found("labeling function", id_or_name));
    }
    Ok(())
}

/// A sample's best class and its confidence in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct Guess {
    pub sample: Digest,
    pub label: String,
    pub confidence: f64,
}

/// What a label model found.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    pub summary: LabelModel,
    pub guesses: Vec<Guess>,
    pub statistics: Vec<(LabelingFunctionId, LabelingFunctionStatistics)>,
}

/// Replaces the guesses of the given slices (`None`: of all), the functions' statistics and the summary.
pub async fn settle(
    tx: &mut Tx,
    dataset: DatasetId,
    slices: Option<&[String]>,
    settled: &Settled,
    now: i64,
) -> Result<(), StoreError> {
    let id = dataset.to_string();
    match slices {
        None => {
            sqlx::query(CLEAR_GUESSES).bind(&id).execute(&mut **tx).await?;
        }
        Some(slices) => {
            for slice in slices {
                sqlx::query(CLEAR_SLICE)
                    .bind(&id)
                    .bind(slice)
                    .execute(&mut **tx)
                    .await?;
            }
        }
    }
    for guess in &settled.guesses {
        sqlx::query(GUESS)
            .bind(&id)
            .bind(guess.sample.to_string())
            .bind(&guess.label)
            .bind(guess.confidence)
            .execute(&mut **tx)
            .await?;
    }
    for (function, statistics) in &settled.statistics {
        sqlx::query(SET_STATISTICS)
            .bind(function.to_string())
            .bind(to_json("statistics", statistics)?)
            .execute(&mut **tx)
            .await?;
    }
    sqlx::query(SET_MODEL)
        .bind(&id)
        .bind(to_json("label model", &settled.summary)?)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The last label model.
pub async fn label_model(db: &Db, dataset: DatasetId) -> Result<Option<LabelModel>, StoreError> {
    let summary: Option<String> = sqlx::query_scalar(MODEL)
        .bind(dataset.to_string())
        .fetch_optional(db.read())
        .await?;
    summary.map(|text| json("label model", &text)).transpose()
}
