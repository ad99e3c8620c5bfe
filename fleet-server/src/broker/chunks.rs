//! Answers `want`: chunks of blobs, at most as many as the device has credit for.
//!
//! One want per device is answered at a time; the newest one waiting replaces the one before, since it says all that is
//! missing. A device gets only what its own targets name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::codec::{self, MAX_MESSAGE_BYTES};
use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::messages::{ChunkMessage, SCHEMA, Want};
use flotilla_protocol::topics::{Down, Topic};
use metrics::counter;
use serde_bytes::ByteBuf;
use tokio::sync::mpsc;

use crate::app::App;
use crate::blobs::BlobError;
use crate::broker::client::Publisher;
use crate::director::{self, DirectorError};
use crate::store::{StoreError, devices};
use crate::tasks::{Shutdown, Tasks};

/// Chunks in answer to one want, whatever its credit.
const MAX_CREDIT: usize = 32;
/// Devices waiting to be answered; when full a want is dropped, and its device asks again.
const WAITING: usize = 4096;
const WORKERS: usize = 4;

#[derive(Debug, thiserror::Error)]
enum ChunksError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Director(#[from] DirectorError),
    #[error("{0}")]
    Blobs(#[from] BlobError),
    #[error("{0}")]
    Codec(#[from] codec::CodecError),
}

/// Wants by device. An entry with nothing in it is one that is being answered.
type Waiting = Arc<Mutex<BTreeMap<DeviceId, Option<Bytes>>>>;

/// Takes wants. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    waiting: Waiting,
    turns: mpsc::Sender<DeviceId>,
}

/// What answers them.
pub(super) struct Wants {
    app: App,
    publisher: Publisher,
    waiting: Waiting,
    turns: mpsc::Receiver<DeviceId>,
    again: mpsc::Sender<DeviceId>,
}

impl Chunks {
    pub(super) fn new(app: App, publisher: Publisher) -> (Self, Wants) {
        let waiting = Waiting::default();
        let (sender, turns) = mpsc::channel(WAITING);
        let chunks = Self {
            waiting: Arc::clone(&waiting),
            turns: sender.clone(),
        };
        let wants = Wants {
            app,
            publisher,
            waiting,
            turns,
            again: sender,
        };
        (chunks, wants)
    }

    /// Notes what a device asks for. Never waits.
    pub(super) fn ask(&self, device: DeviceId, want: Bytes) {
        let known = lock(&self.waiting).insert(device.clone(), Some(want)).is_some();
        if !known && let Err(error) = self.turns.try_send(device) {
            let (mpsc::error::TrySendError::Full(device) | mpsc::error::TrySendError::Closed(device)) = error;
            lock(&self.waiting).remove(&device);
            counter!("flotilla_wants_dropped_total").increment(1);
        }
    }
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, BTreeMap<DeviceId, Option<Bytes>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of several that answer.
#[derive(Clone)]
struct Worker {
    app: App,
    publisher: Publisher,
    waiting: Waiting,
    again: mpsc::Sender<DeviceId>,
    turns: Arc<tokio::sync::Mutex<mpsc::Receiver<DeviceId>>>,
}

impl Wants {
    pub(super) fn spawn(self, tasks: &mut Tasks) {
        let worker = Worker {
            app: self.app,
            publisher: self.publisher,
            waiting: self.waiting,
            again: self.again,
            turns: Arc::new(tokio::sync::Mutex::new(self.turns)),
        };
        for _ in 0..WORKERS {
            let shutdown = tasks.shutdown();
            tasks.spawn("broker-chunks", worker.clone().run(shutdown));
        }
    }
}

impl Worker {
    async fn run(self, mut shutdown: Shutdown) {
        loop {
            let next = async { self.turns.lock().await.recv().await };
            let device = tokio::select! {
                () = shutdown.wait() => return,
                device = next => device,
            };
            let Some(device) = device else { return };
            let want = lock(&self.waiting).get_mut(&device).and_then(Option::take);
            if let Some(want) = want
                && let Err(error) = self.answer(&device, &want).await
            {
                tracing::warn!(%device, %error, "a want cannot be answered");
            }
            self.end_turn(&device);
        }
    }

    /// The device is done with, or queues up again for the want that came meanwhile.
    fn end_turn(&self, device: &DeviceId) {
        let mut waiting = lock(&self.waiting);
        let more = waiting.get(device).is_some_and(Option::is_some);
        if !more || self.again.try_send(device.clone()).is_err() {
            waiting.remove(device);
        }
    }

    async fn answer(&self, device: &DeviceId, want: &[u8]) -> Result<(), ChunksError> {
        let want: Want = codec::from_slice(want, MAX_MESSAGE_BYTES)?;
        if !self.may_have(device, &want.blob).await? {
            counter!("flotilla_wants_refused_total").increment(1);
            tracing::info!(%device, blob = %want.blob.sha256, "asked for a blob that its targets do not name");
            return self.missing(device, &want).await;
        }
        let sent = counter!("flotilla_chunk_bytes_total");
        for index in missing_chunks(&want) {
            let bytes = match self.app.blobs.get_chunk(&want.blob, index).await {
                Ok(bytes) => bytes,
                Err(BlobError::NotFound(blob)) => {
                    tracing::error!(%device, %blob, "a targeted blob is not in the blob store");
                    return self.missing(device, &want).await;
                }
                Err(error) => return Err(error.into()),
            };
            sent.increment(bytes.len() as u64);
            let message = ChunkMessage {
                schema: SCHEMA,
                blob: want.blob.sha256,
                first: index,
                chunks: vec![ByteBuf::from(bytes.to_vec())],
                missing: false,
            };
            self.say(device, &message).await?;
        }
        Ok(())
    }

    async fn missing(&self, device: &DeviceId, want: &Want) -> Result<(), ChunksError> {
        let message = ChunkMessage {
            schema: SCHEMA,
            blob: want.blob.sha256,
            first: want.first,
            chunks: Vec::new(),
            missing: true,
        };
        self.say(device, &message).await
    }

    async fn say(&self, device: &DeviceId, message: &ChunkMessage) -> Result<(), ChunksError> {
        let topic = Topic::Down(device.clone(), Down::Chunk);
        self.publisher.publish(&topic, false, codec::to_vec(message)?).await;
        Ok(())
    }

    async fn may_have(&self, device: &DeviceId, blob: &BlobRef) -> Result<bool, ChunksError> {
        for target in devices::desired_targets(self.app.db.read(), device).await? {
            if director::blobs_of(&target)?.contains(blob) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The chunks to send: from `first` on, those that are not present, as many as there is credit for.
fn missing_chunks(want: &Want) -> Vec<u32> {
    let Ok(count) = want.blob.chunk_count() else {
        return Vec::new();
    };
    let present = |index: u32| {
        let bit = index - want.first;
        want.present
            .get(bit as usize / 8)
            .is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
    };
    let credit = usize::from(want.credit).min(MAX_CREDIT);
    (want.first..count)
        .filter(|index| !present(*index))
        .take(credit)
        .collect()
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::chunks::CHUNK_BYTES;
    use flotilla_protocol::ids::Digest;

    use super::*;

    fn want(chunks: u64, first: u32, present: &[u8], credit: u16) -> Want {
        Want {
            schema: SCHEMA,
            blob: BlobRef {
                sha256: Digest::of(b"blob"),
                length: chunks * u64::from(CHUNK_BYTES),
            },
            first,
            present: ByteBuf::from(present.to_vec()),
            credit,
        }
    }

    #[test]
    fn what_is_missing_within_the_credit() {
        assert_eq!(missing_chunks(&want(5, 0, &[], 8)), [0, 1, 2, 3, 4]);
        assert_eq!(missing_chunks(&want(5, 0, &[0b0_1101], 8)), [1, 4]);
        assert_eq!(missing_chunks(&want(5, 2, &[0b1], 8)), [3, 4]);
        assert_eq!(missing_chunks(&want(5, 0, &[], 2)), [0, 1]);
        assert_eq!(missing_chunks(&want(5, 0, &[], 0)), [0u32; 0]);
        assert_eq!(missing_chunks(&want(5, 9, &[], 8)), [0u32; 0], "beyond the end");
        assert_eq!(missing_chunks(&want(1000, 0, &[], u16::MAX)).len(), MAX_CREDIT);
        let mut absurd = want(1, 0, &[], 8);
        absurd.blob.length = u64::MAX;
        assert_eq!(missing_chunks(&absurd), [0u32; 0]);
    }

    #[tokio::test]
    async fn the_newest_want_replaces_the_one_waiting() {
        let waiting = Waiting::default();
        let (turns, mut queue) = mpsc::channel(1);
        let chunks = Chunks { waiting, turns };
        let (a, b) = (DeviceId::new("a").unwrap(), DeviceId::new("b").unwrap());
        chunks.ask(a.clone(), Bytes::from_static(b"1"));
        chunks.ask(a.clone(), Bytes::from_static(b"2"));
        chunks.ask(b.clone(), Bytes::from_static(b"x"));
        assert_eq!(lock(&chunks.waiting).get(&a), Some(&Some(Bytes::from_static(b"2"))));
        assert_eq!(lock(&chunks.waiting).get(&b), None, "the queue is full: dropped");
        assert_eq!(queue.recv().await, Some(a.clone()));
        assert!(queue.try_recv().is_err(), "one turn for both");
    }
}
