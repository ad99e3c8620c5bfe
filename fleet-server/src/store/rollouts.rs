//! Rollouts and their deployments.

use std::collections::BTreeMap;

use flotilla_api_types::rollouts::{CreateRollout, Deployment, Rollout, RolloutState};
use flotilla_protocol::ids::{DeploymentId, DeviceId, Digest, ModelLine, ModelVersionId, RolloutId, SlotName};
use flotilla_protocol::report::DeploymentState;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock;
use crate::domain::rollout::Progress;
use crate::store::{Db, StoreError, Tx, device_summaries, json, parsed, statements, to_i64, to_json, to_u64};

statements! {
    INSERT = "INSERT INTO rollouts (id, project_id, model_version, spec, state, phase, decision, created_at, updated_at)
        VALUES ($1, $2, $3, $4, 'draft', 0, 'draft', $5, $5)";
    GET = "SELECT r.id, r.model_version, r.spec, r.state, r.phase, r.decision, r.created_at, r.updated_at, v.line, v.semver
        FROM rollouts r JOIN model_versions v ON v.id = r.model_version WHERE r.id = $1";
    LIST = "SELECT r.id, r.model_version, r.spec, r.state, r.phase, r.decision, r.created_at, r.updated_at, v.line, v.semver
        FROM rollouts r JOIN model_versions v ON v.id = r.model_version WHERE r.id < $1 ORDER BY r.id DESC LIMIT $2";
    RUNNING = "SELECT id FROM rollouts WHERE state = 'running' ORDER BY id LIMIT 1000";
    SET_STATE = "UPDATE rollouts SET state = $1, phase = $2, decision = $3, updated_at = $4 WHERE id = $5 AND state = $6";
    TOUCH = "UPDATE rollouts SET updated_at = $1 WHERE id = $2";
    EXCUSED = "SELECT excused FROM rollouts WHERE id = $1";
    EXCUSE = "UPDATE rollouts SET excused = (SELECT COUNT(*) FROM deployments WHERE rollout = $1
        AND state IN ('failure', 'rolled-back')) WHERE id = $1";
    COUNTS = "SELECT rollout, state, COUNT(*) AS n FROM deployments WHERE rollout = $1 GROUP BY rollout, state";
    DEPLOYED_BETWEEN = "SELECT device FROM deployments WHERE rollout = $1 AND device > $2 AND device <= $3";
    INSERT_DEPLOYMENT = "INSERT INTO deployments
        (id, rollout, device, phase, state, reason, bytes_received, bytes_total, created_at, updated_at)
        VALUES ($1, $2, $3, $4, 'pending', NULL, 0, 0, $5, $5)";
    SUPERSEDE = "UPDATE deployments SET state = 'no-longer-applicable', reason = $1, updated_at = $2
        WHERE state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking') AND id IN
        (SELECT deployment FROM targets WHERE device = $3 AND slot = $4)";
    SET_TARGET = "INSERT INTO targets (device, slot, deployment, model_version) VALUES ($1, $2, $3, $4)
        ON CONFLICT (device, slot) DO UPDATE SET deployment = excluded.deployment, model_version = excluded.model_version";
    MARK_STALE = "UPDATE devices SET desired_stale = 1 WHERE id = $1";
    // A device that timed out has failed and may still come back: its order is withdrawn as well.
    MARK_ROLLOUT_STALE = "UPDATE devices SET desired_stale = 1 WHERE id IN (SELECT device FROM deployments WHERE rollout = $1
        AND state NOT IN ('success', 'already-installed'))";
    DROP_TARGETS = "DELETE FROM targets WHERE deployment IN (SELECT id FROM deployments WHERE rollout = $1
        AND state NOT IN ('success', 'already-installed'))";
    ABORT_DEPLOYMENTS = "UPDATE deployments SET state = 'no-longer-applicable', reason = 'the rollout was aborted', updated_at = $1
        WHERE rollout = $2 AND state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking')";
    MARK_TARGETED_STALE = "UPDATE devices SET desired_stale = 1 WHERE id IN (SELECT device FROM targets WHERE model_version = $1)";
    HARVEST_OF = "SELECT r.spec FROM deployments d JOIN rollouts r ON r.id = d.rollout
        JOIN model_versions v ON v.id = r.model_version WHERE d.device = $1 AND v.manifest = $2 AND v.line = $3
        ORDER BY d.created_at DESC, d.id DESC LIMIT 1";
    HARVESTED = "SELECT taken FROM harvested WHERE device = $1 AND manifest = $2";
    COUNT_HARVESTED = "INSERT INTO harvested (device, manifest, taken) VALUES ($1, $2, $3)
        ON CONFLICT (device, manifest) DO UPDATE SET taken = harvested.taken + excluded.taken";
    TIME_OUT = "UPDATE deployments SET state = 'failure', reason = $1, updated_at = $2 WHERE rollout = $3 AND updated_at < $4
        AND state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking')";
    DEPLOYMENTS = "SELECT id, device, phase, state, reason, bytes_received, bytes_total, updated_at FROM deployments
        WHERE rollout = $1 AND device > $2 ORDER BY device LIMIT $3";
}

pub async fn create(
    tx: &mut Tx,
    id: RolloutId,
    project: &str,
    spec: &CreateRollout,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query(INSERT)
        .bind(id.to_string())
        .bind(project)
        .bind(spec.model_version.to_string())
        .bind(to_json("rollout", spec)?)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub async fn get(db: &Db, id: RolloutId) -> Result<Rollout, StoreError> {
    let row = sqlx::query(GET)
        .bind(id.to_string())
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("rollout", id))?;
    let mut rollout = rollout_of(&row)?;
    count(db, &mut rollout).await?;
    Ok(rollout)
}

/// Newest first, below `before`.
pub async fn list(db: &Db, before: Option<RolloutId>, limit: u32) -> Result<Vec<Rollout>, StoreError> {
    let before = before.map_or_else(|| "g".to_owned(), |id| id.to_string());
    let rows = sqlx::query(LIST)
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    let mut rollouts = rows.iter().map(rollout_of).collect::<Result<Vec<_>, _>>()?;
    for rollout in &mut rollouts {
        count(db, rollout).await?;
    }
    Ok(rollouts)
}

fn rollout_of(row: &SqliteRow) -> Result<Rollout, StoreError> {
    let state: String = row.try_get("state")?;
    Ok(Rollout {
        id: parsed("rollout id", row.try_get("id")?)?,
        spec: json("rollout", row.try_get("spec")?)?,
        line: row.try_get("line")?,
        semver: row.try_get("semver")?,
        state: RolloutState::parse(&state).ok_or_else(|| StoreError::corrupt("rollout state", &state))?,
        phase: u32::try_from(row.try_get::<i64, _>("phase")?).unwrap_or(0),
        decision: row.try_get("decision")?,
        counts: BTreeMap::new(),
        targeted: 0,
        created_at: clock::rfc3339(row.try_get("created_at")?),
        updated_at: clock::rfc3339(row.try_get("updated_at")?),
    })
}

async fn count(db: &Db, rollout: &mut Rollout) -> Result<(), StoreError> {
    for row in sqlx::query(COUNTS)
        .bind(rollout.id.to_string())
        .fetch_all(db.read())
        .await?
    {
        let n = to_u64(row.try_get("n")?);
        rollout.targeted += n;
        rollout.counts.insert(row.try_get("state")?, n);
    }
    Ok(())
}

pub async fn running(db: &Db) -> Result<Vec<RolloutId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(RUNNING).fetch_all(db.read()).await?;
    ids.iter().map(|id| parsed("rollout id", id)).collect()
}

/// How the deployments stand.
pub async fn progress(db: &Db, id: RolloutId) -> Result<Progress, StoreError> {
    let mut progress = Progress::default();
    for row in sqlx::query(COUNTS).bind(id.to_string()).fetch_all(db.read()).await? {
        let n = to_u64(row.try_get("n")?);
        let text: String = row.try_get("state")?;
        let state = DeploymentState::parse(&text).ok_or_else(|| StoreError::corrupt("deployment state", &text))?;
        progress.deployed += n;
        if state.is_success() {
            progress.succeeded += n;
        } else if matches!(state, DeploymentState::Failure | DeploymentState::RolledBack) {
            progress.failed += n;
        } else if !state.is_final() {
            progress.pending += n;
        }
    }
    let excused: i64 = sqlx::query_scalar(EXCUSED)
        .bind(id.to_string())
        .fetch_one(db.read())
        .await?;
    progress.failed = progress.failed.saturating_sub(to_u64(excused));
    Ok(progress)
}

/// The failures so far no longer count against the rollout: somebody looked at them and goes on.
pub async fn excuse_failures(tx: &mut Tx, id: RolloutId) -> Result<(), StoreError> {
    sqlx::query(EXCUSE).bind(id.to_string()).execute(&mut **tx).await?;
    Ok(())
}

/// A change of state, made only from the state that it was decided in.
#[derive(Debug, Clone)]
pub struct Transition<'a> {
    pub from: RolloutState,
    pub to: RolloutState,
    pub phase: u32,
    pub decision: &'a str,
}

/// `false` when the rollout is in another state by now.
pub async fn set_state(tx: &mut Tx, id: RolloutId, change: &Transition<'_>, now: i64) -> Result<bool, StoreError> {
    let done = sqlx::query(SET_STATE)
        .bind(change.to.as_str())
        .bind(i64::from(change.phase))
        .bind(change.decision)
        .bind(now)
        .bind(id.to_string())
        .bind(change.from.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Marks that something of the rollout changed, for those who watch it.
pub async fn touch(tx: &mut Tx, id: RolloutId, now: i64) -> Result<(), StoreError> {
    sqlx::query(TOUCH)
        .bind(now)
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Devices of the id range `(after, to]` that the rollout has been given to.
pub async fn deployed_between(db: &Db, id: RolloutId, after: &str, to: &str) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(DEPLOYED_BETWEEN)
        .bind(id.to_string())
        .bind(after)
        .bind(to)
        .fetch_all(db.read())
        .await?)
}

/// What one device is given.
#[derive(Debug, Clone)]
pub struct NewDeployment {
    pub id: DeploymentId,
    pub device: DeviceId,
}

/// Gives the package to devices: a deployment each, the slot's target, and what was under way there superseded.
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
        sqlx::query(SUPERSEDE)
            .bind(&reason)
            .bind(now)
            .bind(new.device.as_str())
            .bind(slot.as_str())
            .execute(&mut **tx)
            .await?;
        sqlx::query(INSERT_DEPLOYMENT)
            .bind(new.id.to_string())
            .bind(rollout.id.to_string())
            .bind(new.device.as_str())
            .bind(i64::from(rollout.phase))
            .bind(now)
            .execute(&mut **tx)
            .await?;
        sqlx::query(SET_TARGET)
            .bind(new.device.as_str())
            .bind(slot.as_str())
            .bind(new.id.to_string())
            .bind(version.to_string())
            .execute(&mut **tx)
            .await?;
        sqlx::query(MARK_STALE)
            .bind(new.device.as_str())
            .execute(&mut **tx)
            .await?;
        device_summaries::refresh(tx, new.device.as_str()).await?;
    }
    touch(tx, rollout.id, now).await
}

/// Takes the orders back from devices that have not finished; what runs there goes on running.
pub async fn withdraw(tx: &mut Tx, id: RolloutId, now: i64) -> Result<(), StoreError> {
    sqlx::query(MARK_ROLLOUT_STALE)
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    sqlx::query(DROP_TARGETS)
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    sqlx::query(ABORT_DEPLOYMENTS)
        .bind(now)
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    device_summaries::refresh_rollout(tx, &id.to_string()).await
}

/// How many more samples of a package are taken from a device: what the rollout that gave it the package allows, less what
/// came before. `None`: no rollout gave it this package of this line.
pub async fn harvest_left(
    tx: &mut Tx,
    device: &DeviceId,
    line: &ModelLine,
    manifest: &Digest,
) -> Result<Option<u64>, StoreError> {
    let spec: Option<String> = sqlx::query_scalar(HARVEST_OF)
        .bind(device.as_str())
        .bind(manifest.to_string())
        .bind(line.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    let Some(spec) = spec else { return Ok(None) };
    let spec: CreateRollout = json("rollout", &spec)?;
    let allowed = spec.harvest.map_or(0, |harvest| u64::from(harvest.max_samples));
    let taken: Option<i64> = sqlx::query_scalar(HARVESTED)
        .bind(device.as_str())
        .bind(manifest.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(Some(allowed.saturating_sub(to_u64(taken.unwrap_or(0)))))
}

/// Counts samples against [`harvest_left`].
pub async fn count_harvested(tx: &mut Tx, device: &DeviceId, manifest: &Digest, taken: u64) -> Result<(), StoreError> {
    sqlx::query(COUNT_HARVESTED)
        .bind(device.as_str())
        .bind(manifest.to_string())
        .bind(to_i64(taken))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Devices that are to have the version need another desired state.
pub async fn mark_targeted_stale(tx: &mut Tx, version: ModelVersionId) -> Result<(), StoreError> {
    sqlx::query(MARK_TARGETED_STALE)
        .bind(version.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Fails deployments of which nothing was heard since `before`. Returns how many.
pub async fn time_out(tx: &mut Tx, id: RolloutId, reason: &str, before: i64, now: i64) -> Result<u64, StoreError> {
    let done = sqlx::query(TIME_OUT)
        .bind(reason)
        .bind(now)
        .bind(id.to_string())
        .bind(before)
        .execute(&mut **tx)
        .await?;
    if done.rows_affected() > 0 {
        device_summaries::refresh_rollout(tx, &id.to_string()).await?;
    }
    Ok(done.rows_affected())
}

/// By device, after `after`.
pub async fn deployments(db: &Db, id: RolloutId, after: &str, limit: u32) -> Result<Vec<Deployment>, StoreError> {
    let rows = sqlx::query(DEPLOYMENTS)
        .bind(id.to_string())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| {
            let state: String = row.try_get("state")?;
            Ok(Deployment {
                id: parsed("deployment id", row.try_get("id")?)?,
                device: parsed("device id", row.try_get("device")?)?,
                phase: u32::try_from(row.try_get::<i64, _>("phase")?).unwrap_or(0),
                state: DeploymentState::parse(&state).ok_or_else(|| StoreError::corrupt("deployment state", &state))?,
                reason: row.try_get("reason")?,
                bytes_received: to_u64(row.try_get("bytes_received")?),
                bytes_total: to_u64(row.try_get("bytes_total")?),
                updated_at: clock::rfc3339(row.try_get("updated_at")?),
            })
        })
        .collect()
}

/// Pins a time-out in seconds to the milliseconds that the store speaks.
pub fn timeout_ms(seconds: u64) -> i64 {
    to_i64(seconds.saturating_mul(1000))
}
