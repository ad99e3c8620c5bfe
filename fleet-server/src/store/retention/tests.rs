//! Tests of what is forgotten, and of what a device may still send again.

use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::messages::RecordKey;

use super::*;
use crate::store::telemetry;

const NOW: i64 = 400 * DAY_MS;

async fn db() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("test.db")).await.unwrap();
    (dir, db)
}

async fn sql(db: &Db, text: String) {
    let mut tx = db.begin().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn device(db: &Db, name: &str, status: &str, last_seen: Option<i64>) {
    let last_seen = last_seen.map_or("NULL".to_owned(), |at| at.to_string());
    let text = format!(
        "INSERT INTO devices (id, status, thumbprint, signing_key, wrapping_key, certificate_digest, claim_token, tags,
        hardware_class, arch, agent_version, ram_bytes, disk_free_bytes, enrolled_at, connected, last_seen, boot_count,
        report_counter, desired_version, desired_expires, desired_stale) VALUES ('{name}', '{status}', '{name}', x'00',
        x'00', '', '', '{{}}', '', '', '', 0, 0, 0, 0, {last_seen}, 0, 0, 0, 0, 0)"
    );
    sql(db, text).await;
}

async fn record(db: &Db, name: &str, seq: u64, at: i64) -> bool {
    let mut tx = db.begin().await.unwrap();
    let key = RecordKey {
        boot_epoch: 1,
        seq,
        nonce: 0,
    };
    let new = telemetry::record(&mut tx, &DeviceId::new(name).unwrap(), key, at)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    new
}

async fn all(db: &Db, table: Table, most: u32) -> (u64, u32) {
    let (mut rows, mut batches, mut after) = (0, 0, i64::MIN);
    loop {
        let pruned = prune(db, table, after, most, NOW).await.unwrap();
        rows += pruned.rows;
        batches += 1;
        assert!(batches < 100, "it does not end");
        match pruned.next {
            Some(next) => after = next,
            None => return (rows, batches),
        }
    }
}

async fn count(db: &Db, table: &str) -> i64 {
    let text = format!("SELECT COUNT(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(text))
        .fetch_one(db.read())
        .await
        .unwrap()
}

#[tokio::test]
async fn records_go_once_their_receipt_is_sure_to_have_arrived() {
    let (_dir, db) = db().await;
    let last = NOW - 60 * DAY_MS;
    device(&db, "lively", "active", Some(NOW)).await;
    device(&db, "silent", "active", Some(last)).await;
    device(&db, "gone", "decommissioned", Some(last)).await;
    for name in ["lively", "silent", "gone"] {
        // Two days of records, one an hour, the last at `last`.
        for seq in 0..48 {
            let hours = i64::try_from(47 - seq).unwrap();
            assert!(record(&db, name, seq, last - hours * HOUR_MS).await);
        }
    }
    assert!(record(&db, "lively", 100, NOW - 29 * DAY_MS).await);
    let (rows, batches) = all(&db, Table::DeviceRecords, 10).await;
    assert!(batches > 10, "{batches} short transactions");
    // All of 48 of two, and of the silent one what was counted a day before it was last heard of.
    assert_eq!(rows, 48 + 48 + 24);
    assert!(!record(&db, "lively", 100, NOW).await, "younger than thirty days");
    // The silent device returns and sends again what it has no receipt for: none of it counts twice.
    for seq in 24..48 {
        assert!(!record(&db, "silent", seq, NOW).await, "record {seq}");
    }
    assert_eq!(all(&db, Table::DeviceRecords, 10).await.0, 0, "there is no more");
}

#[tokio::test]
async fn everything_else_goes_by_age_in_batches() {
    let (_dir, db) = db().await;
    for i in 0..25 {
        let at = if i < 23 { 1 } else { NOW };
        let hour = if i < 23 { i } else { NOW / HOUR_MS + i };
        for text in [
            format!(
                "INSERT INTO idempotency_keys (actor, idempotency_key, request, status, body, created_at)
                VALUES ('a', '{i}', '', 200, x'00', {at})"
            ),
            format!("INSERT INTO sketches VALUES ({hour}, 'd', 'm', x'00')"),
            format!("INSERT INTO telemetry_hours VALUES ({hour}, 'd', 'm', 'l', 1, 0, x'00')"),
            format!("INSERT INTO fleet_hours VALUES ({hour}, 1, 0, 0)"),
            format!("INSERT INTO device_events VALUES ('d{i}', {at}, 'device.connected', '{{}}')"),
            format!(
                "INSERT INTO jobs VALUES ('{i}', 'train', 's', '', '{}', 0.0, '', NULL, 0, 0, 0, 0, {at}, {at}, 0)",
                if i == 0 { "queued" } else { "succeeded" }
            ),
            format!(
                "INSERT INTO imports (id, dataset, slice, actor, state, bytes_received, bytes_read, lines_read, samples,
                staged, created_at, updated_at) VALUES ('{i}', 'd', 's', 'a', '{}', 0, 0, 0, 0, {}, {at}, {at})",
                if i == 0 { "reading" } else { "failed" },
                i64::from(i < 2)
            ),
        ] {
            sql(&db, text).await;
        }
    }
    for (table, pruned) in [
        (Table::IdempotencyKeys, 23),
        (Table::Sketches, 23),
        (Table::TelemetryHours, 23),
        (Table::FleetHours, 23),
        (Table::DeviceEvents, 23),
        (Table::Jobs, 22),
        (Table::Imports, 21),
    ] {
        let (rows, batches) = all(&db, table, 10).await;
        assert_eq!((rows, batches), (pruned, 3), "{table:?}");
        assert_eq!(
            count(&db, table.as_str()).await,
            25 - i64::try_from(pruned).unwrap(),
            "{table:?}"
        );
    }
}

/// The newest that goes and the oldest that stays, of what is kept for half a year.
#[tokio::test]
async fn hours_and_events_are_kept_for_half_a_year() {
    let (_dir, db) = db().await;
    let edge = (NOW - HOURS_MS).div_euclid(HOUR_MS);
    for hour in [edge - 1, edge] {
        sql(&db, format!("INSERT INTO sketches VALUES ({hour}, 'd', 'm', x'00')")).await;
        sql(
            &db,
            format!("INSERT INTO telemetry_hours VALUES ({hour}, 'd', 'm', 'l', 1, 0, x'00')"),
        )
        .await;
        sql(&db, format!("INSERT INTO fleet_hours VALUES ({hour}, 1, 0, 0)")).await;
    }
    for at in [NOW - HOURS_MS - 1, NOW - HOURS_MS] {
        sql(
            &db,
            format!("INSERT INTO device_events VALUES ('d', {at}, 'device.connected', '{{}}')"),
        )
        .await;
    }
    for table in [
        Table::Sketches,
        Table::TelemetryHours,
        Table::FleetHours,
        Table::DeviceEvents,
    ] {
        assert_eq!(all(&db, table, 10).await, (1, 1), "{table:?}");
        assert_eq!(count(&db, table.as_str()).await, 1, "{table:?}");
    }
}

/// Tables that nothing is pruned from, and why they need not be.
const KEPT: [&str; 41] = [
    // One of a kind, or as many as people make.
    "fleet",
    "documents",
    "projects",
    "api_tokens",
    "claim_tokens",
    "datasets",
    "labeling_functions",
    "label_models",
    "dataset_versions",
    "experiments",
    "runs",
    "run_metrics",
    "run_figures",
    "evaluations",
    "models",
    "model_versions",
    "rollouts",
    // As many as there are devices, packages on devices, or rollouts to devices.
    "devices",
    "device_slots",
    "device_models",
    "device_summaries",
    "device_tags",
    "drift_status",
    "harvested",
    "targets",
    "deployments",
    // Gone when its rollout ends.
    "rollout_targets",
    // Chains stay whole, and what finds entries in them.
    "audit_log",
    "device_audit",
    "device_audit_heads",
    "device_log",
    // The data itself.
    "stored_samples",
    "annotations",
    // `reconcile/guesses` removes generations that nobody reads.
    "stored_guesses",
    "guess_generations",
    // Goes with its job.
    "job_devices",
    // Each new one removes those that have lapsed.
    "sign_in_links",
    "sessions",
    // Not ours.
    "_sqlx_migrations",
    "sqlite_stat1",
    "sqlite_stat4",
];

#[tokio::test]
async fn every_table_is_pruned_or_stands_among_those_that_need_not_be() {
    let (_dir, db) = db().await;
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .fetch_all(db.read())
        .await
        .unwrap();
    let pruned = Table::ALL.map(Table::as_str);
    let neither: Vec<&String> = tables
        .iter()
        .filter(|name| pruned.contains(&name.as_str()) == KEPT.contains(&name.as_str()))
        .collect();
    assert!(neither.is_empty(), "pruned or kept, and not both: {neither:?}");
}
