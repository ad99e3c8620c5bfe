//! What the director signs desired states from, and the desired states themselves.

use std::cmp::Ordering;

use flotilla_api_types::rollouts::CreateRollout;
use flotilla_protocol::ids::{DeploymentId, DeviceId, Digest, ModelLine, SlotName};
use flotilla_protocol::trust::KeyId;
use sqlx::Row as _;
use sqlx::SqliteExecutor;
use sqlx::sqlite::SqliteRow;

use super::{
    CLEAR_STALE, DESIRED_TARGETS, DESIRED_TARGETS_OF_STALE, DESIRED_VERSION, MARK_EXPIRING, PENDING, PENDING_STALE,
    RAISE_DESIRED, REVOKED_MANIFESTS, SET_DESIRED,
};
use crate::store::{Db, StoreError, Tx, json, parsed, to_i64, to_u64};

/// A device to be told what is wanted of it.
#[derive(Debug, Clone)]
pub struct PendingDevice {
    pub id: DeviceId,
    pub thumbprint: KeyId,
    pub report_counter: u64,
    /// Of the desired state signed last; 0 before the first.
    pub desired_version: u64,
    /// Its envelope.
    pub desired: Option<Vec<u8>>,
}

/// One slot's target, with everything that its desired state needs. Unsigned and revoked versions are not among them.
#[derive(Debug, Clone)]
pub struct DesiredTarget {
    pub device: DeviceId,
    pub slot: SlotName,
    pub deployment: DeploymentId,
    pub line: ModelLine,
    pub manifest: Digest,
    pub release_counter: u64,
    /// JSON, as the packager stored it.
    pub components: String,
    /// The manifest's envelope.
    pub envelope: Vec<u8>,
    pub spec: CreateRollout,
}

fn pending_of(row: &SqliteRow) -> Result<PendingDevice, StoreError> {
    Ok(PendingDevice {
        id: parsed("device id", row.try_get("id")?)?,
        thumbprint: KeyId(parsed("thumbprint", row.try_get("thumbprint")?)?),
        report_counter: to_u64(row.try_get("report_counter")?),
        desired_version: to_u64(row.try_get("desired_version")?),
        desired: row.try_get("desired")?,
    })
}

fn target_of(row: &SqliteRow) -> Result<DesiredTarget, StoreError> {
    Ok(DesiredTarget {
        device: parsed("device id", row.try_get("device")?)?,
        slot: parsed("slot name", row.try_get("slot")?)?,
        deployment: parsed("deployment id", row.try_get("deployment")?)?,
        line: parsed("model line", row.try_get("line")?)?,
        manifest: parsed("manifest digest", row.try_get("manifest")?)?,
        release_counter: to_u64(row.try_get("release_counter")?),
        components: row.try_get("components")?,
        envelope: row.try_get("envelope")?,
        spec: json("rollout", row.try_get("spec")?)?,
    })
}

/// An active device; `None` for others.
pub async fn pending(tx: &mut Tx, device: &DeviceId) -> Result<Option<PendingDevice>, StoreError> {
    let row = sqlx::query(PENDING)
        .bind(device.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    row.as_ref().map(pending_of).transpose()
}

/// Connected devices whose targets changed, in order of id, above `after`.
pub async fn pending_stale(tx: &mut Tx, after: &str, limit: u32) -> Result<Vec<PendingDevice>, StoreError> {
    let rows = sqlx::query(PENDING_STALE)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?;
    rows.iter().map(pending_of).collect()
}

/// The targets of one device.
pub async fn desired_targets<'e>(
    executor: impl SqliteExecutor<'e>,
    device: &DeviceId,
) -> Result<Vec<DesiredTarget>, StoreError> {
    let rows = sqlx::query(DESIRED_TARGETS)
        .bind(device.as_str())
        .fetch_all(executor)
        .await?;
    rows.iter().map(target_of).collect()
}

/// The targets of the devices that [`pending_stale`] gives for the same page, in order of device.
pub async fn desired_targets_of_stale(tx: &mut Tx, after: &str, limit: u32) -> Result<Vec<DesiredTarget>, StoreError> {
    let rows = sqlx::query(DESIRED_TARGETS_OF_STALE)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?;
    rows.iter().map(target_of).collect()
}

/// Keeps a newly signed desired state. Versions only rise.
pub async fn set_desired(
    tx: &mut Tx,
    device: &DeviceId,
    version: u64,
    envelope: &[u8],
    expires: i64,
) -> Result<(), StoreError> {
    let changed = sqlx::query(SET_DESIRED)
        .bind(to_i64(version))
        .bind(envelope)
        .bind(expires)
        .bind(device.as_str())
        .execute(&mut **tx)
        .await?;
    if changed.rows_affected() == 0 {
        return Err(StoreError::Conflict(format!(
            "device '{device}' has a newer desired state or is decommissioned"
        )));
    }
    Ok(())
}

/// How the version of the desired state that a device has seen compares with the one signed for it last. A device that is
/// ahead raises ours: the next one is signed above it, and at once.
pub async fn compare_desired(tx: &mut Tx, device: &DeviceId, seen: u64) -> Result<Ordering, StoreError> {
    let signed: Option<i64> = sqlx::query_scalar(DESIRED_VERSION)
        .bind(device.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    let order = seen.cmp(&to_u64(signed.unwrap_or(0)));
    if order.is_gt() {
        sqlx::query(RAISE_DESIRED)
            .bind(to_i64(seen))
            .bind(device.as_str())
            .execute(&mut **tx)
            .await?;
    }
    Ok(order)
}

/// The stored desired state still says what is wanted.
pub async fn clear_stale(tx: &mut Tx, device: &DeviceId) -> Result<(), StoreError> {
    sqlx::query(CLEAR_STALE)
        .bind(device.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Marks connected devices whose desired state lapses before then.
pub async fn mark_expiring_stale(tx: &mut Tx, before: i64) -> Result<u64, StoreError> {
    Ok(sqlx::query(MARK_EXPIRING)
        .bind(before)
        .execute(&mut **tx)
        .await?
        .rows_affected())
}

/// Manifests that no device may install any more.
pub async fn revoked_manifests(db: &Db) -> Result<Vec<Digest>, StoreError> {
    let rows: Vec<String> = sqlx::query_scalar(REVOKED_MANIFESTS).fetch_all(db.read()).await?;
    rows.iter()
        .map(|manifest| parsed("manifest digest", manifest))
        .collect()
}
