//! What a rollout gives to devices, and takes back: in pages, each a short transaction, however large the fleet is. Within a page
//! every statement is about as many devices as it can be: the single writer waits for statements more than for rows.

use flotilla_api_types::rollouts::Rollout;
use flotilla_protocol::ids::{DeploymentId, DeviceId, ModelVersionId, RolloutId};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::touch;
use crate::domain::rollout::cause::cause_of;
use crate::store::device_summaries::{PLACES, bind_ids};
use crate::store::{Db, StoreError, Tx, device_summaries, parsed, statements, to_i64};

statements! {
    GIVE = "WITH page (id, device) AS (VALUES ($5, $6), ($7, $8), ($9, $10), ($11, $12), ($13, $14), ($15, $16),
        ($17, $18), ($19, $20), ($21, $22), ($23, $24), ($25, $26), ($27, $28), ($29, $30), ($31, $32), ($33, $34),
        ($35, $36))
        INSERT INTO deployments
        (id, rollout, device, phase, state, reason, bytes_received, bytes_total, created_at, updated_at)
        SELECT page.id, mine.id, page.device, CAST($2 AS BIGINT),
        CASE WHEN later.id IS NULL THEN 'pending' ELSE 'no-longer-applicable' END,
        'rollout ' || later.id || ', which was started later, has this slot', 0, 0, CAST($3 AS BIGINT), CAST($3 AS BIGINT)
        FROM page JOIN rollouts mine ON mine.id = $1 LEFT JOIN targets t ON t.device = page.device AND t.slot = $4
        LEFT JOIN deployments held ON held.id = t.deployment
        LEFT JOIN rollouts later ON later.id = held.rollout AND later.id <> mine.id AND later.withdrawing = 0
            AND (later.started_at > mine.started_at OR (later.started_at = mine.started_at AND later.id > mine.id))
        WHERE page.device <> ''";
    WAIT_NO_MORE = "DELETE FROM rollout_targets WHERE rollout = $1
        AND device IN ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";
    // Where a deployment was given just now the target is still what it supersedes. Whether that is under way is asked inside: the
    // planner would go through everything that is, in the whole fleet.
    SUPERSEDE = "UPDATE deployments SET state = 'no-longer-applicable', reason = $1, updated_at = $2 WHERE id IN
        (SELECT held.id FROM targets t JOIN deployments held ON held.id = t.deployment
        JOIN deployments mine ON mine.device = t.device AND mine.rollout = $3 AND mine.state = 'pending' WHERE t.slot = $4
        AND t.device IN ($5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
        AND held.state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking'))";
    SET_TARGETS = "INSERT INTO targets (device, slot, deployment, model_version) SELECT p.device, $2, p.id, $3
        FROM deployments p WHERE p.rollout = $1 AND p.state = 'pending'
        AND p.device IN ($4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
        ON CONFLICT (device, slot) DO UPDATE SET deployment = excluded.deployment, model_version = excluded.model_version
        RETURNING device";
    MARK_STALE = "UPDATE devices SET desired_stale = 1
        WHERE id IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
    BEGIN_WITHDRAWING = "UPDATE rollouts SET withdrawing = 1 WHERE id = $1";
    WITHDRAWING = "SELECT id FROM rollouts WHERE withdrawing = 1 ORDER BY id";
    WITHDRAWN = "UPDATE rollouts SET withdrawing = 0 WHERE id = $1";
    // A device that timed out has failed and may still come back: its order is withdrawn as well.
    TO_WITHDRAW = "SELECT p.device FROM deployments p WHERE p.rollout = $1 AND p.device > $2
        AND p.state NOT IN ('success', 'already-installed') AND (p.state IN ('pending', 'downloading', 'installing',
        'verifying', 'soaking') OR EXISTS (SELECT 1 FROM targets t WHERE t.deployment = p.id AND t.device = p.device))
        ORDER BY p.device LIMIT 500";
    // These two of a page of that: between the device before its first and its last, nobody else has anything to give back.
    DROP_TARGETS = "DELETE FROM targets
        WHERE device IN (SELECT d.device FROM deployments d WHERE d.rollout = $1 AND d.device > $2 AND d.device <= $3)
        AND EXISTS (SELECT 1 FROM deployments p WHERE p.id = targets.deployment AND p.device = targets.device
        AND p.rollout = $1 AND p.state NOT IN ('success', 'already-installed'))";
    ABORT_DEPLOYMENTS = "UPDATE deployments SET state = 'no-longer-applicable', reason = 'the rollout was aborted',
        updated_at = $4 WHERE rollout = $1 AND device > $2 AND device <= $3
        AND state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking')";
    QUIET = "SELECT id FROM deployments WHERE rollout = $1 AND updated_at < $2
        AND state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking') LIMIT 1";
    TIME_OUT = "UPDATE deployments SET state = 'failure', reason = $1, cause = $2, updated_at = $3 WHERE id IN
        (SELECT q.id FROM deployments q WHERE q.rollout = $4 AND q.updated_at < $5
        AND q.state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking')
        ORDER BY q.updated_at, q.id LIMIT 500) RETURNING device";
}

/// What one device is given.
#[derive(Debug, Clone)]
pub struct NewDeployment {
    pub id: DeploymentId,
    pub device: DeviceId,
}

/// Gives the package to devices: a deployment each, the slot's target, and what was under way there superseded. A device whose
/// slot a rollout holds that was started later is left as it is, and its deployment says so.
pub async fn deploy(
    tx: &mut Tx,
    rollout: &Rollout,
    version: ModelVersionId,
    devices: &[NewDeployment],
    now: i64,
) -> Result<(), StoreError> {
    for chunk in devices.chunks(PLACES) {
        give(tx, rollout, version, chunk, now).await?;
    }
    touch(tx, rollout.id, now).await
}

/// To as many devices as a statement has places for.
async fn give(
    tx: &mut Tx,
    rollout: &Rollout,
    version: ModelVersionId,
    devices: &[NewDeployment],
    now: i64,
) -> Result<(), StoreError> {
    let id = rollout.id.to_string();
    let slot = rollout.spec.slot.as_str();
    let names: Vec<&str> = devices.iter().map(|new| new.device.as_str()).collect();
    let mut insert = sqlx::query(GIVE)
        .bind(&id)
        .bind(i64::from(rollout.phase))
        .bind(now)
        .bind(slot);
    for place in 0..PLACES {
        let new = devices.get(place);
        insert = insert
            .bind(new.map(|new| new.id.to_string()).unwrap_or_default())
            .bind(names.get(place).copied().unwrap_or_default());
    }
    insert.execute(&mut **tx).await?;
    bind_ids(sqlx::query(WAIT_NO_MORE).bind(&id), &names)
        .execute(&mut **tx)
        .await?;
    let supersede = sqlx::query(SUPERSEDE)
        .bind(format!("superseded by rollout {id}"))
        .bind(now)
        .bind(&id)
        .bind(slot);
    bind_ids(supersede, &names).execute(&mut **tx).await?;
    let target = sqlx::query(SET_TARGETS).bind(&id).bind(slot).bind(version.to_string());
    let given = devices_of(&bind_ids(target, &names).fetch_all(&mut **tx).await?)?;
    changed(tx, &given).await
}

fn devices_of(rows: &[SqliteRow]) -> Result<Vec<String>, StoreError> {
    rows.iter()
        .map(|row| row.try_get("device").map_err(StoreError::from))
        .collect()
}

/// The devices need another desired state, and lists show them differently.
async fn changed(tx: &mut Tx, devices: &[String]) -> Result<(), StoreError> {
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    for chunk in devices.chunks(PLACES) {
        bind_ids(sqlx::query(MARK_STALE), chunk).execute(&mut **tx).await?;
    }
    device_summaries::refresh_each(tx, &devices).await
}

/// Keeps that the rollout's orders are to be taken back, in the transaction that ends it: [`withdraw_page`] does it,
/// now or after a restart.
pub async fn begin_withdrawing(tx: &mut Tx, id: RolloutId) -> Result<(), StoreError> {
    sqlx::query(BEGIN_WITHDRAWING)
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Rollouts whose orders are not all taken back yet.
pub async fn withdrawing(db: &Db) -> Result<Vec<RolloutId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(WITHDRAWING).fetch_all(db.read()).await?;
    ids.iter().map(|id| parsed("rollout id", id)).collect()
}

/// Takes the orders back from the next devices that have not finished, above `after`, and gives the last of them: `None` when
/// that was all of it. What runs there goes on running.
pub async fn withdraw_page(db: &Db, id: RolloutId, after: &str, now: i64) -> Result<Option<String>, StoreError> {
    let mut tx = db.begin().await?;
    let rows = sqlx::query(TO_WITHDRAW)
        .bind(id.to_string())
        .bind(after)
        .fetch_all(&mut *tx)
        .await?;
    let page = devices_of(&rows)?;
    let of_page = |sql: &'static str, last: &str| sqlx::query(sql).bind(id.to_string()).bind(after).bind(last);
    if let Some(last) = page.last() {
        of_page(DROP_TARGETS, last).execute(&mut *tx).await?;
        of_page(ABORT_DEPLOYMENTS, last).bind(now).execute(&mut *tx).await?;
        changed(&mut tx, &page).await?;
    } else {
        sqlx::query(WITHDRAWN).bind(id.to_string()).execute(&mut *tx).await?;
    }
    touch(&mut tx, id, now).await?;
    tx.commit().await?;
    Ok(page.last().cloned())
}

/// Whether there are deployments of which nothing was heard since `before`.
pub async fn is_quiet(db: &Db, id: RolloutId, before: i64) -> Result<bool, StoreError> {
    let found = sqlx::query(QUIET).bind(id.to_string()).bind(before);
    Ok(found.fetch_optional(db.read()).await?.is_some())
}

/// Fails a page of the deployments of which nothing was heard since `before`. Returns how many; zero when none is left.
pub async fn time_out(tx: &mut Tx, id: RolloutId, reason: &str, before: i64, now: i64) -> Result<u64, StoreError> {
    let failed = sqlx::query(TIME_OUT)
        .bind(reason)
        .bind(cause_of(Some(reason), None))
        .bind(now)
        .bind(id.to_string())
        .bind(before)
        .fetch_all(&mut **tx)
        .await?;
    let devices = devices_of(&failed)?;
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    device_summaries::refresh_each(tx, &devices).await?;
    Ok(devices.len() as u64)
}

/// Pins a time-out in seconds to the milliseconds that the store speaks.
pub fn timeout_ms(seconds: u64) -> i64 {
    to_i64(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests;
