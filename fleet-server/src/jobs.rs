//! Runs long work: claims jobs one after the other, keeps their leases alive, and stops them when asked.
//!
//! Every job runs as a task of its own, joined before [`run`] returns. What a job writes is fenced by its claim, so that a
//! server that was thought dead changes nothing any more. Computations happen on blocking threads and look at
//! [`Control::is_stopping`] now and then. A job that fails for want of something that may come back waits longer each time.
//! One that somebody cancelled is never taken up again, whatever stopped it first.

pub mod bulk;
mod labeling;

use std::sync::Arc;
use std::time::Duration;

use flotilla_api_types::JobState;
use flotilla_api_types::runs::RunStatus;
use flotilla_protocol::ids::{JobId, RunId};
use tokio::task::JoinSet;

use crate::app::{App, Change};
use crate::store::jobs::{Claim, JobKind, Progress, Retry};
use crate::store::{StoreError, Tx, device_summaries, jobs as store, runs};
use crate::tasks::Shutdown;
use crate::training::runner;
use crate::work::{ACTOR, Control, JobError, Stop, lease_until};
use crate::{audit, clock};

/// Jobs that run at a time: each takes a processor.
const MAX_CONCURRENT: usize = 2;
/// A job is tried so often before it is given up.
const MAX_ATTEMPTS: i64 = 3;
/// How often a worker says that it lives, and how far it is.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// When the database could not be asked, it is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How long a job that failed for the n-th time waits before it is tried again: two seconds, then four, and so on.
fn back_off(attempts: i64) -> Duration {
    Duration::from_secs(1 << attempts.clamp(1, 10))
}

/// Runs jobs until the server stops; then tells running ones to stop, and gives them back to the queue.
pub async fn run(app: App, mut shutdown: Shutdown) {
    let mut active = JoinSet::new();
    let mut news = app.changes.listen();
    while !shutdown.is_stopping() {
        let mut wait = None;
        if active.len() < MAX_CONCURRENT {
            match next(&app).await {
                Ok(Next::Claimed(claim)) => {
                    active.spawn(execute(app.clone(), *claim, shutdown.clone()));
                    continue;
                }
                Ok(Next::In(due)) => wait = due,
                Err(error) => {
                    tracing::error!(%error, "cannot claim jobs");
                    wait = Some(ASK_AGAIN);
                }
            }
        }
        let due = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.wait() => break,
            Some(ended) = active.join_next() => log_panic(ended),
            told = news.wait_for(|change| matches!(change, Change::Job(_))) => if !told {
                // No more news: the stop is next.
                shutdown.wait().await;
            },
            () = due => {}
        }
    }
    while let Some(ended) = active.join_next().await {
        log_panic(ended);
    }
}

/// What there is to do.
enum Next {
    Claimed(Box<Claim>),
    /// Nothing before so much time has passed; `None`: nothing at all.
    In(Option<Duration>),
}

/// Claims the oldest job that is due. What is due when is read first: news comes often, and most of it leaves nothing to
/// claim.
async fn next(app: &App) -> Result<Next, StoreError> {
    let now = clock::now_ms();
    let Some(due) = store::next_due(&app.db).await? else {
        return Ok(Next::In(None));
    };
    if let Ok(wait @ 1..) = u64::try_from(due.saturating_sub(now)) {
        return Ok(Next::In(Some(Duration::from_millis(wait))));
    }
    let claimed = store::claim(&app.db, now, lease_until()).await?;
    // Where nothing is left another server was quicker.
    Ok(claimed.map_or(Next::In(Some(ASK_AGAIN)), |claim| Next::Claimed(Box::new(claim))))
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        // The lease runs out, and the job is tried again.
        tracing::error!(%error, "a job's task broke off");
    }
}

async fn execute(app: App, claim: Claim, shutdown: Shutdown) {
    let control = Arc::new(Control::default());
    let outcome = if claim.cancel_requested {
        // Its worker was lost before it could heed it.
        let reached = before(&claim);
        control.report(reached.share, reached.message);
        control.stop(Stop::Cancelled);
        Err(JobError::Stopped)
    } else if claim.attempts > MAX_ATTEMPTS {
        let last = &claim.progress.message;
        Err(JobError::Failed(format!(
            "gave up after {MAX_ATTEMPTS} attempts; last heard: '{last}'"
        )))
    } else {
        tracing::info!(job = %claim.id, kind = claim.kind.as_str(), attempt = claim.attempts, "job starts");
        // Both are polled side by side: the work may hold the database's only writer while the supervisor waits for it.
        tokio::select! {
            outcome = work(&app, &claim, &control) => outcome,
            never = supervise(&app, &claim, &control, shutdown) => match never {},
        }
    };
    if let Err(error) = outcome
        && let Err(error) = settle(&app, &claim, &control, error).await
    {
        tracing::error!(job = %claim.id, %error, "a job's end cannot be recorded; it is tried again when its lease runs out");
    }
    app.changes.tell(Change::Job(claim.id));
}

async fn work(app: &App, claim: &Claim, control: &Arc<Control>) -> Result<(), JobError> {
    match claim.kind {
        JobKind::Train => Box::pin(runner::train(app, claim, control)).await,
        JobKind::LabelModel => Box::pin(labeling::fit(app, claim, control)).await,
        JobKind::BulkDevices => Box::pin(bulk::run(app, claim, control)).await,
    }
}

/// How far a job had come before this claim.
fn before(claim: &Claim) -> Progress {
    match claim.kind {
        JobKind::BulkDevices => bulk::before(claim).unwrap_or_else(|| claim.progress.clone()),
        JobKind::Train | JobKind::LabelModel => claim.progress.clone(),
    }
}

/// A write transaction in which the claim is sure to be held and nobody has asked for the job to be cancelled: from the moment
/// that somebody has, it changes nothing more.
async fn wanted(app: &App, claim: &Claim, control: &Control) -> Result<Tx, JobError> {
    control.check()?;
    let mut tx = app.db.begin().await?;
    if store::fence(&mut tx, claim, lease_until()).await? {
        control.stop(Stop::Cancelled);
        return Err(JobError::Stopped);
    }
    Ok(tx)
}

/// Keeps the lease alive, passes progress on, and tells the work to stop. Never ends by itself.
#[expect(clippy::infinite_loop, reason = "it is dropped when the work ends")]
async fn supervise(app: &App, claim: &Claim, control: &Control, mut shutdown: Shutdown) -> std::convert::Infallible {
    let mut last = None;
    loop {
        let progress = control.progress();
        beat(app, claim, control, &progress).await;
        if last.as_ref() != Some(&progress) {
            app.changes.tell(Change::Job(claim.id));
            last = Some(progress);
        }
        if shutdown.is_stopping() {
            control.stop(Stop::Shutdown);
            tokio::time::sleep(HEARTBEAT).await;
            continue;
        }
        // An elapsed timeout is the next beat.
        drop(tokio::time::timeout(HEARTBEAT, shutdown.wait()).await);
    }
}

/// One heartbeat, and what it brings back.
async fn beat(app: &App, claim: &Claim, control: &Control, progress: &Progress) {
    match store::heartbeat(&app.db, claim, progress, clock::now_ms(), lease_until()).await {
        Ok(true) => control.stop(Stop::Cancelled),
        Ok(false) => {}
        Err(StoreError::Conflict(_)) => control.stop(Stop::Lost),
        Err(error) => tracing::warn!(job = %claim.id, %error, "no heartbeat"),
    }
}

/// Records a job that did not succeed, and what becomes of its run.
async fn settle(app: &App, claim: &Claim, control: &Control, error: JobError) -> Result<(), StoreError> {
    let mut stop = control.stopped();
    if stop == Some(Stop::Lost) {
        return Ok(());
    }
    let progress = control.progress();
    let mut tx = app.db.begin().await?;
    if store::fence(&mut tx, claim, lease_until()).await? {
        stop = Some(Stop::Cancelled);
    }
    match (error, stop) {
        (JobError::Failed(why), _) => end(&mut tx, claim, &progress, Some(&why)).await?,
        (_, Some(Stop::Cancelled)) => end(&mut tx, claim, &progress, None).await?,
        (_, Some(Stop::Shutdown)) => {
            let why = so_far("waiting: the server stopped", &progress);
            again(&mut tx, claim, Retry::Forgiven, &why).await?;
        }
        (error, _) if claim.attempts >= MAX_ATTEMPTS => {
            let why = format!("gave up after {MAX_ATTEMPTS} attempts: {error}");
            end(&mut tx, claim, &progress, Some(&why)).await?;
        }
        (error, _) => {
            let wait = back_off(claim.attempts);
            let why = format!("waiting {} s to be tried again: {error}", wait.as_secs());
            again(&mut tx, claim, Retry::After(wait), &so_far(&why, &progress)).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// What became of a job, and how far it had come.
fn so_far(what: &str, progress: &Progress) -> String {
    if progress.share > 0.0 {
        format!("{what}; so far: {}", progress.message)
    } else {
        what.to_owned()
    }
}

/// Ends a job for good: it failed for a reason, or else was cancelled.
async fn end(tx: &mut Tx, claim: &Claim, progress: &Progress, why: Option<&str>) -> Result<(), StoreError> {
    let (state, status, how) = match why {
        Some(_) => (JobState::Failed, RunStatus::Failed, "failed"),
        None => (JobState::Cancelled, RunStatus::Killed, "cancelled"),
    };
    let last = Progress {
        share: progress.share,
        message: so_far(how, progress),
    };
    let now = clock::now_ms();
    store::finish(tx, claim, state, &last, why, now).await?;
    if let Some(run) = run_of(claim.kind, &claim.subject) {
        runs::end(tx, run, status, why, now).await?;
    }
    forget(tx, claim.id, claim.kind).await?;
    log_end(tx, claim, how, why.unwrap_or(&last.message)).await
}

/// Ends what hangs on a job that was cancelled before it began, or while it waited to go on.
pub async fn let_go(tx: &mut Tx, id: JobId, kind: JobKind, subject: &str) -> Result<(), StoreError> {
    if let Some(run) = run_of(kind, subject) {
        runs::end(tx, run, RunStatus::Killed, None, clock::now_ms()).await?;
    }
    forget(tx, id, kind).await
}

/// Forgets what a job that has ended was given to work on.
async fn forget(tx: &mut Tx, id: JobId, kind: JobKind) -> Result<(), StoreError> {
    match kind {
        JobKind::BulkDevices => device_summaries::forget_job(tx, id).await,
        JobKind::Train | JobKind::LabelModel => Ok(()),
    }
}

/// Puts a job back into the queue.
async fn again(tx: &mut Tx, claim: &Claim, retry: Retry, why: &str) -> Result<(), StoreError> {
    store::requeue(tx, claim, retry, why, clock::now_ms()).await?;
    if let Some(run) = run_of(claim.kind, &claim.subject) {
        runs::set_status(tx, run, RunStatus::Scheduled).await?;
    }
    Ok(())
}

fn run_of(kind: JobKind, subject: &str) -> Option<RunId> {
    match kind {
        JobKind::Train => subject.parse().ok(),
        JobKind::LabelModel | JobKind::BulkDevices => None,
    }
}

async fn log_end(tx: &mut Tx, claim: &Claim, how: &str, why: &str) -> Result<(), StoreError> {
    let (event, subject) = match claim.kind {
        JobKind::Train => (format!("run.{how}"), format!("run:{}", claim.subject)),
        JobKind::LabelModel => (format!("label-model.{how}"), format!("dataset:{}", claim.subject)),
        JobKind::BulkDevices => (format!("devices.bulk-{how}"), format!("job:{}", claim.id)),
    };
    let detail = [("job", claim.id.to_string()), ("why", why.to_owned())];
    crate::store::audit::append(tx, &audit::record(ACTOR, &event, subject, detail)).await?;
    Ok(())
}
