//! What rollouts give and take back, on a real SQLite file.

use std::collections::BTreeMap;

use flotilla_api_types::rollouts::RolloutState;
use flotilla_protocol::ids::SlotName;
use flotilla_protocol::report::{DeploymentReport, DeploymentState, DeviceReport};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::store::deployments::{self, DeploymentQuery};
use crate::store::devices;
use crate::store::rollouts::{self, Transition};
use crate::testing::{NOW, db, enrol, id, report, running, version};

const TARGETS: &str = "SELECT device, deployment FROM targets ORDER BY device";

fn name(n: u8) -> String {
    format!("d-{n}")
}

async fn give(db: &Db, rollout: RolloutId, devices: impl Iterator<Item = u8>, now: i64) -> Vec<DeploymentId> {
    let chosen: Vec<_> = devices
        .map(|n| NewDeployment {
            id: DeploymentId::new(Uuid::now_v7()),
            device: id(&name(n)),
        })
        .collect();
    let known = rollouts::get(db, rollout).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    deploy(&mut tx, &known, known.spec.model_version, &chosen, now)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    chosen.into_iter().map(|new| new.id).collect()
}

/// A rollout that was given to `d-0`, `d-1`, …
async fn given(db: &Db, count: u8) -> (RolloutId, Vec<DeploymentId>) {
    let (version, _) = version(db).await;
    for n in 0..count {
        enrol(db, &name(n), n, BTreeMap::new()).await.unwrap();
    }
    let rollout = running(db, version, json!({})).await;
    let ids = give(db, rollout, 0..count, NOW).await;
    (rollout, ids)
}

async fn tell(db: &Db, n: u8, counter: u64, deployment: DeploymentId, state: DeploymentState) {
    say(db, (n, counter), deployment, state, None).await;
}

async fn say(db: &Db, (n, counter): (u8, u64), deployment: DeploymentId, state: DeploymentState, reason: Option<&str>) {
    let told = DeviceReport {
        deployments: vec![DeploymentReport {
            deployment,
            slot: SlotName::main(),
            state,
            reason: reason.map(str::to_owned),
            bytes_received: 1,
            bytes_total: 1,
        }],
        ..report(&name(n), counter)
    };
    let mut tx = db.begin().await.unwrap();
    devices::apply_report(&mut tx, &told, b"", NOW + 1).await.unwrap();
    tx.commit().await.unwrap();
}

async fn progress_of(db: &Db, rollout: RolloutId) -> crate::domain::rollout::Progress {
    rollouts::progress(db, rollout).await.unwrap()
}

async fn failed(db: &Db, rollout: RolloutId) -> u64 {
    progress_of(db, rollout).await.failed
}

#[tokio::test]
async fn an_excused_device_that_recovers_hides_no_other_failure() {
    let (_dir, db) = db().await;
    let (rollout, ids) = given(&db, 3).await;
    tell(&db, 0, 1, ids[0], DeploymentState::Failure).await;
    tell(&db, 1, 1, ids[1], DeploymentState::RolledBack).await;
    assert_eq!(failed(&db, rollout).await, 2);
    let mut tx = db.begin().await.unwrap();
    rollouts::excuse_failures(&mut tx, rollout).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(failed(&db, rollout).await, 0);
    tell(&db, 0, 2, ids[0], DeploymentState::Success).await;
    tell(&db, 2, 1, ids[2], DeploymentState::Failure).await;
    assert_eq!(failed(&db, rollout).await, 1, "that of d-2, which nobody looked at");
    assert_eq!(progress_of(&db, rollout).await.excused, 1);
    // What the device says of a failure that was known otherwise is looked at anew.
    let mut tx = db.begin().await.unwrap();
    rollouts::excuse_failures(&mut tx, rollout).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(failed(&db, rollout).await, 0);
    say(&db, (2, 2), ids[2], DeploymentState::Failure, Some("disk full")).await;
    assert_eq!(failed(&db, rollout).await, 1);
    // Tried again and failed again: nobody looked at that either.
    tell(&db, 1, 2, ids[1], DeploymentState::Installing).await;
    assert_eq!(failed(&db, rollout).await, 1);
    tell(&db, 1, 3, ids[1], DeploymentState::Failure).await;
    assert_eq!(failed(&db, rollout).await, 2);
    let progress = progress_of(&db, rollout).await;
    assert_eq!((progress.deployed, progress.succeeded, progress.void), (3, 1, 0));
}

#[tokio::test]
async fn of_two_rollouts_for_a_slot_the_one_started_later_has_it() {
    let (_dir, db) = db().await;
    let (first, _) = given(&db, 2).await;
    let version = rollouts::get(&db, first).await.unwrap().spec.model_version;
    // Planned before, started after: what counts is the start.
    let mut tx = db.begin().await.unwrap();
    let second = RolloutId::new(Uuid::nil());
    let spec = serde_json::from_value(json!({"model_version": version})).unwrap();
    rollouts::create(&mut tx, second, "p", &spec, NOW - 1000).await.unwrap();
    let start = Transition {
        from: RolloutState::Draft,
        to: RolloutState::Running,
        phase: Some(0),
        decision: "started",
    };
    rollouts::set_state(&mut tx, second, &start, NOW + 10).await.unwrap();
    tx.commit().await.unwrap();
    enrol(&db, "d-2", 2, BTreeMap::new()).await.unwrap();
    let later = give(&db, second, 1..3, NOW + 20).await;
    tell(&db, 2, 1, later[1], DeploymentState::RolledBack).await;
    give(&db, first, 2..3, NOW + 30).await;

    let targets: Vec<(String, String)> = sqlx::query_as(TARGETS).fetch_all(db.read()).await.unwrap();
    assert_eq!(
        targets[1..],
        [
            ("d-1".into(), later[0].to_string()),
            ("d-2".into(), later[1].to_string())
        ]
    );
    let asked = DeploymentQuery {
        limit: 10,
        ..DeploymentQuery::default()
    };
    let told: Vec<_> = deployments::list(&db, first, &asked)
        .await
        .unwrap()
        .into_iter()
        .map(|told| (told.state, told.reason))
        .collect();
    assert_eq!(
        told[1],
        (
            DeploymentState::NoLongerApplicable,
            Some(format!("superseded by rollout {second}"))
        )
    );
    assert_eq!(
        told[2],
        (
            DeploymentState::NoLongerApplicable,
            Some(format!("rollout {second}, which was started later, has this slot"))
        )
    );
    // The order that was never given does not hide that the last one failed.
    let mut tx = db.begin().await.unwrap();
    device_summaries::refresh(&mut tx, "d-2").await.unwrap();
    tx.commit().await.unwrap();
    let devices = device_summaries::by_ids(&db, &[id("d-2")]).await.unwrap();
    assert_eq!(devices[0].alerts.len(), 1);
    // Nor does it count.
    let progress = rollouts::progress(&db, first).await.unwrap();
    assert_eq!(
        (progress.deployed, progress.pending, progress.failed, progress.void),
        (1, 1, 0, 2)
    );
}

#[tokio::test]
async fn orders_are_taken_back_page_by_page_and_after_a_restart() {
    let (_dir, db) = db().await;
    let (version, _) = version(&db).await;
    let rollout = running(&db, version, json!({})).await;
    let count = 1203u32;
    let mut tx = db.begin().await.unwrap();
    for n in 0..count {
        let device = format!("d-{n}");
        sqlx::query(
            "INSERT INTO deployments (id, rollout, device, phase, state, reason, bytes_received, bytes_total, created_at, updated_at)
             VALUES ($1, $2, $3, 0, $4, NULL, 0, 0, 1, 1)",
        )
        .bind(format!("p-{n}"))
        .bind(rollout.to_string())
        .bind(&device)
        .bind(["pending", "success", "failure"][n as usize % 3])
        .execute(&mut *tx)
        .await
        .unwrap();
        sqlx::query("INSERT INTO targets (device, slot, deployment, model_version) VALUES ($1, 'main', $2, $3)")
            .bind(&device)
            .bind(format!("p-{n}"))
            .bind(version.to_string())
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    begin_withdrawing(&mut tx, rollout).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(withdrawing(&db).await.unwrap(), [rollout]);
    let (mut after, mut pages) = (String::new(), 0);
    while let Some(last) = withdraw_page(&db, rollout, &after, NOW).await.unwrap() {
        (after, pages) = (last, pages + 1);
    }
    assert_eq!(pages, 2);
    assert_eq!(withdrawing(&db).await.unwrap(), []);
    let targets: Vec<(String, String)> = sqlx::query_as(TARGETS).fetch_all(db.read()).await.unwrap();
    assert_eq!(targets.len(), 401, "what succeeded stays");
    let counts = rollouts::get(&db, rollout).await.unwrap().counts;
    assert_eq!(counts["no-longer-applicable"], 401);
    assert_eq!(counts["failure"], 401);
}

#[tokio::test]
async fn time_outs_are_paged_and_leave_who_spoke() {
    let (_dir, db) = db().await;
    let (rollout, ids) = given(&db, 3).await;
    tell(&db, 1, 1, ids[1], DeploymentState::Downloading).await;
    assert!(!is_quiet(&db, rollout, NOW).await.unwrap());
    assert!(is_quiet(&db, rollout, NOW + 1).await.unwrap());
    let mut tx = db.begin().await.unwrap();
    assert_eq!(time_out(&mut tx, rollout, "silent", NOW + 1, NOW + 2).await.unwrap(), 2);
    assert_eq!(time_out(&mut tx, rollout, "silent", NOW + 1, NOW + 2).await.unwrap(), 0);
    tx.commit().await.unwrap();
    let progress = rollouts::progress(&db, rollout).await.unwrap();
    assert_eq!((progress.pending, progress.failed), (1, 2));
}

#[tokio::test]
async fn orders_are_found_by_their_devices_and_not_among_all_that_are_under_way() {
    let (_dir, db) = db().await;
    for sql in [GIVE, SUPERSEDE, SET_TARGETS, DROP_TARGETS, ABORT_DEPLOYMENTS, TIME_OUT] {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
            .fetch_all(db.read())
            .await
            .unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let walks = |step: &&String| step.starts_with("SCAN") && !step.contains("page") && !step.contains("CONSTANT");
        assert_eq!(plan.iter().find(walks), None, "{sql}: {plan:?}");
        assert!(!plan.concat().contains("deployments_state"), "{sql}: {plan:?}");
    }
}

/// More than a statement has places for, and not a whole number of times: what is true of one device is true of all.
#[tokio::test]
async fn what_is_done_to_many_devices_is_done_to_each() {
    const STALE: &str = "SELECT id FROM devices WHERE desired_stale = 1 ORDER BY id";
    const PENDING: &str = "SELECT device, id FROM deployments WHERE state = 'pending' ORDER BY device";
    let (_dir, db) = db().await;
    let (old, _) = given(&db, 40).await;
    for n in 40..77 {
        enrol(&db, &name(n), n, BTreeMap::new()).await.unwrap();
    }
    let version = rollouts::get(&db, old).await.unwrap().spec.model_version;
    // Started at the same moment, under a later id.
    let new = running(&db, version, json!({})).await;
    give(&db, new, 20..60, NOW + 10).await;
    let mut tx = db.begin().await.unwrap();
    for n in 40..77 {
        sqlx::query("INSERT INTO rollout_targets (rollout, device, rank) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING")
            .bind(old.to_string())
            .bind(name(n))
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    sqlx::query("UPDATE devices SET desired_stale = 0")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    give(&db, old, 40..77, NOW + 20).await;

    let counts = async |rollout| rollouts::get(&db, rollout).await.unwrap().counts;
    let (pending, over) = ("pending".to_owned(), "no-longer-applicable".to_owned());
    let expected = BTreeMap::from([(pending.clone(), 37), (over.clone(), 40)]);
    assert_eq!(counts(old).await, expected, "20 were superseded, 20 came too late");
    assert_eq!(counts(new).await, BTreeMap::from([(pending, 40)]));
    let targets: Vec<(String, String)> = sqlx::query_as(TARGETS).fetch_all(db.read()).await.unwrap();
    let held: Vec<(String, String)> = sqlx::query_as(PENDING).fetch_all(db.read()).await.unwrap();
    assert_eq!((targets.len(), &targets), (77, &held));
    let stale: Vec<String> = sqlx::query_scalar(STALE).fetch_all(db.read()).await.unwrap();
    let given_now: Vec<String> = (60..77).map(name).collect();
    assert_eq!(stale, given_now, "who was not given it is left in peace");
    let waiting = crate::store::rollout_targets::waiting(db.read(), old).await.unwrap();
    assert_eq!(waiting, 0, "they have their deployments, given or not");

    let mut tx = db.begin().await.unwrap();
    assert_eq!(time_out(&mut tx, old, "silent", NOW + 30, NOW + 30).await.unwrap(), 37);
    begin_withdrawing(&mut tx, new).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        withdraw_page(&db, new, "", NOW + 40).await.unwrap().as_deref(),
        Some("d-59")
    );
    assert_eq!(withdraw_page(&db, new, "d-59", NOW + 40).await.unwrap(), None);
    assert_eq!(counts(new).await, BTreeMap::from([(over, 40)]));
    let shown: Vec<_> = (0..77).map(|n| id(&name(n))).collect();
    let shown = device_summaries::by_ids(&db, &shown).await.unwrap();
    let failed: Vec<_> = shown.iter().filter(|device| !device.alerts.is_empty()).collect();
    let updating = shown.iter().filter(|device| device.updating).count();
    // 20 to 39 timed out of nothing: theirs was superseded.
    assert_eq!((shown.len(), failed.len(), updating), (77, 37, 0));
    let left: Vec<(String, String)> = sqlx::query_as(TARGETS).fetch_all(db.read()).await.unwrap();
    assert_eq!(left.len(), 37, "the old rollout's, which failed and is not withdrawn");
}

#[tokio::test]
async fn what_is_being_withdrawn_is_given_to_nobody_and_what_runs_stays() {
    let (_dir, db) = db().await;
    let (rollout, ids) = given(&db, 2).await;
    tell(&db, 0, 1, ids[0], DeploymentState::Success).await;
    let wanted = async || {
        let mut tx = db.begin().await.unwrap();
        for n in 0..2 {
            let here = devices::Presence {
                connected: Some(true),
                last_seen: NOW,
            };
            devices::apply_presence(&mut tx, &[(id(&name(n)), here)].into())
                .await
                .unwrap();
            changed(&mut tx, &[name(n)]).await.unwrap();
        }
        let together: Vec<_> = devices::desired_targets_of_stale(&mut tx, "", 10).await.unwrap();
        let together: Vec<_> = together.into_iter().map(|target| target.deployment).collect();
        let mut singly = vec![];
        for n in 0..2 {
            let targets = devices::desired_targets(&mut *tx, &id(&name(n))).await.unwrap();
            singly.extend(targets.into_iter().map(|target| target.deployment));
        }
        assert_eq!(together, singly);
        singly
    };
    assert_eq!(wanted().await, ids);
    let mut tx = db.begin().await.unwrap();
    begin_withdrawing(&mut tx, rollout).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(wanted().await, ids[..1], "no page has been withdrawn yet");
}

#[tokio::test]
async fn a_persons_order_leaves_the_phase_that_was_reached_meanwhile() {
    let (_dir, db) = db().await;
    let (rollout, _) = given(&db, 1).await;
    let change = async |from, to, phase| {
        let mut tx = db.begin().await.unwrap();
        let change = Transition {
            from,
            to,
            phase,
            decision: "changed",
        };
        assert!(rollouts::set_state(&mut tx, rollout, &change, NOW + 1).await.unwrap());
        tx.commit().await.unwrap();
    };
    change(RolloutState::Running, RolloutState::Running, Some(1)).await;
    change(RolloutState::Running, RolloutState::Paused, None).await;
    change(RolloutState::Paused, RolloutState::Running, None).await;
    let told = rollouts::get(&db, rollout).await.unwrap();
    assert_eq!((told.state, told.phase), (RolloutState::Running, 1));
}
