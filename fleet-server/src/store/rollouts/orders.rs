//! What a rollout gives to devices, and takes back: in pages, each a short transaction, however large the fleet is.

use flotilla_api_types::rollouts::Rollout;
use flotilla_protocol::ids::{DeploymentId, DeviceId, ModelVersionId, RolloutId, SlotName};
use sqlx::Row as _;

use super::touch;
use crate::domain::rollout::cause::cause_of;
use crate::store::{Db, StoreError, Tx, device_summaries, parsed, rollout_targets, statements, to_i64};

statements! {
    // Started later, or at the same moment under a later id.
    OUTRANKED = "SELECT r.id FROM targets t JOIN deployments p ON p.id = t.deployment JOIN rollouts r ON r.id = p.rollout
        JOIN rollouts mine ON mine.id = $1 WHERE t.device = $2 AND t.slot = $3 AND r.id <> mine.id AND r.withdrawing = 0
        AND (r.started_at > mine.started_at OR (r.started_at = mine.started_at AND r.id > mine.id))";
    INSERT_DEPLOYMENT = "INSERT INTO deployments
        (id, rollout, device, phase, state, reason, bytes_received, bytes_total, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $6, $7, 0, 0, $5, $5)";
    SUPERSEDE = "UPDATE deployments SET state = 'no-longer-applicable', reason = $1, updated_at = $2
        WHERE state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking') AND id IN
        (SELECT deployment FROM targets WHERE device = $3 AND slot = $4)";
    SET_TARGET = "INSERT INTO targets (device, slot, deployment, model_version) VALUES ($1, $2, $3, $4)
        ON CONFLICT (device, slot) DO UPDATE SET deployment = excluded.deployment, model_version = excluded.model_version";
    MARK_STALE = "UPDATE devices SET desired_stale = 1 WHERE id = $1";
    BEGIN_WITHDRAWING = "UPDATE rollouts SET withdrawing = 1 WHERE id = $1";
    WITHDRAWING = "SELECT id FROM rollouts WHERE withdrawing = 1 ORDER BY id";
    WITHDRAWN = "UPDATE rollouts SET withdrawing = 0 WHERE id = $1";
    // A device that timed out has failed and may still come back: its order is withdrawn as well.
    TO_WITHDRAW = "SELECT p.id, p.device FROM deployments p WHERE p.rollout = $1 AND p.device > $2
        AND p.state NOT IN ('success', 'already-installed') AND (p.state IN ('pending', 'downloading', 'installing',
        'verifying', 'soaking') OR EXISTS (SELECT 1 FROM targets t WHERE t.deployment = p.id AND t.device = p.device))
        ORDER BY p.device LIMIT 500";
    DROP_TARGET = "DELETE FROM targets WHERE deployment = $1 AND device = $2 AND EXISTS (SELECT 1 FROM deployments p
        WHERE p.id = $1 AND p.state NOT IN ('success', 'already-installed'))";
    ABORT_DEPLOYMENT = "UPDATE deployments SET state = 'no-longer-applicable', reason = 'the rollout was aborted',
        updated_at = $1 WHERE id = $2 AND state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking')";
    QUIET = "SELECT id, device FROM deployments WHERE rollout = $1 AND updated_at < $2
        AND state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking') ORDER BY updated_at, id LIMIT 500";
    TIME_OUT = "UPDATE deployments SET state = 'failure', reason = $1, cause = $2, updated_at = $3 WHERE id = $4
        AND updated_at < $5 AND state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking')";
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
    let reason = format!("superseded by rollout {}", rollout.id);
    let slot: &SlotName = &rollout.spec.slot;
    for new in devices {
        let later: Option<String> = sqlx::query_scalar(OUTRANKED)
            .bind(rollout.id.to_string())
            .bind(new.device.as_str())
            .bind(slot.as_str())
            .fetch_optional(&mut **tx)
            .await?;
        let outranked = later.map(|id| format!("rollout {id}, which was started later, has this slot"));
        let insert = sqlx::query(INSERT_DEPLOYMENT)
            .bind(new.id.to_string())
            .bind(rollout.id.to_string())
            .bind(new.device.as_str())
            .bind(i64::from(rollout.phase))
            .bind(now)
            .bind(if outranked.is_some() {
                "no-longer-applicable"
            } else {
                "pending"
            })
            .bind(&outranked);
        if outranked.is_none() {
            sqlx::query(SUPERSEDE)
                .bind(&reason)
                .bind(now)
                .bind(new.device.as_str())
                .bind(slot.as_str())
                .execute(&mut **tx)
                .await?;
        }
        insert.execute(&mut **tx).await?;
        rollout_targets::remove(tx, rollout.id, &new.device).await?;
        if outranked.is_none() {
            sqlx::query(SET_TARGET)
                .bind(new.device.as_str())
                .bind(slot.as_str())
                .bind(new.id.to_string())
                .bind(version.to_string())
                .execute(&mut **tx)
                .await?;
            changed(tx, new.device.as_str()).await?;
        }
    }
    touch(tx, rollout.id, now).await
}

/// The device needs another desired state, and lists show it differently.
async fn changed(tx: &mut Tx, device: &str) -> Result<(), StoreError> {
    sqlx::query(MARK_STALE).bind(device).execute(&mut **tx).await?;
    device_summaries::refresh(tx, device).await
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
    let page = sqlx::query(TO_WITHDRAW)
        .bind(id.to_string())
        .bind(after)
        .fetch_all(&mut *tx)
        .await?;
    let mut last = None;
    for row in &page {
        let (deployment, device): (&str, String) = (row.try_get("id")?, row.try_get("device")?);
        sqlx::query(DROP_TARGET)
            .bind(deployment)
            .bind(&device)
            .execute(&mut *tx)
            .await?;
        sqlx::query(ABORT_DEPLOYMENT)
            .bind(now)
            .bind(deployment)
            .execute(&mut *tx)
            .await?;
        changed(&mut tx, &device).await?;
        last = Some(device);
    }
    if last.is_none() {
        sqlx::query(WITHDRAWN).bind(id.to_string()).execute(&mut *tx).await?;
    }
    touch(&mut tx, id, now).await?;
    tx.commit().await?;
    Ok(last)
}

/// Whether there are deployments of which nothing was heard since `before`.
pub async fn is_quiet(db: &Db, id: RolloutId, before: i64) -> Result<bool, StoreError> {
    let found = sqlx::query(QUIET).bind(id.to_string()).bind(before);
    Ok(found.fetch_optional(db.read()).await?.is_some())
}

/// Fails a page of the deployments of which nothing was heard since `before`. Returns how many; zero when none is left.
pub async fn time_out(tx: &mut Tx, id: RolloutId, reason: &str, before: i64, now: i64) -> Result<u64, StoreError> {
    let page = sqlx::query(QUIET)
        .bind(id.to_string())
        .bind(before)
        .fetch_all(&mut **tx)
        .await?;
    let mut failed = 0;
    for row in &page {
        let done = sqlx::query(TIME_OUT)
            .bind(reason)
            .bind(cause_of(Some(reason), None))
            .bind(now)
            .bind(row.try_get::<&str, _>("id")?)
            .bind(before)
            .execute(&mut **tx)
            .await?;
        failed += done.rows_affected();
        device_summaries::refresh(tx, row.try_get("device")?).await?;
    }
    Ok(failed)
}

/// Pins a time-out in seconds to the milliseconds that the store speaks.
pub fn timeout_ms(seconds: u64) -> i64 {
    to_i64(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests;
