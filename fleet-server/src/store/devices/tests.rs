//! Tests of the device store on a real SQLite file.

use flotilla_api_types::devices::CreateClaimToken;
use flotilla_protocol::audit::AuditHead;
use flotilla_protocol::ids::{DeploymentId, FleetId, ModelLine, RolloutId, SlotName};
use flotilla_protocol::report::{DeploymentReport, DeviceReport, InstalledModel, SlotReport};
use flotilla_protocol::trust::{Document as _, DocumentVersions, Header, KeyPair, Role};
use uuid::Uuid;

use super::*;
use crate::store::tokens;

const NOW: i64 = 1_000_000;

fn id(text: &str) -> DeviceId {
    DeviceId::new(text).unwrap()
}

fn facts() -> DeviceFacts {
    DeviceFacts {
        hardware_class: "pi-5".into(),
        arch: "aarch64".into(),
        agent_version: "0.1.0".into(),
        ram_bytes: 1 << 30,
        disk_free_bytes: 1 << 32,
    }
}

async fn db() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("test.db")).await.unwrap();
    (dir, db)
}

async fn enrol(db: &Db, name: &str, seed: u8, site: &str) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let tags = BTreeMap::from([("site".to_owned(), site.to_owned())]);
    let request = CreateClaimToken {
        uses: 1,
        lifetime_s: 60,
        tags: tags.clone(),
    };
    let token = tokens::create_claim_token(&mut tx, &format!("{name}{seed}"), &request, NOW).await?;
    let device = NewDevice {
        id: &id(name),
        signing_key: KeyPair::from_seed(&[seed; 32]).public(),
        wrapping_key: &[0; 32],
        certificate_digest: Digest::of(b"certificate"),
        claim_token: token.id,
        tags: &tags,
        facts: &facts(),
    };
    insert(&mut tx, &device, NOW).await?;
    tx.commit().await?;
    Ok(())
}

fn report(name: &str, counter: u64) -> DeviceReport {
    DeviceReport {
        header: Header {
            schema: DeviceReport::SCHEMA.into(),
            role: Role::Device,
            fleet: FleetId::new(Uuid::nil()),
            version: counter,
            issued: NOW,
            expires: NOW + 1,
        },
        device: id(name),
        facts: facts(),
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
        deployments: vec![],
        documents: DocumentVersions::default(),
        trusted_time: NOW,
        attack: None,
        boot_count: 1,
        error: None,
        audit_head: AuditHead::start(0),
    }
}

#[tokio::test]
async fn pages_filter_and_carry_what_runs() {
    let (_dir, db) = db().await;
    for (seed, name) in (1..).zip(["press-1", "press-2", "lathe-1", "saw-1"]) {
        enrol(
            &db,
            name,
            seed,
            ["bergen", "bergen", "Oslo", "a_b"][usize::from(seed) - 1],
        )
        .await
        .unwrap();
    }
    let mut tx = db.begin().await.unwrap();
    apply_report(&mut tx, &report("press-2", 3), b"e", NOW).await.unwrap();
    tx.commit().await.unwrap();
    let page = |after: Option<&str>, limit, text: &str| DeviceFilter {
        after: after.map(id),
        limit,
        text: text.to_owned(),
    };
    let names = |devices: &[Device]| devices.iter().map(|d| d.id.to_string()).collect::<Vec<_>>();
    let first = list(&db, &page(None, 2, "")).await.unwrap();
    assert_eq!(names(&first), ["lathe-1", "press-1"]);
    let rest = list(&db, &page(Some("press-1"), 9, "")).await.unwrap();
    assert_eq!(names(&rest), ["press-2", "saw-1"]);
    assert_eq!(rest[0].models[0].release_counter, 3);
    assert_eq!(
        names(&list(&db, &page(None, 9, "PRESS")).await.unwrap()),
        ["press-1", "press-2"]
    );
    assert_eq!(names(&list(&db, &page(None, 9, "oslo")).await.unwrap()), ["lathe-1"]);
    assert_eq!(
        names(&list(&db, &page(None, 9, "_")).await.unwrap()),
        ["saw-1"],
        "no wildcard of LIKE"
    );
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

async fn deployment(db: &Db, device: &str, state: &str) -> (DeploymentId, RolloutId) {
    let (deployment, rollout) = (DeploymentId::new(Uuid::now_v7()), RolloutId::new(Uuid::now_v7()));
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO deployments VALUES ($1, $2, $3, 0, $4, NULL, 0, 0, 0, 0)")
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
    assert!(facts_page(&db, "", 10).await.unwrap().is_empty());
    assert!(identity(db.read(), &id("a")).await.unwrap().unwrap().decommissioned);
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
