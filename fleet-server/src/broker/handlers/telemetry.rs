//! Bundles: counted once, merged into totals and sketches; their audit entries continue the device's chain or are refused.
//!
//! A gap in the chain may be a matter of order (an earlier bundle was lost on its way and comes again): such a bundle is not
//! receipted, so that it comes again too. Once that has been tried, the gap is real: the entries are refused, on record, the
//! counts are taken, and the device is told where its chain ends here. It answers with an epoch whose first entry says what
//! was lost; that is taken, and put on record in the server's own log.

use flotilla_protocol::audit::{AuditError, AuditGap, AuditHead, continue_chain};
use flotilla_protocol::bundle::{Bundle, ModelTelemetry};
use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::messages::{AuditRefusal, RecordKey};
use metrics::counter;

use crate::app::Change;
use crate::broker::handlers::{AuditOffer, Effects, Now};
use crate::store::audit::DeviceEntry;
use crate::store::{StoreError, Tx, audit, device_summaries, overview, telemetry};

/// More packages than any device runs in one interval.
const MAX_MODELS: usize = 64;
/// More than any device infers in one interval.
const MAX_COUNT: u64 = 1 << 40;

/// Rules that the encoding does not prove: no absurd counts, no figures that are no numbers.
pub(super) fn check(bundle: &Bundle) -> Result<(), String> {
    if bundle.models.len() > MAX_MODELS {
        return Err(format!(
            "{} packages, at most {MAX_MODELS} are taken",
            bundle.models.len()
        ));
    }
    for model in &bundle.models {
        check_model(model)?;
    }
    Ok(())
}

fn check_model(model: &ModelTelemetry) -> Result<(), String> {
    let absurd = |what: &str| Err(format!("package {}: {what} cannot be", model.manifest.short()));
    if model.inferences > MAX_COUNT || model.failures > model.inferences || model.latency.count() > MAX_COUNT {
        return absurd("its counts");
    }
    if let Some(sketches) = &model.sketches {
        let sums_are_numbers = sketches
            .features
            .iter()
            .all(|f| f.sum.is_finite() && f.sum_squares.is_finite());
        let counts = sketches.features.iter().map(|feature| &feature.counts);
        let counted = counts.chain([&sketches.label_counts]).flatten();
        let counts_can_be = counted.chain([&sketches.count]).all(|count| *count <= MAX_COUNT);
        if !counts_can_be || !sums_are_numbers {
            return absurd("its sketch");
        }
    }
    if let Some(judged) = &model.judged
        && (judged.judgements > MAX_COUNT || judged.alarms > judged.judgements)
    {
        return absurd("its judgements");
    }
    if let Some(drift) = &model.drift {
        let numbers = drift.worst.iter().all(|f| f.psi.is_finite() && f.corrected.is_finite());
        let can_be = (0.0..=1.0).contains(&drift.share) && drift.count <= MAX_COUNT;
        if !numbers || !can_be || drift.nearest_slice.len() > 500 {
            return absurd("its judgement");
        }
    }
    Ok(())
}

/// What becomes of a bundle's audit entries.
enum Chain {
    /// Nothing new in them.
    Known,
    Continues {
        entries: Vec<DeviceEntry>,
        head: AuditHead,
    },
    Gap(String),
    Refused(String),
}

pub(super) async fn take(
    tx: &mut Tx,
    device: &DeviceId,
    (bundle, offer): (&Bundle, Option<&AuditOffer>),
    now: Now<'_>,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    if !telemetry::is_recorded(tx, device, bundle.key).await? {
        if let Some(offer) = offer
            && !take_audit(tx, device, (bundle.key, offer), now, effects).await?
        {
            return Ok(());
        }
        telemetry::record(tx, device, bundle.key, now.ms).await?;
        for model in &bundle.models {
            let taken = telemetry::add_interval(tx, device, model, bundle.to, now.ms).await?;
            if taken.sketch_refused {
                counter!("flotilla_sketches_refused_total").increment(1);
            }
            if taken.drift_changed || model.sketches.is_some() {
                effects.change(Change::Drift);
            }
            let hour = overview::hour_of(bundle.to.clamp(0, now.ms.max(0)));
            overview::add_hour(tx, device, model, hour).await?;
            if taken.drift_changed {
                note_drift(tx, device, model, now.ms).await?;
            }
        }
        device_summaries::refresh(tx, device.as_str()).await?;
        effects.change(Change::Telemetry(device.clone()));
    }
    effects.receipts.entry(device.clone()).or_default().push(bundle.key);
    Ok(())
}

/// A judgement that turned stands in the device's past.
async fn note_drift(tx: &mut Tx, device: &DeviceId, model: &ModelTelemetry, now: i64) -> Result<(), StoreError> {
    let Some(status) = &model.drift else { return Ok(()) };
    let event = if status.drifted { "drift.alarm" } else { "drift.clear" };
    let detail = [
        ("line", model.line.to_string()),
        ("share", format!("{:.3}", status.share)),
        ("nearest_slice", status.nearest_slice.clone()),
    ];
    overview::add_event(tx, device.as_str(), now, event, detail).await
}

/// `false`: the bundle is to come again.
async fn take_audit(
    tx: &mut Tx,
    device: &DeviceId,
    (key, offer): (RecordKey, &AuditOffer),
    now: Now<'_>,
    effects: &mut Effects,
) -> Result<bool, StoreError> {
    let known = audit::device_head(tx, device).await?;
    let followed = match audit::contradiction(tx, device, &known, &offer.batches).await? {
        None => follow(known, offer),
        Some((epoch, index)) => Chain::Refused(format!(
            "entry {index} of epoch {epoch} is another than the one that the device sent before"
        )),
    };
    let why = match followed {
        Chain::Known => return Ok(true),
        Chain::Continues { entries, head } => {
            let envelope = offer.head.as_ref().map_or(&[][..], |(_, envelope)| envelope.as_slice());
            audit::append_device(tx, device, &entries, &head, envelope).await?;
            record_gaps(tx, device, &entries).await?;
            effects.closed.insert(device.clone());
            return Ok(true);
        }
        Chain::Gap(_) if !now.given_up.contains(device) => {
            effects.gaps.insert(device.clone());
            return Ok(false);
        }
        Chain::Gap(why) | Chain::Refused(why) => why,
    };
    effects.refused.push(("device-audit.refused", device.clone(), why));
    let refusal = AuditRefusal {
        record: key,
        head: known,
        entries: audit::device_entries(tx, device).await?,
    };
    effects.audit_refused.insert(device.clone(), refusal);
    Ok(true)
}

/// A loss that a device declares stands in the server's log too.
async fn record_gaps(tx: &mut Tx, device: &DeviceId, entries: &[DeviceEntry]) -> Result<(), StoreError> {
    for entry in entries.iter().filter(|entry| entry.index == 0) {
        let Some(gap) = AuditGap::of(&entry.record) else {
            continue;
        };
        let who = format!("device:{device}");
        let detail = [
            ("lost", gap.lost.to_string()),
            ("kept", gap.kept.to_string()),
            ("after_epoch", gap.after.epoch.to_string()),
            ("after_count", gap.after.count.to_string()),
            ("after_hash", gap.after.hash.to_string()),
            ("epoch", entry.epoch.to_string()),
        ];
        let record = crate::audit::record(&who, "device.audit-gap", who.clone(), detail);
        audit::append(tx, &record).await?;
        tracing::warn!(%device, lost = gap.lost, epoch = entry.epoch, "a device lost entries of its audit chain");
    }
    Ok(())
}

/// Continues the chain by every batch; the result must be what the device signed.
fn follow(known: AuditHead, offer: &AuditOffer) -> Chain {
    let signed = match &offer.head {
        Ok((head, _)) => *head,
        Err(why) => return Chain::Refused(why.clone()),
    };
    let mut head = known;
    let mut entries = Vec::new();
    for batch in &offer.batches {
        let (next, records) = match continue_chain(head, batch) {
            Ok(continued) => continued,
            Err(error @ AuditError::Gap { .. }) => return Chain::Gap(error.to_string()),
            Err(error) => return Chain::Refused(error.to_string()),
        };
        let skipped = batch.entries.len().saturating_sub(records.len());
        let first = next.count.saturating_sub(records.len() as u64);
        let new = (first..).zip(records).zip(batch.entries.iter().skip(skipped));
        entries.extend(new.map(|((index, record), bytes)| DeviceEntry {
            epoch: batch.epoch,
            index,
            record,
            bytes: bytes.to_vec(),
        }));
        head = next;
    }
    let older = (signed.epoch, signed.count) < (known.epoch, known.count);
    if entries.is_empty() && (older || signed == known) {
        return Chain::Known;
    }
    if head != signed {
        let fork = AuditError::Fork {
            epoch: signed.epoch,
            count: signed.count,
        };
        return Chain::Refused(fork.to_string());
    }
    Chain::Continues { entries, head }
}
