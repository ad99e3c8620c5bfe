//! Judgements on a real SQLite file: every condition, every order both ways, pages that neither lose nor repeat.

use flotilla_protocol::ids::{Digest, ModelLine, ModelVersionId, SlotName};
use uuid::Uuid;

use super::*;
use crate::store::{Tx, models};
use crate::testing;

/// Is a judgement among those that a filter keeps?
type Kept = fn(&DeviceDrift) -> bool;

/// More than a console once showed of a list.
const MANY: usize = 2_101;

async fn judge(tx: &mut Tx, device: &str, line: &str, share: f64, at: i64) {
    sqlx::query("INSERT INTO drift_status VALUES ($1, $2, $3, $4, $5, 9, 4, $6, $7, '[]', $8)")
        .bind(device)
        .bind(Digest::of(line.as_bytes()).to_string())
        .bind(line)
        .bind(i64::from(share > 0.5))
        .bind(share)
        .bind(at % 3)
        .bind(if at % 2 == 0 { "import" } else { "harvest/1.0.0" })
        .bind(at)
        .execute(&mut **tx)
        .await
        .unwrap();
}

/// Half so many devices, two packages each; shares repeat, and do not print in few digits.
async fn fleet(judgements: usize) -> (tempfile::TempDir, Db) {
    let (dir, db) = testing::db().await;
    let mut tx = db.begin().await.unwrap();
    for i in 0..i32::try_from(judgements).unwrap() {
        let (device, line) = (format!("d{:04}", i / 2), if i % 2 == 0 { "a" } else { "b" });
        judge(
            &mut tx,
            &device,
            line,
            f64::from(i * 7 % 11) / 11.0,
            i64::from(i * 5 % 13),
        )
        .await;
    }
    tx.commit().await.unwrap();
    (dir, db)
}

fn asked(filter: &str, sort: &str) -> DriftQuery {
    DriftQuery {
        filter: DriftFilter::parse(filter).unwrap(),
        sort: sort.parse().unwrap(),
        limit: 10_000,
        ..DriftQuery::default()
    }
}

/// All that match, page by page; counted, and from every seventh offset, it is the same list.
async fn all(db: &Db, whole: &DriftQuery, limit: u32) -> Vec<DeviceDrift> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = DriftQuery {
            after,
            limit,
            ..whole.clone()
        };
        let (page, next) = list(db, &query).await.unwrap();
        found.extend(page);
        let Some(next) = next else { break };
        let text = next.encode();
        after = DriftCursor::decode(&text, whole.sort);
        assert_eq!(after, Some(next), "{text}");
    }
    assert_eq!(count(db, whole).await.unwrap(), found.len() as u64, "{whole:?}");
    for offset in (0..=found.len()).step_by(7) {
        let query = DriftQuery {
            offset: offset as u64,
            limit,
            ..whole.clone()
        };
        let expected: Vec<DeviceDrift> = found.iter().skip(offset).take(limit as usize).cloned().collect();
        assert_eq!(list(db, &query).await.unwrap().0, expected, "from {offset}: {whole:?}");
    }
    found
}

#[tokio::test]
async fn pages_in_any_order_lose_and_repeat_nothing() {
    let (_dir, db) = fleet(80).await;
    let everything = list(&db, &asked("", "device")).await.unwrap().0;
    assert_eq!(everything.len(), 80);
    let filters: [(&str, Kept); 4] = [
        ("", |_| true),
        ("drifted:yes", |row| row.drifted),
        ("drifted:no", |row| !row.drifted),
        ("-drifted:no line:b", |row| row.drifted && row.line.as_str() == "b"),
    ];
    for (filter, kept) in filters {
        let expected: Vec<&DeviceDrift> = everything.iter().filter(|row| kept(row)).collect();
        assert!(expected.len() > 10);
        for sort in ["device", "severity", "line", "at"] {
            let mut upwards = all(&db, &asked(filter, sort), 3).await;
            assert_eq!(upwards.len(), expected.len(), "{filter} by {sort}");
            assert!(expected.iter().all(|row| upwards.contains(row)), "{filter} by {sort}");
            let ordered = |rows: &[DeviceDrift]| {
                rows.is_sorted_by(|a, b| match sort {
                    "device" => (&a.device, a.manifest.to_string()) < (&b.device, b.manifest.to_string()),
                    "severity" => a.share <= b.share,
                    "line" => a.line < b.line || (a.line == b.line && a.share >= b.share),
                    _ => a.at <= b.at,
                })
            };
            assert!(ordered(&upwards), "{filter} by {sort}: {upwards:?}");
            // The other way it is the same list from its end: what is alike keeps its place.
            upwards.reverse();
            let downwards = all(&db, &asked(filter, &format!("-{sort}")), 3).await;
            assert_eq!(downwards, upwards, "{filter} by -{sort}");
        }
    }
}

#[tokio::test]
async fn lists_go_on_beyond_what_a_console_once_showed() {
    let (_dir, db) = fleet(MANY).await;
    let whole = list(&db, &asked("", "-severity")).await.unwrap().0;
    assert_eq!(whole.len(), MANY);
    assert!(whole.is_sorted_by(|a, b| a.share >= b.share));
    let last = DriftQuery {
        offset: 2_000,
        limit: 200,
        ..asked("", "-severity")
    };
    assert_eq!(list(&db, &last).await.unwrap().0, whole[2_000..]);
    assert_eq!(count(&db, &last).await.unwrap(), MANY as u64);
}

#[tokio::test]
async fn every_condition_finds_what_it_says() {
    let (_dir, db) = testing::db().await;
    let mut tx = db.begin().await.unwrap();
    for (device, line, share, at) in [
        ("press-1", "motions", 0.25, 1),
        ("press-2", "motions", 0.75, 2),
        ("lathe-1", "noises", 0.5, 3),
    ] {
        judge(&mut tx, device, line, share, at).await;
    }
    let version = models::NewVersion {
        id: ModelVersionId::new(Uuid::now_v7()),
        line: ModelLine::new("motions").unwrap(),
        semver: "1.0.0".into(),
        release_counter: 1,
        payload: b"motions".to_vec(),
        run: None,
        dataset_version: None,
        components: vec![],
        package_bytes: 1,
        golden_max_diff: 0.0,
        golden_cases: 1,
    };
    models::create(&mut tx, "p", &version, 1).await.unwrap();
    sqlx::query("INSERT INTO device_slots VALUES ('press-1', 'left', 'motions', $1, '1.0.0', 1, 1)")
        .bind(Digest::of(b"motions").to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let of_noises = format!("manifest:{}", Digest::of(b"noises"));
    for (filter, expected) in [
        ("", "lathe-1 press-1 press-2"),
        ("line:motions", "press-1 press-2"),
        ("-line:mot*", "lathe-1"),
        ("version:1.0.0", "press-1 press-2"),
        ("-version:1*", "lathe-1"),
        ("model:motions", "press-1 press-2"),
        ("model:1.0.0", "press-1 press-2"),
        ("model:motions@1.0.0", "press-1 press-2"),
        ("-model:motions@1.0.0", "lathe-1"),
        ("model:motions@2.0.0", ""),
        ("device:press-2", "press-2"),
        ("device:press-*", "press-1 press-2"),
        (of_noises.as_str(), "lathe-1"),
        ("slice:import", "press-2"),
        ("-slice:harvest/*", "press-2"),
        ("drifted:yes", "press-2"),
        ("-drifted:yes", "lathe-1 press-1"),
        ("severity:>0.5", "press-2"),
        ("severity:>=0.5", "lathe-1 press-2"),
        ("severity:=0.5", "lathe-1"),
        ("-severity:<0.5", "lathe-1 press-2"),
        ("alarms:1", "press-1"),
        ("alarms:>0", "press-1 press-2"),
        ("PRESS", "press-1 press-2"),
        ("1.0.0", "lathe-1 press-1 press-2"),
        ("-harvest", "press-2"),
        ("_", ""),
        ("%", ""),
    ] {
        let query = asked(filter, "device");
        let found = list(&db, &query).await.unwrap().0;
        let devices: Vec<&str> = found.iter().map(|row| row.device.as_str()).collect();
        assert_eq!(devices.join(" "), expected, "{filter}");
        assert_eq!(count(&db, &query).await.unwrap(), found.len() as u64, "{filter}");
    }
    let found = list(&db, &asked("device:press-*", "device")).await.unwrap().0;
    let slots: Vec<Option<&str>> = found
        .iter()
        .map(|row| row.slot.as_ref().map(SlotName::as_str))
        .collect();
    assert_eq!(slots, [Some("left"), None], "where it runs now, if it does");
    assert_eq!(found[0].semver, "1.0.0");
}

#[tokio::test]
async fn no_order_sorts_what_an_index_has_in_order() {
    let (_dir, db) = fleet(80).await;
    for (filter, sort) in [
        ("", "-severity"),
        ("drifted:yes", "-severity"),
        ("line:a", "-severity"),
        ("", "severity"),
        ("", "line"),
        ("", "-line"),
        ("", "at"),
        ("", "-at"),
        ("", "-device"),
    ] {
        let first = DriftQuery {
            limit: 10,
            ..asked(filter, sort)
        };
        let after = list(&db, &first).await.unwrap().1;
        assert!(after.is_some());
        let next = DriftQuery { after, ..first.clone() };
        let (from_the_start, entered) = (plan(&db, &first).await, plan(&db, &next).await);
        for steps in [&from_the_start, &entered] {
            let sorts = steps.iter().any(|step| step.contains("TEMP B-TREE"));
            assert!(!sorts, "{filter} by {sort}: {steps:?}");
        }
        assert!(
            entered[0].starts_with("SEARCH t USING INDEX"),
            "{filter} by {sort}: {entered:?}"
        );
    }
}

async fn plan(db: &Db, query: &DriftQuery) -> Vec<String> {
    let text = format!("EXPLAIN QUERY PLAN {}", query.page().as_str());
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .fetch_all(db.read())
        .await
        .unwrap();
    rows.iter().map(|row| row.try_get("detail").unwrap()).collect()
}

#[test]
fn a_cursor_of_another_order_is_none() {
    let (device, worst): (DriftSort, DriftSort) = ("device".parse().unwrap(), "-severity".parse().unwrap());
    for (text, sort) in [
        ("d01/sha256:00", worst),
        ("7ff8000000000000/d01/sha256:00", worst),
        ("3fe/d01/sha256:00", worst),
        ("3fe0000000000000/d01/sha256:00", device),
        ("3fe0000000000000/d01/sha256:00", "at".parse().unwrap()),
        ("d01", device),
        ("", device),
    ] {
        assert_eq!(DriftCursor::decode(text, sort), None, "{text}");
    }
    // As they were before there were other orders.
    for (text, sort) in [
        ("d01/sha256:00", device),
        ("3fe0000000000000/d01/sha256:00", DriftSort::WORST),
    ] {
        assert_eq!(DriftCursor::decode(text, sort).unwrap().encode(), text);
    }
    assert_eq!(
        "severe".parse::<DriftSort>().unwrap_err().to_string(),
        "'severe' is no order: device, severity, line or at, with '-' in front for the largest first"
    );
}

#[test]
fn what_is_tried_on_both_databases_has_every_piece() {
    let tried = sample_queries().join("\n");
    for piece in [
        "OFFSET",
        "t.share < ",
        "t.at > ",
        "NOT (",
        "SUBSTR(t.line",
        "t.alarms >= ",
        "LOWER(v.semver)",
    ] {
        assert!(tried.contains(piece), "{piece}");
    }
}
