//! What devices say, decoded and taken into the database: hello, reports, bundles, samples.
//!
//! Every handler may see its message again, and messages may come out of order. Nothing here publishes: what is to be said
//! once the transaction is committed is gathered in [`Effects`].

mod samples;
mod telemetry;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use flotilla_protocol::audit::{AuditBatch, AuditHead, SignedAuditHead};
use flotilla_protocol::bundle::Bundle;
use flotilla_protocol::codec::{self, MAX_BUNDLE_BYTES, MAX_MESSAGE_BYTES};
use flotilla_protocol::ids::{DeviceId, FleetId};
use flotilla_protocol::messages::{AuditRefusal, Hello, RecordKey, SCHEMA, SampleBatch};
use flotilla_protocol::report::{DetectedAttack, DeviceReport};
use flotilla_protocol::topics::{Topic, Up};
use flotilla_protocol::trust::{Authority, Document, PublicKey, Role, verify};

use crate::app::Change;
use crate::broker::active::ActiveDevices;
use crate::broker::suspects::Complaint;
use crate::store::{StoreError, Tx, devices};
use crate::{audit, director, store};

/// More slots or deployments than any device has.
const MAX_SLOTS: usize = 64;
/// As devices name content that is not what was signed (`TrustError::attack`).
const ALTERED_CONTENT: &str = "altered-content";
/// A batch of samples holds no more.
const MAX_SAMPLES: usize = 1024;

/// A verified report and its envelope.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) document: DeviceReport,
    pub(super) envelope: Vec<u8>,
}

/// The audit entries of a bundle, and what the device signed over them.
#[derive(Debug, Clone)]
pub(super) struct AuditOffer {
    pub(super) batches: Vec<AuditBatch>,
    /// The signed head with its envelope, or why it is not believed.
    pub(super) head: Result<(AuditHead, Vec<u8>), String>,
}

#[derive(Debug, Clone)]
pub(super) enum Said {
    Hello {
        root_version: u64,
        report: Option<Box<Report>>,
    },
    Report(Box<Report>),
    Bundle {
        /// Its audit entries have been moved out.
        bundle: Box<Bundle>,
        audit: Option<AuditOffer>,
    },
    Samples(SampleBatch),
}

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) device: DeviceId,
    pub(super) said: Said,
}

/// A message that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) device: Option<DeviceId>,
    pub(super) why: String,
}

/// Takes a message apart, checks its shape, its size and its signatures. Nothing is believed of a device that may not speak.
pub(super) fn decode(active: &ActiveDevices, fleet: FleetId, topic: &str, payload: &[u8]) -> Result<Message, Refused> {
    let Ok(Topic::Up(device, up)) = topic.parse() else {
        return Err(Refused {
            device: None,
            why: "not a topic of devices".to_owned(),
        });
    };
    let Some(key) = active.key(&device) else {
        return Err(Refused {
            device: Some(device),
            why: "not enrolled, or decommissioned".to_owned(),
        });
    };
    let from = From {
        device: &device,
        key,
        fleet,
    };
    match from.read(up, payload) {
        Ok(said) => Ok(Message { device, said }),
        Err(why) => Err(Refused {
            device: Some(device),
            why: format!("{}: {why}", up.as_str()),
        }),
    }
}

/// Who is said to speak.
struct From<'a> {
    device: &'a DeviceId,
    key: PublicKey,
    fleet: FleetId,
}

impl From<'_> {
    fn read(&self, up: Up, payload: &[u8]) -> Result<Said, String> {
        match up {
            Up::Hello => {
                let hello: Hello = codec::from_slice(payload, MAX_MESSAGE_BYTES).map_err(text)?;
                self.check(hello.schema, &hello.device)?;
                let report = if hello.report.is_empty() {
                    None
                } else {
                    Some(Box::new(self.report(&hello.report)?))
                };
                Ok(Said::Hello {
                    root_version: hello.root_version,
                    report,
                })
            }
            Up::Report => Ok(Said::Report(Box::new(self.report(payload)?))),
            Up::Bundle => {
                let bundle: Bundle =
                    codec::from_slice_zstd(payload, MAX_MESSAGE_BYTES, MAX_BUNDLE_BYTES).map_err(text)?;
                self.check(bundle.schema, &bundle.device)?;
                telemetry::check(&bundle)?;
                Ok(self.bundle(bundle))
            }
            Up::Sample => {
                let batch: SampleBatch =
                    codec::from_slice_zstd(payload, MAX_MESSAGE_BYTES, MAX_BUNDLE_BYTES).map_err(text)?;
                self.check(batch.schema, &batch.device)?;
                if batch.samples.len() > MAX_SAMPLES {
                    return Err(format!(
                        "{} samples, at most {MAX_SAMPLES} are taken",
                        batch.samples.len()
                    ));
                }
                Ok(Said::Samples(batch))
            }
            Up::Want | Up::Result => Err("not expected here".to_owned()),
        }
    }

    fn check(&self, schema: u16, device: &DeviceId) -> Result<(), String> {
        if schema != SCHEMA {
            return Err(format!("layout {schema} is not known"));
        }
        if device != self.device {
            return Err(format!("it speaks for device '{device}'"));
        }
        Ok(())
    }

    fn signed<T: Document>(&self, envelope: &[u8]) -> Result<T, String> {
        verify::<T>(envelope, &Authority::single(Role::Device, self.key), self.fleet)
            .map(flotilla_protocol::trust::Verified::into_inner)
            .map_err(text)
    }

    fn report(&self, envelope: &[u8]) -> Result<Report, String> {
        let document: DeviceReport = self.signed(envelope)?;
        self.check(SCHEMA, &document.device)?;
        if document.slots.len() > MAX_SLOTS || document.deployments.len() > MAX_SLOTS {
            return Err(format!("more than {MAX_SLOTS} slots or deployments"));
        }
        check_numbers(&document)?;
        Ok(Report {
            document,
            envelope: envelope.to_vec(),
        })
    }

    fn bundle(&self, mut bundle: Bundle) -> Said {
        let batches = std::mem::take(&mut bundle.audit);
        let audit = (!batches.is_empty()).then(|| AuditOffer {
            batches,
            head: self.audit_head(bundle.audit_head.as_deref().map(Vec::as_slice)),
        });
        Said::Bundle {
            bundle: Box::new(bundle),
            audit,
        }
    }

    fn audit_head(&self, envelope: Option<&[u8]>) -> Result<(AuditHead, Vec<u8>), String> {
        let envelope = envelope.ok_or("audit entries without a signed head")?;
        let signed: SignedAuditHead = self.signed(envelope)?;
        self.check(SCHEMA, &signed.device)?;
        Ok((signed.head, envelope.to_vec()))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Versions are counted up from 1, and neither counts nor sizes come near this: they are kept, added up and told as JSON
/// numbers. A device that tells of more has no memory but a fault; the next desired state must have a version above what it
/// tells.
const MAX_NUMBER: u64 = 1 << 53;

/// No numbers that cannot be.
fn check_numbers(report: &DeviceReport) -> Result<(), String> {
    let documents = &report.documents;
    let versions = [
        report.header.version,
        documents.root,
        documents.head.version,
        documents.desired_state.version,
    ];
    if versions.iter().any(|version| *version > MAX_NUMBER) {
        return Err("a document's version that cannot be".to_owned());
    }
    let active = report.slots.iter().filter_map(|slot| slot.active.as_ref());
    let counters = active.map(|model| model.release_counter);
    let deployments = report.deployments.iter();
    let bytes = deployments.flat_map(|deployment| [deployment.bytes_received, deployment.bytes_total]);
    let mut numbers = counters.chain(bytes).chain([report.boot_count]);
    if numbers.any(|number| number > MAX_NUMBER) {
        return Err("a count or a size that cannot be".to_owned());
    }
    Ok(())
}

/// What is to be said and told once everything is committed.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) receipts: BTreeMap<DeviceId, Vec<RecordKey>>,
    /// Devices that said hello, with their root's version.
    pub(super) answers: BTreeMap<DeviceId, u64>,
    /// Devices whose report shows that they have not got the desired state that was signed for them last, with their root's
    /// version.
    pub(super) behind: BTreeMap<DeviceId, u64>,
    pub(super) changes: Vec<Change>,
    /// Event, device, reason.
    pub(super) refused: Vec<(&'static str, DeviceId, String)>,
    /// Devices whose audit entries left a gap, and that are to send again.
    pub(super) gaps: BTreeSet<DeviceId>,
    /// Devices whose audit entries were not taken, and where the server's chain of them ends.
    pub(super) audit_refused: BTreeMap<DeviceId, AuditRefusal>,
    /// Devices whose chain goes on.
    pub(super) closed: BTreeSet<DeviceId>,
    /// Devices that refused content as altered: it may have been altered here.
    pub(super) complaints: Vec<Complaint>,
}

impl Effects {
    fn change(&mut self, change: Change) {
        if !self.changes.contains(&change) {
            self.changes.push(change);
        }
    }
}

/// What a handler needs to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now<'a> {
    pub(super) ms: i64,
    /// Devices whose gaps have been waited for long enough: what is missing will not come.
    pub(super) given_up: &'a BTreeSet<DeviceId>,
}

/// Takes one message into the database.
pub(super) async fn apply(
    tx: &mut Tx,
    message: &Message,
    now: Now<'_>,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let device = &message.device;
    match &message.said {
        Said::Hello { root_version, report } => {
            if let Some(report) = report {
                take_report(tx, report, now.ms, effects).await?;
            }
            effects.answers.insert(device.clone(), *root_version);
        }
        Said::Report(report) => take_report(tx, report, now.ms, effects).await?,
        Said::Bundle { bundle, audit } => {
            telemetry::take(tx, device, (bundle, audit.as_ref()), now, effects).await?;
        }
        Said::Samples(batch) => {
            if store::telemetry::record(tx, device, batch.key, now.ms).await? {
                samples::take(tx, device, &batch.samples, now.ms, effects).await?;
            }
            effects.receipts.entry(device.clone()).or_default().push(batch.key);
        }
    }
    Ok(())
}

async fn take_report(tx: &mut Tx, report: &Report, now: i64, effects: &mut Effects) -> Result<(), StoreError> {
    let reported = devices::apply_report(tx, &report.document, &report.envelope, now).await?;
    if !reported.newer {
        return Ok(());
    }
    let device = &report.document.device;
    if let Some(attack) = reported.new_attack {
        if attack.attack == ALTERED_CONTENT {
            effects.complaints.push(complaint(tx, device).await?);
        }
        record_attack(tx, device, attack).await?;
    }
    let documents = &report.document.documents;
    match devices::compare_desired(tx, device, documents.desired_state.version).await? {
        // It was lost on its way, or the device could not keep it.
        Ordering::Less => {
            effects.behind.insert(device.clone(), documents.root);
        }
        Ordering::Equal => {}
        // This server was restored from a copy: it has signed later ones than it remembers, and goes on above them.
        Ordering::Greater => effects.change(Change::Targets),
    }
    effects.change(Change::Device(device.clone()));
    for rollout in reported.rollouts {
        store::rollouts::touch(tx, rollout, now).await?;
        effects.change(Change::Rollout(rollout));
    }
    Ok(())
}

/// The targets are read here, because a rollout may take them back at once.
async fn complaint(tx: &mut Tx, device: &DeviceId) -> Result<Complaint, StoreError> {
    let mut blobs = BTreeSet::new();
    for target in devices::desired_targets(&mut **tx, device).await? {
        let named = director::blobs_of(&target).map_err(|why| StoreError::corrupt("components", why))?;
        blobs.extend(named.into_iter().map(|blob| blob.sha256));
    }
    Ok(Complaint {
        device: device.clone(),
        blobs,
    })
}

async fn record_attack(tx: &mut Tx, device: &DeviceId, attack: DetectedAttack) -> Result<(), StoreError> {
    let who = format!("device:{device}");
    let detail = [
        ("attack", attack.attack),
        ("detail", attack.detail),
        ("at_ms", attack.at.to_string()),
    ];
    let record = audit::record(&who, "attack.reported", who.clone(), detail);
    store::audit::append(tx, &record).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
