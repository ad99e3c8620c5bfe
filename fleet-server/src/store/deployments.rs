//! What became of a rollout, device by device, and its failures by cause.

use std::collections::BTreeMap;

use flotilla_api_types::rollouts::{Deployment, FailureCause, RolloutFailures};
use flotilla_protocol::ids::{DeviceId, RolloutId};
use flotilla_protocol::report::DeploymentState;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock;
use crate::domain::rollout::cause::cause_of;
use crate::store::{Db, StoreError, parsed, statements, to_u64};

statements! {
    PAGE = "SELECT id, device, phase, state, reason, cause, bytes_received, bytes_total, updated_at FROM deployments
        WHERE rollout = $1 AND device > $2 ORDER BY device LIMIT $3";
    PAGE_OF_STATE = "SELECT id, device, phase, state, reason, cause, bytes_received, bytes_total, updated_at
        FROM deployments WHERE rollout = $1 AND state = $4 AND device > $2 ORDER BY device LIMIT $3";
    PAGE_OF_CAUSE = "SELECT id, device, phase, state, reason, cause, bytes_received, bytes_total, updated_at
        FROM deployments WHERE rollout = $1 AND cause = $4 AND state IN ($5, $6) AND device > $2 ORDER BY device LIMIT $3";
    COUNT_OF_CAUSE = "SELECT COUNT(*) FROM deployments WHERE rollout = $1 AND cause = $2 AND state IN ($3, $4)";
    FAILED = "SELECT COUNT(*) AS n, COUNT(DISTINCT cause) AS causes FROM deployments
        WHERE rollout = $1 AND cause IS NOT NULL";
    CAUSES = "SELECT cause, COUNT(*) AS n, MAX(updated_at) AS last_seen FROM deployments
        WHERE rollout = $1 AND cause IS NOT NULL GROUP BY cause ORDER BY n DESC, cause LIMIT $2";
    EXAMPLES = "SELECT q.cause, q.device, p.reason FROM (SELECT d.cause, d.device,
            ROW_NUMBER() OVER (PARTITION BY d.cause ORDER BY d.device) AS place FROM deployments d
            WHERE d.rollout = $1 AND d.cause IN (SELECT c.cause FROM deployments c
            WHERE c.rollout = $1 AND c.cause IS NOT NULL GROUP BY c.cause ORDER BY COUNT(*) DESC, c.cause LIMIT $2)) q
        JOIN deployments p ON p.rollout = $1 AND p.device = q.device WHERE q.place <= $3 ORDER BY q.cause, q.device";
    CAUSELESS = "SELECT id, device, reason FROM deployments
        WHERE cause IS NULL AND state IN ('failure', 'rolled-back') AND id > $1 ORDER BY id LIMIT 500";
    SET_CAUSE = "UPDATE deployments SET cause = $1 WHERE id = $2 AND cause IS NULL
        AND state IN ('failure', 'rolled-back')";
}

/// Devices named per cause.
const EXAMPLES_PER_CAUSE: i64 = 5;

/// The states that have a cause.
const FAILURES: [DeploymentState; 2] = [DeploymentState::Failure, DeploymentState::RolledBack];

/// Which deployments of a rollout.
#[derive(Debug, Clone, Default)]
pub struct DeploymentQuery {
    /// Of any state where none is named.
    pub states: Vec<DeploymentState>,
    pub cause: Option<String>,
    /// The device that the last page ended with.
    pub after: String,
    pub limit: u32,
}

impl DeploymentQuery {
    fn wants(&self, state: DeploymentState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// The failures among the states, in two places; `None`: no deployment of these states has a cause.
    fn failures(&self) -> Option<[DeploymentState; 2]> {
        let mut wanted = FAILURES.into_iter().filter(|state| self.wants(*state));
        let first = wanted.next()?;
        Some([first, wanted.next().unwrap_or(first)])
    }
}

/// A page in order of device.
pub async fn list(db: &Db, id: RolloutId, asked: &DeploymentQuery) -> Result<Vec<Deployment>, StoreError> {
    let page = |sql: &'static str| {
        let query = sqlx::query(sql).bind(id.to_string()).bind(asked.after.as_str());
        query.bind(i64::from(asked.limit))
    };
    if let Some(cause) = &asked.cause {
        let Some([one, other]) = asked.failures() else {
            return Ok(Vec::new());
        };
        let query = page(PAGE_OF_CAUSE).bind(cause).bind(one.as_str()).bind(other.as_str());
        return read(&query.fetch_all(db.read()).await?);
    }
    if asked.states.is_empty() {
        return read(&page(PAGE).fetch_all(db.read()).await?);
    }
    // A page of each state in the order of an index, and of these the first: a query for all of them would sort them all.
    let mut tx = db.read().begin().await?;
    let mut found = Vec::new();
    for state in DeploymentState::ALL.into_iter().filter(|state| asked.wants(*state)) {
        found.extend(read(
            &page(PAGE_OF_STATE).bind(state.as_str()).fetch_all(&mut *tx).await?,
        )?);
    }
    found.sort_by(|one, other| one.device.cmp(&other.device));
    found.truncate(asked.limit as usize);
    Ok(found)
}

/// How many there are. `counts`: the rollout's deployments per state.
pub async fn total(
    db: &Db,
    id: RolloutId,
    asked: &DeploymentQuery,
    counts: &BTreeMap<String, u64>,
) -> Result<u64, StoreError> {
    let Some(cause) = &asked.cause else {
        let wanted = DeploymentState::ALL.into_iter().filter(|state| asked.wants(*state));
        return Ok(wanted.filter_map(|state| counts.get(state.as_str())).sum());
    };
    let Some([one, other]) = asked.failures() else {
        return Ok(0);
    };
    let total: i64 = sqlx::query_scalar(COUNT_OF_CAUSE)
        .bind(id.to_string())
        .bind(cause)
        .bind(one.as_str())
        .bind(other.as_str())
        .fetch_one(db.read())
        .await?;
    Ok(to_u64(total))
}

fn read(rows: &[SqliteRow]) -> Result<Vec<Deployment>, StoreError> {
    rows.iter()
        .map(|row| {
            let state: String = row.try_get("state")?;
            Ok(Deployment {
                id: parsed("deployment id", row.try_get("id")?)?,
                device: parsed("device id", row.try_get("device")?)?,
                phase: u32::try_from(row.try_get::<i64, _>("phase")?).unwrap_or(0),
                state: DeploymentState::parse(&state).ok_or_else(|| StoreError::corrupt("deployment state", &state))?,
                reason: row.try_get("reason")?,
                cause: row.try_get("cause")?,
                bytes_received: to_u64(row.try_get("bytes_received")?),
                bytes_total: to_u64(row.try_get("bytes_total")?),
                updated_at: clock::rfc3339(row.try_get("updated_at")?),
            })
        })
        .collect()
}

/// The commonest causes of a rollout's failures.
pub async fn failures(db: &Db, id: RolloutId, limit: u32) -> Result<RolloutFailures, StoreError> {
    let mut tx = db.read().begin().await?;
    let all = sqlx::query(FAILED).bind(id.to_string()).fetch_one(&mut *tx).await?;
    let mut items = Vec::new();
    let rows = sqlx::query(CAUSES).bind(id.to_string()).bind(i64::from(limit));
    for row in rows.fetch_all(&mut *tx).await? {
        items.push(FailureCause {
            cause: row.try_get("cause")?,
            count: to_u64(row.try_get("n")?),
            devices: Vec::new(),
            reason: None,
            last_seen: clock::rfc3339(row.try_get("last_seen")?),
        });
    }
    let rows = sqlx::query(EXAMPLES)
        .bind(id.to_string())
        .bind(i64::from(limit))
        .bind(EXAMPLES_PER_CAUSE);
    for row in rows.fetch_all(&mut *tx).await? {
        let cause: &str = row.try_get("cause")?;
        let Some(item) = items.iter_mut().find(|item| item.cause == cause) else {
            continue;
        };
        if item.devices.is_empty() {
            item.reason = row.try_get("reason")?;
        }
        item.devices.push(parsed("device id", row.try_get("device")?)?);
    }
    Ok(RolloutFailures {
        items,
        causes: to_u64(all.try_get("causes")?),
        devices: to_u64(all.try_get("n")?),
    })
}

/// What a deployment's failure is found by; `None` where it did not fail.
pub fn cause(state: DeploymentState, reason: Option<&str>, device: &DeviceId) -> Option<String> {
    FAILURES.contains(&state).then(|| cause_of(reason, Some(device)))
}

/// Causes of failures from before there were causes.
pub async fn fill_causes(db: &Db) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let rows = sqlx::query(CAUSELESS).bind(&after).fetch_all(db.read()).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut tx = db.begin().await?;
        for row in &rows {
            after = row.try_get("id")?;
            let device: DeviceId = parsed("device id", row.try_get("device")?)?;
            let reason: Option<&str> = row.try_get("reason")?;
            sqlx::query(SET_CAUSE)
                .bind(cause_of(reason, Some(&device)))
                .bind(&after)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
    }
}

#[cfg(test)]
mod tests;
