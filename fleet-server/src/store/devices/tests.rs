//! Tests of the device store on a real SQLite file.

use flotilla_api_types::devices::{DeviceAlert, DeviceStatus};
use flotilla_api_types::overview::AttentionKind;
use flotilla_protocol::ids::{DeploymentId, ModelLine, RolloutId, SlotName};
use flotilla_protocol::report::{DeploymentReport, DeviceReport, InstalledModel, SlotReport};
use flotilla_protocol::trust::KeyPair;
use uuid::Uuid;

use super::*;
use crate::store::overview;
use crate::store::rollouts::{self, NewDeployment};
use crate::testing::{self, NOW, db, id};

async fn enrol(db: &Db, name: &str, seed: u8, site: &str) -> Result<(), StoreError> {
    testing::enrol(db, name, seed, BTreeMap::from([("site".to_owned(), site.to_owned())])).await
}

/// A report of a device that runs a model.
fn report(name: &str, counter: u64) -> DeviceReport {
    DeviceReport {
        slots: vec![SlotReport {
            slot: SlotName::main(),
            active: Some(InstalledModel {
                line: ModelLine::new("anomaly").unwrap(),
                manifest: Digest::of(b"m"),
                semver: "1.0.0".into(),
                release_counter: counter,
            }),
            committed: true,
        }],
        ..testing::report(name, counter)
    }
}

#[tokio::test]
async fn ids_and_keys_are_taken_once() {
    let (_dir, db) = db().await;
    enrol(&db, "a", 1, "x").await.unwrap();
    assert!(matches!(enrol(&db, "a", 2, "x").await, Err(StoreError::Exists(_))));
    assert!(matches!(enrol(&db, "b", 1, "x").await, Err(StoreError::Exists(_))));
    let found = identity(db.read(), &id("a")).await.unwrap().unwrap();
    assert_eq!(
        (found.signing_key, found.decommissioned),
        (KeyPair::from_seed(&[1; 32]).public(), false)
    );
    assert!(identity(db.read(), &id("b")).await.unwrap().is_none());
}

#[tokio::test]
async fn report_counters_only_rise() {
    let (_dir, db) = db().await;
    enrol(&db, "a", 1, "x").await.unwrap();
    let mut tx = db.begin().await.unwrap();
    assert!(apply_report(&mut tx, &report("a", 5), b"5", NOW).await.unwrap().newer);
    assert!(
        !apply_report(&mut tx, &report("a", 5), b"again", NOW)
            .await
            .unwrap()
            .newer
    );
    assert!(!apply_report(&mut tx, &report("a", 4), b"4", NOW).await.unwrap().newer);
    tx.commit().await.unwrap();
    let detail = get(&db, &id("a")).await.unwrap();
    assert_eq!((detail.report_counter, detail.device.models[0].release_counter), (5, 5));
}

#[tokio::test]
async fn an_attack_is_new_once_and_stays_on_record() {
    let (_dir, db) = db().await;
    enrol(&db, "a", 1, "x").await.unwrap();
    let mut tx = db.begin().await.unwrap();
    let attack = DetectedAttack {
        attack: "rollback".into(),
        detail: "head version 3 is older".into(),
        at: NOW,
    };
    let mut told = report("a", 1);
    told.attack = Some(attack.clone());
    assert_eq!(
        apply_report(&mut tx, &told, b"e", NOW).await.unwrap().new_attack,
        Some(attack)
    );
    told.header.version = 2;
    assert_eq!(apply_report(&mut tx, &told, b"e", NOW).await.unwrap().new_attack, None);
    assert_eq!(
        apply_report(&mut tx, &report("a", 3), b"e", NOW)
            .await
            .unwrap()
            .new_attack,
        None
    );
    tx.commit().await.unwrap();
    assert_eq!(
        get(&db, &id("a")).await.unwrap().last_attack.unwrap().attack,
        "rollback"
    );
}

#[tokio::test]
async fn an_acknowledged_attack_is_no_alert_until_another_is_reported() {
    let (_dir, db) = db().await;
    enrol(&db, "a", 1, "x").await.unwrap();
    let attack = |at: i64| DetectedAttack {
        attack: "rollback".into(),
        detail: "head version 3 is older".into(),
        at,
    };
    let take = async |counter: u64, attack: Option<DetectedAttack>, error: Option<&str>| {
        let mut told = report("a", counter);
        told.attack = attack;
        told.error = error.map(str::to_owned);
        let mut tx = db.begin().await.unwrap();
        apply_report(&mut tx, &told, b"e", NOW + i64::try_from(counter).unwrap())
            .await
            .unwrap();
        tx.commit().await.unwrap();
    };
    let acknowledge = async |meant: Option<i64>| {
        let mut tx = db.begin().await.unwrap();
        let meant = meant.map(clock::rfc3339);
        let done = acknowledge_attack(&mut tx, &id("a"), meant.as_deref()).await.unwrap();
        tx.commit().await.unwrap();
        done
    };
    let shown = async || {
        let detail = get(&db, &id("a")).await.unwrap();
        let concerns = crate::store::attention::concerns(&db, NOW).await.unwrap();
        let attacks: Vec<String> = concerns
            .into_iter()
            .filter(|concern| concern.kind == AttentionKind::Attack)
            .flat_map(|concern| concern.worst)
            .map(|about| about.detail)
            .collect();
        (
            detail.device.alerts,
            detail.last_attack.map(|attack| attack.acknowledged),
            attacks,
        )
    };
    assert_eq!(acknowledge(None).await, Acknowledged::Nothing);
    take(1, Some(attack(NOW)), Some("disk full")).await;
    let detail = "head version 3 is older".to_owned();
    let both = vec![DeviceAlert::Attack, DeviceAlert::Error];
    assert_eq!(shown().await, (both, Some(false), vec![detail.clone()]));
    assert!(matches!(acknowledge(Some(NOW - 1)).await, Acknowledged::Another(_)));
    assert!(matches!(acknowledge(Some(NOW)).await, Acknowledged::Done(_)));
    assert_eq!(
        shown().await,
        (vec![DeviceAlert::Error], Some(true), vec![]),
        "errors stay"
    );
    // The device says again what it said before, with the error and without.
    take(2, Some(attack(NOW)), Some("disk full")).await;
    assert_eq!(shown().await, (vec![DeviceAlert::Error], Some(true), vec![]));
    take(3, Some(attack(NOW)), None).await;
    assert_eq!(shown().await, (vec![], Some(true), vec![]));
    take(4, None, None).await;
    assert_eq!(acknowledge(None).await, Acknowledged::Nothing);
    take(5, Some(attack(NOW + 7)), None).await;
    assert_eq!(
        shown().await,
        (vec![DeviceAlert::Attack], Some(false), vec![detail]),
        "another attack"
    );
    let mut tx = db.begin().await.unwrap();
    decommission(&mut tx, &id("a"), NOW).await.unwrap();
    tx.commit().await.unwrap();
    assert!(
        shown().await.2.is_empty(),
        "nobody has to look after what is out of the fleet"
    );
}

async fn deployment(db: &Db, device: &str, state: &str) -> (DeploymentId, RolloutId) {
    let (deployment, rollout) = (DeploymentId::new(Uuid::now_v7()), RolloutId::new(Uuid::now_v7()));
    let mut tx = db.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO deployments (id, rollout, device, phase, state, bytes_received, bytes_total, created_at, updated_at)
            VALUES ($1, $2, $3, 0, $4, 0, 0, 0, 0)",
    )
    .bind(deployment.to_string())
    .bind(rollout.to_string())
    .bind(device)
    .bind(state)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    (deployment, rollout)
}

#[tokio::test]
async fn deployments_follow_reports_of_their_own_device_until_the_server_ends_them() {
    let (_dir, db) = db().await;
    enrol(&db, "a", 1, "x").await.unwrap();
    enrol(&db, "b", 2, "x").await.unwrap();
    let (mine, rollout) = deployment(&db, "a", "pending").await;
    let (others, _) = deployment(&db, "b", "pending").await;
    let (superseded, _) = deployment(&db, "a", "no-longer-applicable").await;
    let mut told = report("a", 1);
    told.deployments = [mine, others, superseded, DeploymentId::new(Uuid::now_v7())]
        .map(|deployment| DeploymentReport {
            deployment,
            slot: SlotName::main(),
            state: DeploymentState::Soaking,
            reason: None,
            bytes_received: 7,
            bytes_total: 9,
        })
        .into();
    let mut tx = db.begin().await.unwrap();
    assert_eq!(
        apply_report(&mut tx, &told, b"e", NOW).await.unwrap().rollouts,
        [rollout]
    );
    tx.commit().await.unwrap();
    let states = |detail: DeviceDetail| detail.deployments.into_iter().map(|d| d.state).collect::<Vec<_>>();
    let mut of_a = states(get(&db, &id("a")).await.unwrap());
    of_a.sort();
    assert_eq!(of_a, [DeploymentState::Soaking, DeploymentState::NoLongerApplicable]);
    assert_eq!(states(get(&db, &id("b")).await.unwrap()), [DeploymentState::Pending]);
}

/// A device may tell any number: nobody receives more of a package than there is of it, and no sum overflows.
#[tokio::test]
async fn bytes_are_counted_once_and_no_more_than_the_package_has() {
    let (_dir, db) = db().await;
    enrol(&db, "a", 1, "x").await.unwrap();
    let (version, _) = testing::version(&db).await;
    let rollout = testing::running(&db, version, serde_json::json!({})).await;
    let new = NewDeployment {
        id: DeploymentId::new(Uuid::now_v7()),
        device: id("a"),
    };
    let known = rollouts::get(&db, rollout).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    rollouts::deploy(&mut tx, &known, version, std::slice::from_ref(&new), NOW)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut counted = Vec::new();
    // Of a package of 1000 bytes; the last is told of one deployment twice in a report, and of one that nobody gave.
    for (counter, told) in (1..).zip([&[400][..], &[400], &[u64::MAX], &[7], &[300, 300]]) {
        let mut said = report("a", counter);
        let stranger = DeploymentId::new(Uuid::now_v7());
        let told = told.iter().map(|bytes| (new.id, *bytes)).chain([(stranger, 500)]);
        said.deployments = told
            .map(|(deployment, bytes_received)| DeploymentReport {
                deployment,
                slot: SlotName::main(),
                state: DeploymentState::Downloading,
                reason: None,
                bytes_received,
                bytes_total: 1000,
            })
            .collect();
        let mut tx = db.begin().await.unwrap();
        apply_report(&mut tx, &said, b"e", NOW).await.unwrap();
        tx.commit().await.unwrap();
        counted.push(overview::spend(&db, NOW).await.unwrap().bytes);
    }
    assert_eq!(counted, [400, 400, 1000, 1000, 1293]);
}

#[tokio::test]
async fn decommissioning_ends_everything_once() {
    let (_dir, db) = db().await;
    enrol(&db, "a", 1, "x").await.unwrap();
    deployment(&db, "a", "downloading").await;
    let mut tx = db.begin().await.unwrap();
    assert!(decommission(&mut tx, &id("a"), NOW).await.unwrap());
    assert!(!decommission(&mut tx, &id("a"), NOW).await.unwrap());
    let unknown = decommission(&mut tx, &id("zz"), NOW).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { .. })));
    assert!(pending(&mut tx, &id("a")).await.unwrap().is_none(), "no more orders");
    tx.commit().await.unwrap();
    let detail = get(&db, &id("a")).await.unwrap();
    assert_eq!(detail.device.status, DeviceStatus::Decommissioned);
    assert_eq!(detail.deployments[0].state, DeploymentState::Decommissioned);
    assert!(facts_page(db.read(), "", 10).await.unwrap().is_empty());
    assert!(identity(db.read(), &id("a")).await.unwrap().unwrap().decommissioned);
}

/// More devices than a statement has places for, each with its own news and moment.
#[tokio::test]
async fn everybodys_presence_is_written_as_it_was_told() {
    let (_dir, db) = db().await;
    let names: Vec<String> = (0..40).map(|n| format!("d-{n:02}")).collect();
    for (seed, name) in (0..).zip(&names) {
        enrol(&db, name, seed, "x").await.unwrap();
    }
    let mut tx = db.begin().await.unwrap();
    decommission(&mut tx, &id("d-39"), NOW).await.unwrap();
    let told = |connected: [Option<bool>; 2], at: i64| -> BTreeMap<DeviceId, Presence> {
        let told = (at..).zip(&names).zip(connected.into_iter().cycle());
        told.map(|((last_seen, name), connected)| (id(name), Presence { connected, last_seen }))
            .collect()
    };
    apply_presence(&mut tx, &told([Some(true); 2], NOW)).await.unwrap();
    apply_presence(&mut tx, &told([Some(false), None], NOW + 1000))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let ids: Vec<DeviceId> = names.iter().map(|name| id(name)).collect();
    let mut rows = device_summaries::by_ids(&db, &ids).await.unwrap();
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(rows.len(), 40);
    for (n, row) in (0..).zip(&rows) {
        let expected = match n {
            39 => (DeviceStatus::Decommissioned, None),
            n if n % 2 == 0 => (DeviceStatus::Offline, Some(clock::rfc3339(NOW + 1000 + n))),
            n => (DeviceStatus::Online, Some(clock::rfc3339(NOW + 1000 + n))),
        };
        assert_eq!((row.status, row.last_seen.clone()), expected, "{}", row.id);
    }
    let connected: Vec<String> = sqlx::query_scalar("SELECT id FROM devices WHERE connected = 1 ORDER BY id")
        .fetch_all(db.read())
        .await
        .unwrap();
    let odd: Vec<&String> = names.iter().skip(1).step_by(2).take(19).collect();
    assert_eq!(connected.iter().collect::<Vec<_>>(), odd);
    let events: Vec<(String, i64)> =
        sqlx::query_as("SELECT event, CAST(COUNT(*) AS BIGINT) FROM device_events GROUP BY event ORDER BY event")
            .fetch_all(db.read())
            .await
            .unwrap();
    assert_eq!(
        events,
        [
            ("device.connected".to_owned(), 40),
            ("device.disconnected".to_owned(), 20)
        ]
    );
}

#[tokio::test]
async fn presence_and_stale_pages() {
    let (_dir, db) = db().await;
    for (seed, name) in (1..).zip(["a", "b", "c"]) {
        enrol(&db, name, seed, "x").await.unwrap();
    }
    let here = Presence {
        connected: Some(true),
        last_seen: NOW,
    };
    let seen = Presence {
        connected: None,
        last_seen: NOW + 5,
    };
    let mut tx = db.begin().await.unwrap();
    apply_presence(&mut tx, &[(id("a"), here), (id("c"), here)].into())
        .await
        .unwrap();
    apply_presence(&mut tx, &[(id("a"), seen)].into()).await.unwrap();
    let ids = |devices: Vec<PendingDevice>| devices.into_iter().map(|d| d.id.to_string()).collect::<Vec<_>>();
    assert_eq!(
        ids(pending_stale(&mut tx, "", 10).await.unwrap()),
        ["a", "c"],
        "b is not connected"
    );
    assert_eq!(ids(pending_stale(&mut tx, "a", 10).await.unwrap()), ["c"]);
    set_desired(&mut tx, &id("a"), 1, b"envelope", NOW + 10).await.unwrap();
    assert!(
        set_desired(&mut tx, &id("a"), 1, b"other", NOW).await.is_err(),
        "versions only rise"
    );
    clear_stale(&mut tx, &id("c")).await.unwrap();
    assert!(pending_stale(&mut tx, "", 10).await.unwrap().is_empty());
    assert_eq!(
        mark_expiring_stale(&mut tx, NOW + 11).await.unwrap(),
        2,
        "a's lapses, c has none"
    );
    tx.commit().await.unwrap();
    assert_eq!(get(&db, &id("a")).await.unwrap().device.status, DeviceStatus::Online);
    reset_presence(&db).await.unwrap();
    assert_eq!(get(&db, &id("a")).await.unwrap().device.status, DeviceStatus::Offline);
}
