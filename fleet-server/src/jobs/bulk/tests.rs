//! Orders that are cancelled or broken off on the way: what they say that they did they did, and nothing after the word to stop.

use flotilla_api_types::JobState;
use flotilla_protocol::ids::JobId;
use uuid::Uuid;

use super::*;
use crate::domain::device_filter::DeviceFilter;
use crate::store::device_summaries::Meant;
use crate::store::jobs::{Cancelled, JobKind};
use crate::tasks::Tasks;
use crate::testing;

/// Of which the second batch has the last fifty.
const DEVICES: u8 = 150;
/// Longer than any lease.
const LATER_MS: i64 = 60_000;

/// An order to tag all devices.
async fn ordered(app: &App) -> JobId {
    for seed in 1..=DEVICES {
        testing::enrol(&app.db, &format!("press-{seed:03}"), seed, BTreeMap::new())
            .await
            .unwrap();
    }
    let change = TagChange {
        set: BTreeMap::from([("wave".to_owned(), "1".to_owned())]),
        remove: Vec::new(),
    };
    let order = BulkOrder {
        actor: "token:test".to_owned(),
        order: BulkDevices {
            filter: Some(String::new()),
            ids: None,
            action: BulkAction::Tag(change),
            expected_total: u64::from(DEVICES),
        },
    };
    let id = JobId::new(Uuid::now_v7());
    let payload = serde_json::to_string(&order).unwrap();
    let all = DeviceFilter::parse("").unwrap();
    let mut tx = app.db.begin().await.unwrap();
    jobs::enqueue(&mut tx, id, JobKind::BulkDevices, "", &payload, clock::now_ms())
        .await
        .unwrap();
    let kept = device_summaries::keep_for_job(&mut tx, id, Meant::Matching(&all)).await;
    assert_eq!(kept.unwrap(), u64::from(DEVICES));
    tx.commit().await.unwrap();
    id
}

async fn claimed(app: &App, now: i64) -> Claim {
    jobs::claim(&app.db, now, now + LATER_MS).await.unwrap().unwrap()
}

/// The first batch, by a worker that is never heard of again after it.
async fn begun(app: &App) -> Claim {
    let claim = claimed(app, clock::now_ms()).await;
    let mut work: Work = json("job", &claim.payload).unwrap();
    assert!(work.step(app, &claim, &Control::default()).await.unwrap());
    claim
}

async fn cancel(app: &App, id: JobId) {
    let mut tx = app.db.begin().await.unwrap();
    let asked = jobs::cancel(&mut tx, id, clock::now_ms()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(asked, Cancelled::Requested);
}

async fn tagged(app: &App) -> u64 {
    let filter = DeviceFilter::parse("wave:1").unwrap();
    device_summaries::counts(&app.db, &filter).await.unwrap().total
}

async fn ended_as_cancelled(app: &App, id: JobId) {
    let job = jobs::get(&app.db, id).await.unwrap();
    assert_eq!(
        (job.state, job.message.as_str()),
        (
            JobState::Cancelled,
            "cancelled; so far: 100 devices changed, 100 looked at"
        )
    );
    assert!(job.progress > 0.6 && job.progress < 0.7, "{}", job.progress);
    assert_eq!(tagged(app).await, 100, "as it says");
    let left = device_summaries::of_job(&app.db, id, "", 10).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_cancelled_order_stops_between_two_batches_and_says_how_far_it_came() {
    let (_dir, app) = testing::app().await;
    let id = ordered(&app).await;
    let claim = claimed(&app, clock::now_ms()).await;
    let control = Control::default();
    let mut work: Work = json("job", &claim.payload).unwrap();
    assert!(work.step(&app, &claim, &control).await.unwrap());
    let reached = work.progress();
    control.report(reached.share, reached.message);
    cancel(&app, id).await;
    // No heartbeat has told it yet.
    let stopped = work.step(&app, &claim, &control).await;
    assert!(matches!(stopped, Err(JobError::Stopped)), "{stopped:?}");
    crate::jobs::settle(&app, &claim, &control, JobError::Stopped)
        .await
        .unwrap();
    ended_as_cancelled(&app, id).await;
}

#[tokio::test]
async fn an_order_cancelled_while_its_worker_was_lost_goes_no_further() {
    let (_dir, app) = testing::app().await;
    let id = ordered(&app).await;
    begun(&app).await;
    cancel(&app, id).await;
    let claim = claimed(&app, clock::now_ms() + LATER_MS).await;
    let tasks = Tasks::default();
    crate::jobs::execute(app.clone(), claim, tasks.shutdown()).await;
    ended_as_cancelled(&app, id).await;
}

#[tokio::test]
async fn an_order_cancelled_while_the_server_stops_is_not_taken_up_again() {
    let (_dir, app) = testing::app().await;
    let id = ordered(&app).await;
    let claim = begun(&app).await;
    let control = Control::default();
    let reached = before_of(&app, id).await;
    control.report(reached.share, reached.message);
    control.stop(crate::work::Stop::Shutdown);
    cancel(&app, id).await;
    crate::jobs::settle(&app, &claim, &control, JobError::Stopped)
        .await
        .unwrap();
    ended_as_cancelled(&app, id).await;
}

/// As the job's row tells it.
async fn before_of(app: &App, id: JobId) -> Progress {
    let payload: String = sqlx::query_scalar("SELECT payload FROM jobs WHERE id = $1")
        .bind(id.to_string())
        .fetch_one(app.db.read())
        .await
        .unwrap();
    let work: Work = json("job", &payload).unwrap();
    work.progress()
}

#[tokio::test]
async fn an_order_goes_on_where_it_was_broken_off_and_counts_all_of_it() {
    let (_dir, app) = testing::app().await;
    let id = ordered(&app).await;
    begun(&app).await;
    let claim = claimed(&app, clock::now_ms() + LATER_MS).await;
    assert_eq!(before(&claim).unwrap().message, "100 devices changed, 100 looked at");
    run(&app, &claim, &Control::default()).await.unwrap();
    let job = jobs::get(&app.db, id).await.unwrap();
    assert_eq!(
        (job.state, job.message.as_str()),
        (JobState::Succeeded, "150 devices changed, 150 looked at")
    );
    assert_eq!(tagged(&app).await, u64::from(DEVICES));
    let filter = audit_log::AuditFilter::of_event("device.tagged");
    let entries = audit_log::list(&app.db, None, &filter, 1000).await.unwrap();
    assert_eq!(entries.len(), usize::from(DEVICES), "each once");
}
