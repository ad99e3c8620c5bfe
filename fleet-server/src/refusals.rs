//! What was refused to devices, on record: in the audit log, at a bounded rate, so that a flood cannot fill it.
//!
//! The queue is bounded: what does not fit is counted and left out, and so is what exceeds the budget of its kind. The number
//! left out stands in the next entry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_protocol::audit::AuditRecord;
use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::audit;
use crate::store::{self, Db, StoreError};
use crate::tasks::{Shutdown, Tasks};

/// Entries waiting to be written.
const QUEUE: usize = 256;
/// Entries per kind of event and minute.
const BUDGET: u32 = 20;
const WINDOW: Duration = Duration::from_mins(1);

/// Takes refusals. Cheap to clone, never waits.
#[derive(Debug, Clone)]
pub struct Refusals {
    queue: mpsc::Sender<AuditRecord>,
    lost: Arc<AtomicU64>,
}

impl Refusals {
    /// Starts the task that writes them.
    pub fn start(db: Db, tasks: &mut Tasks) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let shutdown = tasks.shutdown();
        tasks.spawn("refusals", run(db, waiting, Arc::clone(&lost), shutdown));
        Self { queue, lost }
    }

    /// Somebody was refused something.
    pub fn tell<const N: usize>(&self, event: &'static str, who: impl Into<String>, detail: [(&str, String); N]) {
        counter!("flotilla_refused_total", "event" => event).increment(1);
        let who = who.into();
        let record = audit::record(&who, event, who.clone(), detail);
        if self.queue.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One kind's budget in the present window.
#[derive(Debug, Default)]
struct Budget {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Budget {
    /// May one more be written now? If so: how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written >= BUDGET {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

async fn run(db: Db, mut waiting: mpsc::Receiver<AuditRecord>, lost: Arc<AtomicU64>, mut shutdown: Shutdown) {
    let mut budgets: BTreeMap<String, Budget> = BTreeMap::new();
    loop {
        let mut record = tokio::select! {
            () = shutdown.wait() => return,
            record = waiting.recv() => match record {
                Some(record) => record,
                None => return,
            },
        };
        let budget = budgets.entry(record.event.clone()).or_default();
        let Some(left_out) = budget.take(Instant::now()) else {
            continue;
        };
        let left_out = left_out + lost.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            record.detail.insert("left_out_before".to_owned(), left_out.to_string());
        }
        if let Err(error) = write(&db, &record).await {
            tracing::error!(%error, event = record.event, "a refusal cannot be put on record");
        }
    }
}

async fn write(db: &Db, record: &AuditRecord) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    store::audit::append(&mut tx, record).await?;
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_rather_than_written() {
        let mut budget = Budget::default();
        let now = Instant::now();
        let written = (0..1000).filter(|_| budget.take(now).is_some()).count();
        assert_eq!(written, BUDGET as usize);
        assert_eq!(budget.take(now + WINDOW), Some(1000 - u64::from(BUDGET)));
        assert_eq!(budget.take(now + WINDOW), Some(0));
    }
}
