//! What is known of samples' classes: hand labels, labeling functions, the label model's guesses, and the queue of samples
//! that a person should look at next.
//!
//! A guess is a row of `stored_guesses` that names a generation: the view `guesses`, which everybody reads, shows each
//! dataset's published one. Publishing is one row changed, however many guesses it brings.

use std::sync::LazyLock;

use flotilla_api_types::datasets::{
    Annotation, AnnotationReport, LabelModel, LabelingFunction, LabelingFunctionConflicts, LabelingFunctionStatistics,
    Sample,
};
use flotilla_protocol::ids::{DatasetId, Digest, LabelingFunctionId};
use sqlx::Row as _;

use crate::store::datasets::{SampleFilter, sample_of};
use crate::store::jobs::Claim;
use crate::store::{Db, StoreError, Tx, json, parsed, statements, to_json};

statements! {
    HAND_LABEL = "SELECT a.label FROM samples s LEFT JOIN annotations a ON a.dataset = s.dataset AND a.digest = s.digest
        WHERE s.dataset = $1 AND s.digest = $2";
    ANNOTATE = "INSERT INTO annotations (dataset, digest, label, actor, at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (dataset, digest) DO UPDATE SET label = excluded.label, actor = excluded.actor, at = excluded.at";
    REMOVE = "DELETE FROM annotations WHERE dataset = $1 AND digest = $2 AND ($3 = '' OR label = $3)
        RETURNING label, actor";
    QUEUE_UNCERTAIN = "SELECT s.ordinal, s.digest, s.sample_key, s.slice, s.split, s.predicted, s.created_at,
        CASE WHEN $4 = 'values' THEN s.raw END AS raw, a.label AS hand, g.label AS guess, g.confidence
        FROM samples s
        LEFT JOIN annotations a ON a.dataset = s.dataset AND a.digest = s.digest
        LEFT JOIN guesses g ON g.dataset = s.dataset AND g.digest = s.digest
        WHERE s.dataset = $1 AND a.digest IS NULL AND ($2 = '' OR s.slice = $2) AND ($3 = '' OR s.split = $3)
        AND (COALESCE(g.confidence, 0) > $6 OR (COALESCE(g.confidence, 0) = $6 AND s.ordinal > $7))
        AND ($8 = '' OR s.device = $8)
        ORDER BY COALESCE(g.confidence, 0), s.ordinal LIMIT $5";
    QUEUE_NEWEST = "SELECT s.ordinal, s.digest, s.sample_key, s.slice, s.split, s.predicted, s.created_at,
        CASE WHEN $4 = 'values' THEN s.raw END AS raw, a.label AS hand, g.label AS guess, g.confidence
        FROM samples s
        LEFT JOIN annotations a ON a.dataset = s.dataset AND a.digest = s.digest
        LEFT JOIN guesses g ON g.dataset = s.dataset AND g.digest = s.digest
        WHERE s.dataset = $1 AND a.digest IS NULL AND ($2 = '' OR s.slice = $2) AND ($3 = '' OR s.split = $3)
        AND s.ordinal < $6 AND ($7 = '' OR s.device = $7) ORDER BY s.ordinal DESC LIMIT $5";
    CREATE_FUNCTION = "INSERT INTO labeling_functions (id, dataset, name, expression, label, statistics, created_at)
        VALUES ($1, $2, $3, $4, $5, NULL, $6)";
    FUNCTIONS = "SELECT id, name, expression, label, statistics FROM labeling_functions WHERE dataset = $1
        ORDER BY created_at, id";
    DELETE_FUNCTION = "DELETE FROM labeling_functions WHERE dataset = $1 AND (id = $2 OR name = $2)";
    SET_STATISTICS = "UPDATE labeling_functions SET statistics = $2 WHERE id = $1";
    BEGIN_GENERATION = "INSERT INTO guess_generations (dataset, generation, job, epoch) VALUES ($1,
        (SELECT COALESCE(MAX(g.generation), 0) + 1 FROM guess_generations g WHERE g.dataset = $1), $2, $3)
        RETURNING generation";
    GUESS = "INSERT INTO stored_guesses (dataset, generation, digest, label, confidence) VALUES ($1, $2, $3, $4, $5)";
    PUBLISHED = "SELECT generation FROM label_models WHERE dataset = $1";
    PUBLISH = "INSERT INTO label_models (dataset, summary, conflicts, fitted_at, generation) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (dataset) DO UPDATE SET summary = excluded.summary, conflicts = excluded.conflicts,
        fitted_at = excluded.fitted_at, generation = excluded.generation WHERE label_models.generation = $6 OR $6 < 0";
    STALE_GENERATIONS = "SELECT g.dataset, g.generation FROM guess_generations g
        WHERE NOT EXISTS (SELECT 1 FROM label_models m WHERE m.dataset = g.dataset AND m.generation = g.generation)
        AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = g.job AND j.epoch = g.epoch AND j.state = 'running')
        ORDER BY g.dataset, g.generation";
    PRUNE_GENERATION = "DELETE FROM stored_guesses WHERE (dataset, digest, generation) IN
        (SELECT g.dataset, g.digest, g.generation FROM stored_guesses g WHERE g.dataset = $1 AND g.generation = $2 LIMIT $3)";
    FORGET_GENERATION = "DELETE FROM guess_generations WHERE dataset = $1 AND generation = $2";
    MODEL = "SELECT summary FROM label_models WHERE dataset = $1";
    CONFLICTS = "SELECT conflicts FROM label_models WHERE dataset = $1";
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

/// What was known of a sample's class before its hand label was taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The label, and who had set it.
    Done {
        label: String,
        actor: String,
    },
    /// It has another label than the one that was to go.
    Other(String),
    NoLabel,
    NoSample,
}

/// Takes a sample's hand label away; `only`: if it is still this one.
pub async fn remove_annotation(
    tx: &mut Tx,
    dataset: DatasetId,
    sample: &Digest,
    only: Option<&str>,
) -> Result<Removed, StoreError> {
    let before: Option<Option<String>> = sqlx::query_scalar(HAND_LABEL)
        .bind(dataset.to_string())
        .bind(sample.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    let Some(before) = before else {
        return Ok(Removed::NoSample);
    };
    let Some(before) = before else {
        return Ok(Removed::NoLabel);
    };
    let removed = sqlx::query(REMOVE)
        .bind(dataset.to_string())
        .bind(sample.to_string())
        .bind(only.unwrap_or_default())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(match removed {
        None => Removed::Other(before),
        Some(row) => Removed::Done {
            label: row.try_get("label")?,
            actor: row.try_get("actor")?,
        },
    })
}

/// What a person should label next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueOrder {
    /// No guess first, then the least confident guess; ties in the dataset's order.
    Uncertainty,
    Newest,
}

/// How far somebody has gone through the queue. What was passed over lies behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueCursor {
    /// Of the last one's guess, 0 without one; only in order of uncertainty.
    confidence: Option<f64>,
    ordinal: i64,
}

impl QueueCursor {
    /// As clients give it back. The confidence's bits, so that it is compared as it was stored.
    pub fn encode(&self) -> String {
        match self.confidence {
            Some(confidence) => format!("{:016x}.{}", confidence.to_bits(), self.ordinal),
            None => self.ordinal.to_string(),
        }
    }

    /// `None`: no queue of this order gave it out.
    pub fn decode(text: &str, order: QueueOrder) -> Option<Self> {
        match order {
            QueueOrder::Newest => Some(Self {
                confidence: None,
                ordinal: text.parse().ok()?,
            }),
            QueueOrder::Uncertainty => {
                let (bits, ordinal) = text.split_once('.')?;
                let confidence = f64::from_bits(u64::from_str_radix(bits, 16).ok()?);
                confidence.is_finite().then_some(Self {
                    confidence: Some(confidence),
                    ordinal: ordinal.parse().ok()?,
                })
            }
        }
    }
}

/// Samples without a hand label, beyond `after`; and how far that is, if there may be more.
pub async fn queue(
    db: &Db,
    dataset: DatasetId,
    order: QueueOrder,
    filter: &SampleFilter<'_>,
    after: Option<QueueCursor>,
    limit: u32,
) -> Result<(Vec<Sample>, Option<QueueCursor>), StoreError> {
    let query = sqlx::query(match order {
        QueueOrder::Uncertainty => QUEUE_UNCERTAIN,
        QueueOrder::Newest => QUEUE_NEWEST,
    })
    .bind(dataset.to_string())
    .bind(filter.slice.unwrap_or_default())
    .bind(filter.split_text())
    .bind(filter.values_text())
    .bind(i64::from(limit));
    let query = match order {
        QueueOrder::Uncertainty => query
            .bind(after.and_then(|after| after.confidence).unwrap_or(-1.0))
            .bind(after.map_or(-1, |after| after.ordinal)),
        QueueOrder::Newest => query.bind(after.map_or(i64::MAX, |after| after.ordinal)),
    };
    let rows = query.bind(filter.device_text()).fetch_all(db.read()).await?;
    let next = match rows.last().filter(|_| rows.len() == limit as usize) {
        None => None,
        Some(last) => Some(QueueCursor {
            confidence: match order {
                QueueOrder::Uncertainty => Some(last.try_get::<Option<f64>, _>("confidence")?.unwrap_or(0.0)),
                QueueOrder::Newest => None,
            },
            ordinal: last.try_get("ordinal")?,
        }),
    };
    Ok((rows.iter().map(sample_of).collect::<Result<_, _>>()?, next))
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
    pub conflicts: LabelingFunctionConflicts,
    pub guesses: Vec<Guess>,
    pub statistics: Vec<(LabelingFunctionId, LabelingFunctionStatistics)>,
}

/// Guesses of one dataset that are written and published together. Nobody sees them before they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    dataset: DatasetId,
    number: i64,
}

/// Begins a generation; it is forgotten unless this claim publishes it.
pub async fn begin_generation(tx: &mut Tx, dataset: DatasetId, claim: &Claim) -> Result<Generation, StoreError> {
    let number = sqlx::query_scalar(BEGIN_GENERATION)
        .bind(dataset.to_string())
        .bind(claim.id.to_string())
        .bind(claim.epoch)
        .fetch_one(&mut **tx)
        .await?;
    Ok(Generation { dataset, number })
}

/// Rows of one statement that writes guesses.
const GUESS_ROWS: usize = 100;

/// [`GUESS`] of [`GUESS_ROWS`] rows at once.
pub(crate) static GUESSES: LazyLock<String> = LazyLock::new(|| {
    let row = |row: usize| {
        let first = 3 + 3 * row;
        format!("($1, $2, ${first}, ${}, ${})", first + 1, first + 2)
    };
    let rows: Vec<String> = (0..GUESS_ROWS).map(row).collect();
    format!(
        "INSERT INTO stored_guesses (dataset, generation, digest, label, confidence) VALUES {}",
        rows.join(", ")
    )
});

/// Adds guesses to a generation: as many as a short transaction bears.
pub async fn add_guesses(tx: &mut Tx, generation: Generation, guesses: &[Guess]) -> Result<(), StoreError> {
    let dataset = generation.dataset.to_string();
    let many = guesses.chunks_exact(GUESS_ROWS);
    let single = many.remainder().chunks(1);
    for rows in many.chain(single) {
        let sql = if rows.len() == GUESS_ROWS {
            GUESSES.as_str()
        } else {
            GUESS
        };
        let mut query = sqlx::query(sql).bind(&dataset).bind(generation.number);
        for guess in rows {
            query = query
                .bind(guess.sample.to_string())
                .bind(&guess.label)
                .bind(guess.confidence);
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// The number of the generation that everybody sees; `None` before the first.
pub async fn published(db: &Db, dataset: DatasetId) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar(PUBLISHED)
        .bind(dataset.to_string())
        .fetch_optional(db.read())
        .await?)
}

/// Lets everybody see a generation instead of the one before, with the functions' statistics and the summary. `replaces`: the
/// published one that it was made from, which must still be the one; `None`: whichever it is.
pub async fn publish(
    tx: &mut Tx,
    generation: Generation,
    replaces: Option<i64>,
    settled: &Settled,
    now: i64,
) -> Result<(), StoreError> {
    for (function, statistics) in &settled.statistics {
        sqlx::query(SET_STATISTICS)
            .bind(function.to_string())
            .bind(to_json("statistics", statistics)?)
            .execute(&mut **tx)
            .await?;
    }
    let published = sqlx::query(PUBLISH)
        .bind(generation.dataset.to_string())
        .bind(to_json("label model", &settled.summary)?)
        .bind(to_json("conflicts", &settled.conflicts)?)
        .bind(now)
        .bind(generation.number)
        .bind(replaces.unwrap_or(-1))
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if published == 0 {
        return Err(StoreError::Conflict(
            "another label model of the dataset was fitted in the meantime".to_owned(),
        ));
    }
    Ok(())
}

/// Generations that nobody sees and nobody writes any more.
pub async fn stale_generations(db: &Db) -> Result<Vec<Generation>, StoreError> {
    let rows = sqlx::query(STALE_GENERATIONS).fetch_all(db.read()).await?;
    rows.iter()
        .map(|row| {
            Ok(Generation {
                dataset: parsed("dataset id", row.try_get("dataset")?)?,
                number: row.try_get("generation")?,
            })
        })
        .collect()
}

/// Removes some of a stale generation's guesses, in a transaction of its own; gives how many. 0: it is gone.
pub async fn prune_generation(db: &Db, generation: Generation, most: u32) -> Result<u64, StoreError> {
    let dataset = generation.dataset.to_string();
    let mut tx = db.begin().await?;
    let removed = sqlx::query(PRUNE_GENERATION)
        .bind(&dataset)
        .bind(generation.number)
        .bind(i64::from(most))
        .execute(&mut *tx)
        .await?
        .rows_affected();
    if removed == 0 {
        sqlx::query(FORGET_GENERATION)
            .bind(&dataset)
            .bind(generation.number)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(removed)
}

/// The last label model.
pub async fn label_model(db: &Db, dataset: DatasetId) -> Result<Option<LabelModel>, StoreError> {
    let summary: Option<String> = sqlx::query_scalar(MODEL)
        .bind(dataset.to_string())
        .fetch_optional(db.read())
        .await?;
    summary.map(|text| json("label model", &text)).transpose()
}

/// How the functions of the last label model voted together and against each other; `None` before the first, and for one that
/// an older server fitted.
pub async fn conflicts(db: &Db, dataset: DatasetId) -> Result<Option<LabelingFunctionConflicts>, StoreError> {
    let found: Option<Option<String>> = sqlx::query_scalar(CONFLICTS)
        .bind(dataset.to_string())
        .fetch_optional(db.read())
        .await?;
    found.flatten().map(|text| json("conflicts", &text)).transpose()
}
