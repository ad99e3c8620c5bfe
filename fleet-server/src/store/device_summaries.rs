//! What lists of devices show: one slim row per device, kept up by every writer of what it is made from, so that a list of a
//! hundred thousand devices is filtered, sorted and counted without looking anywhere else.
//!
//! Filters become SQL here, from fixed pieces with bound values alone; a test prepares what can come of them on both
//! databases.

mod query;

use std::collections::BTreeMap;

use flotilla_api_types::devices::{Device, DeviceAlert, DeviceCounts, DeviceModel, DeviceStatus};
use flotilla_protocol::ids::{DeviceId, JobId};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite};

use crate::clock;
use crate::domain::device_filter::DeviceFilter;
use crate::store::{Db, StoreError, Tx, json, parsed, statements, to_i64, to_json, to_u64};

pub use query::{Cursor, DeviceQuery, Sort, SortField, sample_queries};

statements! {
    // Everything that can be read off the other tables; models and search text are kept apart. An order that was never given
    // says nothing of the device. Counts are the device's own: they are added up as floating point numbers, which do not
    // overflow and are exact up to 2^53.
    REFRESH = "INSERT INTO device_summaries (device, status, urgency, updating, alert, drifted, attacked, failed, faulty, drift,
        inferences, hardware_class, arch, agent_version, model, models, tags, thumbprint, enrolled_at, last_seen, search)
        SELECT f.id, f.status, CASE WHEN f.status = 'decommissioned' THEN 4
            WHEN f.drifted + f.attacked + f.failed + f.faulty > 0 THEN 0 WHEN f.updating = 1 THEN 1
            WHEN f.status = 'online' THEN 2 ELSE 3 END, f.updating,
        CASE WHEN f.status <> 'decommissioned' AND f.drifted + f.attacked + f.failed + f.faulty > 0 THEN 1 ELSE 0 END, f.drifted, f.attacked, f.failed, f.faulty, f.drift,
        CASE WHEN f.inferences < 9007199254740992.0 THEN CAST(f.inferences AS BIGINT) ELSE 9007199254740992 END,
        f.hardware_class, f.arch, f.agent_version, '', '[]', f.tags, f.thumbprint, f.enrolled_at, f.last_seen, '' FROM
        (SELECT d.id, CASE WHEN d.status <> 'active' THEN 'decommissioned' WHEN d.connected <> 0 THEN 'online'
            ELSE 'offline' END AS status,
        CASE WHEN EXISTS (SELECT 1 FROM deployments p WHERE p.device = d.id
            AND p.state NOT IN ('success', 'failure', 'rolled-back', 'already-installed', 'no-longer-applicable',
            'decommissioned')) THEN 1 ELSE 0 END AS updating,
        COALESCE((SELECT MAX(t.drifted) FROM drift_status t JOIN device_slots s ON s.device = t.device
            AND s.manifest = t.manifest WHERE t.device = d.id), 0) AS drifted,
        CASE WHEN d.attacked_at IS NULL THEN 0 ELSE 1 END AS attacked,
        CASE WHEN (SELECT p.state FROM deployments p WHERE p.device = d.id
            AND (p.state <> 'no-longer-applicable' OR p.updated_at > p.created_at)
            ORDER BY p.created_at DESC, p.id DESC LIMIT 1)
            IN ('failure', 'rolled-back') THEN 1 ELSE 0 END AS failed,
        CASE WHEN d.error IS NULL THEN 0 ELSE 1 END AS faulty,
        COALESCE((SELECT MAX(t.share) FROM drift_status t JOIN device_slots s ON s.device = t.device
            AND s.manifest = t.manifest WHERE t.device = d.id), -1.0) AS drift,
        COALESCE((SELECT SUM(CAST(m.inferences AS DOUBLE PRECISION)) FROM device_models m WHERE m.device = d.id), 0.0)
            AS inferences,
        d.hardware_class, d.arch, d.agent_version, d.tags, d.thumbprint, d.enrolled_at, COALESCE(d.last_seen, 0) AS last_seen
        FROM devices d WHERE d.id IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)) AS f WHERE 1 = 1
        ON CONFLICT (device) DO UPDATE SET status = excluded.status, urgency = excluded.urgency,
        updating = excluded.updating, alert = excluded.alert,
        drifted = excluded.drifted, attacked = excluded.attacked, failed = excluded.failed, faulty = excluded.faulty,
        drift = excluded.drift, inferences = excluded.inferences, hardware_class = excluded.hardware_class,
        arch = excluded.arch, agent_version = excluded.agent_version, tags = excluded.tags, last_seen = excluded.last_seen";
    OF_JOB = "SELECT device FROM job_devices WHERE job = $1 AND device > $2 ORDER BY device LIMIT $3";
    FORGET_JOB = "DELETE FROM job_devices WHERE job = $1";
    SLOTS = "SELECT slot, line, semver, release_counter, manifest, committed FROM device_slots WHERE device = $1 ORDER BY slot";
    SET_MODELS = "UPDATE device_summaries SET model = $1, models = $2 WHERE device = $3";
    TEXT = "SELECT tags, hardware_class, search FROM device_summaries WHERE device = $1";
    SET_SEARCH = "UPDATE device_summaries SET search = $1 WHERE device = $2";
    CLEAR_TAGS = "DELETE FROM device_tags WHERE device = $1";
    ADD_TAG = "INSERT INTO device_tags (tag_key, tag_value, device) VALUES ($1, $2, $3)
        ON CONFLICT (tag_key, tag_value, device) DO NOTHING";
    SEEN = "WITH told (device, at) AS (VALUES ($1, CAST($2 AS BIGINT)), ($3, $4), ($5, $6), ($7, $8), ($9, $10),
        ($11, $12), ($13, $14), ($15, $16), ($17, $18), ($19, $20), ($21, $22), ($23, $24), ($25, $26), ($27, $28),
        ($29, $30), ($31, $32))
        UPDATE device_summaries SET last_seen = told.at FROM told
        WHERE device_summaries.device = told.device AND device_summaries.status <> 'decommissioned'";
    CONNECTED = "WITH told (device, at) AS (VALUES ($3, CAST($4 AS BIGINT)), ($5, $6), ($7, $8), ($9, $10), ($11, $12),
        ($13, $14), ($15, $16), ($17, $18), ($19, $20), ($21, $22), ($23, $24), ($25, $26), ($27, $28), ($29, $30),
        ($31, $32), ($33, $34))
        UPDATE device_summaries SET last_seen = told.at, status = $1,
        urgency = CASE WHEN urgency IN (2, 3) THEN $2 ELSE urgency END FROM told
        WHERE device_summaries.device = told.device AND device_summaries.status <> 'decommissioned'";
    ALL_OFFLINE = "UPDATE device_summaries SET status = 'offline',
        urgency = CASE WHEN urgency = 2 THEN 3 ELSE urgency END WHERE status = 'online'";
    MISSING = "SELECT d.id, d.tags FROM devices d WHERE d.id > $1
        AND NOT EXISTS (SELECT 1 FROM device_summaries s WHERE s.device = d.id) ORDER BY d.id LIMIT 500";
    BY_IDS = "SELECT s.device, s.status, s.updating, s.alert, s.drifted, s.attacked, s.failed, s.faulty, s.drift, s.inferences,
        s.hardware_class, s.arch, s.agent_version, s.models, s.tags, s.thumbprint, s.enrolled_at, s.last_seen, s.urgency,
        s.model FROM device_summaries s WHERE s.device IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
        $16)";
}

/// Places for devices in a statement that is about several of them.
pub(super) const PLACES: usize = 16;

/// What a statement is made for by [`sqlx::query`].
pub(super) type Asked<'q> = Query<'q, Sqlite, SqliteArguments>;

/// Fills the places for ids. Those that are left over name nobody.
pub(super) fn bind_ids<'q>(query: Asked<'q>, ids: &[&str]) -> Asked<'q> {
    (0..PLACES).fold(query, |query, place| {
        query.bind(ids.get(place).copied().unwrap_or_default())
    })
}

/// The same where every device has a moment beside it.
pub(super) fn bind_told<'q>(query: Asked<'q>, told: &[(&str, i64)]) -> Asked<'q> {
    (0..PLACES).fold(query, |query, place| {
        let (device, at) = told.get(place).copied().unwrap_or_default();
        query.bind(device).bind(at)
    })
}

/// Makes a device's row, or brings it up to date with everything that it is made from.
pub async fn refresh(tx: &mut Tx, device: &str) -> Result<(), StoreError> {
    refresh_each(tx, &[device]).await
}

/// [`refresh`] of many.
pub async fn refresh_each(tx: &mut Tx, devices: &[&str]) -> Result<(), StoreError> {
    for devices in devices.chunks(PLACES) {
        bind_ids(sqlx::query(REFRESH), devices).execute(&mut **tx).await?;
    }
    Ok(())
}

/// [`refresh`], and what its slots hold and it is found by.
pub async fn refresh_all(tx: &mut Tx, device: &str) -> Result<(), StoreError> {
    refresh(tx, device).await?;
    let rows = sqlx::query(SLOTS).bind(device).fetch_all(&mut **tx).await?;
    let models = rows.iter().map(model_of).collect::<Result<Vec<_>, _>>()?;
    let first = models
        .first()
        .map(|model| format!("{} {}", model.line, model.semver))
        .unwrap_or_default();
    sqlx::query(SET_MODELS)
        .bind(first)
        .bind(to_json("models", &models)?)
        .bind(device)
        .execute(&mut **tx)
        .await?;
    set_search(tx, device).await
}

async fn set_search(tx: &mut Tx, device: &str) -> Result<(), StoreError> {
    let Some(row) = sqlx::query(TEXT).bind(device).fetch_optional(&mut **tx).await? else {
        return Ok(());
    };
    let tags: BTreeMap<String, String> = json("tags", row.try_get("tags")?)?;
    let class: String = row.try_get("hardware_class")?;
    let mut text = format!("{device} {class}");
    for (key, value) in &tags {
        text.push(' ');
        text.push_str(key);
        text.push('=');
        text.push_str(value);
    }
    let text = text.to_lowercase();
    if row.try_get::<String, _>("search")? != text {
        sqlx::query(SET_SEARCH)
            .bind(text)
            .bind(device)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// The tags as filters find them. The row itself is brought up to date by [`refresh_all`].
pub async fn set_tags(tx: &mut Tx, device: &str, tags: &BTreeMap<String, String>) -> Result<(), StoreError> {
    sqlx::query(CLEAR_TAGS).bind(device).execute(&mut **tx).await?;
    for (key, value) in tags {
        sqlx::query(ADD_TAG)
            .bind(key)
            .bind(value)
            .bind(device)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Devices came, went (`connected`), or were heard of, each at its own moment.
pub async fn set_presence(tx: &mut Tx, told: &[(&str, i64)], connected: Option<bool>) -> Result<(), StoreError> {
    for told in told.chunks(PLACES) {
        let query = match connected {
            None => sqlx::query(SEEN),
            Some(true) => sqlx::query(CONNECTED).bind("online").bind(2i64),
            Some(false) => sqlx::query(CONNECTED).bind("offline").bind(3i64),
        };
        bind_told(query, told).execute(&mut **tx).await?;
    }
    Ok(())
}

/// A broker that starts has no connections.
pub async fn all_offline(tx: &mut Tx) -> Result<(), StoreError> {
    sqlx::query(ALL_OFFLINE).execute(&mut **tx).await?;
    Ok(())
}

/// Rows for devices that were there before there were rows.
pub async fn fill_missing(db: &Db) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let rows = sqlx::query(MISSING).bind(&after).fetch_all(db.read()).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut tx = db.begin().await?;
        for row in &rows {
            after = row.try_get("id")?;
            let tags: BTreeMap<String, String> = json("tags", row.try_get("tags")?)?;
            set_tags(&mut tx, &after, &tags).await?;
            refresh_all(&mut tx, &after).await?;
        }
        tx.commit().await?;
    }
}

/// A page, in the query's order.
pub async fn list(db: &Db, asked: &DeviceQuery) -> Result<Vec<(Device, Cursor)>, StoreError> {
    let built = asked.page();
    let mut query = sqlx::query(AssertSqlSafe(built.sql.as_str()));
    for value in &built.values {
        query = value.bind(query);
    }
    let rows = query.fetch_all(db.read()).await?;
    rows.iter()
        .map(|row| {
            let device = device_of(row)?;
            let cursor = asked.sort.cursor(row, device.id.as_str())?;
            Ok((device, cursor))
        })
        .collect()
}

/// Which devices a job is for.
#[derive(Debug, Clone, Copy)]
pub enum Meant<'a> {
    Matching(&'a DeviceFilter),
    Named(&'a [DeviceId]),
}

/// Keeps the devices that a job is for, in the transaction that makes it. Gives how many there are.
pub async fn keep_for_job(tx: &mut Tx, job: JobId, meant: Meant<'_>) -> Result<u64, StoreError> {
    let built = match meant {
        Meant::Matching(filter) => query::keep_matching(&job.to_string(), filter),
        Meant::Named(devices) => query::keep_named(&job.to_string(), devices),
    };
    let mut query = sqlx::query(AssertSqlSafe(built.sql.as_str()));
    for value in &built.values {
        query = value.bind(query);
    }
    Ok(query.execute(&mut **tx).await?.rows_affected())
}

/// A job's devices in order of id, after `after`.
pub async fn of_job(db: &Db, job: JobId, after: &str, limit: u32) -> Result<Vec<DeviceId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(OF_JOB)
        .bind(job.to_string())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    ids.iter().map(|id| parsed("device id", id)).collect()
}

/// A job that is done needs its devices no more.
pub async fn forget_job(tx: &mut Tx, job: JobId) -> Result<(), StoreError> {
    sqlx::query(FORGET_JOB).bind(job.to_string()).execute(&mut **tx).await?;
    Ok(())
}

pub async fn counts(db: &Db, filter: &DeviceFilter) -> Result<DeviceCounts, StoreError> {
    let built = query::counts(filter);
    let mut query = sqlx::query(AssertSqlSafe(built.sql.as_str()));
    for value in &built.values {
        query = value.bind(query);
    }
    let mut counts = DeviceCounts::default();
    for row in query.fetch_all(db.read()).await? {
        let n = to_u64(row.try_get("n")?);
        counts.total += n;
        counts.updating += to_u64(row.try_get("updating")?);
        counts.alert += to_u64(row.try_get("alert")?);
        match row.try_get::<String, _>("status")?.as_str() {
            "online" => counts.online += n,
            "offline" => counts.offline += n,
            _ => counts.decommissioned += n,
        }
    }
    Ok(counts)
}

/// Rows of these devices; those that are not there are left out.
pub async fn by_ids(db: &Db, ids: &[DeviceId]) -> Result<Vec<Device>, StoreError> {
    let mut devices = Vec::with_capacity(ids.len());
    let names: Vec<&str> = ids.iter().map(DeviceId::as_str).collect();
    for chunk in names.chunks(PLACES) {
        for row in &bind_ids(sqlx::query(BY_IDS), chunk).fetch_all(db.read()).await? {
            devices.push(device_of(row)?);
        }
    }
    Ok(devices)
}

fn device_of(row: &SqliteRow) -> Result<Device, StoreError> {
    let flag = |column: &str| -> Result<bool, StoreError> { Ok(row.try_get::<i64, _>(column)? != 0) };
    let drift: f64 = row.try_get("drift")?;
    let last_seen: i64 = row.try_get("last_seen")?;
    let mut alerts = Vec::new();
    if flag("alert")? {
        for (column, alert) in [
            ("attacked", DeviceAlert::Attack),
            ("drifted", DeviceAlert::Drift),
            ("failed", DeviceAlert::FailedDeployment),
            ("faulty", DeviceAlert::Error),
        ] {
            if flag(column)? {
                alerts.push(alert);
            }
        }
    }
    Ok(Device {
        id: parsed("device id", row.try_get("device")?)?,
        status: match row.try_get::<String, _>("status")?.as_str() {
            "online" => DeviceStatus::Online,
            "offline" => DeviceStatus::Offline,
            _ => DeviceStatus::Decommissioned,
        },
        tags: json("tags", row.try_get("tags")?)?,
        hardware_class: row.try_get("hardware_class")?,
        arch: row.try_get("arch")?,
        agent_version: row.try_get("agent_version")?,
        thumbprint: parsed("thumbprint", row.try_get("thumbprint")?)?,
        enrolled_at: clock::rfc3339(row.try_get("enrolled_at")?),
        last_seen: (last_seen > 0).then(|| clock::rfc3339(last_seen)),
        models: json("models", row.try_get("models")?)?,
        inferences: to_u64(row.try_get("inferences")?),
        drifted: flag("drifted")?,
        drift: (drift >= 0.0).then_some(drift),
        updating: flag("updating")?,
        alerts,
    })
}

fn model_of(row: &SqliteRow) -> Result<DeviceModel, StoreError> {
    Ok(DeviceModel {
        slot: parsed("slot name", row.try_get("slot")?)?,
        line: parsed("model line", row.try_get("line")?)?,
        semver: row.try_get("semver")?,
        release_counter: to_u64(row.try_get("release_counter")?),
        manifest: parsed("manifest digest", row.try_get("manifest")?)?,
        committed: row.try_get::<i64, _>("committed")? != 0,
    })
}

/// A limit for SQL.
pub(super) fn limit(count: u64) -> i64 {
    to_i64(count)
}

#[cfg(test)]
mod tests;
