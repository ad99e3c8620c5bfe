//! The job that does one thing to many devices, a batch per transaction: to those that were meant when it was ordered,
//! whatever its filter finds by now. Doing it twice changes nothing, so that a job that was broken off starts again from the
//! first device.

use std::collections::BTreeMap;

use flotilla_api_types::devices::{BulkAction, BulkDevices, Device, DeviceStatus, TagChange};
use flotilla_protocol::ids::DeviceId;
use serde::{Deserialize, Serialize};

use crate::app::{App, Change};
use crate::domain::tags;
use crate::store::jobs::Claim;
use crate::store::{StoreError, Tx, audit as audit_log, device_summaries, devices, json};
use crate::work::{Control, JobError, fenced, succeed};
use crate::{audit, clock};

/// Devices per transaction.
const BATCH: u32 = 100;

/// What the job's payload holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BulkOrder {
    /// Who asked for it.
    pub actor: String,
    pub order: BulkDevices,
}

impl BulkOrder {
    /// For people.
    pub fn describe(&self) -> String {
        match &self.order.action {
            BulkAction::Decommission => "decommission".to_owned(),
            BulkAction::Tag(change) => {
                let set = change.set.iter().map(|(key, value)| format!("{key}={value}"));
                let removed = change.remove.iter().map(|key| format!("-{key}"));
                let words: Vec<String> = set.chain(removed).collect();
                format!("tag {}", words.join(" "))
            }
        }
    }
}

pub(super) async fn run(app: &App, claim: &Claim, control: &Control) -> Result<(), JobError> {
    let order: BulkOrder = json("job", &claim.payload)?;
    let mut done = Done::default();
    let mut after = String::new();
    loop {
        control.check()?;
        let batch = device_summaries::of_job(&app.db, claim.id, &after, BATCH).await?;
        let Some(last) = batch.last() else { break };
        after = last.to_string();
        carry_out(app, claim, &order, &batch, &mut done).await?;
        control.report(done.share(order.order.expected_total), done.message());
    }
    let mut tx = fenced(app, claim).await?;
    device_summaries::forget_job(&mut tx, claim.id).await?;
    Ok(succeed(app, claim, tx, &done.message()).await?)
}

#[derive(Debug, Default)]
struct Done {
    looked_at: u64,
    changed: u64,
    /// They would have more tags than a device may.
    overfull: u64,
}

/// What became of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Changed,
    AsWanted,
    Overfull,
}

impl Done {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn share(&self, total: u64) -> f64 {
        (self.looked_at as f64 / total.max(1) as f64).min(1.0)
    }

    fn message(&self) -> String {
        let message = format!("{} devices changed, {} looked at", self.changed, self.looked_at);
        match self.overfull {
            0 => message,
            overfull => format!(
                "{message}, {overfull} left as they are: they would have more than {} tags",
                tags::MAX_TAGS
            ),
        }
    }
}

/// One batch.
async fn carry_out(
    app: &App,
    claim: &Claim,
    order: &BulkOrder,
    batch: &[DeviceId],
    done: &mut Done,
) -> Result<(), JobError> {
    let rows = device_summaries::by_ids(&app.db, batch).await?;
    let mut tx = fenced(app, claim).await?;
    let mut changed = Vec::new();
    let mut overfull = 0;
    for row in rows {
        let outcome = match &order.order.action {
            BulkAction::Decommission => decommission(&mut tx, order, &row).await?,
            BulkAction::Tag(change) => tag(&mut tx, order, &row, change).await?,
        };
        match outcome {
            Outcome::Changed => changed.push(row.id),
            Outcome::AsWanted => {}
            Outcome::Overfull => overfull += 1,
        }
    }
    tx.commit().await.map_err(StoreError::from)?;
    done.looked_at += batch.len() as u64;
    done.changed += changed.len() as u64;
    done.overfull += overfull;
    for device in changed {
        if order.order.action == BulkAction::Decommission {
            app.changes.tell(Change::Decommissioned(device.clone()));
        }
        app.changes.tell(Change::Device(device));
    }
    app.changes.tell(Change::Audit);
    Ok(())
}

async fn decommission(tx: &mut Tx, order: &BulkOrder, row: &Device) -> Result<Outcome, StoreError> {
    if row.status == DeviceStatus::Decommissioned || !devices::decommission(tx, &row.id, clock::now_ms()).await? {
        return Ok(Outcome::AsWanted);
    }
    let record = audit::record(&order.actor, "device.decommissioned", format!("device:{}", row.id), []);
    audit_log::append(tx, &record).await?;
    Ok(Outcome::Changed)
}

async fn tag(tx: &mut Tx, order: &BulkOrder, row: &Device, change: &TagChange) -> Result<Outcome, StoreError> {
    // Read again inside the transaction: somebody may have changed them since.
    let now: BTreeMap<String, String> = devices::tags(tx, &row.id).await?;
    let wanted = devices::tagged(&now, change);
    if wanted == now {
        return Ok(Outcome::AsWanted);
    }
    if tags::grow_too_many(&now, &wanted) {
        return Ok(Outcome::Overfull);
    }
    devices::set_tags(tx, &row.id, &wanted).await?;
    let told = serde_json::to_string(&wanted).unwrap_or_default();
    let record = audit::record(
        &order.actor,
        "device.tagged",
        format!("device:{}", row.id),
        [("tags", told)],
    );
    audit_log::append(tx, &record).await?;
    Ok(Outcome::Changed)
}
