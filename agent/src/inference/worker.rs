//! The thread that owns one active model: takes requests from its queue one by one, runs them, counts them, and hands rows
//! worth keeping to the harvest.
//!
//! It ends when its queue has no senders left and is empty: what was accepted is answered. A request that makes the
//! inference library panic gets an error and costs the thread (see [`super::isolation`]): another takes over the queue
//! with the model loaded anew, a few times; then the slot only answers with the reason until its model is replaced.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use flotilla_engine::{Blame, EngineError, Model, Outcome};
use flotilla_protocol::infer::Tensor;
use flotilla_protocol::messages::Sample;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::package::PackageSource;
use super::telemetry::{Recorder, Timing};
use super::{Observer, isolation, lock};
use crate::clock::Clock;
use crate::drift::DriftEvent;
use crate::harvest::Candidate;

/// Threads that one activation may lose before its model is left alone.
const MAX_CRASHES: u32 = 3;

type Reply = oneshot::Sender<Result<Outcome, EngineError>>;

/// One request.
#[derive(Debug)]
pub(crate) struct Job {
    inputs: Vec<Tensor>,
    enqueued: Instant,
    reply: Reply,
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
    ended: oneshot::Receiver<()>,
}

impl Worker {
    pub(crate) fn start(
        (model, source): (Model, PackageSource),
        recorder: Arc<Recorder>,
        observer: Arc<Observer>,
        clock: Clock,
        queue: usize,
    ) -> std::io::Result<Self> {
        let (requests, queue) = mpsc::channel(queue.max(1));
        let (end, ended) = oneshot::channel();
        let context = Arc::new(Context {
            source,
            recorder: Arc::clone(&recorder),
            observer,
            clock,
            queue: Mutex::new(queue),
            crashes: AtomicU32::new(0),
            end: Mutex::new(Some(end)),
        });
        context.spawn(Some(model))?;
        Ok(Self {
            requests,
            recorder,
            ended,
        })
    }

    pub(crate) fn sender(&self) -> mpsc::Sender<Job> {
        self.requests.clone()
    }

    /// Closes the queue and waits until what it holds is answered and the thread has ended.
    pub(crate) async fn join(self) {
        drop(self.requests);
        if self.ended.await.is_err() {
            tracing::error!(slot = %self.recorder.info().slot, "the thread of a model died");
        }
    }
}

/// What the threads of one activation share, one after the other.
struct Context {
    source: PackageSource,
    recorder: Arc<Recorder>,
    observer: Arc<Observer>,
    clock: Clock,
    /// Held while waiting, never while a model runs.
    queue: Mutex<mpsc::Receiver<Job>>,
    crashes: AtomicU32,
    end: Mutex<Option<oneshot::Sender<()>>>,
}

/// Says that nothing more will be counted when its thread ends, by unwinding too. A parked thread never gets here.
struct Ending<'a>(&'a Context);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.recorder.end();
        if let Some(end) = lock(&self.0.end).take() {
            // Nobody may be waiting for it.
            end.send(()).ok();
        }
    }
}

impl Context {
    /// Starts a thread for the queue; without a model it loads its own.
    fn spawn(self: &Arc<Self>, model: Option<Model>) -> std::io::Result<()> {
        let context = Arc::clone(self);
        std::thread::Builder::new()
            .name(format!("model-{}", self.recorder.info().slot))
            .stack_size(isolation::STACK_BYTES)
            .spawn(move || {
                let ending = Ending(&context);
                let model = model.map_or_else(|| context.load(), Ok);
                match model {
                    Ok(mut model) => context.serve(|context, job| context.answer(&mut model, job)),
                    Err(why) => context.serve(|context, job| context.refuse(job, &why)),
                }
                drop(ending);
            })
            .map(drop)
    }

    fn serve(self: &Arc<Self>, mut answer: impl FnMut(&Arc<Self>, Job)) {
        loop {
            // A statement of its own: the lock is free again while the model runs.
            let job = lock(&self.queue).blocking_recv();
            let Some(job) = job else { return };
            // Whoever asked has given up: nobody would see the answer.
            if !job.reply.is_closed() {
                answer(self, job);
            }
        }
    }

    /// The model once more, after a crash.
    fn load(self: &Arc<Self>) -> Result<Model, String> {
        let crashes = self.crashes.load(Ordering::Relaxed);
        if crashes > MAX_CRASHES {
            return Err(format!("it did so {crashes} times and is stopped until it is replaced"));
        }
        let context = Arc::clone(self);
        isolation::guarded(
            move |message| context.crashed("while loading it again", &message),
            || self.source.load_model(),
        )
        .map_err(|why| format!("it cannot be loaded again: {why}"))
    }

    fn answer(self: &Arc<Self>, model: &mut Model, job: Job) {
        let Job {
            inputs,
            enqueued,
            reply,
        } = job;
        let started = Instant::now();
        let timing = move || Timing {
            queue_us: micros(started.duration_since(enqueued)),
            compute_us: micros(started.elapsed()),
        };
        let rows = Self::rows(model, &inputs);
        let reply = Rc::new(Cell::new(Some(reply)));
        let on_panic = {
            let (context, reply) = (Arc::clone(self), Rc::clone(&reply));
            move |message: String| {
                context.failed(rows, timing());
                let error = EngineError::Panicked {
                    during: "running the model",
                    message: message.clone(),
                };
                send(&reply, Err(error));
                context.crashed("while answering", &message);
            }
        };
        let result = isolation::guarded(on_panic, || model.run(&inputs));
        let timing = timing();
        match &result {
            Ok(outcome) => self.count(&inputs, outcome, rows, timing),
            Err(error) => {
                tracing::debug!(slot = %self.recorder.info().slot, %error, "inference failed");
                let rows = match error.blame() {
                    Blame::Data => 0,
                    // The shape given is not to be believed.
                    Blame::Interface => 1,
                    Blame::Model => rows,
                };
                self.failed(rows, timing);
            }
        }
        send(&reply, result);
    }

    fn failed(&self, rows: u64, timing: Timing) {
        self.recorder.failed(rows, timing);
        self.observer.failed();
    }

    /// The thread that calls this is about to be parked: another one takes over.
    fn crashed(self: &Arc<Self>, when: &str, message: &str) {
        let crashes = self.crashes.fetch_add(1, Ordering::Relaxed) + 1;
        let slot = &self.recorder.info().slot;
        tracing::error!(%slot, crashes, message, "the model panicked {when}");
        if let Err(why) = self.spawn(None) {
            tracing::error!(%slot, %why, "no thread can be started for the model: it answers no more");
            // Closed: senders learn that nobody will answer.
            lock(&self.queue).close();
            drop(Ending(self));
        }
    }

    fn refuse(&self, job: Job, why: &str) {
        let waited = micros(job.enqueued.elapsed());
        let timing = Timing {
            queue_us: waited,
            compute_us: 0,
        };
        self.failed(1, timing);
        let error = EngineError::Panicked {
            during: "running the model",
            message: why.to_owned(),
        };
        drop(job.reply.send(Err(error)));
    }

    /// Rows of a request that fits the model's border.
    fn rows(model: &Model, inputs: &[Tensor]) -> u64 {
        let batched = model.spec().inputs.iter().all(|input| input.shape.first() == Some(&-1));
        let first = inputs.first().and_then(|input| input.shape.first().copied());
        if batched { first.unwrap_or(1) } else { 1 }
    }

    fn count(&self, inputs: &[Tensor], outcome: &Outcome, rows: u64, timing: Timing) {
        let observed = self.recorder.answered(outcome, rows, timing);
        let info = self.recorder.info();
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
        let info = self.recorder.info();
        let Some(row_bytes) = usize::try_from(rows)
            .ok()
            .and_then(|rows| input.data.len().checked_div(rows))
        else {
            return;
        };
        let mut harvester = self.observer.harvester();
        let mut kept = false;
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
            kept |= harvester.consider(candidate, |reason| {
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
        drop(harvester);
        if kept {
            self.observer.samples_kept.notify_one();
        }
    }
}

/// Whoever asked may have given up meanwhile: the work was done and is counted.
fn send(reply: &Cell<Option<Reply>>, result: Result<Outcome, EngineError>) {
    if let Some(reply) = reply.take() {
        drop(reply.send(result));
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
