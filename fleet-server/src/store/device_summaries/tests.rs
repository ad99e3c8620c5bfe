//! Tests of devices' rows on a real SQLite file: every condition, every order, pages that neither lose nor repeat.

use flotilla_api_types::devices::CreateClaimToken;
use flotilla_protocol::ids::Digest;
use flotilla_protocol::trust::{DeviceFacts, KeyPair};

use super::*;
use crate::store::{devices, tokens};

const NOW: i64 = 1_000_000;

async fn db() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("test.db")).await.unwrap();
    (dir, db)
}

async fn enrol(db: &Db, name: &str, seed: u8, class: &str, tags: &[(&str, &str)]) {
    let tags: BTreeMap<String, String> = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let request = CreateClaimToken {
        uses: 1,
        lifetime_s: 60,
        tags: tags.clone(),
    };
    let mut tx = db.begin().await.unwrap();
    let token = tokens::create_claim_token(&mut tx, &format!("{name}{seed}"), &request, NOW)
        .await
        .unwrap();
    let facts = DeviceFacts {
        hardware_class: class.into(),
        arch: "aarch64".into(),
        agent_version: "0.1.0".into(),
        ram_bytes: 1 << 30,
        disk_free_bytes: 1 << 32,
    };
    let device = devices::NewDevice {
        id: &DeviceId::new(name).unwrap(),
        signing_key: KeyPair::from_seed(&[seed; 32]).public(),
        wrapping_key: &[0; 32],
        certificate_digest: Digest::of(b"certificate"),
        claim_token: token.id,
        tags: &tags,
        facts: &facts,
    };
    devices::insert(&mut tx, &device, NOW + i64::from(seed)).await.unwrap();
    tx.commit().await.unwrap();
}

/// Changes tables as their writers do, and brings the device's row up to date.
async fn change(db: &Db, device: &str, sql: &'static str) {
    let mut tx = db.begin().await.unwrap();
    sqlx::query(sql).bind(device).execute(&mut *tx).await.unwrap();
    refresh_all(&mut tx, device).await.unwrap();
    tx.commit().await.unwrap();
}

async fn fleet(db: &Db) {
    enrol(db, "press-1", 1, "pi-5", &[("site", "oslo"), ("hall", "A")]).await;
    enrol(db, "press-2", 2, "pi-5", &[("site", "bergen")]).await;
    enrol(db, "lathe-1", 3, "jetson", &[("site", "Ålesund")]).await;
    enrol(db, "saw-1", 4, "jetson", &[("a_b", "100%")]).await;
    enrol(db, "old", 5, "pi-3", &[]).await;
    let mut tx = db.begin().await.unwrap();
    devices::decommission(&mut tx, &DeviceId::new("old").unwrap(), NOW)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    for device in ["press-1", "press-2"] {
        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO device_slots VALUES ($1, 'main', 'motions', $2, '1.0.0', 1, 1)")
            .bind(device)
            .bind(Digest::of(b"m").to_string())
            .execute(&mut *tx)
            .await
            .unwrap();
        refresh_all(&mut tx, device).await.unwrap();
        tx.commit().await.unwrap();
    }
    change(
        db,
        "press-2",
        "UPDATE device_slots SET semver = '2.0.0' WHERE device = $1",
    )
    .await;
    let drift = "INSERT INTO drift_status SELECT $1, manifest, 'motions', 1, 0.5, 9, 1, 1, 'import', '[]', 7 FROM device_slots \
                 WHERE device = 'press-1'";
    change(db, "press-1", drift).await;
    change(db, "lathe-1", "UPDATE devices SET connected = 1 WHERE id = $1").await;
    let pending = "INSERT INTO deployments VALUES ('d1', 'r1', $1, 0, 'pending', NULL, 0, 0, 1, 1, NULL, 0)";
    change(db, "press-2", pending).await;
    let failed = "INSERT INTO deployments VALUES ('d2', 'r1', $1, 0, 'failure', 'no', 0, 0, 1, 1, NULL, 0)";
    change(db, "saw-1", failed).await;
}

async fn found(db: &Db, filter: &str) -> Vec<String> {
    let filter = DeviceFilter::parse(filter).unwrap();
    let query = DeviceQuery {
        filter: filter.clone(),
        limit: 100,
        ..DeviceQuery::default()
    };
    let ids: Vec<DeviceId> = list(db, &query)
        .await
        .unwrap()
        .into_iter()
        .map(|(device, _)| device.id)
        .collect();
    let counted = counts(db, &filter).await.unwrap();
    assert_eq!(counted.total, ids.len() as u64);
    assert_eq!(counted.online + counted.offline + counted.decommissioned, counted.total);
    ids.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn every_condition_finds_what_it_says() {
    let (_dir, db) = db().await;
    fleet(&db).await;
    for (filter, expected) in [
        ("", "lathe-1 old press-1 press-2 saw-1"),
        ("status:online", "lathe-1"),
        ("status:offline", "press-1 press-2 saw-1"),
        ("status:decommissioned", "old"),
        ("status:updating", "press-2"),
        ("status:alert", "press-1 saw-1"),
        ("-status:alert -status:decommissioned", "lathe-1 press-2"),
        ("site:oslo", "press-1"),
        ("-site:oslo", "lathe-1 old press-2 saw-1"),
        ("site:*", "lathe-1 press-1 press-2"),
        ("site:be*", "press-2"),
        ("model:motions", "press-1 press-2"),
        ("model:2.0.0", "press-2"),
        ("model:motions@1.0.0", "press-1"),
        ("-model:2.0.0 model:motions", "press-1"),
        ("model:1*", "press-1"),
        ("class:pi*", "old press-1 press-2"),
        ("class:jetson arch:aarch64 agent:0.1.0", "lathe-1 saw-1"),
        ("drift:>0.2", "press-1"),
        ("drift:<=0.2", ""),
        ("-drift:>0.2", "lathe-1 old press-2 saw-1"),
        ("id:press-*", "press-1 press-2"),
        ("id:press-1", "press-1"),
        ("PRESS", "press-1 press-2"),
        ("ålesund", "lathe-1"),
        ("JETSON", "lathe-1 saw-1"),
        ("_", "saw-1"),
        ("%", "saw-1"),
        ("-press -saw", "lathe-1 old"),
    ] {
        assert_eq!(found(&db, filter).await.join(" "), expected, "{filter}");
    }
}

async fn rows(db: &Db, asked: &DeviceQuery) -> Vec<Device> {
    list(db, asked)
        .await
        .unwrap()
        .into_iter()
        .map(|(device, _)| device)
        .collect()
}

/// Page by page, and from every offset, it is the same list.
async fn in_pages(db: &Db, filter: &str, sort: Sort, text: &str) {
    let all = DeviceQuery {
        filter: DeviceFilter::parse(filter).unwrap(),
        sort,
        limit: 100,
        matches: Some(5),
        ..DeviceQuery::default()
    };
    let whole = rows(db, &all).await;
    assert_eq!(whole.len(), 5);
    for matches in [None, Some(u64::MAX)] {
        let other_way = DeviceQuery { matches, ..all.clone() };
        assert_eq!(rows(db, &other_way).await, whole, "{text} {matches:?}");
    }
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = DeviceQuery {
            limit: 2,
            after,
            ..all.clone()
        };
        let found = list(db, &page).await.unwrap();
        let Some((_, last)) = found.last() else { break };
        after = Some(Cursor::decode(&last.encode(), sort).unwrap());
        paged.extend(found.into_iter().map(|(device, _)| device));
    }
    assert_eq!(paged, whole, "{text}");
    for offset in 0..6usize {
        let page = DeviceQuery {
            limit: 2,
            offset: offset as u64,
            ..all.clone()
        };
        let expected: Vec<Device> = whole.iter().skip(offset).take(2).cloned().collect();
        assert_eq!(rows(db, &page).await, expected, "{text} from {offset}");
    }
}

#[tokio::test]
async fn pages_neither_lose_nor_repeat_in_any_order() {
    let (_dir, db) = db().await;
    fleet(&db).await;
    for (name, field) in SortField::ALL {
        for descending in [false, true] {
            let sort = Sort { field, descending };
            let text = format!("{}{name}", if descending { "-" } else { "" });
            assert_eq!(text.parse(), Ok(sort));
            in_pages(&db, "", sort, &text).await;
            in_pages(&db, "-nothing", sort, &text).await;
        }
    }
    let by_id = Cursor::decode("bm9uc2Vuc2U", Sort::default());
    assert_eq!(by_id, None);
    let urgent = DeviceQuery {
        sort: "status".parse().unwrap(),
        limit: 9,
        ..DeviceQuery::default()
    };
    let rows = list(&db, &urgent).await.unwrap();
    let order: Vec<&str> = rows.iter().map(|(device, _)| device.id.as_str()).collect();
    assert_eq!(order, ["press-1", "saw-1", "press-2", "lathe-1", "old"]);
    assert_eq!(
        Cursor::decode(&rows[0].1.encode(), Sort::default()),
        None,
        "a cursor belongs to its order"
    );
}

#[tokio::test]
async fn rows_say_what_is_wrong() {
    let (_dir, db) = db().await;
    fleet(&db).await;
    let ids = ["press-1", "saw-1", "lathe-1", "nobody"].map(|id| DeviceId::new(id).unwrap());
    let rows = by_ids(&db, &ids).await.unwrap();
    let alerts: BTreeMap<&str, &[DeviceAlert]> = rows
        .iter()
        .map(|row| (row.id.as_str(), row.alerts.as_slice()))
        .collect();
    assert_eq!(
        alerts,
        BTreeMap::from([
            ("press-1", &[DeviceAlert::Drift][..]),
            ("saw-1", &[DeviceAlert::FailedDeployment][..]),
            ("lathe-1", &[][..]),
        ])
    );
    let press = rows.iter().find(|row| row.id.as_str() == "press-1").unwrap();
    assert_eq!((press.drift, press.models[0].semver.as_str()), (Some(0.5), "1.0.0"));
}

#[tokio::test]
async fn presence_and_rollouts_keep_rows_up_to_date() {
    let (_dir, db) = db().await;
    fleet(&db).await;
    let mut tx = db.begin().await.unwrap();
    set_presence(&mut tx, &[("press-1", NOW + 9), ("old", NOW + 9)], Some(true))
        .await
        .unwrap();
    sqlx::query("UPDATE deployments SET state = 'success'")
        .execute(&mut *tx)
        .await
        .unwrap();
    for device in ["press-2", "saw-1"] {
        refresh(&mut tx, device).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(found(&db, "status:updating").await, [""; 0]);
    assert_eq!(found(&db, "status:alert").await, ["press-1"]);
    // The tables themselves know nothing of press-1 being here: rows are made from them.
    assert_eq!(found(&db, "status:online").await, ["lathe-1", "press-1"]);
    let mut tx = db.begin().await.unwrap();
    all_offline(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(found(&db, "status:online").await, [""; 0]);
}

#[tokio::test]
async fn devices_from_before_get_their_rows() {
    let (_dir, db) = db().await;
    fleet(&db).await;
    let mut tx = db.begin().await.unwrap();
    for sql in ["DELETE FROM device_summaries", "DELETE FROM device_tags"] {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(found(&db, "").await, [""; 0]);
    fill_missing(&db).await.unwrap();
    assert_eq!(found(&db, "site:oslo status:alert model:1.0.0").await, ["press-1"]);
    assert_eq!(found(&db, "").await.len(), 5);
}

#[tokio::test]
async fn devices_of_a_tag_or_a_model_are_counted_without_reading_their_rows() {
    let (_dir, db) = db().await;
    for text in ["site:oslo", "model:vibration@1.0.0", "model:1.0.0"] {
        let built = query::counts(&DeviceFilter::parse(text).unwrap());
        let explain = format!("EXPLAIN QUERY PLAN {}", built.sql);
        let mut asked = sqlx::query(AssertSqlSafe(explain.as_str()));
        for value in &built.values {
            asked = value.bind(asked);
        }
        let rows = asked.fetch_all(db.read()).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.try_get("detail").unwrap()).collect();
        assert!(
            plan[0].contains("USING COVERING INDEX device_summaries_id"),
            "{text}: {plan:?}"
        );
    }
}
