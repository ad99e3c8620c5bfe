//! The thread that owns one active model: takes requests from its queue one by one, runs them, counts them, and hands rows
//! worth keeping to the harvest.
//!
//! It ends when its queue has no senders left and is empty: what was accepted is answered.

use std::sync::Arc;
use std::thread::JoinHandle;

use flotilla_engine::{Blame, EngineError, Model, Outcome};
use flotilla_protocol::infer::Tensor;
use flotilla_protocol::messages::Sample;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Observer;
use super::telemetry::{Recorder, Timing};
use crate::clock::Clock;
use crate::drift::DriftEvent;
use crate::harvest::Candidate;

/// tract's optimiser recurses over the graph.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// One request.
#[derive(Debug)]
pub(crate) struct Job {
    inputs: Vec<Tensor>,
    enqueued: Instant,
    reply: oneshot::Sender<Result<Outcome, EngineError>>,
}

impl Job {
    pub(crate) fn new(inputs: Vec<Tensor>) -> (Self, oneshot::Receiver<Result<Outcome, EngineError>>) {
        let (reply, answer) = oneshot::channel();
        let job = Self {
            inputs,
            enqueued: Instant::now(),
            reply,
        };
        (job, answer)
    }
}

/// A running thread and the queue to it.
#[derive(Debug)]
pub(crate) struct Worker {
    requests: mpsc::Sender<Job>,
    pub(crate) recorder: Arc<Recorder>,
    thread: JoinHandle<()>,
}

impl Worker {
    pub(crate) fn start(
        model: Model,
        recorder: Arc<Recorder>,
        observer: Arc<Observer>,
        clock: Clock,
        queue: usize,
    ) -> std::io::Result<Self> {
        let (requests, queue) = mpsc::channel(queue.max(1));
        let context = Context {
            model,
            ended: Ended(Arc::clone(&recorder)),
            observer,
            clock,
        };
        let thread = std::thread::Builder::new()
            .name(format!("model-{}", recorder.info().slot))
            .stack_size(STACK_BYTES)
            .spawn(move || context.serve(queue))?;
        Ok(Self {
            requests,
            recorder,
            thread,
        })
    }

    pub(crate) fn sender(&self) -> mpsc::Sender<Job> {
        self.requests.clone()
    }

    /// Closes the queue and waits until what it holds is answered and the thread has ended.
    pub(crate) async fn join(self) {
        let Self {
            requests,
            recorder,
            thread,
        } = self;
        drop(requests);
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!(slot = %recorder.info().slot, "the thread of a model panicked");
        }
    }
}

/// Says that nothing more will be counted, however the thread ends.
struct Ended(Arc<Recorder>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct Context {
    model: Model,
    ended: Ended,
    observer: Arc<Observer>,
    clock: Clock,
}

impl Context {
    fn serve(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            // Whoever asked has given up: nobody would see the answer.
            if !job.reply.is_closed() {
                self.answer(job);
            }
        }
    }

    fn answer(&mut self, job: Job) {
        let started = Instant::now();
        let result = self.model.run(&job.inputs);
        let timing = Timing {
            queue_us: micros(started.duration_since(job.enqueued)),
            compute_us: micros(started.elapsed()),
        };
        match &result {
            Ok(outcome) => self.count(&job.inputs, outcome, timing),
            Err(error) => {
                tracing::debug!(slot = %self.recorder().info().slot, %error, "inference failed");
                let rows = match error.blame() {
                    Blame::Data => 0,
                    // The shape given is not to be believed.
                    Blame::Interface => 1,
                    Blame::Model => self.rows(&job.inputs),
                };
                self.recorder().failed(rows, timing);
            }
        }
        // The asker may have given up meanwhile: the work was done and is counted.
        drop(job.reply.send(result));
    }

    fn recorder(&self) -> &Recorder {
        &self.ended.0
    }

    /// Rows of a request that fits the model's border.
    fn rows(&self, inputs: &[Tensor]) -> u64 {
        let batched = self
            .model
            .spec()
            .inputs
            .iter()
            .all(|input| input.shape.first() == Some(&-1));
        let first = inputs.first().and_then(|input| input.shape.first().copied());
        if batched { first.unwrap_or(1) } else { 1 }
    }

    fn count(&self, inputs: &[Tensor], outcome: &Outcome, timing: Timing) {
        let rows = self.rows(inputs);
        let observed = self.recorder().answered(outcome, rows, timing);
        let info = self.recorder().info();
        for status in observed.transitions {
            self.observer.drift(DriftEvent {
                slot: info.slot.clone(),
                line: info.manifest.name.clone(),
                manifest: info.manifest_digest,
                status,
                at: self.clock.now_ms(),
            });
        }
        // Samples have one input; packages with several are not harvested.
        if let [input] = inputs {
            self.harvest(input, outcome, rows, observed.drifted);
        }
    }

    fn harvest(&self, input: &Tensor, outcome: &Outcome, rows: u64, drifted: bool) {
        let info = self.recorder().info();
        let Some(row_bytes) = usize::try_from(rows)
            .ok()
            .and_then(|rows| input.data.len().checked_div(rows))
        else {
            return;
        };
        let mut harvester = self.observer.harvester();
        for (row, bytes) in input.data.chunks(row_bytes.max(1)).enumerate() {
            let scores = outcome.scores.get(row).map_or(&[][..], Vec::as_slice);
            let label = outcome
                .label_indices
                .get(row)
                .and_then(|index| info.manifest.labels.get(*index));
            let candidate = Candidate {
                manifest: info.manifest_digest,
                input: bytes,
                drifted,
                confidence: label.and_then(|_| scores.iter().copied().reduce(f32::max)),
            };
            harvester.consider(candidate, |reason| {
                let shape = input.shape.get(1..).unwrap_or_default().to_vec();
                Some(Sample {
                    captured_at: self.clock.now_ms(),
                    line: info.manifest.name.clone(),
                    manifest: info.manifest_digest,
                    input: Tensor::from_raw(&input.name, input.datatype, shape, bytes.to_vec()).ok()?,
                    scores: scores.to_vec(),
                    predicted: label.cloned().unwrap_or_default(),
                    reason,
                })
            });
        }
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
