//! What devices say of themselves: signed reports, and whether they are connected.

use std::collections::BTreeMap;

use flotilla_protocol::ids::{DeviceId, RolloutId};
use flotilla_protocol::report::{DetectedAttack, DeviceReport};
use sqlx::Row as _;

use super::{
    APPLY_DEPLOYMENT, APPLY_PRESENCE, APPLY_REPORT, BYTES_RECEIVED, CLEAR_SLOTS, INSERT_SLOT, LAST_REPORTED,
    RAISE_ATTACK, RESET_PRESENCE,
};
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

async fn apply_deployments(tx: &mut Tx, report: &DeviceReport, now: i64) -> Result<Vec<RolloutId>, StoreError> {
    let mut rollouts = Vec::new();
    for deployment in &report.deployments {
        let before: Option<i64> = sqlx::query_scalar(BYTES_RECEIVED)
            .bind(deployment.deployment.to_string())
            .bind(report.device.as_str())
            .fetch_optional(&mut **tx)
            .await?;
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
            let more = deployment.bytes_received.saturating_sub(to_u64(before.unwrap_or(0)));
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
    for (device, presence) in changes {
        sqlx::query(APPLY_PRESENCE)
            .bind(presence.connected.map(i64::from))
            .bind(presence.last_seen)
            .bind(device.as_str())
            .execute(&mut **tx)
            .await?;
        device_summaries::set_presence(tx, device.as_str(), presence.connected, presence.last_seen).await?;
        if let Some(connected) = presence.connected {
            let event = if connected {
                "device.connected"
            } else {
                "device.disconnected"
            };
            overview::add_event(tx, device.as_str(), presence.last_seen, event, []).await?;
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
