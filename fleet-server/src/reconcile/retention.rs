//! Forgets what is too old to matter, every hour, in short transactions with a breath between them. What is kept for how
//! long stands in the store.

use std::time::Duration;

use metrics::{counter, gauge};

use crate::app::App;
use crate::clock;
use crate::store::StoreError;
use crate::store::retention::{Table, prune};
use crate::tasks::Shutdown;

const EVERY: Duration = Duration::from_hours(1);
/// Rows per transaction.
const BATCH: u32 = 1000;
/// Between two transactions, so that devices' records are never held up for long.
const BREATH: Duration = Duration::from_millis(20);

/// Runs until the server stops.
pub async fn run(app: App, mut shutdown: Shutdown) {
    loop {
        let started = tokio::time::Instant::now();
        for table in Table::ALL {
            tokio::select! {
                () = shutdown.wait() => return,
                pruned = round(&app, table, clock::now_ms()) => if let Err(error) = pruned {
                    tracing::error!(table = table.as_str(), %error, "old rows cannot be removed; trying again in an hour");
                }
            }
        }
        gauge!("flotilla_retention_round_seconds").set(started.elapsed().as_secs_f64());
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Prunes one table to the end. It may be dropped anywhere.
pub(crate) async fn round(app: &App, table: Table, now: i64) -> Result<u64, StoreError> {
    let (mut rows, mut after) = (0, i64::MIN);
    loop {
        let pruned = prune(&app.db, table, after, BATCH, now).await?;
        rows += pruned.rows;
        counter!("flotilla_rows_pruned_total", "table" => table.as_str()).increment(pruned.rows);
        let Some(next) = pruned.next else {
            break;
        };
        after = next;
        tokio::time::sleep(BREATH).await;
    }
    if rows > 0 {
        tracing::info!(table = table.as_str(), rows, "old rows are removed");
    }
    Ok(rows)
}
