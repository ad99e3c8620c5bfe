//! What the reconciler does of itself, on a real database.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::testing::{self, NOW};

const HOUR_MS: i64 = 3_600_000;

#[test]
fn devices_are_given_a_while_after_a_start_of_the_server() {
    // Long limits: five minutes after the start, and then it counts from when the device was last heard.
    assert_eq!(silent_since(NOW, NOW, HOUR_MS), None);
    assert_eq!(silent_since(NOW + COMING_BACK_MS - 1, NOW, HOUR_MS), None);
    assert_eq!(
        silent_since(NOW + COMING_BACK_MS, NOW, HOUR_MS),
        Some(NOW + COMING_BACK_MS - HOUR_MS)
    );
    // Short limits: nobody is failed for having been silent while the server was away.
    assert_eq!(silent_since(NOW + 9_999, NOW, 10_000), None);
    assert_eq!(silent_since(NOW + 10_000, NOW, 10_000), Some(NOW));
    // A clock that was set back.
    assert_eq!(silent_since(NOW - 1, NOW, 10_000), None);
}

#[tokio::test]
async fn a_withdrawal_that_the_last_process_left_is_taken_up() {
    let (_dir, app) = testing::app().await;
    let (version, _) = testing::version(&app.db).await;
    testing::enrol(&app.db, "d-0", 0, BTreeMap::new()).await.unwrap();
    let id = testing::running(&app.db, version, json!({})).await;
    advance(&app, id, NOW).await.unwrap();
    let rollout = store::rollouts::get(&app.db, id).await.unwrap();
    assert_eq!(rollout.counts, BTreeMap::from([("pending".to_owned(), 1)]));

    // What the abort commits, before anything is taken back.
    let mut tx = app.db.begin().await.unwrap();
    let abort = Transition {
        from: RolloutState::Running,
        to: RolloutState::Aborted,
        phase: None,
        decision: "aborted",
    };
    assert!(store::rollouts::set_state(&mut tx, id, &abort, NOW).await.unwrap());
    store::rollouts::begin_withdrawing(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();

    reconcile(&app, NOW).await.unwrap();
    let rollout = store::rollouts::get(&app.db, id).await.unwrap();
    assert_eq!(rollout.counts, BTreeMap::from([("no-longer-applicable".to_owned(), 1)]));
    assert_eq!(store::rollouts::withdrawing(&app.db).await.unwrap(), []);
    let left = store::devices::desired_targets(app.db.read(), &testing::id("d-0"))
        .await
        .unwrap();
    assert!(left.is_empty());
}
