//! What devices say of themselves: signed reports, and whether they are connected.

use std::collections::BTreeMap;

use flotilla_protocol::ids::{DeploymentId, DeviceId, RolloutId};
use flotilla_protocol::report::{DetectedAttack, DeviceReport};
use sqlx::Row as _;

use super::{
    APPLY_DEPLOYMENT, APPLY_PRESENCE, APPLY_REPORT, CLEAR_SLOTS, INSERT_SLOT, LAST_REPORTED, RAISE_ATTACK,
    REPORTED_BEFORE, RESET_PRESENCE,
};
use crate::store::device_summaries::{PLACES, bind_ids, bind_told};
use crate::store::{
    Db, StoreError, Tx, deployments, device_summaries, json, overview, parsed, rollout_targets, to_i64, to_json, to_u64,
};

/// What a report changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reported {
    /// `false`: the report, or a newer one, was known; nothing was changed.
    pub newer: bool,
    pub rollouts: Vec<RolloutId>,
    /// An attack that no earlier report spoke of.
    pub new_attack: Option<DetectedAttack>,
}

/// Text of devices is cut to what people can read.
fn clip(text: &str) -> String {
    text.chars().take(500).collect()
}

/// Takes over a verified report if it is newer than the last one. Deployments that this server does not know, or has ended,
/// are left alone.
pub async fn apply_report(
    tx: &mut Tx,
    report: &DeviceReport,
    envelope: &[u8],
    now: i64,
) -> Result<Reported, StoreError> {
    let device = &report.device;
    let before = sqlx::query(LAST_REPORTED)
        .bind(device.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    let facts = &report.facts;
    let told = [&facts.hardware_class, &facts.arch, &facts.agent_version].map(|text| clip(text));
    let (mut known, mut is_selected_as_before) = (None, false);
    if let Some(row) = &before {
        let text: Option<&str> = row.try_get("attack")?;
        known = text.map(|text| json::<DetectedAttack>("attack", text)).transpose()?;
        let last: [String; 3] = [
            row.try_get("hardware_class")?,
            row.try_get("arch")?,
            row.try_get("agent_version")?,
        ];
        is_selected_as_before = last == told;
    }
    let [hardware_class, arch, agent_version] = told;
    let attack = report.attack.as_ref().map(|attack| DetectedAttack {
        attack: clip(&attack.attack),
        detail: clip(&attack.detail),
        at: attack.at,
    });
    let changed = sqlx::query(APPLY_REPORT)
        .bind(hardware_class)
        .bind(arch)
        .bind(agent_version)
        .bind(to_i64(facts.ram_bytes))
        .bind(to_i64(facts.disk_free_bytes))
        .bind(to_i64(report.boot_count))
        .bind(to_i64(report.header.version))
        .bind(envelope)
        .bind(report.error.as_deref().map(clip))
        .bind(attack.as_ref().map(|attack| to_json("attack", attack)).transpose()?)
        .bind(now)
        .bind(device.as_str())
        .execute(&mut **tx)
        .await?;
    if changed.rows_affected() == 0 {
        return Ok(Reported::default());
    }
    // Devices repeat their last attack in every report.
    let new_attack = attack.filter(|attack| known.as_ref() != Some(attack));
    if new_attack.is_some() {
        sqlx::query(RAISE_ATTACK)
            .bind(now)
            .bind(device.as_str())
            .execute(&mut **tx)
            .await?;
    }
    replace_slots(tx, report).await?;
    let rollouts = apply_deployments(tx, report, now).await?;
    device_summaries::refresh_all(tx, device.as_str()).await?;
    if !is_selected_as_before {
        rollout_targets::follow(tx, device).await?;
    }
    Ok(Reported {
        newer: true,
        rollouts,
        new_attack,
    })
}

async fn replace_slots(tx: &mut Tx, report: &DeviceReport) -> Result<(), StoreError> {
    sqlx::query(CLEAR_SLOTS)
        .bind(report.device.as_str())
        .execute(&mut **tx)
        .await?;
    for slot in &report.slots {
        let Some(model) = &slot.active else { continue };
        sqlx::query(INSERT_SLOT)
            .bind(report.device.as_str())
            .bind(slot.slot.as_str())
            .bind(model.line.as_str())
            .bind(model.manifest.to_string())
            .bind(clip(&model.semver))
            .bind(to_i64(model.release_counter))
            .bind(i64::from(slot.committed))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// What was known of a deployment's bytes before a report.
#[derive(Debug, Clone, Copy)]
struct Received {
    bytes: u64,
    /// Of the whole package.
    package: u64,
}

impl Received {
    /// What came since, of the package. A device may tell any number; nobody received more of a package than there is.
    fn take(&mut self, bytes: u64) -> u64 {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let [before, after] = [before, bytes].map(|bytes| bytes.min(self.package));
        after.saturating_sub(before)
    }
}

/// Of the deployments that a report speaks of: those that are known here, and the device's own.
async fn received(tx: &mut Tx, report: &DeviceReport) -> Result<BTreeMap<DeploymentId, Received>, StoreError> {
    let told: Vec<String> = report
        .deployments
        .iter()
        .map(|deployment| deployment.deployment.to_string())
        .collect();
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let mut received = BTreeMap::new();
    for told in told.chunks(PLACES) {
        let query = sqlx::query(REPORTED_BEFORE).bind(report.device.as_str());
        for row in &bind_ids(query, told).fetch_all(&mut **tx).await? {
            let known = Received {
                bytes: to_u64(row.try_get("bytes_received")?),
                package: to_u64(row.try_get("package_bytes")?),
            };
            received.insert(parsed("deployment id", row.try_get("id")?)?, known);
        }
    }
    Ok(received)
}

async fn apply_deployments(tx: &mut Tx, report: &DeviceReport, now: i64) -> Result<Vec<RolloutId>, StoreError> {
    let mut rollouts = Vec::new();
    let mut known = received(tx, report).await?;
    for deployment in &report.deployments {
        let Some(received) = known.get_mut(&deployment.deployment) else {
            continue;
        };
        let reason = deployment.reason.as_deref().map(clip);
        let cause = deployments::cause(deployment.state, reason.as_deref(), &report.device);
        let row = sqlx::query(APPLY_DEPLOYMENT)
            .bind(deployment.state.as_str())
            .bind(reason)
            .bind(to_i64(deployment.bytes_received))
            .bind(to_i64(deployment.bytes_total))
            .bind(now)
            .bind(deployment.deployment.to_string())
            .bind(report.device.as_str())
            .bind(cause)
            .fetch_optional(&mut **tx)
            .await?;
        if let Some(row) = row {
            let more = received.take(deployment.bytes_received);
            if more > 0 {
                overview::add_bytes(tx, more, now).await?;
            }
            rollouts.push(parsed("rollout id", row.try_get("rollout")?)?);
        }
    }
    Ok(rollouts)
}

/// What is known of a device's connection since the last write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// Absent: heard of, and not known to have come or gone.
    pub connected: Option<bool>,
    /// Unix milliseconds.
    pub last_seen: i64,
}

pub async fn apply_presence(tx: &mut Tx, changes: &BTreeMap<DeviceId, Presence>) -> Result<(), StoreError> {
    for (connected, event) in [
        (None, None),
        (Some(false), Some("device.disconnected")),
        (Some(true), Some("device.connected")),
    ] {
        let told: Vec<(&str, i64)> = changes
            .iter()
            .filter(|(_, presence)| presence.connected == connected)
            .map(|(device, presence)| (device.as_str(), presence.last_seen))
            .collect();
        for told in told.chunks(PLACES) {
            let query = sqlx::query(APPLY_PRESENCE).bind(connected.map(i64::from));
            bind_told(query, told).execute(&mut **tx).await?;
        }
        device_summaries::set_presence(tx, &told, connected).await?;
        if let Some(event) = event {
            overview::add_events(tx, &told, event).await?;
        }
    }
    Ok(())
}

/// A broker that starts has no connections.
pub async fn reset_presence(db: &Db) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    sqlx::query(RESET_PRESENCE).execute(&mut *tx).await?;
    device_summaries::all_offline(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}
