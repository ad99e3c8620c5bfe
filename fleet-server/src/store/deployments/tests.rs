//! Lists of deployments and failures by cause, on a real SQLite file.

use flotilla_protocol::ids::{DeploymentId, ModelVersionId};
use flotilla_protocol::report::{DeploymentReport, DeviceReport};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::store::rollouts::{self, NewDeployment};
use crate::store::{Tx, devices};
use crate::testing::{NOW, db, enrol, id, report, running, version};

/// A rollout that was given to devices `d-0`, `d-1`, … Gives it and the deployments' ids.
async fn given(db: &Db, count: u8) -> (RolloutId, Vec<DeploymentId>) {
    let (version, _) = version(db).await;
    let rollout = running(db, version, json!({})).await;
    let mut chosen = Vec::new();
    for n in 0..count {
        enrol(db, &name(n), n, BTreeMap::new()).await.unwrap();
        chosen.push(NewDeployment {
            id: DeploymentId::new(Uuid::now_v7()),
            device: id(&name(n)),
        });
    }
    let mut tx = db.begin().await.unwrap();
    let now = rollouts::get(db, rollout).await.unwrap();
    rollouts::deploy(&mut tx, &now, version, &chosen, NOW).await.unwrap();
    tx.commit().await.unwrap();
    (rollout, chosen.into_iter().map(|new| new.id).collect())
}

fn name(n: u8) -> String {
    format!("d-{n}")
}

async fn tell(
    tx: &mut Tx,
    n: u8,
    counter: u64,
    deployment: DeploymentId,
    state: DeploymentState,
    reason: Option<&str>,
) {
    let told = DeviceReport {
        deployments: vec![DeploymentReport {
            deployment,
            slot: flotilla_protocol::ids::SlotName::main(),
            state,
            reason: reason.map(str::to_owned),
            bytes_received: 1,
            bytes_total: 1,
        }],
        ..report(&name(n), counter)
    };
    devices::apply_report(tx, &told, b"", NOW + i64::from(n)).await.unwrap();
}

/// Ten devices: two failed for want of space, one rolled back for it, one failed otherwise, two succeeded, four wait.
async fn mixed(db: &Db) -> (RolloutId, Vec<DeploymentId>) {
    let (rollout, ids) = given(db, 10).await;
    let full = |n: u8| format!("disk full: /data/{n}/model.onnx: No space left on device (os error 28)");
    let mut tx = db.begin().await.unwrap();
    for (n, state, reason) in [
        (0, DeploymentState::Success, None),
        (1, DeploymentState::Failure, Some(full(1))),
        (2, DeploymentState::AlreadyInstalled, None),
        (3, DeploymentState::RolledBack, Some(full(3))),
        (5, DeploymentState::Failure, Some(full(5))),
        (7, DeploymentState::Failure, None),
    ] {
        tell(&mut tx, n, 1, ids[usize::from(n)], state, reason.as_deref()).await;
    }
    tx.commit().await.unwrap();
    (rollout, ids)
}

const FULL: &str = "disk full: <path>: No space left on device (os error 28)";

/// The devices of all pages of so many, and the total that is told with them.
async fn paged(db: &Db, rollout: RolloutId, asked: DeploymentQuery, limit: u32) -> (String, u64) {
    let counts = rollouts::get(db, rollout).await.unwrap().counts;
    let mut asked = DeploymentQuery { limit, ..asked };
    let total = total(db, rollout, &asked, &counts).await.unwrap();
    let mut devices = Vec::new();
    loop {
        let page = list(db, rollout, &asked).await.unwrap();
        assert!(page.len() <= limit as usize);
        let Some(last) = page.last() else {
            return (devices.join(" "), total);
        };
        asked.after = last.device.to_string();
        devices.extend(page.into_iter().map(|deployment| deployment.device.to_string()));
    }
}

/// States, cause, and whom they find.
type Case<'a> = (&'a [DeploymentState], Option<&'a str>, &'a str);

#[tokio::test]
async fn every_filter_finds_what_it_says_page_by_page() {
    let (_dir, db) = db().await;
    let (rollout, _) = mixed(&db).await;
    let failed = [DeploymentState::Failure, DeploymentState::RolledBack];
    let cases: [Case<'_>; 9] = [
        (&[], None, "d-0 d-1 d-2 d-3 d-4 d-5 d-6 d-7 d-8 d-9"),
        (&[DeploymentState::Success], None, "d-0"),
        (&failed, None, "d-1 d-3 d-5 d-7"),
        (
            &[
                DeploymentState::Pending,
                DeploymentState::Success,
                DeploymentState::RolledBack,
            ],
            None,
            "d-0 d-3 d-4 d-6 d-8 d-9",
        ),
        (&[], Some(FULL), "d-1 d-3 d-5"),
        (&[DeploymentState::RolledBack], Some(FULL), "d-3"),
        (&[DeploymentState::Pending], Some(FULL), ""),
        (&[], Some("no reason given"), "d-7"),
        (&[], Some("something else"), ""),
    ];
    for (states, cause, expected) in cases {
        for limit in [1, 2, 3, 100] {
            let asked = DeploymentQuery {
                states: states.to_vec(),
                cause: cause.map(str::to_owned),
                ..DeploymentQuery::default()
            };
            let (found, total) = paged(&db, rollout, asked, limit).await;
            assert_eq!(found, expected, "{states:?} {cause:?} by {limit}");
            assert_eq!(total, expected.split_whitespace().count() as u64);
        }
    }
}

#[tokio::test]
async fn failures_are_grouped_counted_and_named() {
    let (_dir, db) = db().await;
    let (rollout, ids) = mixed(&db).await;
    let found = failures(&db, rollout, 100).await.unwrap();
    assert_eq!((found.causes, found.devices), (2, 4));
    let [full, other] = &found.items[..] else {
        panic!("{found:?}")
    };
    assert_eq!((full.cause.as_str(), full.count), (FULL, 3));
    assert_eq!(full.devices, ["d-1", "d-3", "d-5"].map(id));
    assert!(full.reason.as_ref().unwrap().contains("/data/1/"), "{full:?}");
    assert_eq!(full.last_seen, clock::rfc3339(NOW + 5));
    assert_eq!((other.count, &other.reason), (1, &None));
    let first = failures(&db, rollout, 1).await.unwrap();
    assert_eq!((first.items.len(), first.causes, first.devices), (1, 2, 4));

    // One that succeeded after all is no failure any more.
    let mut tx = db.begin().await.unwrap();
    tell(&mut tx, 5, 2, ids[5], DeploymentState::Success, None).await;
    tx.commit().await.unwrap();
    let found = failures(&db, rollout, 100).await.unwrap();
    assert_eq!((found.items[0].count, found.devices), (2, 3));
    // Those who say nothing fail together, each under its own name.
    let mut tx = db.begin().await.unwrap();
    rollouts::time_out(
        &mut tx,
        rollout,
        "nothing was heard of the device for 60 s",
        NOW + 1,
        NOW + 100,
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let found = failures(&db, rollout, 100).await.unwrap();
    assert_eq!(found.items[0].cause, "nothing was heard of the device for # s");
    assert_eq!((found.items[0].count, found.items[0].devices.len()), (4, 4));
}

#[tokio::test]
async fn no_more_than_five_devices_are_named() {
    let (_dir, db) = db().await;
    let (rollout, ids) = given(&db, 8).await;
    let mut tx = db.begin().await.unwrap();
    for (n, deployment) in (0..).zip(&ids) {
        tell(&mut tx, n, 1, *deployment, DeploymentState::Failure, Some("no")).await;
    }
    tx.commit().await.unwrap();
    let found = failures(&db, rollout, 10).await.unwrap();
    assert_eq!(found.items[0].count, 8);
    assert_eq!(found.items[0].devices, ["d-0", "d-1", "d-2", "d-3", "d-4"].map(id));
}

#[tokio::test]
async fn failures_from_before_get_their_causes() {
    let (_dir, db) = db().await;
    let (rollout, _) = mixed(&db).await;
    let before = failures(&db, rollout, 100).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::query("UPDATE deployments SET cause = NULL")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(failures(&db, rollout, 100).await.unwrap().devices, 0);
    fill_causes(&db).await.unwrap();
    assert_eq!(failures(&db, rollout, 100).await.unwrap(), before);
}

#[tokio::test]
async fn rollouts_are_listed_by_state_with_their_counts() {
    use flotilla_api_types::rollouts::RolloutState::{Draft, Halted, Running};

    let (_dir, db) = db().await;
    let (rollout, _) = mixed(&db).await;
    let spec = rollouts::get(&db, rollout).await.unwrap().spec;
    let later = RolloutId::new(Uuid::now_v7());
    let mut tx = db.begin().await.unwrap();
    rollouts::create(&mut tx, later, "p", &spec, NOW).await.unwrap();
    tx.commit().await.unwrap();
    let of_it = Some(spec.model_version);
    let of_another = Some(ModelVersionId::new(Uuid::nil()));
    for (states, model_version, expected) in [
        (&[][..], None, vec![later, rollout]),
        (&[Draft], None, vec![later]),
        (&[Running], None, vec![rollout]),
        (&[Halted], None, vec![]),
        (&[Halted, Running, Draft], None, vec![later, rollout]),
        (&[], of_it, vec![later, rollout]),
        (&[Draft], of_it, vec![later]),
        (&[], of_another, vec![]),
    ] {
        let wanted = rollouts::Wanted {
            states: states.to_vec(),
            model_version,
        };
        let found = rollouts::list(&db, &wanted, None, 10).await.unwrap();
        let ids: Vec<_> = found.iter().map(|rollout| rollout.id).collect();
        assert_eq!(ids, expected, "{wanted:?}");
        assert_eq!(rollouts::total(&db, &wanted).await.unwrap(), expected.len() as u64);
        for listed in found {
            assert_eq!(listed, rollouts::get(&db, listed.id).await.unwrap());
        }
    }
    let shown = rollouts::get(&db, rollout).await.unwrap();
    assert_eq!(
        (shown.targeted, shown.counts["failure"], shown.counts["pending"]),
        (10, 3, 4)
    );
    assert_eq!(
        shown.phases[0].counts, shown.counts,
        "all were given it in the first phase"
    );
    assert!(shown.phases[1].counts.is_empty());
}

/// Statements whose cost grows with a rollout read an index alone, in its order.
#[tokio::test]
async fn pages_counts_and_causes_are_answered_by_an_index() {
    let (_dir, db) = db().await;
    for (sql, index) in [
        (
            PAGE_OF_STATE,
            "deployments_rollout_device (rollout=? AND state=? AND device>?)",
        ),
        (PAGE_OF_CAUSE, "deployments_cause (rollout=? AND cause=? AND device>?)"),
        (CAUSES, "COVERING INDEX deployments_cause (rollout=?"),
        (rollouts::COUNTS, "COVERING INDEX deployments_rollout_state (rollout=?)"),
        (
            crate::store::rollout_targets::FIRST,
            "COVERING INDEX rollout_targets_rank (rollout=?)",
        ),
        (crate::store::rollout_targets::WAITING, "COVERING INDEX"),
    ] {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
            .fetch_all(db.read())
            .await
            .unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let plan = plan.join("; ");
        assert!(plan.contains(index), "{sql}: {plan}");
    }
}
