//! Tests of what filters find, and of what verification notices.

use std::collections::BTreeMap;

use super::verify::{DEVICES, MOST_BROKEN};
use super::*;
use crate::audit;
use crate::domain::device_filter::Match;

async fn db() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("test.db")).await.unwrap();
    (dir, db)
}

/// Entry `i` happened at `i`, but the clock once jumped back.
async fn log(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    for i in 0..60i64 {
        let (actor, event) = match i % 4 {
            0 => ("token:ann", "rollout.started"),
            1 => ("token:annette", "rollout.halted"),
            2 => ("device:press-07", "attack.reported"),
            _ => ("reconciler:rollouts", "rolled"),
        };
        let record = AuditRecord {
            at: if i == 50 { 5 } else { i },
            ..audit::record(actor, event, format!("rollout:{}", i % 3), [])
        };
        append(&mut tx, &record).await.unwrap();
    }
    tx.commit().await.unwrap();
}

fn exactly(text: &str) -> Match {
    Match::Exactly(text.to_owned())
}

fn start(text: &str) -> Match {
    Match::StartsWith(text.to_owned())
}

fn filters() -> Vec<AuditFilter> {
    let all = AuditFilter::default();
    vec![
        all.clone(),
        AuditFilter {
            event: Some(exactly("rollout.halted")),
            ..all.clone()
        },
        AuditFilter {
            event: Some(start("rollout.")),
            ..all.clone()
        },
        AuditFilter {
            event: Some(start("roll")),
            ..all.clone()
        },
        AuditFilter {
            event: Some(start("")),
            ..all.clone()
        },
        AuditFilter {
            actor: Some(exactly("token:ann")),
            ..all.clone()
        },
        AuditFilter {
            actor: Some(start("token:ann")),
            ..all.clone()
        },
        AuditFilter {
            subject: Some(exactly("rollout:1")),
            from: Some(10),
            ..all.clone()
        },
        AuditFilter {
            from: Some(5),
            to: Some(20),
            ..all.clone()
        },
        AuditFilter {
            to: Some(6),
            ..all.clone()
        },
        AuditFilter {
            event: Some(start("rollout.")),
            actor: Some(exactly("token:ann")),
            subject: Some(start("rollout:")),
            from: Some(8),
            to: Some(41),
        },
        AuditFilter {
            actor: Some(exactly("nobody")),
            ..all
        },
    ]
}

#[tokio::test]
async fn filters_find_what_the_entries_say_and_pages_lose_and_repeat_nothing() {
    let (_dir, db) = db().await;
    log(&db).await;
    let everything = list_from(&db, 0, 1000).await.unwrap();
    for filter in filters() {
        let expected: Vec<u64> = everything
            .iter()
            .rev()
            .filter(|event| {
                filter.matches(&AuditRecord {
                    at: clock::from_rfc3339(&event.at).unwrap(),
                    actor: event.actor.clone(),
                    event: event.event.clone(),
                    subject: event.subject.clone(),
                    detail: BTreeMap::new(),
                })
            })
            .map(|event| event.index)
            .collect();
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = list(&db, before, &filter, 7).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.index);
            found.extend(page.iter().map(|event| event.index));
        }
        assert_eq!(found, expected, "{filter:?}");
    }
    let events = |filter: &AuditFilter| {
        let filter = filter.clone();
        let db = db.clone();
        async move { list(&db, None, &filter, 100).await.unwrap().len() }
    };
    let of = filters();
    assert_eq!(
        (events(&of[0]).await, events(&of[2]).await, events(&of[3]).await),
        (60, 30, 45)
    );
    assert_eq!(
        (events(&of[5]).await, events(&of[6]).await, events(&of[11]).await),
        (15, 30, 0)
    );
}

#[tokio::test]
async fn a_page_is_found_in_an_index() {
    let (_dir, db) = db().await;
    log(&db).await;
    let all = AuditFilter::default;
    let subject = || exactly("rollout:1");
    for (filter, index) in [
        (
            AuditFilter {
                event: Some(exactly("rolled")),
                ..all()
            },
            "audit_log_event",
        ),
        (
            AuditFilter {
                event: Some(start("rollout.")),
                ..all()
            },
            "audit_log_event",
        ),
        (
            AuditFilter {
                actor: Some(exactly("token:ann")),
                ..all()
            },
            "audit_log_actor",
        ),
        (
            AuditFilter {
                actor: Some(start("token:")),
                ..all()
            },
            "audit_log_actor",
        ),
        (
            AuditFilter {
                subject: Some(subject()),
                ..all()
            },
            "audit_log_subject",
        ),
        (
            AuditFilter {
                subject: Some(subject()),
                from: Some(3),
                to: Some(9),
                ..all()
            },
            "audit_log_subject",
        ),
        (AuditFilter { from: Some(3), ..all() }, "audit_log_at"),
        (AuditFilter { to: Some(3), ..all() }, "audit_log_at"),
    ] {
        let text = filter.page(1000, 10).as_str().replace('$', "?");
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}")))
                .fetch_all(db.read())
                .await
                .unwrap();
        let steps: Vec<&str> = plan.iter().map(|(_, _, _, step)| step.as_str()).collect();
        assert!(
            steps
                .iter()
                .any(|step| step.contains(&format!("COVERING INDEX {index} "))),
            "{filter:?}: {steps:?}"
        );
        assert!(
            !steps.iter().any(|step| step.starts_with("SCAN a")),
            "{filter:?}: {steps:?}"
        );
    }
}

#[tokio::test]
async fn entries_of_an_older_server_are_filed_when_it_starts() {
    let (_dir, db) = db().await;
    log(&db).await;
    let mut tx = db.begin().await.unwrap();
    sqlx::query("UPDATE audit_log SET actor = NULL, subject = NULL WHERE idx < 40")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let ann = &filters()[5];
    assert_eq!(list(&db, None, ann, 100).await.unwrap().len(), 5);
    assert!(
        verify(&db).await.unwrap().ok,
        "what is not filed yet is not filed wrong"
    );
    file_old_entries(&db).await.unwrap();
    assert_eq!(list(&db, None, ann, 100).await.unwrap().len(), 15);
    assert!(verify(&db).await.unwrap().ok);
}

async fn sql(db: &Db, text: &str) {
    let mut tx = db.begin().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(text.to_owned()))
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn an_entry_that_is_filed_under_something_else_is_noticed() {
    for change in ["event = 'x'", "at = 1", "actor = 'x'", "subject = 'x'"] {
        let (_dir, db) = db().await;
        log(&db).await;
        sql(&db, &format!("UPDATE audit_log SET {change} WHERE idx = 7")).await;
        let found = verify(&db).await.unwrap();
        let problem = found.server.problem.unwrap();
        assert!(
            !found.ok && problem == "entry 7 is filed under something else than it says",
            "{change}: {problem}"
        );
    }
}

/// Devices with a chain of three entries each.
async fn chains(db: &Db, devices: i64) {
    let mut tx = db.begin().await.unwrap();
    for i in 0..devices {
        let device = DeviceId::new(format!("d{i:04}")).unwrap();
        let mut head = AuditHead::start(0);
        let mut entries = Vec::new();
        for event in ["a", "b", "c"] {
            let record = audit::record("agent", event, "x:1", []);
            let bytes = encode_entry(&record).unwrap();
            let index = head.count;
            head = head.append(&bytes);
            entries.push(DeviceEntry {
                epoch: 0,
                index,
                record,
                bytes,
            });
        }
        append_device(&mut tx, &device, &entries, &head, b"signed")
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn chains_of_a_whole_fleet_are_verified_page_by_page() {
    let (_dir, db) = db().await;
    let fleet = 2 * DEVICES + 9;
    chains(&db, fleet).await;
    let whole = verify(&db).await.unwrap();
    let all = u64::try_from(fleet).unwrap();
    assert_eq!((whole.ok, whole.devices, whole.device_entries), (true, all, 3 * all));
    // The last of a page, the first of the next one, the very last; one that signed nothing, one that has nothing left.
    let last = format!("d{:04}", fleet - 1);
    for text in [
        format!(
            "DELETE FROM device_audit WHERE device = 'd{:04}' AND idx = 1",
            DEVICES - 1
        ),
        format!("DELETE FROM device_audit WHERE device = 'd{DEVICES:04}' AND idx = 2"),
        format!("UPDATE device_audit SET event = 'z' WHERE device = '{last}' AND idx = 2"),
        "DELETE FROM device_audit_heads WHERE device = 'd0005'".to_owned(),
        "DELETE FROM device_audit WHERE device = 'd0007'".to_owned(),
    ] {
        sql(&db, &text).await;
    }
    let found = verify(&db).await.unwrap();
    let broken: Vec<String> = found
        .broken
        .iter()
        .map(|chain| {
            format!(
                "{} {}: {}",
                chain.device,
                chain.chain.entries,
                chain
                    .chain
                    .problem
                    .as_deref()
                    .unwrap_or("-")
                    .split(" sha256")
                    .next()
                    .unwrap()
            )
        })
        .collect();
    let expected = [
        "d0005 3: the device's signature over its chain is missing",
        "d0007 0: the chain ends at",
        "d0063 1: entries 2 of epoch 0 do not follow entry 1: there is a gap",
        "d0064 2: the chain ends at",
        "d0136 2: entry 2 of epoch 0 is filed under something else than it says",
    ];
    assert_eq!(broken, expected);
    assert_eq!((found.ok, found.devices, found.broken_devices), (false, all, 5));
    for (device, ok) in [("d0000", true), ("d0007", false), (last.as_str(), false)] {
        let one = verify_device(&db, &device.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!((one.device.as_str(), one.chain.ok), (device, ok));
    }
    assert!(
        verify_device(&db, &"stranger".parse().unwrap())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn the_answer_does_not_grow_with_what_is_broken() {
    let (_dir, db) = db().await;
    let fleet = i64::try_from(MOST_BROKEN).unwrap() + 20;
    chains(&db, fleet).await;
    sql(&db, "DELETE FROM device_audit WHERE idx = 0").await;
    let found = verify(&db).await.unwrap();
    assert_eq!(
        (found.broken.len(), found.broken_devices),
        (MOST_BROKEN, u64::try_from(fleet).unwrap())
    );
}
