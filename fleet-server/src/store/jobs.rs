//! Jobs: claimed with a lease and an epoch. Whoever holds a claim keeps the lease alive; every later write of theirs names
//! the epoch, so that one whose lease was taken over can change nothing any more.

use std::str::FromStr;
use std::time::Duration;

use flotilla_api_types::{Job, JobState};
use flotilla_protocol::ids::JobId;
use sqlx::Row as _;

use crate::clock;
use crate::store::{Db, StoreError, Tx, parsed, statements};

statements! {
    ENQUEUE = "INSERT INTO jobs (id, kind, subject, payload, state, progress, message, error, epoch, attempts, lease_until,
        cancel_requested, not_before, created_at, updated_at)
        VALUES ($1, $2, $3, $4, 'queued', 0, 'waiting', NULL, 0, 0, 0, 0, 0, $5, $5)";
    GET = "SELECT id, kind, subject, state, progress, message, cancel_requested, error, created_at, updated_at FROM jobs
        WHERE id = $1";
    CLAIM = "UPDATE jobs SET state = 'running', epoch = epoch + 1, attempts = attempts + 1, lease_until = $2, updated_at = $1
        WHERE id = (SELECT id FROM jobs WHERE (state = 'queued' AND not_before <= $1)
            OR (state = 'running' AND lease_until < $1) ORDER BY created_at, id LIMIT 1)
        AND ((state = 'queued' AND not_before <= $1) OR (state = 'running' AND lease_until < $1))
        RETURNING id, kind, subject, payload, progress, message, epoch, attempts, cancel_requested";
    NEXT_DUE = "SELECT MIN(CASE WHEN state = 'queued' THEN not_before ELSE lease_until + 1 END) FROM jobs
        WHERE state IN ('queued', 'running')";
    FENCE = "UPDATE jobs SET lease_until = $3 WHERE id = $1 AND epoch = $2 AND state = 'running'
        RETURNING cancel_requested";
    KEEP_PAYLOAD = "UPDATE jobs SET payload = $3 WHERE id = $1 AND epoch = $2 AND state = 'running'";
    HEARTBEAT = "UPDATE jobs SET lease_until = $3, progress = $4, message = $5, updated_at = $6
        WHERE id = $1 AND epoch = $2 AND state = 'running' RETURNING cancel_requested";
    FINISH = "UPDATE jobs SET state = $3, progress = $4, message = $5, error = $6, updated_at = $7
        WHERE id = $1 AND epoch = $2 AND state = 'running'";
    REQUEUE = "UPDATE jobs SET state = 'queued', attempts = attempts - $3, message = $4, not_before = $5, updated_at = $6
        WHERE id = $1 AND epoch = $2 AND state = 'running'";
    CANCEL_QUEUED = "UPDATE jobs SET state = 'cancelled', cancel_requested = 1, updated_at = $2,
        message = CASE WHEN epoch = 0 THEN 'cancelled before it began' ELSE 'cancelled while ' || message END
        WHERE id = $1 AND state = 'queued'";
    REQUEST_CANCEL = "UPDATE jobs SET cancel_requested = 1, updated_at = $2 WHERE id = $1 AND state = 'running'";
}

/// What kinds of long work there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Subject: a run.
    Train,
    /// Subject: a dataset; payload: `FitLabelModel`.
    LabelModel,
    /// Subject: which devices, for people; payload: `BulkOrder`.
    BulkDevices,
}

impl JobKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::LabelModel => "label-model",
            Self::BulkDevices => "bulk-devices",
        }
    }
}

impl FromStr for JobKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Train, Self::LabelModel, Self::BulkDevices]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("'{text}' is no job kind"))
    }
}

const fn state_text(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn state_of(text: &str) -> Result<JobState, StoreError> {
    [
        JobState::Queued,
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
    ]
    .into_iter()
    .find(|state| state_text(*state) == text)
    .ok_or_else(|| StoreError::corrupt("job state", text))
}

/// A claimed job.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub id: JobId,
    pub kind: JobKind,
    pub subject: String,
    pub payload: String,
    /// What was last heard of it.
    pub progress: Progress,
    /// What fences this claim's writes.
    pub epoch: i64,
    /// This one included.
    pub attempts: i64,
    /// Somebody asked for that while a worker had it that is lost.
    pub cancel_requested: bool,
}

/// Enqueues a job, in the transaction of what asks for it.
pub async fn enqueue(
    tx: &mut Tx,
    id: JobId,
    kind: JobKind,
    subject: &str,
    payload: &str,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query(ENQUEUE)
        .bind(id.to_string())
        .bind(kind.as_str())
        .bind(subject)
        .bind(payload)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub async fn get(db: &Db, id: JobId) -> Result<Job, StoreError> {
    let row = sqlx::query(GET)
        .bind(id.to_string())
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("job", id))?;
    Ok(Job {
        id: parsed("job id", row.try_get("id")?)?,
        kind: row.try_get("kind")?,
        subject: row.try_get("subject")?,
        state: state_of(row.try_get("state")?)?,
        progress: row.try_get("progress")?,
        message: row.try_get("message")?,
        cancel_requested: row.try_get::<i64, _>("cancel_requested")? != 0,
        error: row.try_get("error")?,
        created_at: clock::rfc3339(row.try_get("created_at")?),
        updated_at: clock::rfc3339(row.try_get("updated_at")?),
    })
}

/// When [`claim`] finds something, as things stand: when the first waiting job is due or the first lease runs out. `None`: no
/// job waits or runs.
pub async fn next_due(db: &Db) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar(NEXT_DUE).fetch_one(db.read()).await?)
}

/// Takes the oldest job that waits and is due, or whose worker's lease ran out.
pub async fn claim(db: &Db, now: i64, lease_until: i64) -> Result<Option<Claim>, StoreError> {
    let mut tx = db.begin().await?;
    let row = sqlx::query(CLAIM)
        .bind(now)
        .bind(lease_until)
        .fetch_optional(&mut *tx)
        .await?;
    let claim = row
        .map(|row| {
            Ok::<_, StoreError>(Claim {
                id: parsed("job id", row.try_get("id")?)?,
                kind: parsed("job kind", row.try_get("kind")?)?,
                subject: row.try_get("subject")?,
                payload: row.try_get("payload")?,
                progress: Progress {
                    share: row.try_get("progress")?,
                    message: row.try_get("message")?,
                },
                epoch: row.try_get("epoch")?,
                attempts: row.try_get("attempts")?,
                cancel_requested: row.try_get::<i64, _>("cancel_requested")? != 0,
            })
        })
        .transpose()?;
    tx.commit().await?;
    Ok(claim)
}

fn lost(claim: &Claim) -> StoreError {
    StoreError::Conflict(format!("job {} was taken over by another worker", claim.id))
}

/// Holds the claim for the rest of the transaction: refused when another worker has the job. Gives whether somebody asked for
/// it to be cancelled.
pub async fn fence(tx: &mut Tx, claim: &Claim, lease_until: i64) -> Result<bool, StoreError> {
    let cancel: Option<i64> = sqlx::query_scalar(FENCE)
        .bind(claim.id.to_string())
        .bind(claim.epoch)
        .bind(lease_until)
        .fetch_optional(&mut **tx)
        .await?;
    cancel.map(|cancel| cancel != 0).ok_or_else(|| lost(claim))
}

/// Replaces what a job works from, in the transaction of what it has done: whoever takes it over goes on from there.
pub async fn keep_payload(tx: &mut Tx, claim: &Claim, payload: &str) -> Result<(), StoreError> {
    let held = sqlx::query(KEEP_PAYLOAD)
        .bind(claim.id.to_string())
        .bind(claim.epoch)
        .bind(payload)
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if held == 0 { Err(lost(claim)) } else { Ok(()) }
}

/// How far a job is, in [0, 1], and in words.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub share: f64,
    pub message: String,
}

/// Keeps the lease alive and says how far the work is. Gives whether somebody asked for it to be cancelled.
pub async fn heartbeat(
    db: &Db,
    claim: &Claim,
    progress: &Progress,
    now: i64,
    lease_until: i64,
) -> Result<bool, StoreError> {
    let mut tx = db.begin().await?;
    let cancel: Option<i64> = sqlx::query_scalar(HEARTBEAT)
        .bind(claim.id.to_string())
        .bind(claim.epoch)
        .bind(lease_until)
        .bind(progress.share)
        .bind(&progress.message)
        .bind(now)
        .fetch_optional(&mut *tx)
        .await?;
    tx.commit().await?;
    cancel.map(|cancel| cancel != 0).ok_or_else(|| lost(claim))
}

/// Ends the job, in the transaction of its result.
pub async fn finish(
    tx: &mut Tx,
    claim: &Claim,
    state: JobState,
    progress: &Progress,
    error: Option<&str>,
    now: i64,
) -> Result<(), StoreError> {
    let held = sqlx::query(FINISH)
        .bind(claim.id.to_string())
        .bind(claim.epoch)
        .bind(state_text(state))
        .bind(progress.share)
        .bind(&progress.message)
        .bind(error)
        .bind(now)
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if held == 0 { Err(lost(claim)) } else { Ok(()) }
}

/// How a job goes back to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// At once, and the attempt does not count.
    Forgiven,
    /// Not before so much time has passed.
    After(Duration),
}

/// Gives the job back to the queue.
pub async fn requeue(tx: &mut Tx, claim: &Claim, retry: Retry, why: &str, now: i64) -> Result<(), StoreError> {
    let not_before = match retry {
        Retry::Forgiven => 0,
        Retry::After(wait) => now.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
    };
    let held = sqlx::query(REQUEUE)
        .bind(claim.id.to_string())
        .bind(claim.epoch)
        .bind(i64::from(retry == Retry::Forgiven))
        .bind(why)
        .bind(not_before)
        .bind(now)
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if held == 0 { Err(lost(claim)) } else { Ok(()) }
}

/// What a request to cancel came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It had not started, and never will.
    AtOnce,
    /// Its worker will be told.
    Requested,
    /// It had ended.
    TooLate,
}

/// Cancels a job, or has its worker told. What was asked stands in the job: a server that comes back knows it too.
pub async fn cancel(tx: &mut Tx, id: JobId, now: i64) -> Result<Cancelled, StoreError> {
    let queued = sqlx::query(CANCEL_QUEUED)
        .bind(id.to_string())
        .bind(now)
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if queued > 0 {
        return Ok(Cancelled::AtOnce);
    }
    let running = sqlx::query(REQUEST_CANCEL)
        .bind(id.to_string())
        .bind(now)
        .execute(&mut **tx)
        .await?
        .rows_affected();
    Ok(if running > 0 {
        Cancelled::Requested
    } else {
        Cancelled::TooLate
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::testing::{self, NOW};

    #[tokio::test]
    async fn a_job_that_failed_waits_and_it_is_known_until_when() {
        let (_dir, db) = testing::db().await;
        assert_eq!(next_due(&db).await.unwrap(), None);
        let mut tx = db.begin().await.unwrap();
        let id = JobId::new(Uuid::now_v7());
        enqueue(&mut tx, id, JobKind::Train, "", "", NOW).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(next_due(&db).await.unwrap(), Some(0), "at once");
        let first = claim(&db, NOW, NOW + 500).await.unwrap().unwrap();
        assert_eq!(
            next_due(&db).await.unwrap(),
            Some(NOW + 501),
            "when its lease has run out"
        );
        let mut tx = db.begin().await.unwrap();
        requeue(&mut tx, &first, Retry::After(Duration::from_secs(2)), "no disk", NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(next_due(&db).await.unwrap(), Some(NOW + 2000));
        assert_eq!(claim(&db, NOW + 1999, NOW + 9000).await.unwrap(), None);
        let second = claim(&db, NOW + 2000, NOW + 9000).await.unwrap().unwrap();
        assert_eq!((second.attempts, second.progress.message.as_str()), (2, "no disk"));
        let mut tx = db.begin().await.unwrap();
        requeue(&mut tx, &second, Retry::Forgiven, "stopped", NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let third = claim(&db, NOW, NOW + 500).await.unwrap().unwrap();
        assert_eq!(third.attempts, 2, "the last one was forgiven");
    }

    async fn cancelled(db: &Db, id: JobId) -> (Cancelled, Job) {
        let mut tx = db.begin().await.unwrap();
        let came_to = cancel(&mut tx, id, NOW).await.unwrap();
        tx.commit().await.unwrap();
        (came_to, get(db, id).await.unwrap())
    }

    #[tokio::test]
    async fn what_waits_is_cancelled_at_once_and_what_runs_is_told_whoever_has_it() {
        let (_dir, db) = testing::db().await;
        let [fresh, again, running] = [1_u128, 2, 3].map(|id| JobId::new(Uuid::from_u128(id)));
        let mut tx = db.begin().await.unwrap();
        enqueue(&mut tx, again, JobKind::BulkDevices, "", "", NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let first = claim(&db, NOW, NOW + 500).await.unwrap().unwrap();
        let mut tx = db.begin().await.unwrap();
        requeue(&mut tx, &first, Retry::Forgiven, "waiting: the server stopped", NOW)
            .await
            .unwrap();
        enqueue(&mut tx, fresh, JobKind::Train, "", "", NOW + 1).await.unwrap();
        tx.commit().await.unwrap();
        for (id, message) in [
            (fresh, "cancelled before it began"),
            (again, "cancelled while waiting: the server stopped"),
        ] {
            let (came_to, job) = cancelled(&db, id).await;
            assert_eq!((came_to, job.state), (Cancelled::AtOnce, JobState::Cancelled));
            assert_eq!((job.message.as_str(), job.cancel_requested), (message, true));
            assert_eq!(cancelled(&db, id).await.0, Cancelled::TooLate);
        }
        assert_eq!(claim(&db, NOW + 9000, NOW + 9500).await.unwrap(), None);

        let mut tx = db.begin().await.unwrap();
        enqueue(&mut tx, running, JobKind::LabelModel, "", "", NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let held = claim(&db, NOW, NOW + 500).await.unwrap().unwrap();
        let mut tx = db.begin().await.unwrap();
        assert!(!fence(&mut tx, &held, NOW + 500).await.unwrap());
        tx.commit().await.unwrap();
        let (came_to, job) = cancelled(&db, running).await;
        assert_eq!(
            (came_to, job.state, job.cancel_requested),
            (Cancelled::Requested, JobState::Running, true)
        );
        let mut tx = db.begin().await.unwrap();
        assert!(
            fence(&mut tx, &held, NOW + 500).await.unwrap(),
            "in its next transaction"
        );
        drop(tx);
        let another = claim(&db, NOW + 501, NOW + 900).await.unwrap().unwrap();
        assert!(!held.cancel_requested && another.cancel_requested, "after a crash too");
    }
}
