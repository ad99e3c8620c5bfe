//! What is forgotten by age, a bounded batch per transaction, so that nobody waits long for the writer.
//!
//! Never forgotten here: audit records (chains must stay whole), datasets, models, rollouts, and totals per package. The tests
//! name every table that stays, and why it does not grow with time alone.

#[cfg(test)]
mod tests;

use crate::store::{Db, StoreError, statements};

statements! {
    RECORDS_PAGE = "SELECT MAX(page.received_at) FROM (SELECT r.received_at FROM device_records r
        WHERE r.received_at > $1 AND r.received_at < $2 ORDER BY r.received_at LIMIT $3) AS page";
    PRUNE_RECORDS = "DELETE FROM device_records WHERE received_at > $1 AND received_at <= $2 AND NOT EXISTS
        (SELECT 1 FROM devices d WHERE d.id = device_records.device AND d.status = 'active'
        AND COALESCE(d.last_seen, 0) < device_records.received_at + $3)";
    PRUNE_KEYS = "DELETE FROM idempotency_keys WHERE (actor, idempotency_key) IN
        (SELECT k.actor, k.idempotency_key FROM idempotency_keys k WHERE k.created_at < $1
        ORDER BY k.created_at LIMIT $2)";
    PRUNE_SKETCHES = "DELETE FROM sketches WHERE (hour, device, manifest) IN
        (SELECT s.hour, s.device, s.manifest FROM sketches s WHERE s.hour < $1 ORDER BY s.hour LIMIT $2)";
    PRUNE_EVENTS = "DELETE FROM device_events WHERE (device, at, event) IN
        (SELECT e.device, e.at, e.event FROM device_events e WHERE e.at < $1 ORDER BY e.at LIMIT $2)";
    PRUNE_HOURS = "DELETE FROM telemetry_hours WHERE (device, hour, manifest) IN
        (SELECT t.device, t.hour, t.manifest FROM telemetry_hours t WHERE t.hour < $1 ORDER BY t.hour LIMIT $2)";
    PRUNE_FLEET_HOURS = "DELETE FROM fleet_hours WHERE hour IN
        (SELECT h.hour FROM fleet_hours h WHERE h.hour < $1 ORDER BY h.hour LIMIT $2)";
    PRUNE_JOBS = "DELETE FROM jobs WHERE id IN (SELECT j.id FROM jobs j
        WHERE j.state IN ('succeeded', 'failed', 'cancelled') AND j.created_at < $1 LIMIT $2)";
    PRUNE_IMPORTS = "DELETE FROM imports WHERE id IN (SELECT i.id FROM imports i
        WHERE i.staged = 0 AND i.created_at < $1 AND i.state IN ('finished', 'failed', 'cancelled') LIMIT $2)";
}

const DAY_MS: i64 = 24 * 3600 * 1000;
const HOUR_MS: i64 = 3600 * 1000;

/// How long a counted record's name is kept at least.
///
/// A device repeats a record until it has the receipt, oldest first, at once after every connection. So once it was heard
/// of a day after the record was counted ([`RECEIPT_MS`]), the record was receipted and its name is needed no more; the
/// thirty days are for connections that break before the receipt arrives, again and again. A device that has been silent
/// ever since keeps the names of its last day for ever: that is exactly what it may send again when it returns.
const RECORDS_MS: i64 = 30 * DAY_MS;
const RECEIPT_MS: i64 = DAY_MS;
/// Half a year of hours (sketches, telemetry, the fleet's totals) and of comings and goings: seasons can be compared, and the
/// tables stop growing.
const HOURS_MS: i64 = 180 * DAY_MS;
/// How long the ends of jobs and imports can be looked up. Their results stand in tables of their own.
const ENDED_MS: i64 = 90 * DAY_MS;

/// A table that is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    DeviceRecords,
    IdempotencyKeys,
    Sketches,
    DeviceEvents,
    TelemetryHours,
    FleetHours,
    Jobs,
    Imports,
}

impl Table {
    pub const ALL: [Self; 8] = [
        Self::DeviceRecords,
        Self::IdempotencyKeys,
        Self::Sketches,
        Self::DeviceEvents,
        Self::TelemetryHours,
        Self::FleetHours,
        Self::Jobs,
        Self::Imports,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeviceRecords => "device_records",
            Self::IdempotencyKeys => "idempotency_keys",
            Self::Sketches => "sketches",
            Self::DeviceEvents => "device_events",
            Self::TelemetryHours => "telemetry_hours",
            Self::FleetHours => "fleet_hours",
            Self::Jobs => "jobs",
            Self::Imports => "imports",
        }
    }

    const fn statement(self) -> &'static str {
        match self {
            Self::DeviceRecords => PRUNE_RECORDS,
            Self::IdempotencyKeys => PRUNE_KEYS,
            Self::Sketches => PRUNE_SKETCHES,
            Self::DeviceEvents => PRUNE_EVENTS,
            Self::TelemetryHours => PRUNE_HOURS,
            Self::FleetHours => PRUNE_FLEET_HOURS,
            Self::Jobs => PRUNE_JOBS,
            Self::Imports => PRUNE_IMPORTS,
        }
    }

    /// What is older goes; in the unit of the table's column.
    const fn cutoff(self, now: i64) -> i64 {
        match self {
            Self::DeviceRecords => now - RECORDS_MS,
            Self::IdempotencyKeys => now - super::idempotency::LIFETIME_MS,
            Self::Sketches | Self::TelemetryHours | Self::FleetHours => (now - HOURS_MS).div_euclid(HOUR_MS),
            Self::DeviceEvents => now - HOURS_MS,
            Self::Jobs | Self::Imports => now - ENDED_MS,
        }
    }
}

/// What a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    pub rows: u64,
    /// Where the next batch goes on; `None`: there is no more.
    pub next: Option<i64>,
}

/// Removes one batch of about `most` rows. `after`: what the batch before gave; [`i64::MIN`] at first.
pub async fn prune(db: &Db, table: Table, after: i64, most: u32, now: i64) -> Result<Pruned, StoreError> {
    let cutoff = table.cutoff(now);
    if table == Table::DeviceRecords {
        return prune_records(db, (after, cutoff), most).await;
    }
    let mut tx = db.begin().await?;
    let rows = sqlx::query(table.statement())
        .bind(cutoff)
        .bind(i64::from(most))
        .execute(&mut *tx)
        .await?
        .rows_affected();
    tx.commit().await?;
    Ok(Pruned {
        rows,
        next: (rows >= u64::from(most)).then_some(after),
    })
}

/// Walks the records by time, because those of silent devices stay and would be looked at again and again.
async fn prune_records(db: &Db, (after, cutoff): (i64, i64), most: u32) -> Result<Pruned, StoreError> {
    let end: Option<i64> = sqlx::query_scalar(RECORDS_PAGE)
        .bind(after)
        .bind(cutoff)
        .bind(i64::from(most))
        .fetch_one(db.read())
        .await?;
    let Some(end) = end else {
        return Ok(Pruned { rows: 0, next: None });
    };
    let mut tx = db.begin().await?;
    let rows = sqlx::query(PRUNE_RECORDS)
        .bind(after)
        .bind(end)
        .bind(RECEIPT_MS)
        .execute(&mut *tx)
        .await?
        .rows_affected();
    tx.commit().await?;
    Ok(Pruned { rows, next: Some(end) })
}
