//! Devices: who they are, what they run, what they report, what the director wants of them.

mod desired;
mod reported;

use std::collections::BTreeMap;

use flotilla_api_types::devices::{
    DeviceAttack, DeviceDeployment, DeviceDetail, DeviceTarget, DeviceTelemetry, TagChange,
};
use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES};
use flotilla_protocol::ids::{ClaimTokenId, DeviceId, Digest, SlotName};
use flotilla_protocol::report::{DeploymentState, DetectedAttack};
use flotilla_protocol::sketch::LatencyHistogram;
use flotilla_protocol::trust::{DeviceFacts, PublicKey};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteExecutor};

use crate::clock;
use crate::store::{
    Db, StoreError, Tx, audit, device_summaries, json, parsed, rollout_targets, statements, to_i64, to_json, to_u64,
};

pub use desired::{
    DesiredTarget, PendingDevice, clear_stale, compare_desired, desired_targets, desired_targets_of_stale,
    mark_expiring_stale, pending, pending_stale, revoked_manifests, set_desired,
};
pub use reported::{Presence, Reported, apply_presence, apply_report, reset_presence};

/// Declared losses shown with a device.
const AUDIT_GAPS: u32 = 20;

statements! {
    INSERT = "INSERT INTO devices (id, status, thumbprint, signing_key, wrapping_key, certificate_digest, claim_token, tags,
        hardware_class, arch, agent_version, ram_bytes, disk_free_bytes, enrolled_at, connected, last_seen, boot_count,
        report_counter, report, error, attack, desired_version, desired, desired_expires, desired_stale)
        VALUES ($1, 'active', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, NULL, 0, 0, NULL, NULL, NULL, 0, NULL,
        0, 1)";
    IDENTITY = "SELECT status, signing_key FROM devices WHERE id = $1";
    ACTIVE = "SELECT id, signing_key FROM devices WHERE status = 'active'";
    RENEW = "UPDATE devices SET certificate_digest = $1 WHERE id = $2 AND status = 'active'";
    GET = "SELECT ram_bytes, disk_free_bytes, boot_count, report_counter, error, attack, attacked_at FROM devices
        WHERE id = $1";
    TARGETS = "SELECT t.slot, t.deployment, v.line, v.semver, v.manifest FROM targets t
        JOIN model_versions v ON v.id = t.model_version WHERE t.device = $1 ORDER BY t.slot";
    DEPLOYMENTS = "SELECT id, rollout, state, reason, updated_at FROM deployments WHERE device = $1
        ORDER BY created_at DESC, id DESC LIMIT 20";
    TELEMETRY = "SELECT m.line, m.manifest, COALESCE(v.semver, '') AS semver, m.inferences, m.failures, m.bundles, m.latency
        FROM device_models m LEFT JOIN model_versions v ON v.manifest = m.manifest WHERE m.device = $1
        ORDER BY m.line, m.manifest";
    TAGS = "SELECT tags FROM devices WHERE id = $1";
    SET_TAGS = "UPDATE devices SET tags = $1 WHERE id = $2";
    DECOMMISSION = "UPDATE devices SET status = 'decommissioned', connected = 0, desired = NULL, desired_stale = 0
        WHERE id = $1 AND status = 'active'";
    DROP_TARGETS = "DELETE FROM targets WHERE device = $1";
    END_DEPLOYMENTS = "UPDATE deployments SET state = 'decommissioned', updated_at = $1 WHERE device = $2
        AND state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking')";
    FACTS_PAGE = "SELECT id, tags, arch, hardware_class, agent_version, ram_bytes, disk_free_bytes FROM devices
        WHERE id > $1 AND status = 'active' ORDER BY id LIMIT $2";
    FACTS = "SELECT id, tags, arch, hardware_class, agent_version, ram_bytes, disk_free_bytes FROM devices
        WHERE id = $1 AND status = 'active'";
    CANDIDATES = "SELECT d.id, d.tags, d.arch, d.hardware_class, d.agent_version, d.ram_bytes, d.disk_free_bytes,
        s.manifest, p.state FROM devices d LEFT JOIN device_slots s ON s.device = d.id AND s.slot = $3
        LEFT JOIN targets t ON t.device = d.id AND t.slot = $3 LEFT JOIN deployments p ON p.id = t.deployment
        WHERE d.id > $1 AND d.status = 'active' ORDER BY d.id LIMIT $2";
    APPLY_REPORT = "UPDATE devices SET hardware_class = $1, arch = $2, agent_version = $3, ram_bytes = $4,
        disk_free_bytes = $5, boot_count = $6, report_counter = $7, report = $8, error = $9, attack = COALESCE($10, attack),
        last_seen = $11 WHERE id = $12 AND report_counter < $7";
    LAST_REPORTED = "SELECT attack, hardware_class, arch, agent_version FROM devices WHERE id = $1";
    RAISE_ATTACK = "UPDATE devices SET attacked_at = $1 WHERE id = $2";
    OPEN_ATTACK = "SELECT attack, attacked_at FROM devices WHERE id = $1";
    CLOSE_ATTACK = "UPDATE devices SET attacked_at = NULL WHERE id = $1";
    CLEAR_SLOTS = "DELETE FROM device_slots WHERE device = $1";
    INSERT_SLOT = "INSERT INTO device_slots (device, slot, line, manifest, semver, release_counter, committed)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (device, slot) DO NOTHING";
    APPLY_DEPLOYMENT = "UPDATE deployments SET state = $1, reason = $2, cause = $8, bytes_received = $3, bytes_total = $4,
        updated_at = $5, excused = 0
        WHERE id = $6 AND device = $7 AND state NOT IN ('no-longer-applicable', 'decommissioned')
        AND (state <> $1 OR COALESCE(reason, '') <> COALESCE($2, '')
            OR state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking')) RETURNING rollout";
    REPORTED_BEFORE = "SELECT d.id, d.bytes_received, COALESCE(v.package_bytes, 0) AS package_bytes FROM deployments d
        LEFT JOIN rollouts r ON r.id = d.rollout LEFT JOIN model_versions v ON v.id = r.model_version
        WHERE d.device = $1 AND d.id IN ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";
    APPLY_PRESENCE = "WITH told (device, at) AS (VALUES ($2, CAST($3 AS BIGINT)), ($4, $5), ($6, $7), ($8, $9),
        ($10, $11), ($12, $13), ($14, $15), ($16, $17), ($18, $19), ($20, $21), ($22, $23), ($24, $25), ($26, $27),
        ($28, $29), ($30, $31), ($32, $33))
        UPDATE devices SET connected = COALESCE($1, connected), last_seen = told.at FROM told
        WHERE devices.id = told.device AND devices.status = 'active'";
    RESET_PRESENCE = "UPDATE devices SET connected = 0 WHERE connected <> 0";
    PENDING = "SELECT id, thumbprint, report_counter, desired_version, desired FROM devices
        WHERE id = $1 AND status = 'active'";
    PENDING_STALE = "SELECT id, thumbprint, report_counter, desired_version, desired FROM devices
        WHERE desired_stale = 1 AND connected = 1 AND status = 'active' AND id > $1 ORDER BY id LIMIT $2";
    // What is being withdrawn is given to nobody any more, however far the withdrawal is.
    DESIRED_TARGETS = "SELECT t.device, t.slot, t.deployment, v.line, v.manifest, v.release_counter, v.components, v.envelope,
        r.spec FROM targets t JOIN model_versions v ON v.id = t.model_version JOIN deployments p ON p.id = t.deployment
        JOIN rollouts r ON r.id = p.rollout
        WHERE t.device = $1 AND v.signature = 'signed' AND v.envelope IS NOT NULL
        AND (r.withdrawing = 0 OR p.state IN ('success', 'already-installed')) ORDER BY t.slot";
    DESIRED_TARGETS_OF_STALE = "SELECT t.device, t.slot, t.deployment, v.line, v.manifest, v.release_counter, v.components,
        v.envelope, r.spec FROM targets t JOIN model_versions v ON v.id = t.model_version
        JOIN deployments p ON p.id = t.deployment JOIN rollouts r ON r.id = p.rollout
        WHERE t.device IN (SELECT id FROM devices WHERE desired_stale = 1 AND connected = 1 AND status = 'active' AND id > $1
            ORDER BY id LIMIT $2)
        AND v.signature = 'signed' AND v.envelope IS NOT NULL
        AND (r.withdrawing = 0 OR p.state IN ('success', 'already-installed')) ORDER BY t.device, t.slot";
    SET_DESIRED = "UPDATE devices SET desired_version = $1, desired = $2, desired_expires = $3, desired_stale = 0
        WHERE id = $4 AND status = 'active' AND desired_version < $1";
    DESIRED_VERSION = "SELECT desired_version FROM devices WHERE id = $1";
    RAISE_DESIRED = "UPDATE devices SET desired_version = $1, desired = NULL, desired_stale = 1
        WHERE id = $2 AND status = 'active' AND desired_version < $1";
    CLEAR_STALE = "UPDATE devices SET desired_stale = 0 WHERE id = $1";
    MARK_EXPIRING = "UPDATE devices SET desired_stale = 1
        WHERE connected = 1 AND status = 'active' AND desired_stale = 0 AND desired_expires < $1";
    REVOKED_MANIFESTS = "SELECT manifest FROM model_versions WHERE signature = 'revoked' ORDER BY manifest";
}

/// A device that is to be.
#[derive(Debug)]
pub struct NewDevice<'a> {
    pub id: &'a DeviceId,
    pub signing_key: PublicKey,
    pub wrapping_key: &'a [u8],
    pub certificate_digest: Digest,
    pub claim_token: ClaimTokenId,
    pub tags: &'a BTreeMap<String, String>,
    pub facts: &'a DeviceFacts,
}

pub async fn insert(tx: &mut Tx, device: &NewDevice<'_>, now: i64) -> Result<(), StoreError> {
    let facts = device.facts;
    sqlx::query(INSERT)
        .bind(device.id.as_str())
        .bind(device.signing_key.id().to_string())
        .bind(device.signing_key.as_bytes().as_slice())
        .bind(device.wrapping_key)
        .bind(device.certificate_digest.to_string())
        .bind(device.claim_token.to_string())
        .bind(to_json("tags", device.tags)?)
        .bind(&facts.hardware_class)
        .bind(&facts.arch)
        .bind(&facts.agent_version)
        .bind(to_i64(facts.ram_bytes))
        .bind(to_i64(facts.disk_free_bytes))
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(|error| {
            StoreError::or_exists(error, || format!("a device with the id or the key of '{}'", device.id))
        })?;
    device_summaries::set_tags(tx, device.id.as_str(), device.tags).await?;
    device_summaries::refresh_all(tx, device.id.as_str()).await?;
    rollout_targets::follow(tx, device.id).await
}

/// What a device proves itself by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub signing_key: PublicKey,
    pub decommissioned: bool,
}

pub async fn identity<'e>(
    executor: impl SqliteExecutor<'e>,
    device: &DeviceId,
) -> Result<Option<Identity>, StoreError> {
    let Some(row) = sqlx::query(IDENTITY)
        .bind(device.as_str())
        .fetch_optional(executor)
        .await?
    else {
        return Ok(None);
    };
    let key: Vec<u8> = row.try_get("signing_key")?;
    Ok(Some(Identity {
        signing_key: PublicKey::from_bytes(&key).map_err(|why| StoreError::corrupt("signing key", why))?,
        decommissioned: row.try_get::<String, _>("status")? != "active",
    }))
}

/// Every device that may connect, with the key that it signs with.
pub async fn active(db: &Db) -> Result<Vec<(DeviceId, PublicKey)>, StoreError> {
    let rows = sqlx::query(ACTIVE).fetch_all(db.read()).await?;
    rows.iter()
        .map(|row| {
            let key: Vec<u8> = row.try_get("signing_key")?;
            let key = PublicKey::from_bytes(&key).map_err(|why| StoreError::corrupt("signing key", why))?;
            Ok((parsed("device id", row.try_get("id")?)?, key))
        })
        .collect()
}

/// Records the certificate that replaces a device's last one.
pub async fn renew(tx: &mut Tx, device: &DeviceId, certificate: Digest) -> Result<(), StoreError> {
    sqlx::query(RENEW)
        .bind(certificate.to_string())
        .bind(device.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub async fn get(db: &Db, id: &DeviceId) -> Result<DeviceDetail, StoreError> {
    let row = sqlx::query(GET)
        .bind(id.as_str())
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("device", id))?;
    let rows = |sql| sqlx::query(sql).bind(id.as_str()).fetch_all(db.read());
    let device = device_summaries::by_ids(db, std::slice::from_ref(id))
        .await?
        .pop()
        .ok_or_else(|| StoreError::not_found("device", id))?;
    let attack: Option<String> = row.try_get("attack")?;
    Ok(DeviceDetail {
        device,
        ram_bytes: to_u64(row.try_get("ram_bytes")?),
        disk_free_bytes: to_u64(row.try_get("disk_free_bytes")?),
        boot_count: to_u64(row.try_get("boot_count")?),
        report_counter: to_u64(row.try_get("report_counter")?),
        desired: rows(TARGETS).await?.iter().map(target_of).collect::<Result<_, _>>()?,
        deployments: rows(DEPLOYMENTS)
            .await?
            .iter()
            .map(deployment_of)
            .collect::<Result<_, _>>()?,
        telemetry: rows(TELEMETRY)
            .await?
            .iter()
            .map(telemetry_of)
            .collect::<Result<_, _>>()?,
        audit_entries: audit::device_count(db, id).await?,
        audit_gaps: audit::device_gaps(db, id, AUDIT_GAPS).await?,
        last_attack: attack
            .as_deref()
            .map(|attack| attack_of(attack, row.try_get::<Option<i64>, _>("attacked_at")?.is_none()))
            .transpose()?,
        error: row.try_get("error")?,
    })
}

fn target_of(row: &SqliteRow) -> Result<DeviceTarget, StoreError> {
    Ok(DeviceTarget {
        slot: parsed("slot name", row.try_get("slot")?)?,
        line: parsed("model line", row.try_get("line")?)?,
        semver: row.try_get("semver")?,
        manifest: parsed("manifest digest", row.try_get("manifest")?)?,
        deployment: parsed("deployment id", row.try_get("deployment")?)?,
    })
}

fn deployment_of(row: &SqliteRow) -> Result<DeviceDeployment, StoreError> {
    let state: String = row.try_get("state")?;
    Ok(DeviceDeployment {
        id: parsed("deployment id", row.try_get("id")?)?,
        rollout: row.try_get("rollout")?,
        state: DeploymentState::parse(&state).ok_or_else(|| StoreError::corrupt("deployment state", &state))?,
        reason: row.try_get("reason")?,
        updated_at: clock::rfc3339(row.try_get("updated_at")?),
    })
}

fn telemetry_of(row: &SqliteRow) -> Result<DeviceTelemetry, StoreError> {
    let latency: LatencyHistogram = codec::from_slice(row.try_get("latency")?, MAX_DOCUMENT_BYTES)
        .map_err(|why| StoreError::corrupt("latency histogram", why))?;
    Ok(DeviceTelemetry {
        line: parsed("model line", row.try_get("line")?)?,
        semver: row.try_get("semver")?,
        manifest: parsed("manifest digest", row.try_get("manifest")?)?,
        inferences: to_u64(row.try_get("inferences")?),
        failures: to_u64(row.try_get("failures")?),
        p50_us: latency.quantile_us(0.5),
        p95_us: latency.quantile_us(0.95),
        bundles: to_u64(row.try_get("bundles")?),
    })
}

fn attack_of(text: &str, acknowledged: bool) -> Result<DeviceAttack, StoreError> {
    let attack: DetectedAttack = json("attack", text)?;
    Ok(DeviceAttack {
        attack: attack.attack,
        detail: attack.detail,
        at: clock::rfc3339(attack.at),
        acknowledged,
    })
}

/// What came of an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acknowledged {
    /// The alert was there and is over.
    Done(DeviceAttack),
    /// There was none.
    Nothing,
    /// The last attack is not the one that was meant.
    Another(DeviceAttack),
}

/// Ends the alert of a device's last attack, until another one is reported. `meant`: when that attack was detected, if the
/// caller says so.
pub async fn acknowledge_attack(tx: &mut Tx, id: &DeviceId, meant: Option<&str>) -> Result<Acknowledged, StoreError> {
    let row = sqlx::query(OPEN_ATTACK)
        .bind(id.as_str())
        .fetch_optional(&mut **tx)
        .await?
        .ok_or_else(|| StoreError::not_found("device", id))?;
    let open = row.try_get::<Option<i64>, _>("attacked_at")?.is_some();
    let attack: Option<String> = row.try_get("attack")?;
    let Some(attack) = attack.filter(|_| open) else {
        return Ok(Acknowledged::Nothing);
    };
    let attack = attack_of(&attack, false)?;
    if meant.is_some_and(|meant| clock::from_rfc3339(meant) != clock::from_rfc3339(&attack.at)) {
        return Ok(Acknowledged::Another(attack));
    }
    sqlx::query(CLOSE_ATTACK).bind(id.as_str()).execute(&mut **tx).await?;
    device_summaries::refresh(tx, id.as_str()).await?;
    Ok(Acknowledged::Done(attack))
}

/// A device's tags, as they stand inside this transaction.
pub async fn tags(tx: &mut Tx, id: &DeviceId) -> Result<BTreeMap<String, String>, StoreError> {
    let text: Option<String> = sqlx::query_scalar(TAGS)
        .bind(id.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    json("tags", &text.ok_or_else(|| StoreError::not_found("device", id))?)
}

/// What becomes of tags by a change.
pub fn tagged(now: &BTreeMap<String, String>, change: &TagChange) -> BTreeMap<String, String> {
    let mut tags = now.clone();
    tags.retain(|name, _| !change.remove.contains(name));
    tags.extend(change.set.clone());
    tags
}

/// Replaces the tags.
pub async fn set_tags(tx: &mut Tx, id: &DeviceId, tags: &BTreeMap<String, String>) -> Result<(), StoreError> {
    let changed = sqlx::query(SET_TAGS)
        .bind(to_json("tags", tags)?)
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    if changed.rows_affected() == 0 {
        return Err(StoreError::not_found("device", id));
    }
    device_summaries::set_tags(tx, id.as_str(), tags).await?;
    device_summaries::refresh_all(tx, id.as_str()).await?;
    rollout_targets::follow(tx, id).await
}

/// Takes a device out of service for good: its id cannot enrol again. `false` when it was out already.
pub async fn decommission(tx: &mut Tx, id: &DeviceId, now: i64) -> Result<bool, StoreError> {
    let changed = sqlx::query(DECOMMISSION).bind(id.as_str()).execute(&mut **tx).await?;
    if changed.rows_affected() == 0 {
        return match identity(&mut **tx, id).await? {
            Some(_) => Ok(false),
            None => Err(StoreError::not_found("device", id)),
        };
    }
    sqlx::query(END_DEPLOYMENTS)
        .bind(now)
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    sqlx::query(DROP_TARGETS).bind(id.as_str()).execute(&mut **tx).await?;
    device_summaries::refresh(tx, id.as_str()).await?;
    rollout_targets::follow(tx, id).await?;
    Ok(true)
}

/// What rollouts select by, and what packages need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFactsRow {
    pub id: DeviceId,
    pub tags: BTreeMap<String, String>,
    pub facts: DeviceFacts,
}

fn facts_row(row: &SqliteRow) -> Result<DeviceFactsRow, StoreError> {
    Ok(DeviceFactsRow {
        id: parsed("device id", row.try_get("id")?)?,
        tags: json("tags", row.try_get("tags")?)?,
        facts: DeviceFacts {
            hardware_class: row.try_get("hardware_class")?,
            arch: row.try_get("arch")?,
            agent_version: row.try_get("agent_version")?,
            ram_bytes: to_u64(row.try_get("ram_bytes")?),
            disk_free_bytes: to_u64(row.try_get("disk_free_bytes")?),
        },
    })
}

/// Active devices in order of id, above `after`.
pub async fn facts_page<'e>(
    executor: impl SqliteExecutor<'e>,
    after: &str,
    limit: u32,
) -> Result<Vec<DeviceFactsRow>, StoreError> {
    let rows = sqlx::query(FACTS_PAGE)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(executor)
        .await?;
    rows.iter().map(facts_row).collect()
}

/// Those of one device; `None` where it is not active.
pub async fn facts_of<'e>(
    executor: impl SqliteExecutor<'e>,
    id: &DeviceId,
) -> Result<Option<DeviceFactsRow>, StoreError> {
    let row = sqlx::query(FACTS).bind(id.as_str()).fetch_optional(executor).await?;
    row.as_ref().map(facts_row).transpose()
}

/// A device that a rollout may be planned for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateRow {
    pub device: DeviceFactsRow,
    /// The package that answers in the slot.
    pub installed: Option<Digest>,
    /// A deployment to the slot has not ended.
    pub is_busy: bool,
}

/// Active devices in order of id, above `after`, with how they stand in a slot.
pub async fn candidates_page(
    db: &Db,
    slot: &SlotName,
    after: &str,
    limit: u32,
) -> Result<Vec<CandidateRow>, StoreError> {
    let rows = sqlx::query(CANDIDATES)
        .bind(after)
        .bind(i64::from(limit))
        .bind(slot.as_str())
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| {
            let installed: Option<&str> = row.try_get("manifest")?;
            let state: Option<&str> = row.try_get("state")?;
            Ok(CandidateRow {
                device: facts_row(row)?,
                installed: installed.map(|text| parsed("manifest digest", text)).transpose()?,
                is_busy: state
                    .and_then(DeploymentState::parse)
                    .is_some_and(|state| !state.is_final()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
