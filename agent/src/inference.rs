//! Models in named slots, ready to answer: activation, requests, health, telemetry.
//!
//! Each active model is owned by a thread of its own (`worker`) behind a bounded queue; when the queue is full the request
//! is refused as busy, not kept. Replacing a model swaps the queue first: what the old one had accepted it still answers,
//! and its counts are handed out with the next telemetry. This module knows no network and no update logic.

#[cfg(test)]
pub(crate) mod fixture;
pub mod isolation;
pub mod package;
pub mod telemetry;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_engine::{Blame, EngineError, Outcome};
use flotilla_protocol::bundle::ModelTelemetry;
use flotilla_protocol::desired_state::HarvestPolicy;
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::ids::{Digest, SlotName};
use flotilla_protocol::infer::{ModelMetadata, Tensor, TensorMetadata};
use flotilla_protocol::manifest::{Manifest, TensorSpec};
use flotilla_protocol::messages::Sample;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::drift::DriftEvent;
use crate::harvest::{HarvestCounts, HarvestLimits, Harvester};

pub use package::{LoadedPackage, PackageError};
pub use telemetry::{SlotHealth, Totals};

use telemetry::{Age, Recorder};
use worker::{Job, Worker};

/// Drift events kept until they are taken. When full, the oldest goes: only transitions are kept, and the newest says what
/// holds now.
const DRIFT_EVENTS: usize = 256;
/// Replaced models whose counts wait to be taken. When full, the oldest's are lost.
const RETIRED: usize = 256;

/// Bounds of what inference may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InferenceLimits {
    /// Requests waiting per slot; one more is refused as busy.
    pub queue: usize,
    /// Slots with an active model.
    pub slots: usize,
    pub harvest: HarvestLimits,
}

impl Default for InferenceLimits {
    fn default() -> Self {
        Self {
            queue: 64,
            slots: 16,
            harvest: HarvestLimits::default(),
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    #[error("no model '{0}' is active on this device")]
    NoModel(String),
    #[error("model '{model}' is busy: {queue} requests are waiting; try again")]
    Busy { model: String, queue: usize },
    #[error("model '{0}' was replaced by another while the request was made for it")]
    Replaced(String),
    #[error("model '{0}' was stopped before it answered")]
    Stopped(String),
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("{limit} slots are in use, no more are allowed")]
    TooManySlots { limit: usize },
    #[error("the thread of a model could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl InferenceError {
    /// `None` for what is neither the request's nor the model's fault.
    pub fn blame(&self) -> Option<Blame> {
        match self {
            Self::Engine(error) => Some(error.blame()),
            _ => None,
        }
    }
}

/// An active model, as others may see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    pub slot: SlotName,
    pub manifest: Manifest,
    pub manifest_digest: Digest,
    pub features: Option<FeatureSpec>,
    /// Unix milliseconds.
    pub activated_at: i64,
}

impl ModelInfo {
    pub fn name(&self) -> &str {
        self.manifest.name.as_str()
    }

    /// As the inference protocol describes it.
    pub fn metadata(&self) -> ModelMetadata {
        let tensor = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.datatype,
            shape: spec.shape.clone(),
        };
        let mut outputs: Vec<TensorMetadata> = self.manifest.outputs.iter().map(tensor).collect();
        let has_label = outputs
            .iter()
            .any(|output| output.name == flotilla_engine::LABEL_OUTPUT);
        if !self.manifest.labels.is_empty() && !has_label {
            outputs.push(TensorMetadata {
                name: flotilla_engine::LABEL_OUTPUT.to_owned(),
                datatype: flotilla_protocol::infer::DataType::Bytes,
                shape: vec![-1],
            });
        }
        ModelMetadata {
            name: self.name().to_owned(),
            versions: vec![self.manifest.semver.clone()],
            platform: "onnx_onnxv1".to_owned(),
            inputs: self.manifest.inputs.iter().map(tensor).collect(),
            outputs,
        }
    }
}

/// An answered request.
#[derive(Debug, Clone)]
pub struct Inferred {
    pub outcome: Outcome,
    pub model: Arc<ModelInfo>,
}

/// See the module's documentation. Clones share everything.
#[derive(Debug, Clone)]
pub struct InferenceHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    limits: InferenceLimits,
    state: Mutex<State>,
    /// Counts activations and deactivations.
    changes: watch::Sender<u64>,
    observer: Arc<Observer>,
}

#[derive(Debug, Default)]
struct State {
    active: BTreeMap<SlotName, Worker>,
    /// Recorders of replaced models whose counts have not all been taken.
    retired: Vec<Arc<Recorder>>,
}

/// What the workers of all models report to.
#[derive(Debug)]
pub(crate) struct Observer {
    harvester: Mutex<Harvester>,
    drift_events: Mutex<VecDeque<DriftEvent>>,
    drift_changed: Notify,
    samples_kept: Notify,
    /// Counts requests that were not answered, for whatever reason.
    failures: watch::Sender<u64>,
}

impl Observer {
    fn new(limits: HarvestLimits) -> Self {
        Self {
            harvester: Mutex::new(Harvester::new(limits)),
            drift_events: Mutex::new(VecDeque::new()),
            drift_changed: Notify::new(),
            samples_kept: Notify::new(),
            failures: watch::Sender::new(0),
        }
    }

    fn failed(&self) {
        self.failures.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn harvester(&self) -> MutexGuard<'_, Harvester> {
        lock(&self.harvester)
    }

    fn drift(&self, event: DriftEvent) {
        let mut events = lock(&self.drift_events);
        if events.len() >= DRIFT_EVENTS {
            events.pop_front();
        }
        events.push_back(event);
        drop(events);
        self.drift_changed.notify_one();
    }
}

/// What is behind these locks stays whole even if a holder panicked: counters and queues, changed in single steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InferenceHandle {
    pub fn new(clock: Clock, limits: InferenceLimits) -> Self {
        Self(Arc::new(Shared {
            clock,
            limits,
            state: Mutex::new(State::default()),
            changes: watch::Sender::new(0),
            observer: Arc::new(Observer::new(limits.harvest)),
        }))
    }

    /// Makes a package the active one of its slot. From this call's swap on, new requests go to it; the one it replaces
    /// answers what it had accepted, and has ended when this returns. Cancelling the call does not undo the swap.
    pub async fn activate(&self, slot: SlotName, package: LoadedPackage) -> Result<Arc<ModelInfo>, InferenceError> {
        let info = Arc::new(ModelInfo {
            slot: slot.clone(),
            features: package.model.spec().features.clone(),
            manifest: package.source.manifest.clone(),
            manifest_digest: package.manifest_digest,
            activated_at: self.0.clock.now_ms(),
        });
        let recorder = Arc::new(Recorder::new(Arc::clone(&info), package.reference));
        let limit = self.0.limits.slots;
        if !self.state().active.contains_key(&slot) && self.state().active.len() >= limit {
            return Err(InferenceError::TooManySlots { limit });
        }
        let worker = Worker::start(
            (package.model, package.source),
            recorder,
            Arc::clone(&self.0.observer),
            self.0.clock.clone(),
            self.0.limits.queue,
        )?;
        let replaced = self.swap(&slot, Some(worker));
        if let Some(replaced) = replaced {
            replaced.join().await;
        }
        Ok(info)
    }

    /// Empties a slot. What its model had accepted is answered before this returns.
    pub async fn deactivate(&self, slot: &SlotName) {
        if let Some(replaced) = self.swap(slot, None) {
            replaced.join().await;
        }
    }

    /// Empties all slots.
    pub async fn shutdown(&self) {
        let slots: Vec<SlotName> = self.state().active.keys().cloned().collect();
        for slot in slots {
            self.deactivate(&slot).await;
        }
    }

    fn swap(&self, slot: &SlotName, worker: Option<Worker>) -> Option<Worker> {
        let mut state = self.state();
        let replaced = match worker {
            Some(worker) => state.active.insert(slot.clone(), worker),
            None => state.active.remove(slot),
        };
        if let Some(replaced) = &replaced {
            if state.retired.len() >= RETIRED {
                drop(state.retired.remove(0));
                tracing::warn!(
                    "counts of a replaced model are lost: no telemetry was taken for {RETIRED} replacements"
                );
            }
            state.retired.push(Arc::clone(&replaced.recorder));
        }
        drop(state);
        self.0.changes.send_modify(|count| *count += 1);
        replaced
    }

    /// Runs a request on the model of that slot, or on the model line of that name. Refused at once when the queue is full.
    pub async fn infer(&self, name: &str, inputs: Vec<Tensor>) -> Result<Inferred, InferenceError> {
        let target = self.target(name)?;
        let (job, reply) = Job::new(inputs);
        target.requests.try_send(job).map_err(|refused| match refused {
            tokio::sync::mpsc::error::TrySendError::Full(_) => InferenceError::Busy {
                model: name.to_owned(),
                queue: self.0.limits.queue,
            },
            tokio::sync::mpsc::error::TrySendError::Closed(_) => InferenceError::Stopped(name.to_owned()),
        })?;
        let outcome = reply
            .await
            .map_err(|_gone| InferenceError::Stopped(name.to_owned()))??;
        Ok(Inferred {
            outcome,
            model: target.info,
        })
    }

    /// Like [`Self::infer`], but waits for room in the queue, and only while `model` is still the active one: for streams,
    /// whose rows are cut to fit one model and must not be held against its successor.
    pub async fn infer_for(&self, model: &ModelInfo, inputs: Vec<Tensor>) -> Result<Outcome, InferenceError> {
        let replaced = || InferenceError::Replaced(model.name().to_owned());
        let stopped = || InferenceError::Stopped(model.name().to_owned());
        let target = self.target(model.slot.as_str()).map_err(|_gone| replaced())?;
        if target.info.manifest_digest != model.manifest_digest {
            return Err(replaced());
        }
        let (job, reply) = Job::new(inputs);
        // Holding a sender keeps the thread: a closed queue means that it has died.
        target.requests.send(job).await.map_err(|_gone| stopped())?;
        Ok(reply.await.map_err(|_gone| stopped())??)
    }

    fn target(&self, name: &str) -> Result<Target, InferenceError> {
        let state = self.state();
        let worker = state
            .find(name)
            .ok_or_else(|| InferenceError::NoModel(name.to_owned()))?;
        Ok(Target {
            info: Arc::clone(worker.recorder.info()),
            requests: worker.sender(),
        })
    }

    /// The active model of that slot, or of that model line.
    pub fn model(&self, name: &str) -> Option<Arc<ModelInfo>> {
        self.state().find(name).map(|worker| Arc::clone(worker.recorder.info()))
    }

    pub fn metadata(&self, name: &str) -> Option<ModelMetadata> {
        self.model(name).map(|info| info.metadata())
    }

    /// All active models, by slot.
    pub fn list(&self) -> Vec<Arc<ModelInfo>> {
        let state = self.state();
        state.active.values().map(|w| Arc::clone(w.recorder.info())).collect()
    }

    /// Counts of the slot's model since its activation.
    pub fn health(&self, slot: &SlotName) -> Option<SlotHealth> {
        self.state().active.get(slot).map(|worker| worker.recorder.health())
    }

    /// Counts of all active models since their activation, for metrics.
    pub fn totals(&self) -> Vec<(Arc<ModelInfo>, Totals)> {
        let state = self.state();
        let totals = |worker: &Worker| (Arc::clone(worker.recorder.info()), worker.recorder.totals());
        state.active.values().map(totals).collect()
    }

    /// Changes whenever a model is activated or deactivated.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Moves out everything counted since the last call, replaced models included: each inference is in the answer of
    /// exactly one call. Packages that answered nothing are named with zeros while they are active.
    pub fn take_telemetry(&self) -> Vec<ModelTelemetry> {
        let (active, retired) = {
            let mut state = self.state();
            let active: Vec<Arc<Recorder>> = state.active.values().map(|w| Arc::clone(&w.recorder)).collect();
            (active, std::mem::take(&mut state.retired))
        };
        // A replaced model may still be answering: its recorder is asked again next time.
        let running: Vec<Arc<Recorder>> = retired.iter().filter(|r| !r.has_ended()).map(Arc::clone).collect();
        self.state().retired.extend(running);
        let mut taken: Vec<ModelTelemetry> = active.iter().map(|recorder| recorder.take()).collect();
        for recorder in retired {
            telemetry::add(&mut taken, recorder.take(), Age::Earlier);
        }
        taken
    }

    /// Moves out the transitions of drift since the last call, oldest first.
    pub fn take_drift_events(&self) -> Vec<DriftEvent> {
        lock(&self.0.observer.drift_events).drain(..).collect()
    }

    /// Returns when there may be drift events to take. One waiter at a time.
    pub async fn drift_changed(&self) {
        self.0.observer.drift_changed.notified().await;
    }

    /// Returns when there may be samples to take. One waiter at a time.
    pub async fn samples_kept(&self) {
        self.0.observer.samples_kept.notified().await;
    }

    /// Changes whenever a request is not answered.
    pub fn failures(&self) -> watch::Receiver<u64> {
        self.0.observer.failures.subscribe()
    }

    /// By package.
    pub fn set_harvest_policies(&self, policies: BTreeMap<Digest, HarvestPolicy>) {
        self.0.observer.harvester().set_policies(policies);
    }

    /// Moves out samples, oldest first, whose CBOR is at most `max_bytes` together.
    pub fn take_samples(&self, max_bytes: usize) -> Vec<Sample> {
        self.0.observer.harvester().take(max_bytes)
    }

    /// Gives back samples that could not be stored, to be taken again.
    pub fn return_samples(&self, samples: Vec<Sample>) {
        self.0.observer.harvester().put_back(samples);
    }

    pub fn harvest_counts(&self) -> HarvestCounts {
        self.0.observer.harvester().counts()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

struct Target {
    info: Arc<ModelInfo>,
    requests: tokio::sync::mpsc::Sender<Job>,
}

impl State {
    fn find(&self, name: &str) -> Option<&Worker> {
        let by_line = || self.active.values().find(|w| w.recorder.info().name() == name);
        let by_slot = self.active.values().find(|w| w.recorder.info().slot.as_str() == name);
        by_line().or(by_slot)
    }
}

#[cfg(test)]
mod tests;
