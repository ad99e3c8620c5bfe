//! What was refused, on record: in the audit log, at a bounded rate, so that a flood cannot fill it.
//!
//! Every actor has a budget of its own for every kind of event, so that who floods hides nobody else; how many of an actor's
//! were left out stands in an entry of its own. Beyond a number of actors, the newest share one budget. The queue of entries
//! is bounded: what does not fit is counted. What is queued when the server stops is still written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_protocol::audit::AuditRecord;
use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::audit;
use crate::store::{self, Db, StoreError};
use crate::tasks::{Shutdown, Tasks};

/// Entries waiting to be written.
const QUEUE: usize = 256;
/// Entries of an actor per kind of event and window.
const BUDGET: u32 = 20;
const WINDOW: Duration = Duration::from_mins(10);
/// Actors and events with a budget of their own.
const MOST_BUDGETS: usize = 256;
/// Windows that are over are looked for so often.
const SWEEP: Duration = Duration::from_mins(1);
/// Who stands for all actors beyond the bound.
const OTHERS: &str = "(others)";

/// Takes refusals. Cheap to clone, never waits.
#[derive(Debug, Clone)]
pub struct Refusals {
    queue: mpsc::Sender<AuditRecord>,
    budgets: Arc<Mutex<Budgets>>,
}

impl Refusals {
    /// Starts the task that writes them.
    pub fn start(db: Db, tasks: &mut Tasks) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let budgets = Arc::default();
        let shutdown = tasks.shutdown();
        tasks.spawn("refusals", run(db, waiting, Arc::clone(&budgets), shutdown));
        Self { queue, budgets }
    }

    /// Somebody was refused something. `who` is whose budget it is: an address or an identity that was proved, rather than
    /// one that anybody can claim.
    pub fn tell<const N: usize>(&self, event: &'static str, who: impl Into<String>, detail: [(&str, String); N]) {
        let who = who.into();
        self.tell_of(event, &who, who.clone(), detail);
    }

    /// The same where what it is about is not who did it.
    pub fn tell_of<const N: usize>(
        &self,
        event: &'static str,
        who: &str,
        subject: impl Into<String>,
        detail: [(&str, String); N],
    ) {
        counter!("flotilla_refused_total", "event" => event).increment(1);
        let mut budgets = lock(&self.budgets);
        if !budgets.take(event, who, Instant::now()) {
            return;
        }
        if self.queue.try_send(audit::record(who, event, subject, detail)).is_err() {
            budgets.left_out(event, who);
        }
    }
}

fn lock(budgets: &Mutex<Budgets>) -> MutexGuard<'_, Budgets> {
    budgets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event and who made it happen.
type Key = (&'static str, String);

/// One actor's budget for one kind of event in its present window.
#[derive(Debug)]
struct Budget {
    since: Instant,
    written: u32,
    left_out: u64,
}

#[derive(Debug, Default)]
struct Budgets(BTreeMap<Key, Budget>);

impl Budgets {
    /// May one more be written now? What may not is counted.
    fn take(&mut self, event: &'static str, who: &str, now: Instant) -> bool {
        let budget = self.of(event, who, now);
        if budget.written >= BUDGET {
            budget.left_out += 1;
            return false;
        }
        budget.written += 1;
        true
    }

    fn left_out(&mut self, event: &'static str, who: &str) {
        let now = Instant::now();
        self.of(event, who, now).left_out += 1;
    }

    fn of(&mut self, event: &'static str, who: &str, now: Instant) -> &mut Budget {
        let key = (event, who.to_owned());
        let key = if self.0.len() < MOST_BUDGETS || self.0.contains_key(&key) {
            key
        } else {
            (event, OTHERS.to_owned())
        };
        self.0.entry(key).or_insert(Budget {
            since: now,
            written: 0,
            left_out: 0,
        })
    }

    /// Ends windows that are over (all of them where `all`), and says what was left out in them.
    fn sweep(&mut self, now: Instant, all: bool) -> Vec<(Key, u64)> {
        let over = |budget: &Budget| all || now.saturating_duration_since(budget.since) >= WINDOW;
        let (ended, going_on): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(_, budget)| over(budget));
        self.0 = going_on;
        ended
            .into_iter()
            .filter(|(_, budget)| budget.left_out > 0)
            .map(|(key, budget)| (key, budget.left_out))
            .collect()
    }
}

async fn run(db: Db, mut waiting: mpsc::Receiver<AuditRecord>, budgets: Arc<Mutex<Budgets>>, mut shutdown: Shutdown) {
    let mut sweeps = tokio::time::interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            record = waiting.recv() => match record {
                Some(record) => write(&db, &record).await,
                None => break,
            },
            _ = sweeps.tick() => {
                let suppressed = lock(&budgets).sweep(Instant::now(), false);
                write_suppressed(&db, suppressed).await;
            }
        }
    }
    // Nothing more is taken; what was taken is written.
    waiting.close();
    while let Some(record) = waiting.recv().await {
        write(&db, &record).await;
    }
    let suppressed = lock(&budgets).sweep(Instant::now(), true);
    write_suppressed(&db, suppressed).await;
}

async fn write_suppressed(db: &Db, suppressed: Vec<(Key, u64)>) {
    for ((event, who), count) in suppressed {
        let detail = [("event", event.to_owned()), ("suppressed", count.to_string())];
        write(db, &audit::record(&who, "refusals.suppressed", who.clone(), detail)).await;
    }
}

async fn write(db: &Db, record: &AuditRecord) {
    if let Err(error) = append(db, record).await {
        tracing::error!(%error, event = record.event, "a refusal cannot be put on record");
    }
}

async fn append(db: &Db, record: &AuditRecord) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    store::audit::append(&mut tx, record).await?;
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_hides_nobody_else() {
        let mut budgets = Budgets::default();
        let now = Instant::now();
        let written = (0..1000).filter(|_| budgets.take("e", "flooder", now)).count();
        assert_eq!(written, BUDGET as usize);
        assert!(budgets.take("e", "somebody", now), "another actor");
        assert!(budgets.take("f", "flooder", now), "another event");
        assert!(budgets.sweep(now, false).is_empty(), "the window is not over");
        let left_out = budgets.sweep(now + WINDOW, false);
        assert_eq!(left_out, [(("e", "flooder".to_owned()), 1000 - u64::from(BUDGET))]);
        assert!(budgets.take("e", "flooder", now + WINDOW));
    }

    #[test]
    fn many_actors_take_no_more_memory_than_few() {
        let mut budgets = Budgets::default();
        let now = Instant::now();
        let written = (0..10_000)
            .filter(|n| budgets.take("e", &format!("actor {n}"), now))
            .count();
        assert_eq!(written, MOST_BUDGETS + BUDGET as usize);
        assert!(budgets.0.len() <= MOST_BUDGETS + 1);
    }

    #[tokio::test]
    async fn what_waits_is_written_when_the_server_stops() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("test.db")).await.unwrap();
        let mut tasks = Tasks::default();
        let refusals = Refusals::start(db.clone(), &mut tasks);
        // Nothing else runs on this thread until the stop: all of it waits in the queue.
        for who in ["a", "b"] {
            for _ in 0..BUDGET + 3 {
                refusals.tell("test.refused", who, [("reason", "no".to_owned())]);
            }
        }
        assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
        let entries = store::audit::list(&db, None, &store::audit::AuditFilter::default(), 100)
            .await
            .unwrap();
        let count = |event: &str| entries.iter().filter(|entry| entry.event == event).count();
        assert_eq!(count("test.refused"), 2 * BUDGET as usize);
        let suppressed: Vec<_> = entries
            .iter()
            .filter(|entry| entry.event == "refusals.suppressed")
            .collect();
        assert_eq!(suppressed.len(), 2);
        assert!(
            suppressed.iter().all(|entry| entry.detail["suppressed"] == "3"),
            "{suppressed:?}"
        );
    }
}
