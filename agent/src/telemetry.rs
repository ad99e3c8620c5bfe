//! Seals what the device has seen: telemetry bundles by the interval, audit entries as soon as there are any, samples as
//! they are kept. And sends what is sealed until the server's receipt frees it.
//!
//! Counts leave memory and reach the store in one go; what could not be stored is added to the next bundle. Audit entries
//! travel in bundles of their own, so that telemetry can be given up without them. Nothing is looked for: whoever writes an
//! entry or keeps a sample says so, and an idle device sleeps until its next interval.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_protocol::audit::SignedAuditHead;
use flotilla_protocol::bundle::{Bundle, ModelTelemetry, Resources};
use flotilla_protocol::codec::{self, CodecError, MAX_BUNDLE_BYTES, MAX_MESSAGE_BYTES};
use flotilla_protocol::messages::{SCHEMA, Sample, SampleBatch};
use flotilla_protocol::sketch::DriftStatus;
use flotilla_protocol::topics::Up;
use flotilla_protocol::trust::{Document as _, sign};
use serde::Serialize;
use serde_bytes::ByteBuf;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::audit::{self, Entry};
use crate::clock::Clock;
use crate::inference::InferenceHandle;
use crate::inference::telemetry::{Age, add};
use crate::link::LinkHandle;
use crate::report::{Reporter, Signer};
use crate::resources;
use crate::spool::RecordKind;
use crate::spool::disk::{DiskSpool, Sealed};
use crate::store::{Store, StoreError, on_disk};

/// Audit entries of one bundle, before compression.
const AUDIT_BYTES: usize = 48 * 1024;
/// Samples of one batch, before compression; a single larger one goes alone.
const SAMPLE_BYTES: usize = 64 * 1024;
/// Room that the rest of a message needs beside its samples.
const ENVELOPE_BYTES: usize = 4 * 1024;
/// An idle device still says that it is there once in so many intervals.
const IDLE_INTERVALS: u32 = 10;
/// Audit entries and samples that follow each other this closely travel together.
const GATHER: Duration = Duration::from_millis(500);
/// What could not be sealed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);
const AUDIT_HEAD_LIFE_MS: i64 = 10 * 365 * 24 * 3_600_000;

/// See the module's documentation.
#[derive(Debug)]
pub struct Sealer {
    pub signer: Arc<Signer>,
    pub store: Arc<Store>,
    pub spool: Arc<DiskSpool>,
    pub inference: InferenceHandle,
    pub clock: Clock,
    pub data_dir: PathBuf,
    pub sealed: Arc<Notify>,
    /// Taken from memory and not stored yet.
    pub unsealed: Mutex<Unsealed>,
    /// The last judgement per slot.
    pub drift: watch::Sender<BTreeMap<String, DriftStatus>>,
}

/// An interval that is not sealed yet.
#[derive(Debug, Default)]
pub struct Unsealed {
    models: Vec<ModelTelemetry>,
    from: i64,
    idle: u32,
}

impl Unsealed {
    pub fn since(from: i64) -> Self {
        Self {
            from,
            ..Self::default()
        }
    }
}

impl Sealer {
    /// Seals by the interval and on drift, until `stop`; then once more.
    pub async fn run(
        self: Arc<Self>,
        reporter: Arc<Reporter>,
        mut interval: watch::Receiver<Duration>,
        stop: CancellationToken,
    ) {
        let mut next = Instant::now() + *interval.borrow_and_update();
        // What earlier starts left is sealed at once.
        let mut gathered = Some(Instant::now());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(next) => {
                    self.seal_telemetry(false);
                    next = Instant::now() + *interval.borrow();
                }
                changed = interval.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    next = next.min(Instant::now() + *interval.borrow_and_update());
                }
                () = self.inference.drift_changed() => if self.drift() {
                    self.seal_telemetry(true);
                    reporter.want();
                },
                () = self.store.audited() => gathered = Some(gathered.unwrap_or_else(soon)),
                () = self.inference.samples_kept() => gathered = Some(gathered.unwrap_or_else(soon)),
                () = tokio::time::sleep_until(gathered.unwrap_or(next)), if gathered.is_some() => {
                    let (audit, samples) = (self.seal_audit(), self.seal_samples());
                    gathered = (!(audit && samples)).then(|| Instant::now() + AGAIN);
                }
            }
        }
        self.seal_all();
    }

    /// Seals everything there is: at the end.
    pub fn seal_all(&self) {
        self.drift();
        self.seal_telemetry(true);
        self.seal_audit();
        self.seal_samples();
    }

    /// Writes drift's comings and goings to the audit chain; `true` if there were any.
    fn drift(&self) -> bool {
        let events = self.inference.take_drift_events();
        for event in &events {
            let name = if event.status.drifted {
                "drift.detected"
            } else {
                "drift.cleared"
            };
            let worst: Vec<&str> = event.status.worst.iter().map(|feature| feature.name.as_str()).collect();
            let entry = Entry::new(name, format!("slot:{}", event.slot))
                .with("line", &event.line)
                .with("manifest", event.manifest)
                .with("share", format!("{:.3}", event.status.share))
                .with("observations", event.status.count)
                .with("nearest_slice", &event.status.nearest_slice)
                .with("worst", worst.join(", "));
            self.drift.send_modify(|known| {
                known.insert(event.slot.to_string(), event.status.clone());
            });
            info!(event = name, slot = %event.slot, share = event.status.share, "drift");
            if let Err(why) = self.store.write(|txn| audit::append(txn, &entry, event.at)) {
                error!(%why, "drift could not be audited");
            }
        }
        !events.is_empty()
    }

    /// Seals the interval. Without `now`, an interval in which nothing happened is skipped (but not for ever).
    fn seal_telemetry(&self, now: bool) {
        let mut unsealed = self.unsealed.lock().unwrap_or_else(PoisonError::into_inner);
        for model in self.inference.take_telemetry() {
            // Also those with zeros, or an idle model would not be named.
            if unsealed.models.iter().any(|known| known.is_same_package(&model)) {
                add(&mut unsealed.models, model, Age::Later);
            } else {
                unsealed.models.push(model);
            }
        }
        let idle = unsealed.models.iter().all(|model| model.inferences == 0);
        if idle && (now || unsealed.idle + 1 < IDLE_INTERVALS) {
            unsealed.idle = unsealed.idle.saturating_add(u32::from(!now));
            unsealed.models.clear();
            return;
        }
        let to = self.clock.now_ms();
        let from = unsealed.from;
        self.judged(&unsealed.models);
        match self.seal_models(&mut unsealed.models, from, to) {
            Ok(()) => *unsealed = Unsealed::since(to),
            Err(why) => error!(%why, "telemetry could not be sealed: it is added to the next bundle"),
        }
    }

    /// One bundle, or one per model where one would be too long for a message. What is sealed leaves `models`.
    fn seal_models(&self, models: &mut Vec<ModelTelemetry>, from: i64, to: i64) -> Result<(), StoreError> {
        let whole = self.bundle(models.clone(), from, to);
        if fits(&whole)? {
            self.seal_bundle(&whole)?;
            models.clear();
            return Ok(());
        }
        while let Some(model) = models.first() {
            let mut one = self.bundle(vec![model.clone()], from, to);
            if !fits(&one)? {
                warn!(slot = %model.slot, "a sketch is too large for a message and is left out");
                for model in &mut one.models {
                    model.sketches = None;
                }
            }
            self.seal_bundle(&one)?;
            models.remove(0);
        }
        Ok(())
    }

    /// Keeps the last judgement of every slot for status.
    fn judged(&self, models: &[ModelTelemetry]) {
        self.drift.send_modify(|known| {
            for model in models {
                if let Some(status) = &model.drift {
                    known.insert(model.slot.to_string(), status.clone());
                }
            }
        });
    }

    fn bundle(&self, models: Vec<ModelTelemetry>, from: i64, to: i64) -> Bundle {
        let depth = self.spool.depth();
        Bundle {
            schema: SCHEMA,
            device: self.signer.device.clone(),
            key: self.signer.boot.record(u64::MAX),
            from,
            to,
            models,
            resources: self.resources(depth.bytes),
            dropped: depth.dropped,
            audit: Vec::new(),
            audit_head: None,
        }
    }

    fn resources(&self, spool_bytes: u64) -> Resources {
        resources::measure(&self.data_dir, spool_bytes).unwrap_or_else(|why| {
            warn!(%why, "resources cannot be measured");
            Resources::default()
        })
    }

    fn seal_bundle(&self, bundle: &Bundle) -> Result<(), StoreError> {
        let estimate = encoded(bundle)?.len() as u64;
        let sealed = self.spool.seal(RecordKind::Telemetry, estimate, |_, key| {
            encoded(&Bundle { key, ..bundle.clone() }).map(Some)
        })?;
        if sealed == Some(Sealed::Dropped) {
            warn!("the spool is full of what is worth more: a telemetry bundle is dropped");
        }
        self.sealed.notify_one();
        Ok(())
    }

    /// Moves audit entries into bundles of their own, with the signed head after them. `false` if some still wait.
    fn seal_audit(&self) -> bool {
        loop {
            match self.store.read(audit::waiting) {
                Ok(true) => {}
                Ok(false) => return true,
                Err(why) => {
                    error!(%why, "the audit entries cannot be read");
                    return false;
                }
            }
            let now = self.clock.now_ms();
            let bundle = self.bundle(Vec::new(), now, now);
            let sealed = self.spool.seal(RecordKind::Audit, AUDIT_BYTES as u64, |txn, key| {
                let Some(taken) = audit::take(txn, AUDIT_BYTES)? else {
                    return Ok(None);
                };
                let version = (taken.head.epoch << 32).saturating_add(taken.head.count);
                let head = SignedAuditHead {
                    header: self
                        .signer
                        .header(SignedAuditHead::SCHEMA, version, now, AUDIT_HEAD_LIFE_MS),
                    device: self.signer.device.clone(),
                    head: taken.head,
                };
                let head = sign(&head, &self.signer.key).map_err(|why| malformed(why.to_string()))?;
                let bundle = Bundle {
                    key,
                    audit: taken.batches,
                    audit_head: Some(ByteBuf::from(head)),
                    ..bundle.clone()
                };
                encoded(&bundle).map(Some)
            });
            match sealed {
                Ok(Some(_)) => self.sealed.notify_one(),
                Ok(None) => return true,
                Err(why) => {
                    error!(%why, "audit entries could not be sealed: they wait");
                    return false;
                }
            }
        }
    }

    /// `false` if some still wait.
    fn seal_samples(&self) -> bool {
        loop {
            let mut samples = self.inference.take_samples(SAMPLE_BYTES);
            if samples.is_empty() {
                samples = self.inference.take_samples(MAX_MESSAGE_BYTES - ENVELOPE_BYTES);
            }
            if samples.is_empty() {
                return true;
            }
            if let Err(why) = self.seal_batch(&samples) {
                error!(%why, "samples could not be sealed: they wait");
                self.inference.return_samples(samples);
                return false;
            }
        }
    }

    fn seal_batch(&self, samples: &[Sample]) -> Result<(), StoreError> {
        let batch = |key| SampleBatch {
            schema: SCHEMA,
            device: self.signer.device.clone(),
            key,
            samples: samples.to_vec(),
        };
        let estimate = encoded(&batch(self.signer.boot.record(u64::MAX)))?.len() as u64;
        let sealed = self
            .spool
            .seal(RecordKind::Samples, estimate, |_, key| encoded(&batch(key)).map(Some))?;
        if sealed == Some(Sealed::Dropped) {
            debug!(samples = samples.len(), "the spool has no room for samples");
        }
        self.sealed.notify_one();
        Ok(())
    }
}

fn soon() -> Instant {
    Instant::now() + GATHER
}

fn fits(bundle: &Bundle) -> Result<bool, StoreError> {
    let plain = codec::to_vec(bundle).map_err(|source| StoreError::Value {
        key: "bundle".to_owned(),
        source,
    })?;
    Ok(plain.len() <= MAX_BUNDLE_BYTES && encoded(bundle)?.len() <= MAX_MESSAGE_BYTES)
}

fn encoded<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    codec::to_vec_zstd(value).map_err(|source| StoreError::Value {
        key: "record".to_owned(),
        source,
    })
}

fn malformed(why: String) -> StoreError {
    StoreError::Value {
        key: "audit head".to_owned(),
        source: CodecError::Malformed(why),
    }
}

/// Publishes sealed records until they are receipted: on every connect, as they are sealed, and again when unanswered.
pub async fn send(spool: Arc<DiskSpool>, link: LinkHandle, sealed: Arc<Notify>, stop: CancellationToken) {
    let mut connection = link.connection();
    let began = Instant::now();
    let now = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    loop {
        let connected = *connection.borrow_and_update();
        if connected {
            publish_due(&spool, &link, now());
        } else {
            spool.disconnected();
        }
        let resend = spool
            .next_resend()
            .unwrap_or(u64::MAX)
            .min(now().saturating_add(60_000));
        tokio::select! {
            () = stop.cancelled() => return,
            () = sealed.notified() => {}
            changed = connection.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep_until(began + Duration::from_millis(resend)), if connected => {}
        }
    }
}

/// Publishes what may be published now.
pub fn publish_due(spool: &DiskSpool, link: &LinkHandle, now: u64) {
    let due = match on_disk(|| spool.due(now)) {
        Ok(due) => due,
        Err(why) => return error!(%why, "the spool cannot be read"),
    };
    for (key, kind, payload) in due {
        let topic = match kind {
            RecordKind::Samples => Up::Sample,
            RecordKind::Telemetry | RecordKind::Audit => Up::Bundle,
        };
        if !link.publish(topic, payload, true) {
            debug!(?key, "sent again later");
        }
    }
}

#[cfg(test)]
mod tests;
