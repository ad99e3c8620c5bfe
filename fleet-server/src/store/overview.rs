//! The fleet at a glance: hourly totals, what runs where, and one device's past gathered from every table that holds a part of
//! it. What needs attention stands in `attention`.

use std::collections::BTreeMap;

use flotilla_api_types::overview::{FirstSteps, Spend, TelemetryHour, TimelineEvent, TimelineKind, VersionSpread};
use flotilla_api_types::rollouts::{Rollout, RolloutState};
use flotilla_protocol::audit::{AuditRecord, MAX_ENTRY_BYTES};
use flotilla_protocol::bundle::ModelTelemetry;
use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES};
use flotilla_protocol::ids::{DeviceId, RolloutId};
use flotilla_protocol::sketch::LatencyHistogram;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock;
use crate::store::device_summaries::{PLACES, bind_told};
use crate::store::{Db, StoreError, Tx, json, parsed, rollouts, statements, telemetry, to_i64, to_json, to_u64};

statements! {
    HOUR = "SELECT inferences, failures, latency FROM telemetry_hours WHERE device = $1 AND hour = $2 AND manifest = $3";
    SET_HOUR = "INSERT INTO telemetry_hours (hour, device, manifest, line, inferences, failures, latency)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (device, hour, manifest) DO UPDATE SET
        inferences = excluded.inferences, failures = excluded.failures, latency = excluded.latency";
    HOURS = "SELECT t.hour, t.manifest, t.line, COALESCE(v.semver, '') AS semver, t.inferences, t.failures, t.latency
        FROM telemetry_hours t LEFT JOIN model_versions v ON v.manifest = t.manifest
        WHERE t.device = $1 AND t.hour >= $2 AND t.hour <= $3 ORDER BY t.hour, t.manifest LIMIT $4";
    // What devices count is added up, and no sum may overflow: an hour that has 2^53 of something counts no more of it, and what
    // an older server let through is read as if it had.
    ADD_FLEET_HOUR = "INSERT INTO fleet_hours (hour, inferences, failures, bytes) VALUES ($1, $2, $3, $4)
        ON CONFLICT (hour) DO UPDATE SET
        inferences = fleet_hours.inferences
            + CASE WHEN fleet_hours.inferences < 9007199254740992 THEN excluded.inferences ELSE 0 END,
        failures = fleet_hours.failures
            + CASE WHEN fleet_hours.failures < 9007199254740992 THEN excluded.failures ELSE 0 END,
        bytes = fleet_hours.bytes + CASE WHEN fleet_hours.bytes < 9007199254740992 THEN excluded.bytes ELSE 0 END";
    SPEND = "SELECT
        CAST(COALESCE(SUM(CASE WHEN inferences < 9007199254740992 THEN inferences ELSE 9007199254740992 END), 0) AS BIGINT)
            AS inferences,
        CAST(COALESCE(SUM(CASE WHEN failures < 9007199254740992 THEN failures ELSE 9007199254740992 END), 0) AS BIGINT)
            AS failures,
        CAST(COALESCE(SUM(CASE WHEN bytes < 9007199254740992 THEN bytes ELSE 9007199254740992 END), 0) AS BIGINT) AS bytes
        FROM fleet_hours WHERE hour >= $1";
    ADD_EVENT = "INSERT INTO device_events (device, at, event, detail) VALUES ($1, $2, $3, $4)
        ON CONFLICT (device, at, event) DO NOTHING";
    // Those of many devices that bring nothing but their moment.
    ADD_EVENTS = "WITH told (device, at) AS (VALUES ($2, CAST($3 AS BIGINT)), ($4, $5), ($6, $7), ($8, $9), ($10, $11),
        ($12, $13), ($14, $15), ($16, $17), ($18, $19), ($20, $21), ($22, $23), ($24, $25), ($26, $27), ($28, $29),
        ($30, $31), ($32, $33))
        INSERT INTO device_events (device, at, event, detail) SELECT told.device, told.at, $1, '{}' FROM told
        WHERE told.device <> '' ON CONFLICT (device, at, event) DO NOTHING";
    ADD_LOG = "INSERT INTO device_log (device, idx) VALUES ($1, $2) ON CONFLICT (device, idx) DO NOTHING";
    SPREAD = "SELECT line, semver, COUNT(DISTINCT device) AS n FROM device_slots
        WHERE device NOT IN (SELECT s.device FROM device_summaries s WHERE s.status = 'decommissioned')
        GROUP BY line, semver ORDER BY n DESC, line, semver LIMIT $1";
    COUNT_SPREAD = "SELECT COUNT(*) FROM (SELECT 1 AS one FROM device_slots
        WHERE device NOT IN (SELECT s.device FROM device_summaries s WHERE s.status = 'decommissioned')
        GROUP BY line, semver) AS v";
    COUNT_LIVE = "SELECT COUNT(*) FROM rollouts WHERE state IN ('running', 'paused', 'halted')";
    FIRST_STEPS = "SELECT CASE WHEN EXISTS (SELECT 1 FROM devices) THEN 1 ELSE 0 END AS devices,
        CASE WHEN EXISTS (SELECT 1 FROM datasets) THEN 1 ELSE 0 END AS datasets,
        CASE WHEN EXISTS (SELECT 1 FROM annotations) OR EXISTS (SELECT 1 FROM guesses) THEN 1 ELSE 0 END AS labels,
        CASE WHEN EXISTS (SELECT 1 FROM runs) THEN 1 ELSE 0 END AS runs,
        CASE WHEN EXISTS (SELECT 1 FROM model_versions) THEN 1 ELSE 0 END AS models,
        CASE WHEN EXISTS (SELECT 1 FROM rollouts) THEN 1 ELSE 0 END AS rollouts";
    PAST_SERVER = "SELECT a.idx, a.at, a.entry FROM device_log l JOIN audit_log a ON a.idx = l.idx
        WHERE l.device = $1 AND a.at <= $2 ORDER BY l.idx DESC LIMIT $3";
    PAST_DEVICE = "SELECT epoch, idx, at, entry FROM device_audit WHERE device = $1 AND at <= $2
        ORDER BY at DESC, epoch DESC, idx DESC LIMIT $3";
    PAST_DEPLOYMENTS = "SELECT id, rollout, state, reason, updated_at AS at FROM deployments WHERE device = $1
        AND updated_at <= $2 ORDER BY updated_at DESC, id DESC LIMIT $3";
    PAST_EVENTS = "SELECT at, event, detail FROM device_events WHERE device = $1 AND at <= $2
        ORDER BY at DESC, event DESC LIMIT $3";
}

const HOUR_MS: i64 = 3_600_000;
const MOST_VERSIONS: i64 = 50;
const MOST_ROLLOUTS: u32 = 10;
/// Rows of the hourly telemetry in one answer.
const MOST_HOURS: i64 = 5000;

pub const fn hour_of(at: i64) -> i64 {
    at.div_euclid(HOUR_MS)
}

/// Adds one interval of one package to its hour, and to the fleet's.
pub async fn add_hour(tx: &mut Tx, device: &DeviceId, model: &ModelTelemetry, hour: i64) -> Result<(), StoreError> {
    let manifest = model.manifest.to_string();
    let row = sqlx::query(HOUR)
        .bind(device.as_str())
        .bind(hour)
        .bind(&manifest)
        .fetch_optional(&mut **tx)
        .await?;
    let (mut inferences, mut failures, mut latency) = (0u64, 0u64, LatencyHistogram::default());
    if let Some(row) = row {
        inferences = to_u64(row.try_get("inferences")?);
        failures = to_u64(row.try_get("failures")?);
        latency = latency_of(&row)?;
    }
    latency.merge(&model.latency);
    sqlx::query(SET_HOUR)
        .bind(hour)
        .bind(device.as_str())
        .bind(&manifest)
        .bind(model.line.as_str())
        .bind(telemetry::total(inferences, model.inferences))
        .bind(telemetry::total(failures, model.failures))
        .bind(codec::to_vec(&latency).map_err(|why| StoreError::corrupt("latency histogram", why))?)
        .execute(&mut **tx)
        .await?;
    add_fleet_hour(tx, hour, (model.inferences, model.failures), 0).await
}

/// Bytes of packages that a device received.
pub async fn add_bytes(tx: &mut Tx, bytes: u64, now: i64) -> Result<(), StoreError> {
    add_fleet_hour(tx, hour_of(now), (0, 0), bytes).await
}

async fn add_fleet_hour(
    tx: &mut Tx,
    hour: i64,
    (inferences, failures): (u64, u64),
    bytes: u64,
) -> Result<(), StoreError> {
    sqlx::query(ADD_FLEET_HOUR)
        .bind(hour)
        .bind(telemetry::total(0, inferences))
        .bind(telemetry::total(0, failures))
        .bind(telemetry::total(0, bytes))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn latency_of(row: &SqliteRow) -> Result<LatencyHistogram, StoreError> {
    codec::from_slice(row.try_get("latency")?, MAX_DOCUMENT_BYTES)
        .map_err(|why| StoreError::corrupt("latency histogram", why))
}

/// Something that a device did and that stands nowhere else.
pub async fn add_event<const N: usize>(
    tx: &mut Tx,
    device: &str,
    at: i64,
    event: &str,
    detail: [(&str, String); N],
) -> Result<(), StoreError> {
    sqlx::query(ADD_EVENT)
        .bind(device)
        .bind(at)
        .bind(event)
        .bind(to_json("detail", &BTreeMap::from(detail))?)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The same of many devices, each at its own moment, without details.
pub async fn add_events(tx: &mut Tx, told: &[(&str, i64)], event: &str) -> Result<(), StoreError> {
    for told in told.chunks(PLACES) {
        bind_told(sqlx::query(ADD_EVENTS).bind(event), told)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Notes that an entry of the server's log speaks of a device.
pub(super) async fn add_log(tx: &mut Tx, device: &str, index: u64) -> Result<(), StoreError> {
    sqlx::query(ADD_LOG)
        .bind(device)
        .bind(to_i64(index))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A device's hours in `[from, to]`, Unix milliseconds, in order of time.
pub async fn hours(db: &Db, device: &DeviceId, from: i64, to: i64) -> Result<Vec<TelemetryHour>, StoreError> {
    let rows = sqlx::query(HOURS)
        .bind(device.as_str())
        .bind(hour_of(from))
        .bind(hour_of(to))
        .bind(MOST_HOURS)
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| {
            let latency = latency_of(row)?;
            Ok(TelemetryHour {
                hour: clock::rfc3339(row.try_get::<i64, _>("hour")?.saturating_mul(HOUR_MS)),
                line: row.try_get("line")?,
                semver: row.try_get("semver")?,
                manifest: row.try_get("manifest")?,
                inferences: to_u64(row.try_get("inferences")?),
                failures: to_u64(row.try_get("failures")?),
                p50_us: latency.quantile_us(0.5),
                p95_us: latency.quantile_us(0.95),
            })
        })
        .collect()
}

/// What the fleet did in the last 24 hours, by the hour.
pub async fn spend(db: &Db, now: i64) -> Result<Spend, StoreError> {
    let row = sqlx::query(SPEND).bind(hour_of(now) - 23).fetch_one(db.read()).await?;
    Ok(Spend {
        bytes: to_u64(row.try_get("bytes")?),
        inferences: to_u64(row.try_get("inferences")?),
        failures: to_u64(row.try_get("failures")?),
    })
}

/// Which versions run on how many devices.
pub async fn spread(db: &Db) -> Result<Vec<VersionSpread>, StoreError> {
    let rows = sqlx::query(SPREAD).bind(MOST_VERSIONS).fetch_all(db.read()).await?;
    rows.iter()
        .map(|row| {
            Ok(VersionSpread {
                line: row.try_get("line")?,
                semver: row.try_get("semver")?,
                devices: to_u64(row.try_get("n")?),
            })
        })
        .collect()
}

/// How many versions run somewhere.
pub async fn count_spread(db: &Db) -> Result<u64, StoreError> {
    Ok(to_u64(sqlx::query_scalar(COUNT_SPREAD).fetch_one(db.read()).await?))
}

pub async fn live_rollouts(db: &Db) -> Result<Vec<Rollout>, StoreError> {
    let live = rollouts::Wanted {
        states: vec![RolloutState::Running, RolloutState::Paused, RolloutState::Halted],
        model_version: None,
    };
    rollouts::list(db, &live, None, MOST_ROLLOUTS).await
}

/// How many rollouts are neither drafts nor ended.
pub async fn count_live(db: &Db) -> Result<u64, StoreError> {
    Ok(to_u64(sqlx::query_scalar(COUNT_LIVE).fetch_one(db.read()).await?))
}

pub async fn first_steps(db: &Db) -> Result<FirstSteps, StoreError> {
    let row = sqlx::query(FIRST_STEPS).fetch_one(db.read()).await?;
    let has = |column: &str| -> Result<bool, StoreError> { Ok(row.try_get::<i64, _>(column)? != 0) };
    Ok(FirstSteps {
        has_devices: has("devices")?,
        has_datasets: has("datasets")?,
        has_labels: has("labels")?,
        has_runs: has("runs")?,
        has_models: has("models")?,
        has_rollouts: has("rollouts")?,
    })
}

fn record_of(row: &SqliteRow) -> Result<AuditRecord, StoreError> {
    codec::from_slice(row.try_get("entry")?, MAX_ENTRY_BYTES).map_err(|why| StoreError::corrupt("audit entry", why))
}

/// Where a page of a timeline ended: time, source, and what tells two of the same apart.
pub type Position = (i64, u8, String);

/// A device's past, newest first, below `before`.
pub async fn timeline(
    db: &Db,
    device: &DeviceId,
    before: Option<&Position>,
    limit: u32,
) -> Result<Vec<(Position, TimelineEvent)>, StoreError> {
    let until = before.map_or(i64::MAX, |(at, _, _)| *at);
    // Those of the last page's very millisecond come again, and are left out below.
    let most = i64::from(limit) + 100;
    let rows = async |sql| {
        sqlx::query(sql)
            .bind(device.as_str())
            .bind(until)
            .bind(most)
            .fetch_all(db.read())
            .await
    };
    let mut found = Vec::new();
    for row in rows(PAST_SERVER).await? {
        let position = (row.try_get("at")?, 3, format!("{:020}", row.try_get::<i64, _>("idx")?));
        found.push((position, of_record(TimelineKind::Server, record_of(&row)?)));
    }
    for row in rows(PAST_DEVICE).await? {
        let (epoch, index): (i64, i64) = (row.try_get("epoch")?, row.try_get("idx")?);
        let position = (row.try_get("at")?, 2, format!("{epoch:020}.{index:020}"));
        found.push((position, of_record(TimelineKind::Device, record_of(&row)?)));
    }
    for row in rows(PAST_DEPLOYMENTS).await? {
        found.push(of_deployment(&row)?);
    }
    for row in rows(PAST_EVENTS).await? {
        found.push(of_event(&row)?);
    }
    found.retain(|(position, _)| before.is_none_or(|before| position < before));
    found.sort_by(|a, b| b.0.cmp(&a.0));
    found.truncate(limit as usize);
    Ok(found)
}

fn of_record(kind: TimelineKind, record: AuditRecord) -> TimelineEvent {
    TimelineEvent {
        at: clock::rfc3339(record.at),
        kind,
        event: record.event,
        actor: record.actor,
        detail: record.detail,
        rollout: None,
    }
}

fn of_deployment(row: &SqliteRow) -> Result<(Position, TimelineEvent), StoreError> {
    let at: i64 = row.try_get("at")?;
    let reason: Option<String> = row.try_get("reason")?;
    let rollout: RolloutId = parsed("rollout id", row.try_get("rollout")?)?;
    let event = TimelineEvent {
        at: clock::rfc3339(at),
        kind: TimelineKind::Deployment,
        event: format!("deployment.{}", row.try_get::<String, _>("state")?),
        actor: format!("rollout:{rollout}"),
        detail: reason.map(|reason| ("reason".to_owned(), reason)).into_iter().collect(),
        rollout: Some(rollout),
    };
    Ok(((at, 1, row.try_get("id")?), event))
}

fn of_event(row: &SqliteRow) -> Result<(Position, TimelineEvent), StoreError> {
    let (at, name): (i64, String) = (row.try_get("at")?, row.try_get("event")?);
    let event = TimelineEvent {
        at: clock::rfc3339(at),
        kind: if name.starts_with("drift.") {
            TimelineKind::Drift
        } else {
            TimelineKind::Connection
        },
        event: name.clone(),
        actor: "server".to_owned(),
        detail: json("detail", row.try_get("detail")?)?,
        rollout: None,
    };
    Ok(((at, 0, name), event))
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::ids::{Digest, ModelLine, ModelVersionId, SlotName};
    use uuid::Uuid;

    use super::*;
    use crate::store::models::{self, NewVersion};
    use crate::store::{device_summaries, devices};
    use crate::{audit, testing};

    const NOW: i64 = 500_000 * HOUR_MS;
    const DAY_MS: i64 = 24 * HOUR_MS;

    async fn db() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("test.db")).await.unwrap();
        (dir, db)
    }

    fn device() -> DeviceId {
        DeviceId::new("press-07").unwrap()
    }

    fn interval() -> ModelTelemetry {
        let mut latency = LatencyHistogram::default();
        latency.record(500);
        ModelTelemetry {
            slot: SlotName::main(),
            line: ModelLine::new("anomaly").unwrap(),
            manifest: Digest::of(b"manifest"),
            inferences: 10,
            failures: 1,
            latency,
            sketches: None,
            drift: None,
            judged: None,
        }
    }

    #[tokio::test]
    async fn hours_add_up_and_the_last_day_is_counted() {
        let (_dir, db) = db().await;
        let now = hour_of(NOW);
        let mut tx = db.begin().await.unwrap();
        for hour in [now - 24, now - 23, now, now] {
            add_hour(&mut tx, &device(), &interval(), hour).await.unwrap();
        }
        add_bytes(&mut tx, 7, NOW).await.unwrap();
        tx.commit().await.unwrap();
        let day = spend(&db, NOW).await.unwrap();
        assert_eq!((day.inferences, day.failures, day.bytes), (30, 3, 7));
        let hours = hours(&db, &device(), NOW - DAY_MS, NOW).await.unwrap();
        let counts: Vec<u64> = hours.iter().map(|hour| hour.inferences).collect();
        assert_eq!(counts, [10, 10, 20]);
        assert!((500..=708).contains(&hours[2].p95_us), "{}", hours[2].p95_us);
        assert_eq!(hours[2].semver, "", "nobody packaged it here");
    }

    /// As a server that believed any number stored them.
    #[tokio::test]
    async fn sums_of_whatever_devices_tell_do_not_overflow() {
        let (_dir, db) = db().await;
        let now = hour_of(NOW);
        let most = 1u64 << 53;
        let mut tx = db.begin().await.unwrap();
        for hour in [now - 1, now] {
            sqlx::query("INSERT INTO fleet_hours (hour, inferences, failures, bytes) VALUES ($1, $2, $2, $2)")
                .bind(hour)
                .bind(i64::MAX)
                .execute(&mut *tx)
                .await
                .unwrap();
        }
        add_bytes(&mut tx, 7, NOW).await.unwrap();
        add_hour(&mut tx, &device(), &interval(), now).await.unwrap();
        add_hour(&mut tx, &device(), &interval(), now - 2).await.unwrap();
        tx.commit().await.unwrap();
        let day = spend(&db, NOW).await.unwrap();
        assert_eq!(
            (day.inferences, day.failures, day.bytes),
            (2 * most + 10, 2 * most + 1, 2 * most)
        );
        // A device's own totals, of two packages.
        testing::enrol(&db, "press-07", 1, BTreeMap::new()).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        for manifest in ["a", "b"] {
            let told = ModelTelemetry {
                manifest: Digest::of(manifest.as_bytes()),
                inferences: u64::MAX,
                ..interval()
            };
            for _ in 0..2 {
                telemetry::add_interval(&mut tx, &device(), &told, NOW, NOW)
                    .await
                    .unwrap();
                add_hour(&mut tx, &device(), &told, now).await.unwrap();
            }
        }
        sqlx::query("UPDATE device_models SET inferences = $1")
            .bind(i64::MAX)
            .execute(&mut *tx)
            .await
            .unwrap();
        device_summaries::refresh(&mut tx, "press-07").await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(devices::get(&db, &device()).await.unwrap().device.inferences, most);
    }

    #[tokio::test]
    async fn telemetry_names_the_version_of_a_package_that_is_known_here() {
        let (_dir, db) = db().await;
        testing::enrol(&db, "press-07", 1, BTreeMap::new()).await.unwrap();
        let version = NewVersion {
            id: ModelVersionId::new(Uuid::now_v7()),
            line: ModelLine::new("anomaly").unwrap(),
            semver: "1.2.3".into(),
            release_counter: 1,
            payload: b"manifest".to_vec(),
            run: None,
            dataset_version: None,
            components: vec![],
            package_bytes: 1,
            golden_max_diff: 0.0,
            golden_cases: 1,
        };
        let stranger = ModelTelemetry {
            manifest: Digest::of(b"stranger"),
            ..interval()
        };
        let mut tx = db.begin().await.unwrap();
        models::create(&mut tx, "p", &version, NOW).await.unwrap();
        for model in [interval(), stranger] {
            add_hour(&mut tx, &device(), &model, hour_of(NOW)).await.unwrap();
            telemetry::add_interval(&mut tx, &device(), &model, NOW, NOW)
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        let mut of_hours: Vec<String> = hours(&db, &device(), NOW - DAY_MS, NOW)
            .await
            .unwrap()
            .into_iter()
            .map(|hour| hour.semver)
            .collect();
        of_hours.sort();
        assert_eq!(of_hours, ["", "1.2.3"]);
        let totals = devices::get(&db, &device()).await.unwrap().telemetry;
        let mut of_totals: Vec<&str> = totals.iter().map(|model| model.semver.as_str()).collect();
        of_totals.sort_unstable();
        assert_eq!(of_totals, ["", "1.2.3"]);
    }

    #[tokio::test]
    async fn a_past_is_gathered_in_order_and_in_pages() {
        let (_dir, db) = db().await;
        let mut tx = db.begin().await.unwrap();
        for (at, event) in [(3, "device.connected"), (5, "device.disconnected"), (5, "drift.alarm")] {
            add_event(&mut tx, "press-07", at, event, []).await.unwrap();
        }
        sqlx::query(
            "INSERT INTO deployments (id, rollout, device, phase, state, reason, bytes_received, bytes_total, created_at,
                updated_at) VALUES ($1, $2, 'press-07', 0, 'failure', 'no', 0, 0, 1, 4)",
        )
        .bind("0192f0c1-2345-7abc-8def-0123456789ab")
        .bind("0192f0c1-2345-7abc-8def-0123456789ac")
        .execute(&mut *tx)
        .await
        .unwrap();
        for subject in ["device:press-07", "device:other", "rollout:x"] {
            let record = AuditRecord {
                at: 6,
                ..audit::record("token:admin", "device.tagged", subject, [])
            };
            crate::store::audit::append(&mut tx, &record).await.unwrap();
        }
        tx.commit().await.unwrap();
        let whole = timeline(&db, &device(), None, 100).await.unwrap();
        let names: Vec<&str> = whole.iter().map(|(_, event)| event.event.as_str()).collect();
        assert_eq!(
            names,
            [
                "device.tagged",
                "drift.alarm",
                "device.disconnected",
                "deployment.failure",
                "device.connected"
            ]
        );
        let (mut paged, mut before) = (Vec::new(), None);
        loop {
            let page = timeline(&db, &device(), before.as_ref(), 2).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            before = Some(last.clone());
            paged.extend(page);
        }
        assert_eq!(paged, whole);
    }

    #[tokio::test]
    async fn an_empty_fleet_has_nothing() {
        let (_dir, db) = db().await;
        assert_eq!(first_steps(&db).await.unwrap(), FirstSteps::default());
        assert_eq!(
            (spread(&db).await.unwrap(), live_rollouts(&db).await.unwrap()),
            (vec![], vec![])
        );
        assert_eq!(
            (count_spread(&db).await.unwrap(), count_live(&db).await.unwrap()),
            (0, 0)
        );
        assert_eq!(spend(&db, NOW).await.unwrap(), Spend::default());
    }
}
