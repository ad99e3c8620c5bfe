//! Whom a rollout is still to be given to: the devices that its target expression selects and that have no deployment of it,
//! with their places in the order in which they are chosen. So that counting and choosing ask an index, however large the
//! fleet is.
//!
//! When a rollout starts, the fleet is looked at once, a page per transaction ([`select_page`]); where it stands is stored, so
//! that a restart goes on. From its start to its end every writer of what devices are selected by ([`follow`]: enrolment,
//! tags, reported facts, decommissioning) brings the device's membership up to date in its own transaction. Both look at the
//! device inside the writing transaction, and there is one of these at a time: whichever comes last is right.

use flotilla_api_types::rollouts::{CreateRollout, RolloutState};
use flotilla_protocol::ids::{DeviceId, RolloutId};
use sqlx::{Row as _, SqliteExecutor};

use crate::domain::rollout::plan::Order;
use crate::domain::rollout::{TargetExpression, TargetFacts};
use crate::store::{Db, StoreError, Tx, devices, json, parsed, statements, to_i64, to_u64};

statements! {
    LIVE = "SELECT id, spec FROM rollouts WHERE state IN ('running', 'paused', 'halted') ORDER BY id";
    ADD = "INSERT INTO rollout_targets (rollout, device, rank) SELECT $1, $2, CAST($3 AS BIGINT) WHERE NOT EXISTS
        (SELECT 1 FROM deployments WHERE rollout = $1 AND device = $2) ON CONFLICT (rollout, device) DO NOTHING";
    REMOVE = "DELETE FROM rollout_targets WHERE rollout = $1 AND device = $2";
    REMOVE_PAGE = "DELETE FROM rollout_targets WHERE rollout = $1 AND device > $2 AND device <= $3";
    CLEAR = "DELETE FROM rollout_targets WHERE rollout = $1";
    WAITING = "SELECT COUNT(*) FROM rollout_targets WHERE rollout = $1";
    FIRST = "SELECT device FROM rollout_targets WHERE rollout = $1 ORDER BY rank, device LIMIT $2";
    SELECTION = "SELECT state, selected_to, selected FROM rollouts WHERE id = $1";
    SET_SELECTION = "UPDATE rollouts SET selected_to = $1, selected = $2 WHERE id = $3";
}

/// Looks at the fleet's next devices for a rollout that has begun. `true` when there is nothing left to look at.
pub async fn select_page(
    db: &Db,
    id: RolloutId,
    (target, order): (&TargetExpression, &Order),
    limit: u32,
) -> Result<bool, StoreError> {
    let mut tx = db.begin().await?;
    let row = sqlx::query(SELECTION)
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| StoreError::not_found("rollout", id))?;
    let state: String = row.try_get("state")?;
    let is_live = RolloutState::parse(&state).is_some_and(RolloutState::is_live);
    if !is_live || row.try_get::<i64, _>("selected")? != 0 {
        return Ok(true);
    }
    let after: String = row.try_get("selected_to")?;
    let page = devices::facts_page(&mut *tx, &after, limit).await?;
    let last = page.last().map(|row| row.id.to_string());
    if let Some(last) = &last {
        // Made anew, whatever stood there.
        sqlx::query(REMOVE_PAGE)
            .bind(id.to_string())
            .bind(&after)
            .bind(last)
            .execute(&mut *tx)
            .await?;
    }
    for device in &page {
        if target.selects(&TargetFacts::of(&device.id, &device.tags, &device.facts)) {
            add(&mut tx, id, &device.id, order).await?;
        }
    }
    let done = page.len() < limit as usize;
    sqlx::query(SET_SELECTION)
        .bind(last.unwrap_or(after))
        .bind(i64::from(done))
        .bind(id.to_string())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(done)
}

async fn add(tx: &mut Tx, id: RolloutId, device: &DeviceId, order: &Order) -> Result<(), StoreError> {
    sqlx::query(ADD)
        .bind(id.to_string())
        .bind(device.as_str())
        .bind(order.rank(device))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A device came, went, or changed in what it is selected by: every rollout that is under way takes it in or lets it go.
pub async fn follow(tx: &mut Tx, device: &DeviceId) -> Result<(), StoreError> {
    let live = sqlx::query(LIVE).fetch_all(&mut **tx).await?;
    if live.is_empty() {
        return Ok(());
    }
    let facts = devices::facts_of(&mut **tx, device).await?;
    for row in live {
        let id: RolloutId = parsed("rollout id", row.try_get("id")?)?;
        let spec: CreateRollout = json("rollout", row.try_get("spec")?)?;
        // One that another version of this server took and this one does not take selects nobody.
        let target = TargetExpression::compile(&spec.target).ok();
        let is_selected = target.zip(facts.as_ref()).is_some_and(|(target, row)| {
            let facts = TargetFacts::of(&row.id, &row.tags, &row.facts);
            target.selects(&facts)
        });
        if is_selected {
            add(tx, id, device, &Order::of(id, &spec)).await?;
        } else {
            remove(tx, id, device).await?;
        }
    }
    Ok(())
}

/// The device was given the rollout, or is not selected any more.
pub async fn remove(tx: &mut Tx, id: RolloutId, device: &DeviceId) -> Result<(), StoreError> {
    sqlx::query(REMOVE)
        .bind(id.to_string())
        .bind(device.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The rollout has ended.
pub async fn clear(tx: &mut Tx, id: RolloutId) -> Result<(), StoreError> {
    sqlx::query(CLEAR).bind(id.to_string()).execute(&mut **tx).await?;
    Ok(())
}

/// How many devices wait; as far as the fleet has been looked at.
pub async fn waiting<'e>(executor: impl SqliteExecutor<'e>, id: RolloutId) -> Result<u64, StoreError> {
    let waiting: i64 = sqlx::query_scalar(WAITING)
        .bind(id.to_string())
        .fetch_one(executor)
        .await?;
    Ok(to_u64(waiting))
}

/// Whom the rollout gives the package to next.
pub async fn first<'e>(
    executor: impl SqliteExecutor<'e>,
    id: RolloutId,
    limit: u64,
) -> Result<Vec<DeviceId>, StoreError> {
    let rows: Vec<String> = sqlx::query_scalar(FIRST)
        .bind(id.to_string())
        .bind(to_i64(limit))
        .fetch_all(executor)
        .await?;
    rows.iter().map(|device| parsed("device id", device)).collect()
}

#[cfg(test)]
mod tests;
