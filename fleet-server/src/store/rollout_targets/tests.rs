//! Membership on a real SQLite file, against a plain walk over the fleet.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use flotilla_api_types::rollouts::Rollout;
use flotilla_protocol::ids::DeploymentId;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::store::rollouts::{self, NewDeployment, Transition};
use crate::testing::{self, NOW, db, enrol, id, report, running, version};

const TARGET: &str = "device.tags.site == 'oslo' || device.hardware_class == 'jetson'";

fn site(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("site".to_owned(), name.to_owned())])
}

fn plan(rollout: &Rollout) -> (TargetExpression, Order) {
    (
        TargetExpression::compile(&rollout.spec.target).unwrap(),
        Order::of(rollout.id, &rollout.spec),
    )
}

/// What the table is to hold, in its order: every active device is looked at.
async fn plain_walk(db: &Db, rollout: &Rollout) -> Vec<DeviceId> {
    let (target, order) = plan(rollout);
    let given: Vec<String> = sqlx::query_scalar("SELECT device FROM deployments WHERE rollout = $1")
        .bind(rollout.id.to_string())
        .fetch_all(db.read())
        .await
        .unwrap();
    let mut selected = Vec::new();
    for row in devices::facts_page(db.read(), "", 10_000).await.unwrap() {
        let facts = TargetFacts::of(&row.id, &row.tags, &row.facts);
        if target.selects(&facts) && !given.contains(&row.id.to_string()) {
            selected.push((order.rank(&row.id), row.id));
        }
    }
    selected.sort();
    selected.into_iter().map(|(_, device)| device).collect()
}

async fn waiting_devices(db: &Db, rollout: RolloutId) -> Vec<DeviceId> {
    first(db.read(), rollout, 10_000).await.unwrap()
}

/// The whole fleet, a few devices at a time.
async fn select_all(db: &Db, rollout: &Rollout) {
    let (target, order) = plan(rollout);
    while !select_page(db, rollout.id, (&target, &order), 2).await.unwrap() {}
}

/// As far as the fleet has been looked at the table holds exactly what the walk finds, and nothing else beyond.
async fn check(db: &Db, rollout: RolloutId) {
    let rollout = rollouts::get(db, rollout).await.unwrap();
    let walked = plain_walk(db, &rollout).await;
    let kept = waiting_devices(db, rollout.id).await;
    let looked_at: String = sqlx::query_scalar("SELECT selected_to FROM rollouts WHERE id = $1")
        .bind(rollout.id.to_string())
        .fetch_one(db.read())
        .await
        .unwrap();
    if rollout.waiting.is_some() {
        assert_eq!(kept, walked);
        assert_eq!(rollout.waiting, Some(kept.len() as u64));
        return;
    }
    let beyond: BTreeSet<_> = kept
        .iter()
        .filter(|device| device.as_str() > looked_at.as_str())
        .collect();
    assert!(beyond.iter().all(|device| walked.contains(device)), "{beyond:?}");
    let reached = |devices: &[DeviceId]| -> Vec<DeviceId> {
        let reached = devices.iter().filter(|device| device.as_str() <= looked_at.as_str());
        reached.cloned().collect()
    };
    assert_eq!(reached(&kept), reached(&walked));
}

async fn give(db: &Db, rollout: RolloutId, count: u64) {
    let rollout = rollouts::get(db, rollout).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    let chosen: Vec<NewDeployment> = first(&mut *tx, rollout.id, count)
        .await
        .unwrap()
        .into_iter()
        .map(|device| NewDeployment {
            id: DeploymentId::new(Uuid::now_v7()),
            device,
        })
        .collect();
    let version = rollout.spec.model_version;
    rollouts::deploy(&mut tx, &rollout, version, &chosen, NOW)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn set_state(db: &Db, rollout: RolloutId, to: RolloutState) {
    let from = rollouts::get(db, rollout).await.unwrap().state;
    let mut tx = db.begin().await.unwrap();
    let change = Transition {
        from,
        to,
        phase: Some(0),
        decision: "test",
    };
    assert!(rollouts::set_state(&mut tx, rollout, &change, NOW).await.unwrap());
    tx.commit().await.unwrap();
}

/// What happens to a fleet. Devices are numbers below [`DEVICES`].
#[derive(Debug, Clone)]
enum Step {
    Enrol(u8, bool),
    Tag(u8, bool),
    Report(u8, bool),
    Decommission(u8),
    /// The next page of the fleet is looked at.
    Look,
    /// So many devices are given the package.
    Give(u64),
    Pause(bool),
    Restart,
}

const DEVICES: u8 = 9;

fn step() -> impl Strategy<Value = Step> {
    let device = 0..DEVICES;
    prop_oneof![
        3 => (device.clone(), any::<bool>()).prop_map(|(device, oslo)| Step::Enrol(device, oslo)),
        3 => (device.clone(), any::<bool>()).prop_map(|(device, oslo)| Step::Tag(device, oslo)),
        3 => (device.clone(), any::<bool>()).prop_map(|(device, jetson)| Step::Report(device, jetson)),
        1 => device.prop_map(Step::Decommission),
        3 => Just(Step::Look),
        1 => (1..3u64).prop_map(Step::Give),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::Restart),
    ]
}

/// Devices whose id is taken, and how often each reported.
type Fleet = BTreeMap<u8, u64>;

async fn take(db: Db, path: &std::path::Path, rollout: RolloutId, fleet: &mut Fleet, step: &Step) -> Db {
    let name = |device: &u8| format!("d-{device}");
    let place = |oslo: &bool| site(if *oslo { "oslo" } else { "bergen" });
    match step {
        Step::Enrol(device, oslo) => {
            if let Entry::Vacant(free) = fleet.entry(*device) {
                free.insert(0);
                enrol(&db, &name(device), *device, place(oslo)).await.unwrap();
            }
        }
        Step::Tag(device, oslo) if fleet.contains_key(device) => {
            let mut tx = db.begin().await.unwrap();
            devices::set_tags(&mut tx, &id(&name(device)), &place(oslo))
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        Step::Report(device, jetson) => {
            if let Some(counter) = fleet.get_mut(device) {
                *counter += 1;
                let mut told = report(&name(device), *counter);
                if *jetson {
                    told.facts.hardware_class = "jetson".into();
                }
                let mut tx = db.begin().await.unwrap();
                devices::apply_report(&mut tx, &told, b"", NOW).await.unwrap();
                tx.commit().await.unwrap();
            }
        }
        Step::Decommission(device) if fleet.contains_key(device) => {
            let mut tx = db.begin().await.unwrap();
            devices::decommission(&mut tx, &id(&name(device)), NOW).await.unwrap();
            tx.commit().await.unwrap();
        }
        Step::Look => {
            let rollout = rollouts::get(&db, rollout).await.unwrap();
            let (target, order) = plan(&rollout);
            select_page(&db, rollout.id, (&target, &order), 2).await.unwrap();
        }
        Step::Give(count) => give(&db, rollout, *count).await,
        Step::Pause(pause) => {
            let to = if *pause {
                RolloutState::Paused
            } else {
                RolloutState::Running
            };
            set_state(&db, rollout, to).await;
        }
        Step::Restart => {
            db.close().await;
            return Db::open(path).await.unwrap();
        }
        Step::Tag(..) | Step::Decommission(_) => {}
    }
    db
}

async fn follows_the_walk(steps: &[Step]) {
    let (dir, mut db) = db().await;
    let path = dir.path().join("test.db");
    let (version, _) = version(&db).await;
    let rollout = running(&db, version, json!({"target": TARGET})).await;
    let mut fleet = Fleet::new();
    for step in steps {
        db = take(db, &path, rollout, &mut fleet, step).await;
        check(&db, rollout).await;
    }
    select_all(&db, &rollouts::get(&db, rollout).await.unwrap()).await;
    check(&db, rollout).await;
    set_state(&db, rollout, RolloutState::Aborted).await;
    assert_eq!(waiting_devices(&db, rollout).await, []);
    // What changes afterwards concerns it no more.
    enrol(&db, "late", 200, site("oslo")).await.unwrap();
    assert_eq!(waiting_devices(&db, rollout).await, []);
    assert_eq!(rollouts::get(&db, rollout).await.unwrap().waiting, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens to the fleet, in whatever order, with restarts in between: after every step the table holds what a
    /// walk over the whole fleet finds.
    #[test]
    fn membership_is_what_a_walk_finds(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(follows_the_walk(&steps));
    }
}

#[tokio::test]
async fn a_device_that_no_longer_matches_leaves_unless_it_was_given_the_package() {
    let (_dir, db) = db().await;
    for (seed, name) in (1..).zip(["a", "b", "c"]) {
        enrol(&db, name, seed, site("oslo")).await.unwrap();
    }
    let (version, _) = version(&db).await;
    let rollout = running(&db, version, json!({"target": TARGET, "seed": 5})).await;
    select_all(&db, &rollouts::get(&db, rollout).await.unwrap()).await;
    let order = waiting_devices(&db, rollout).await;
    give(&db, rollout, 1).await;
    for device in &order[..2] {
        let mut tx = db.begin().await.unwrap();
        devices::set_tags(&mut tx, device, &site("bergen")).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(waiting_devices(&db, rollout).await, order[2..]);
    let now = rollouts::get(&db, rollout).await.unwrap();
    assert_eq!((now.targeted, now.waiting), (1, Some(1)), "what was given stays given");
    // Both come back: one is to be given the package, the other has it.
    for device in &order[..2] {
        let mut tx = db.begin().await.unwrap();
        devices::set_tags(&mut tx, device, &site("oslo")).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(waiting_devices(&db, rollout).await, order[1..]);
}

#[tokio::test]
async fn rollouts_from_before_are_gathered_without_those_that_have_it() {
    let (_dir, db) = db().await;
    for (seed, name) in (1..).zip(["a", "b", "c"]) {
        enrol(&db, name, seed, site("oslo")).await.unwrap();
    }
    let (version, _) = version(&db).await;
    let rollout = running(&db, version, json!({"target": TARGET})).await;
    let old = rollouts::get(&db, rollout).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    let given = NewDeployment {
        id: DeploymentId::new(Uuid::now_v7()),
        device: id("b"),
    };
    rollouts::deploy(&mut tx, &old, version, &[given], NOW).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(old.waiting, None);
    select_all(&db, &old).await;
    let kept: BTreeSet<_> = waiting_devices(&db, rollout).await.into_iter().collect();
    assert_eq!(kept, BTreeSet::from([id("a"), id("c")]));
}

async fn move_about(db: Db, moves: Vec<(String, &'static str)>) {
    for (name, there) in moves {
        let mut tx = db.begin().await.unwrap();
        devices::set_tags(&mut tx, &testing::id(&name), &site(there))
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tags_may_change_while_the_fleet_is_looked_at() {
    let (_dir, db) = db().await;
    let names: Vec<String> = (0..40).map(|n| format!("d-{n:02}")).collect();
    for (seed, name) in (1..).zip(&names) {
        enrol(&db, name, seed, site("oslo")).await.unwrap();
    }
    let (version, _) = version(&db).await;
    let rollout = running(&db, version, json!({"target": TARGET})).await;
    let mut writers = tokio::task::JoinSet::new();
    for part in 0..4usize {
        let db = db.clone();
        let moves: Vec<(String, &'static str)> = (0..3usize)
            .flat_map(|round| names.iter().enumerate().map(move |(n, name)| (n, n + round, name)))
            .filter(|(n, _, _)| n % 4 == part)
            .map(|(_, step, name)| (name.clone(), ["oslo", "bergen", "bergen"][step % 3]))
            .collect();
        writers.spawn(move_about(db, moves));
    }
    select_all(&db, &rollouts::get(&db, rollout).await.unwrap()).await;
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    check(&db, rollout).await;
    assert_eq!(waiting_devices(&db, rollout).await.len(), 13);
}
