//! Rollouts: their states, and how they stand.

mod orders;

use std::collections::BTreeMap;

use flotilla_api_types::rollouts::{CreateRollout, Rollout, RolloutState};
use flotilla_protocol::ids::{DeviceId, Digest, ModelLine, ModelVersionId, RolloutId};
use flotilla_protocol::report::DeploymentState;
use sqlx::Row as _;
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};

use crate::clock;
use crate::domain::rollout::plan::{Given, Position, phases_of};
use crate::domain::rollout::{Progress, phases_or_default};
use crate::store::{Db, StoreError, Tx, json, parsed, rollout_targets, statements, to_i64, to_json, to_u64};

pub(super) use orders::STATEMENTS as ORDERS;
pub use orders::{
    NewDeployment, begin_withdrawing, deploy, is_quiet, time_out, timeout_ms, withdraw_page, withdrawing,
};

statements! {
    INSERT = "INSERT INTO rollouts (id, project_id, model_version, spec, state, phase, decision, created_at, updated_at)
        VALUES ($1, $2, $3, $4, 'draft', 0, 'draft', $5, $5)";
    GET = "SELECT r.id, r.model_version, r.spec, r.state, r.phase, r.decision, r.created_at, r.updated_at, r.selected,
        v.line, v.semver FROM rollouts r JOIN model_versions v ON v.id = r.model_version WHERE r.id = $1";
    LIST = "SELECT r.id, r.model_version, r.spec, r.state, r.phase, r.decision, r.created_at, r.updated_at, r.selected,
        v.line, v.semver FROM rollouts r JOIN model_versions v ON v.id = r.model_version
        WHERE r.id < $1 AND r.state IN ($3, $4, $5, $6, $7, $8)
        AND ($9 = '' OR r.model_version = $9) ORDER BY r.id DESC LIMIT $2";
    COUNTS_OF_LIST = "SELECT d.rollout, d.state, d.phase, COUNT(*) AS n FROM deployments d WHERE d.rollout IN
        (SELECT r.id FROM rollouts r WHERE r.id < $1 AND r.state IN ($3, $4, $5, $6, $7, $8)
        AND ($9 = '' OR r.model_version = $9) ORDER BY r.id DESC LIMIT $2)
        GROUP BY d.rollout, d.state, d.phase";
    WAITING_OF_LIST = "SELECT t.rollout, COUNT(*) AS n FROM rollout_targets t WHERE t.rollout IN
        (SELECT r.id FROM rollouts r WHERE r.id < $1 AND r.state IN ($3, $4, $5, $6, $7, $8)
        AND ($9 = '' OR r.model_version = $9) ORDER BY r.id DESC LIMIT $2)
        GROUP BY t.rollout";
    TOTAL = "SELECT COUNT(*) FROM rollouts WHERE state IN ($1, $2, $3, $4, $5, $6) AND ($7 = '' OR model_version = $7)";
    LIVE = "SELECT id FROM rollouts WHERE state IN ('running', 'paused', 'halted') ORDER BY id";
    SET_STATE = "UPDATE rollouts SET state = $1, phase = COALESCE(CAST($2 AS BIGINT), phase), decision = $3, updated_at = $4,
        started_at = CASE WHEN started_at IS NULL AND $1 = 'running' THEN $4 ELSE started_at END WHERE id = $5 AND state = $6";
    TOUCH = "UPDATE rollouts SET updated_at = $1 WHERE id = $2";
    EXISTS = "SELECT id FROM rollouts WHERE id = $1";
    PROGRESS = "SELECT state, COUNT(*) AS n, CAST(SUM(excused) AS BIGINT) AS excused FROM deployments WHERE rollout = $1
        GROUP BY state";
    EXCUSE = "UPDATE deployments SET excused = 1 WHERE rollout = $1 AND state IN ('failure', 'rolled-back')";
    COUNTS = "SELECT rollout, state, phase, COUNT(*) AS n FROM deployments WHERE rollout = $1
        GROUP BY rollout, state, phase";
    MARK_TARGETED_STALE = "UPDATE devices SET desired_stale = 1 WHERE id IN (SELECT device FROM targets WHERE model_version = $1)";
    HARVEST_OF = "SELECT r.spec FROM deployments d JOIN rollouts r ON r.id = d.rollout
        JOIN model_versions v ON v.id = r.model_version WHERE d.device = $1 AND v.manifest = $2 AND v.line = $3
        ORDER BY d.created_at DESC, d.id DESC LIMIT 1";
    HARVESTED = "SELECT taken FROM harvested WHERE device = $1 AND manifest = $2";
    COUNT_HARVESTED = "INSERT INTO harvested (device, manifest, taken) VALUES ($1, $2, $3)
        ON CONFLICT (device, manifest) DO UPDATE SET taken = harvested.taken + excluded.taken";
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
    // One snapshot: what is counted fits together.
    let mut tx = db.read().begin().await?;
    let row = sqlx::query(GET)
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| StoreError::not_found("rollout", id))?;
    let mut counted = Counted::default();
    counted.take_counts(&sqlx::query(COUNTS).bind(id.to_string()).fetch_all(&mut *tx).await?)?;
    let waiting = rollout_targets::waiting(&mut *tx, id).await?;
    counted.waiting.insert(id.to_string(), waiting);
    rollout_of(&row, &mut counted)
}

/// Refuses an id that no rollout has.
pub async fn exists(db: &Db, id: RolloutId) -> Result<(), StoreError> {
    let found = sqlx::query(EXISTS)
        .bind(id.to_string())
        .fetch_optional(db.read())
        .await?;
    found.map(|_| ()).ok_or_else(|| StoreError::not_found("rollout", id))
}

/// Which rollouts a list is of.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Any where none is named.
    pub states: Vec<RolloutState>,
    pub model_version: Option<ModelVersionId>,
}

impl Wanted {
    /// Fills a statement's places: one for each state, then the version. A place that is not needed repeats another state.
    fn bind<'q>(&self, mut query: Query<'q, Sqlite, SqliteArguments>) -> Query<'q, Sqlite, SqliteArguments> {
        let named: &[RolloutState] = if self.states.is_empty() {
            &RolloutState::ALL
        } else {
            &self.states
        };
        for (_, state) in RolloutState::ALL.iter().zip(named.iter().cycle()) {
            query = query.bind(state.as_str());
        }
        query.bind(self.model_version.map(|id| id.to_string()).unwrap_or_default())
    }
}

/// Newest first, below `before`.
pub async fn list(db: &Db, wanted: &Wanted, before: Option<RolloutId>, limit: u32) -> Result<Vec<Rollout>, StoreError> {
    let before = before.map_or_else(|| "g".to_owned(), |id| id.to_string());
    let page = |sql: &'static str| wanted.bind(sqlx::query(sql).bind(before.clone()).bind(i64::from(limit)));
    let mut tx = db.read().begin().await?;
    let rows = page(LIST).fetch_all(&mut *tx).await?;
    let mut counted = Counted::default();
    counted.take_counts(&page(COUNTS_OF_LIST).fetch_all(&mut *tx).await?)?;
    for row in page(WAITING_OF_LIST).fetch_all(&mut *tx).await? {
        counted
            .waiting
            .insert(row.try_get("rollout")?, to_u64(row.try_get("n")?));
    }
    rows.iter().map(|row| rollout_of(row, &mut counted)).collect()
}

/// How many rollouts there are of these.
pub async fn total(db: &Db, wanted: &Wanted) -> Result<u64, StoreError> {
    let row = wanted.bind(sqlx::query(TOTAL)).fetch_one(db.read()).await?;
    Ok(to_u64(row.try_get(0)?))
}

/// Counts of several rollouts, by id.
#[derive(Default)]
struct Counted {
    given: BTreeMap<String, Given>,
    waiting: BTreeMap<String, u64>,
}

impl Counted {
    fn take_counts(&mut self, rows: &[SqliteRow]) -> Result<(), StoreError> {
        for row in rows {
            let phase = u32::try_from(row.try_get::<i64, _>("phase")?).unwrap_or(0);
            let given = self.given.entry(row.try_get("rollout")?).or_default();
            let n = to_u64(row.try_get("n")?);
            given.entry(phase).or_default().insert(row.try_get("state")?, n);
        }
        Ok(())
    }
}

fn rollout_of(row: &SqliteRow, counted: &mut Counted) -> Result<Rollout, StoreError> {
    let id: String = row.try_get("id")?;
    let state: String = row.try_get("state")?;
    let state = RolloutState::parse(&state).ok_or_else(|| StoreError::corrupt("rollout state", &state))?;
    let spec: CreateRollout = json("rollout", row.try_get("spec")?)?;
    let phase = u32::try_from(row.try_get::<i64, _>("phase")?).unwrap_or(0);
    let given = counted.given.remove(&id).unwrap_or_default();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (state, n) in given.values().flatten() {
        *counts.entry(state.clone()).or_default() += n;
    }
    let is_known = row.try_get::<i64, _>("selected")? != 0 && state.is_live();
    let waiting = is_known.then(|| counted.waiting.remove(&id).unwrap_or(0));
    let at = Position { state, phase, waiting };
    Ok(Rollout {
        id: parsed("rollout id", &id)?,
        line: row.try_get("line")?,
        semver: row.try_get("semver")?,
        state,
        phase,
        decision: row.try_get("decision")?,
        targeted: counts.values().sum(),
        counts,
        waiting,
        phases: phases_of(&phases_or_default(&spec.phases), at, &given),
        spec,
        created_at: clock::rfc3339(row.try_get("created_at")?),
        updated_at: clock::rfc3339(row.try_get("updated_at")?),
    })
}

/// Those that run, are paused or halted.
pub async fn live(db: &Db) -> Result<Vec<RolloutId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(LIVE).fetch_all(db.read()).await?;
    ids.iter().map(|id| parsed("rollout id", id)).collect()
}

/// How the deployments stand.
pub async fn progress(db: &Db, id: RolloutId) -> Result<Progress, StoreError> {
    let mut progress = Progress::default();
    for row in sqlx::query(PROGRESS).bind(id.to_string()).fetch_all(db.read()).await? {
        let n = to_u64(row.try_get("n")?);
        let text: String = row.try_get("state")?;
        let state = DeploymentState::parse(&text).ok_or_else(|| StoreError::corrupt("deployment state", &text))?;
        if matches!(
            state,
            DeploymentState::NoLongerApplicable | DeploymentState::Decommissioned
        ) {
            progress.void += n;
            continue;
        }
        progress.deployed += n;
        if state.is_success() {
            progress.succeeded += n;
        } else if matches!(state, DeploymentState::Failure | DeploymentState::RolledBack) {
            let excused = to_u64(row.try_get("excused")?);
            progress.failed += n - excused.min(n);
            progress.excused += excused;
        } else {
            progress.pending += n;
        }
    }
    Ok(progress)
}

/// The failures so far no longer count against the rollout: somebody looked at them and goes on. A device that fails anew counts.
pub async fn excuse_failures(tx: &mut Tx, id: RolloutId) -> Result<(), StoreError> {
    sqlx::query(EXCUSE).bind(id.to_string()).execute(&mut **tx).await?;
    Ok(())
}

/// A change of state, made only from the state that it was decided in.
#[derive(Debug, Clone)]
pub struct Transition<'a> {
    pub from: RolloutState,
    pub to: RolloutState,
    /// `None`: whichever it is in.
    pub phase: Option<u32>,
    pub decision: &'a str,
}

/// `false` when the rollout is in another state by now. One that ends waits for no device any more.
pub async fn set_state(tx: &mut Tx, id: RolloutId, change: &Transition<'_>, now: i64) -> Result<bool, StoreError> {
    let done = sqlx::query(SET_STATE)
        .bind(change.to.as_str())
        .bind(change.phase.map(i64::from))
        .bind(change.decision)
        .bind(now)
        .bind(id.to_string())
        .bind(change.from.as_str())
        .execute(&mut **tx)
        .await?;
    let changed = done.rows_affected() == 1;
    if changed && change.to.is_final() {
        rollout_targets::clear(tx, id).await?;
    }
    Ok(changed)
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
