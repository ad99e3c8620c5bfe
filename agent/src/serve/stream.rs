//! Sensor streams: CSV lines from a file or a FIFO, cut into samples as the active model's features say, and inferred.
//!
//! The first line names the columns; the active model's raw names choose among them. A file is read once, from its start,
//! as fast as its rows are inferred or at a set rate. A FIFO is read for ever: when its last writer has closed it, the next
//! writer begins a new stream with a header of its own. Waiting is event-driven throughout.
//!
//! Rows wait rather than get lost: while no model is active, nothing more is read, and a FIFO's writer is held up in the end.
//! Where the active model's columns are not in the stream, a file waits for another model, but a FIFO's rows are dropped and
//! counted until one comes or the writer ends: behind it another may wait whose header fits. Rows whose chosen columns are
//! not all finite numbers, and lines that are too long, are skipped and counted; windows are cut from what remains, one
//! after the other from the stream's start. Results go to telemetry and harvest, nowhere else.

mod cut;
mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::infer::TensorError;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::inference::{InferenceError, InferenceHandle, ModelInfo};
use cut::{Buffer, Columns};
use source::{Lines, Source};

/// Samples in one request.
const BATCH: usize = 32;
/// Rows that came late are made up for, but a stream that was held up does not rush through what it missed.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Pause before a stream that could not be opened or read is tried again.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// Read once.
    File,
    /// Read for ever; made if it is not there.
    Fifo,
}

/// One stream in the agent's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// For status and log.
    pub name: String,
    pub path: PathBuf,
    pub kind: StreamKind,
    /// A slot or a model line.
    pub model: String,
    /// Rows are handed on at this rate; absent: as they come.
    #[serde(default)]
    pub rows_per_second: Option<f64>,
}

impl StreamConfig {
    /// Refuses what could not be run.
    pub fn check(&self) -> Result<(), String> {
        match self.rows_per_second {
            Some(rate) if !rate.is_finite() || rate <= 0.0 => Err(format!(
                "stream '{}': rows_per_second is {rate}, it must be above 0",
                self.name
            )),
            _ => Ok(()),
        }
    }
}

/// Where a stream stands. Counts begin with the process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StreamStatus {
    pub rows_read: u64,
    /// Rows with chosen columns that are not finite numbers, or without the columns that the model takes; lines that are no
    /// rows at all.
    pub rows_skipped: u64,
    pub samples_inferred: u64,
    /// Samples that the model did not answer.
    pub samples_failed: u64,
    /// What holds it up, or went wrong last; cleared when samples are inferred again.
    pub error: Option<String>,
    /// A file has been read to its end.
    pub finished: bool,
}

/// Why a stream stops for a while.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("cannot read {path}: {why}")]
    Read { path: PathBuf, why: std::io::Error },
    #[error("{0} ends before its header")]
    NoHeader(PathBuf),
    #[error("{path} has a line of more than {limit} bytes")]
    LongLine { path: PathBuf, limit: u64 },
    #[error("{0}")]
    Tensor(#[from] TensorError),
}

/// Runs a stream until `stop`, or until its file has been read. Errors stand in the status and are tried again.
pub async fn run(
    config: StreamConfig,
    inference: InferenceHandle,
    status: watch::Sender<StreamStatus>,
    stop: CancellationToken,
) {
    let stream = Stream {
        config,
        inference,
        status,
    };
    tokio::select! {
        () = stream.run() => {}
        () = stop.cancelled() => {}
    }
}

struct Stream {
    config: StreamConfig,
    inference: InferenceHandle,
    status: watch::Sender<StreamStatus>,
}

impl Stream {
    async fn run(&self) {
        let source = Source::new(&self.config);
        let mut previous = None;
        loop {
            let ended = match source.open(previous.take()).await {
                Ok(mut lines) => {
                    let ended = self.follow(&mut lines).await;
                    previous = Some(lines);
                    ended
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) if self.config.kind == StreamKind::File => {
                    self.status.send_modify(|status| status.finished = true);
                    return;
                }
                Ok(()) => {}
                // A writer came and went without a word.
                Err(StreamError::NoHeader(_)) if self.config.kind == StreamKind::Fifo => {}
                Err(error) => {
                    tracing::warn!(stream = self.config.name, %error, "stream interrupted");
                    self.complain(&error.to_string());
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Reads one stream from its header to its end.
    async fn follow(&self, lines: &mut Lines) -> Result<(), StreamError> {
        let header = match lines.next().await {
            // Without a header nobody knows what the rows are.
            Err(error @ StreamError::LongLine { .. }) if self.config.kind == StreamKind::Fifo => {
                let why = error.to_string();
                self.complain(&why);
                return self.pass_over(lines, &why).await;
            }
            header => header?.ok_or_else(|| StreamError::NoHeader(self.config.path.clone()))?,
        };
        let columns = Columns::from_header(&header);
        let mut pace = Pace::new(self.config.rows_per_second);
        let mut buffer = Buffer::new(columns.len());
        let mut ended = false;
        while !ended {
            let Some(model) = self.model_for(&columns, &mut buffer, lines).await? else {
                return Ok(());
            };
            ended = !self.fill(lines, &mut buffer, &mut pace).await?;
            self.drain(&model, &mut buffer).await?;
        }
        // What is left at the end fills no batch, but may still be samples for a model that came meanwhile.
        while buffer.ready() > 0 {
            let Some(model) = self.model_for(&columns, &mut buffer, lines).await? else {
                return Ok(());
            };
            self.drain(&model, &mut buffer).await?;
        }
        Ok(())
    }

    /// Waits until a model is active whose columns the stream has, and has the buffer cut samples for it. `None` when a
    /// FIFO's writer ended before that.
    async fn model_for(
        &self,
        columns: &Columns,
        buffer: &mut Buffer,
        lines: &mut Lines,
    ) -> Result<Option<Arc<ModelInfo>>, StreamError> {
        let mut changes = self.inference.changes();
        loop {
            changes.mark_unchanged();
            let misfit = match self.inference.model(&self.config.model) {
                None => {
                    self.complain(&InferenceError::NoModel(self.config.model.clone()).to_string());
                    None
                }
                Some(model) => match columns.choose(&model) {
                    Ok(chosen) => {
                        let skipped = buffer.cut_for(chosen);
                        self.status.send_modify(|status| status.rows_skipped += skipped);
                        return Ok(Some(model));
                    }
                    Err(why) => {
                        self.complain(&why);
                        Some(why)
                    }
                },
            };
            let passes = misfit.is_some() && self.config.kind == StreamKind::Fifo;
            let why = misfit.unwrap_or_default();
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        // Inference is gone, and the process with it.
                        std::future::pending::<()>().await;
                    }
                }
                passed = self.pass_over(lines, &why), if passes => return passed.map(|()| None),
            }
        }
    }

    /// Drops what the writer still has to say.
    async fn pass_over(&self, lines: &mut Lines, why: &str) -> Result<(), StreamError> {
        loop {
            match lines.next().await {
                Ok(None) => return Ok(()),
                Ok(Some(_)) | Err(StreamError::LongLine { .. }) => self.skip(lines, why),
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts a line that nothing is made of.
    fn skip(&self, lines: &mut Lines, why: &str) {
        if lines.is_to_tell() {
            tracing::warn!(stream = self.config.name, why, "rows are skipped");
        }
        self.status.send_modify(|status| {
            status.rows_read += 1;
            status.rows_skipped += 1;
        });
    }

    /// Reads rows until a sample is ready and no more rows are at hand, or a batch is full. `false` at the stream's end.
    async fn fill(&self, lines: &mut Lines, buffer: &mut Buffer, pace: &mut Pace) -> Result<bool, StreamError> {
        while buffer.ready() < BATCH {
            if buffer.ready() > 0 && !(lines.has_line() && pace.is_due()) {
                return Ok(true);
            }
            pace.due().await;
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(false),
                Err(error @ StreamError::LongLine { .. }) => {
                    let why = error.to_string();
                    self.complain(&why);
                    self.skip(lines, &why);
                    continue;
                }
                Err(error) => return Err(error),
            };
            pace.step();
            let skipped = u64::from(!buffer.push(&line));
            self.status.send_modify(|status| {
                status.rows_read += 1;
                status.rows_skipped += skipped;
            });
        }
        Ok(true)
    }

    /// Infers the samples that are ready. Nothing is taken from the buffer if the model was replaced meanwhile.
    async fn drain(&self, model: &ModelInfo, buffer: &mut Buffer) -> Result<(), StreamError> {
        while let Some((batch, samples)) = buffer.batch(model, BATCH)? {
            match self.inference.infer_for(model, vec![batch]).await {
                Ok(_counted_by_the_worker) => self.status.send_modify(|status| {
                    status.samples_inferred += samples as u64;
                    status.error = None;
                }),
                Err(InferenceError::Replaced(_)) => return Ok(()),
                Err(error) => {
                    self.complain(&error.to_string());
                    self.status
                        .send_modify(|status| status.samples_failed += samples as u64);
                }
            }
            buffer.taken(samples);
        }
        Ok(())
    }

    fn complain(&self, error: &str) {
        self.status.send_if_modified(|status| {
            let changed = status.error.as_deref() != Some(error);
            if changed {
                status.error = Some(error.to_owned());
            }
            changed
        });
    }
}

/// Hands rows on at a rate.
struct Pace {
    /// Time per row.
    step: Option<Duration>,
    next: Instant,
}

impl Pace {
    fn new(rows_per_second: Option<f64>) -> Self {
        Self {
            step: rows_per_second
                .filter(|rate| rate.is_finite() && *rate > 0.0)
                .map(|rate| Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX)),
            next: Instant::now(),
        }
    }

    fn is_due(&self) -> bool {
        self.step.is_none() || Instant::now() >= self.next
    }

    async fn due(&self) {
        if self.step.is_some() {
            tokio::time::sleep_until(self.next).await;
        }
    }

    fn step(&mut self) {
        if let Some(step) = self.step {
            let next = self.next.checked_add(step).unwrap_or(self.next);
            let latest = Instant::now().checked_sub(CATCH_UP).unwrap_or(next);
            self.next = next.max(latest);
        }
    }
}

#[cfg(test)]
mod tests;
