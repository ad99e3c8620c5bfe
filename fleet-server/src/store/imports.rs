//! Imports: how far each one is, and the samples that it has staged.
//!
//! A staged sample is a row of `stored_samples` that names an import which is not finished: the view `samples`, which
//! everybody reads, leaves it out. Finishing an import is one row changed, however many samples it brings.

use std::collections::BTreeMap;

use flotilla_api_types::datasets::{Import, ImportReport, ImportState, Split};
use flotilla_protocol::ids::{DatasetId, ImportId};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock;
use crate::store::{Db, StoreError, Tx, json, parsed, statements, to_i64, to_json, to_u64};

statements! {
    BEGIN = "INSERT INTO imports (id, dataset, slice, actor, state, bytes_total, bytes_received, bytes_read, lines_read,
        samples, error, report, staged, created_at, updated_at)
        VALUES ($1, $2, $3, $4, 'receiving', $5, 0, 0, 0, 0, NULL, NULL, 1, $6, $6)";
    GET = "SELECT id, dataset, slice, actor, state, bytes_total, bytes_received, bytes_read, lines_read, samples, error,
        report, created_at, updated_at FROM imports WHERE id = $1";
    LIST = "SELECT id, dataset, slice, actor, state, bytes_total, bytes_received, bytes_read, lines_read, samples, error,
        report, created_at, updated_at FROM imports WHERE dataset = $1 AND ($2 = '' OR id < $2)
        ORDER BY id DESC LIMIT $3";
    RECEIVED = "UPDATE imports SET bytes_received = $2, updated_at = $3 WHERE id = $1 AND state = 'receiving'";
    READING = "UPDATE imports SET state = 'reading', bytes_received = $2, bytes_total = $2, updated_at = $3
        WHERE id = $1 AND state = 'receiving'";
    READ = "UPDATE imports SET bytes_read = $2, lines_read = $3, samples = samples + $4, updated_at = $5
        WHERE id = $1 AND state = 'reading'";
    COUNT = "SELECT split, COUNT(*) AS samples FROM stored_samples WHERE import_id = $1 GROUP BY split";
    FINISH = "UPDATE imports SET state = 'finished', bytes_read = bytes_received, lines_read = $2, samples = $3,
        report = $4, staged = 0, updated_at = $5 WHERE id = $1 AND state = 'reading'";
    END = "UPDATE imports SET state = $2, error = $3, updated_at = $4 WHERE id = $1 AND state IN ('receiving', 'reading')";
    UNFINISHED = "SELECT id FROM imports WHERE state IN ('receiving', 'reading') ORDER BY id";
    LEFT_OVER = "SELECT id FROM imports WHERE staged = 1 AND state IN ('failed', 'cancelled') ORDER BY id";
    UNSTAGE = "DELETE FROM stored_samples WHERE (dataset, digest) IN
        (SELECT s.dataset, s.digest FROM stored_samples s WHERE s.import_id = $1 LIMIT $2)";
    CLEANED = "UPDATE imports SET staged = 0 WHERE id = $1";
}

/// An import about to begin.
#[derive(Debug, Clone, Copy)]
pub struct NewImport<'a> {
    pub id: ImportId,
    pub dataset: DatasetId,
    pub slice: &'a str,
    pub actor: &'a str,
    /// Where the client says so.
    pub bytes_total: Option<u64>,
}

/// How far the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub bytes: u64,
    pub lines: u64,
}

/// Refused where another import of the dataset runs.
pub async fn begin(db: &Db, new: &NewImport<'_>, now: i64) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    sqlx::query(BEGIN)
        .bind(new.id.to_string())
        .bind(new.dataset.to_string())
        .bind(new.slice)
        .bind(new.actor)
        .bind(new.bytes_total.map(to_i64))
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(db) if db.is_unique_violation() => StoreError::Conflict(format!(
                "import '{}' was made before, or another import of the dataset is running: wait for it, or cancel it",
                new.id
            )),
            _ => StoreError::Sql(error),
        })?;
    tx.commit().await?;
    Ok(())
}

pub async fn get(db: &Db, id: ImportId) -> Result<Import, StoreError> {
    let row = sqlx::query(GET)
        .bind(id.to_string())
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("import", id))?;
    import_of(&row)
}

/// Newest first, before an id.
pub async fn list(
    db: &Db,
    dataset: DatasetId,
    before: Option<ImportId>,
    limit: u32,
) -> Result<Vec<Import>, StoreError> {
    let rows = sqlx::query(LIST)
        .bind(dataset.to_string())
        .bind(before.map(|id| id.to_string()).unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter().map(import_of).collect()
}

fn import_of(row: &SqliteRow) -> Result<Import, StoreError> {
    let state: &str = row.try_get("state")?;
    let report: Option<&str> = row.try_get("report")?;
    let mut import = Import {
        id: parsed("import id", row.try_get("id")?)?,
        dataset: parsed("dataset id", row.try_get("dataset")?)?,
        slice: row.try_get("slice")?,
        started_by: row.try_get("actor")?,
        state: ImportState::parse(state).ok_or_else(|| StoreError::corrupt("import state", state))?,
        progress: 0.0,
        bytes_total: row.try_get::<Option<i64>, _>("bytes_total")?.map(to_u64),
        bytes_received: to_u64(row.try_get("bytes_received")?),
        bytes_read: to_u64(row.try_get("bytes_read")?),
        rows: to_u64(row.try_get("lines_read")?),
        samples: to_u64(row.try_get("samples")?),
        error: row.try_get("error")?,
        report: report.map(|text| json("import report", text)).transpose()?,
        created_at: clock::rfc3339(row.try_get("created_at")?),
        updated_at: clock::rfc3339(row.try_get("updated_at")?),
    };
    import.progress = import.share();
    Ok(import)
}

/// Notes how much has arrived. `false`: it was cancelled.
pub async fn received(db: &Db, id: ImportId, bytes: u64, now: i64) -> Result<bool, StoreError> {
    let mut tx = db.begin().await?;
    let noted = sqlx::query(RECEIVED)
        .bind(id.to_string())
        .bind(to_i64(bytes))
        .bind(now)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(noted.rows_affected() == 1)
}

/// Everything has arrived. `false`: it was cancelled.
pub async fn reading(db: &Db, id: ImportId, bytes: u64, now: i64) -> Result<bool, StoreError> {
    let mut tx = db.begin().await?;
    let noted = sqlx::query(READING)
        .bind(id.to_string())
        .bind(to_i64(bytes))
        .bind(now)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(noted.rows_affected() == 1)
}

/// Notes how far the reader is, in the transaction that stages what it read. `false`: it was cancelled.
pub async fn read(tx: &mut Tx, id: ImportId, place: Place, staged: u64, now: i64) -> Result<bool, StoreError> {
    let noted = sqlx::query(READ)
        .bind(id.to_string())
        .bind(to_i64(place.bytes))
        .bind(to_i64(place.lines))
        .bind(to_i64(staged))
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(noted.rows_affected() == 1)
}

/// What an import has staged, for each split.
pub async fn staged(tx: &mut Tx, id: ImportId) -> Result<BTreeMap<Split, u64>, StoreError> {
    let rows = sqlx::query(COUNT).bind(id.to_string()).fetch_all(&mut **tx).await?;
    rows.iter()
        .map(|row| {
            let split: &str = row.try_get("split")?;
            let split = Split::parse(split).ok_or_else(|| StoreError::corrupt("split", split))?;
            Ok((split, to_u64(row.try_get("samples")?)))
        })
        .collect()
}

/// Publishes everything that the import has staged. `false`: it was cancelled.
pub async fn finish(tx: &mut Tx, id: ImportId, report: &ImportReport, now: i64) -> Result<bool, StoreError> {
    let finished = sqlx::query(FINISH)
        .bind(id.to_string())
        .bind(to_i64(report.rows))
        .bind(to_i64(report.samples))
        .bind(to_json("import report", report)?)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(finished.rows_affected() == 1)
}

/// Ends an import that is under way without its samples. `false`: it had ended before.
pub async fn end(tx: &mut Tx, id: ImportId, state: ImportState, why: &str, now: i64) -> Result<bool, StoreError> {
    let ended = sqlx::query(END)
        .bind(id.to_string())
        .bind(state.as_str())
        .bind(why)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(ended.rows_affected() == 1)
}

/// Imports that say that they are under way.
pub async fn unfinished(db: &Db) -> Result<Vec<ImportId>, StoreError> {
    ids(&sqlx::query_scalar(UNFINISHED).fetch_all(db.read()).await?)
}

/// Imports that came to nothing and left samples behind.
pub async fn left_over(db: &Db) -> Result<Vec<ImportId>, StoreError> {
    ids(&sqlx::query_scalar(LEFT_OVER).fetch_all(db.read()).await?)
}

fn ids(texts: &[String]) -> Result<Vec<ImportId>, StoreError> {
    texts.iter().map(|text| parsed("import id", text)).collect()
}

/// Removes some of what an ended import staged, in a transaction of its own; gives how many. 0: it is clean.
pub async fn unstage(db: &Db, id: ImportId, most: u32) -> Result<u64, StoreError> {
    let mut tx = db.begin().await?;
    let removed = sqlx::query(UNSTAGE)
        .bind(id.to_string())
        .bind(i64::from(most))
        .execute(&mut *tx)
        .await?
        .rows_affected();
    if removed == 0 {
        sqlx::query(CLEANED).bind(id.to_string()).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(removed)
}
