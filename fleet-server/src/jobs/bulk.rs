//! The job that does one thing to many devices, a batch per transaction: to those that were meant when it was ordered,
//! whatever its filter finds by now. How far it is stands in the job, written with each batch: broken off, it goes on with the
//! next device, and what it says that it has done it has done.

use std::collections::BTreeMap;

use flotilla_api_types::devices::{BulkAction, BulkDevices, Device, DeviceStatus, TagChange};
use serde::{Deserialize, Serialize};

use crate::app::{App, Change};
use crate::domain::tags;
use crate::store::jobs::{self, Claim, Progress};
use crate::store::{StoreError, Tx, audit as audit_log, device_summaries, devices, json, to_json};
use crate::work::{Control, JobError, fenced, succeed};
use crate::{audit, clock};

/// Devices per transaction.
const BATCH: u32 = 100;

/// What the job's payload holds when it is ordered.
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

/// The job's payload as it goes on: the order, and what has been done of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Work {
    #[serde(flatten)]
    ordered: BulkOrder,
    #[serde(default)]
    done: Done,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Done {
    looked_at: u64,
    changed: u64,
    /// They would have more tags than a device may.
    overfull: u64,
    /// The last one that was looked at; they are taken in order of id.
    last: String,
}

/// What became of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Changed,
    AsWanted,
    Overfull,
}

/// How far an order had come before this claim; `None`: nothing was done.
pub(super) fn before(claim: &Claim) -> Option<Progress> {
    let work: Work = json("job", &claim.payload).ok()?;
    (work.done.looked_at > 0).then(|| work.progress())
}

pub(super) async fn run(app: &App, claim: &Claim, control: &Control) -> Result<(), JobError> {
    let mut work: Work = json("job", &claim.payload)?;
    if let Some(reached) = before(claim) {
        control.report(reached.share, reached.message);
    }
    while work.step(app, claim, control).await? {
        let reached = work.progress();
        control.report(reached.share, reached.message);
    }
    // Where nothing is left to be done nothing is left to be cancelled.
    let mut tx = fenced(app, claim).await?;
    device_summaries::forget_job(&mut tx, claim.id).await?;
    Ok(succeed(app, claim, tx, &work.done.message()).await?)
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

impl Work {
    fn progress(&self) -> Progress {
        Progress {
            share: self.done.share(self.ordered.order.expected_total),
            message: self.done.message(),
        }
    }

    /// One batch, unless the job is to stop. `false`: none was left.
    async fn step(&mut self, app: &App, claim: &Claim, control: &Control) -> Result<bool, JobError> {
        let batch = device_summaries::of_job(&app.db, claim.id, &self.done.last, BATCH).await?;
        let Some(last) = batch.last() else { return Ok(false) };
        let rows = device_summaries::by_ids(&app.db, &batch).await?;
        let mut tx = super::wanted(app, claim, control).await?;
        let mut changed = Vec::new();
        for row in rows {
            let outcome = match &self.ordered.order.action {
                BulkAction::Decommission => decommission(&mut tx, &self.ordered, &row).await?,
                BulkAction::Tag(change) => tag(&mut tx, &self.ordered, &row, change).await?,
            };
            match outcome {
                Outcome::Changed => changed.push(row.id),
                Outcome::AsWanted => {}
                Outcome::Overfull => self.done.overfull += 1,
            }
        }
        self.done.last = last.to_string();
        self.done.looked_at += batch.len() as u64;
        self.done.changed += changed.len() as u64;
        jobs::keep_payload(&mut tx, claim, &to_json("job", &*self)?).await?;
        tx.commit().await.map_err(StoreError::from)?;
        for device in changed {
            if self.ordered.order.action == BulkAction::Decommission {
                app.changes.tell(Change::Decommissioned(device.clone()));
            }
            app.changes.tell(Change::Device(device));
        }
        app.changes.tell(Change::Audit);
        Ok(true)
    }
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

#[cfg(test)]
mod tests;
