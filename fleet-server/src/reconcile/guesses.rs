//! Removes guesses that nobody sees: of generations that others replaced, and of those whose writer was stopped, failed or
//! died. Published ones, and those that a running job writes, it never touches.

use std::time::Duration;

use metrics::counter;

use crate::app::{App, Change};
use crate::store::StoreError;
use crate::store::labels as store;
use crate::tasks::Shutdown;

/// Guesses removed per transaction.
const BATCH: u32 = 1000;
/// After a failure it is tried again. Whatever leaves guesses behind is the end of a job, which is told.
const AGAIN: Duration = Duration::from_mins(1);

/// Runs until the server stops.
pub async fn run(app: App, mut shutdown: Shutdown) {
    let mut news = app.changes.listen();
    loop {
        let failed = tokio::select! {
            () = shutdown.wait() => return,
            swept = sweep(&app) => match swept {
                Ok(()) => false,
                Err(error) => {
                    tracing::error!(%error, "old guesses cannot be removed; trying again");
                    true
                }
            },
        };
        tokio::select! {
            () = shutdown.wait() => return,
            told = news.wait_for(|change| matches!(change, Change::Job(_))) => if !told { return },
            () = tokio::time::sleep(AGAIN), if failed => {}
        }
    }
}

/// One round. It may be dropped anywhere: every step is a transaction of its own.
pub(crate) async fn sweep(app: &App) -> Result<(), StoreError> {
    for generation in store::stale_generations(&app.db).await? {
        loop {
            let removed = store::prune_generation(&app.db, generation, BATCH).await?;
            counter!("flotilla_guesses_removed_total").increment(removed);
            if removed == 0 {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flotilla_api_types::datasets::LabelingFunctionConflicts;
    use flotilla_protocol::ids::{DatasetId, Digest, JobId};
    use uuid::Uuid;

    use super::*;
    use crate::store::jobs::{self, Claim, JobKind, Retry};
    use crate::store::labels::{Generation, Guess, Settled};
    use crate::testing::{self, NOW};

    const STORED: &str = "SELECT COUNT(*) FROM stored_guesses";
    const SEEN: &str = "SELECT COUNT(*) FROM guesses";

    /// Half a generation, as a job leaves it that is broken off.
    async fn write(app: &App, claim: &Claim, count: u32) -> Generation {
        let guesses: Vec<Guess> = (0..count)
            .map(|sample| Guess {
                sample: Digest::of(&sample.to_le_bytes()),
                label: "low".to_owned(),
                confidence: 0.5,
            })
            .collect();
        let mut tx = app.db.begin().await.unwrap();
        let dataset = DatasetId::new(Uuid::nil());
        let generation = store::begin_generation(&mut tx, dataset, claim).await.unwrap();
        store::add_guesses(&mut tx, generation, &guesses).await.unwrap();
        tx.commit().await.unwrap();
        generation
    }

    async fn publish(app: &App, generation: Generation) {
        let settled: Settled = Settled {
            summary: serde_json::from_value(serde_json::json!({"model": "majority", "samples": 0, "iterations": 0,
                "coverage": 1.0, "conflict": 0.0, "prior": {}, "fitted_at": ""}))
            .unwrap(),
            guesses: vec![],
            statistics: vec![],
            conflicts: LabelingFunctionConflicts::default(),
        };
        let mut tx = app.db.begin().await.unwrap();
        store::publish(&mut tx, generation, None, &settled, NOW).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn counts(app: &App) -> (i64, i64) {
        let count = async |sql| sqlx::query_scalar(sql).fetch_one(app.db.read()).await.unwrap();
        (count(STORED).await, count(SEEN).await)
    }

    #[tokio::test]
    async fn what_a_dead_job_wrote_goes_and_what_is_seen_or_being_written_stays() {
        let (_dir, app) = testing::app().await;
        let mut tx = app.db.begin().await.unwrap();
        let id = JobId::new(Uuid::now_v7());
        jobs::enqueue(&mut tx, id, JobKind::LabelModel, "", "", NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let claim = jobs::claim(&app.db, NOW, NOW + 1).await.unwrap().unwrap();
        write(&app, &claim, 2500).await;
        sweep(&app).await.unwrap();
        assert_eq!(counts(&app).await, (2500, 0), "its job runs");

        // The server died: another claim of the same job starts anew.
        let claim = jobs::claim(&app.db, NOW + 2, NOW + 3).await.unwrap().unwrap();
        assert_eq!(claim.epoch, 2);
        let first = write(&app, &claim, 10).await;
        sweep(&app).await.unwrap();
        assert_eq!(counts(&app).await, (10, 0));
        publish(&app, first).await;
        let second = write(&app, &claim, 20).await;
        write(&app, &claim, 30).await;
        publish(&app, second).await;
        let mut tx = app.db.begin().await.unwrap();
        jobs::requeue(&mut tx, &claim, Retry::Forgiven, "stopped", NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        sweep(&app).await.unwrap();
        assert_eq!(counts(&app).await, (20, 20), "the published one alone");
        assert_eq!(store::stale_generations(&app.db).await.unwrap(), []);
    }
}
