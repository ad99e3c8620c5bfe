//! Gets a package's bytes: what is on the device already, then chunks over the link, each checked on arrival, the whole
//! before use, decoded into the staging folder under the signed length.
//!
//! The manifest is verified before a single component is asked for. Every piece that is complete survives a restart; none is
//! fetched twice. Whether to try again after a failure is the machine's to decide.

pub mod part;
pub mod window;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_protocol::chunks::{BlobRef, ChunkError, ChunkList};
use flotilla_protocol::codec;
use flotilla_protocol::desired_state::{Encoding, Source, Target};
use flotilla_protocol::ids::{Digest, Hasher, SlotName};
use flotilla_protocol::manifest::{Component, Manifest};
use flotilla_protocol::messages::{ChunkMessage, SCHEMA, Want};
use flotilla_protocol::topics::Up;
use flotilla_protocol::trust::DeviceFacts;
use serde_bytes::ByteBuf;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::files::{self, FileError, at};
use crate::link::LinkHandle;
use crate::ota::fetch::part::{Checker, Part, PartError};
use crate::ota::fetch::window::{Pacer, Window};
use crate::ota::slots::{self, SlotDirs, SlotError};
use crate::ota::state::Order;
use crate::random;
use crate::store::{Store, on_disk};
use crate::trust_state::{NotAccepted, TrustState};

/// Chunk messages waiting for a transfer. When full, the message is dropped: its chunks are asked for again.
const CHUNK_MESSAGES: usize = 64;
/// A chunk that comes wrong so often is the server's fault, not the network's.
const MAX_BAD_CHUNKS: u32 = 3;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Why a package is not here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    NotAccepted(#[from] NotAccepted),
    #[error("the server does not have blob {0}")]
    Missing(Digest),
    #[error("chunk {index} of blob {blob} came altered {MAX_BAD_CHUNKS} times: {why}")]
    BadChunks { blob: Digest, index: u32, why: ChunkError },
    #[error("blob {0} was not what was signed once it was whole; it is fetched anew")]
    Torn(Digest),
    #[error("the order names no source for component {0}")]
    NoSource(Digest),
    #[error("the source {blob} does not decode to component {component}: {why}")]
    Undecodable {
        component: Digest,
        blob: Digest,
        why: String,
    },
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("disk full: {0}")]
    DiskFull(String),
    #[error(transparent)]
    File(FileError),
    #[error(transparent)]
    Part(PartError),
    #[error(transparent)]
    Slot(SlotError),
    #[error("the agent is ending")]
    Ending,
}

impl From<FileError> for FetchError {
    fn from(error: FileError) -> Self {
        if error.is_disk_full() {
            Self::DiskFull(error.to_string())
        } else {
            Self::File(error)
        }
    }
}

impl From<PartError> for FetchError {
    fn from(error: PartError) -> Self {
        if error.is_disk_full() {
            Self::DiskFull(error.to_string())
        } else {
            Self::Part(error)
        }
    }
}

impl From<SlotError> for FetchError {
    fn from(error: SlotError) -> Self {
        if error.is_disk_full() {
            Self::DiskFull(error.to_string())
        } else {
            Self::Slot(error)
        }
    }
}

impl FetchError {
    /// May the same order succeed later without anything else being changed?
    pub fn is_worth_retrying(&self) -> bool {
        matches!(
            self,
            Self::Missing(_) | Self::Torn(_) | Self::File(_) | Self::Part(_) | Self::Slot(_) | Self::Ending
        ) || matches!(self, Self::NotAccepted(NotAccepted::Store(_)))
    }
}

/// Brings arriving chunks to the transfer that waits for them.
#[derive(Debug, Default)]
pub struct ChunkRouter(Mutex<BTreeMap<Digest, mpsc::Sender<ChunkMessage>>>);

impl ChunkRouter {
    fn transfers(&self) -> MutexGuard<'_, BTreeMap<Digest, mpsc::Sender<ChunkMessage>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits: the link must not stand still for a slow disk.
    pub fn dispatch(&self, message: ChunkMessage) {
        let transfer = self.transfers().get(&message.blob).cloned();
        match transfer.map(|transfer| transfer.try_send(message)) {
            Some(Ok(())) => {}
            Some(Err(why)) => debug!(%why, "chunks dropped"),
            None => debug!("chunks of a blob that nobody waits for"),
        }
    }

    fn subscribe(&self, blob: Digest) -> mpsc::Receiver<ChunkMessage> {
        let (sender, receiver) = mpsc::channel(CHUNK_MESSAGES);
        let mut transfers = self.transfers();
        // Transfers that ended left their sender behind.
        transfers.retain(|_, sender| !sender.is_closed());
        transfers.insert(blob, sender);
        receiver
    }
}

/// Counts one job's bytes and tells them now and then.
#[derive(Debug)]
pub struct Progress {
    tell: mpsc::Sender<(u64, u64)>,
    received: u64,
    total: u64,
    told: Instant,
}

impl Progress {
    /// Told are received and total bytes. A full queue skips one.
    pub fn new(tell: mpsc::Sender<(u64, u64)>) -> Self {
        Self {
            tell,
            received: 0,
            total: 0,
            told: Instant::now(),
        }
    }

    fn expect(&mut self, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
    }

    fn add(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
        self.total = self.total.max(self.received);
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        if self.tell.try_send((self.received, self.total)).is_err() {
            debug!("progress not told");
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Fetcher {
    pub link: LinkHandle,
    pub chunks: Arc<ChunkRouter>,
    pub store: Arc<Store>,
    pub dirs: SlotDirs,
    pub trust: Arc<TrustState>,
    pub window: u16,
}

/// One job's fetch: what its steps share.
struct Transfer<'a> {
    fetcher: &'a Fetcher,
    order: &'a Order,
    pacer: Pacer,
    progress: Progress,
    began: Instant,
}

impl Fetcher {
    /// Has the order's package complete and verified in the slot's staging folder when it returns.
    pub async fn fetch(&self, order: &Order, facts: &DeviceFacts, progress: Progress) -> Result<(), FetchError> {
        let mut transfer = Transfer {
            fetcher: self,
            order,
            pacer: Pacer::new(order.update.max_bytes_per_s),
            progress,
            began: Instant::now(),
        };
        let staging = self.dirs.staging(&order.target.slot);
        on_disk(|| files::create_dir(&staging))?;
        let fetched = transfer.package(&staging, facts).await;
        transfer.progress.tell();
        fetched
    }

    /// Forgets what was received for a target.
    pub fn discard(&self, target: &Target) -> Result<(), FetchError> {
        self.dirs.clear_staging(&target.slot)?;
        for blob in blobs_of(target) {
            part::remove(&self.store, self.dirs.parts(), &blob)?;
        }
        Ok(())
    }

    /// Is the staged package still what the manifest says?
    pub fn check_staged(&self, slot: &SlotName, manifest: &Manifest) -> Result<Option<Digest>, FileError> {
        let staging = self.dirs.staging(slot);
        for component in &manifest.components {
            let path = staging.join(component.kind.file_name());
            if !slots::has_content(&path, &component.blob)? {
                files::remove_if_there(&path)?;
                return Ok(Some(component.blob.sha256));
            }
        }
        Ok(None)
    }
}

/// Every blob that a target may have had fetched.
fn blobs_of(target: &Target) -> Vec<BlobRef> {
    let sources = target.components.iter().flat_map(|component| &component.sources);
    let mut blobs: Vec<BlobRef> = sources
        .flat_map(|source| [Some(source.blob), source.chunk_list])
        .flatten()
        .collect();
    blobs.push(target.manifest_envelope);
    blobs
}

impl Transfer<'_> {
    async fn package(&mut self, staging: &Path, facts: &DeviceFacts) -> Result<(), FetchError> {
        let target = &self.order.target;
        let envelope = self.envelope(staging).await?;
        let accepted = self.fetcher.trust.accept_manifest(&envelope, target, facts);
        let manifest = match accepted {
            Ok(manifest) => manifest.into_inner(),
            Err(why) => {
                // What is refused does not stay, or a corrected one would never be fetched.
                files::remove_if_there(&staging.join(slots::MANIFEST_FILE))?;
                return Err(why.into());
            }
        };
        let mut wanted = Vec::new();
        for component in &manifest.components {
            let first = self.sources(component).first();
            let bytes = first.map_or(0, |source| {
                source.blob.length + source.chunk_list.map_or(0, |list| list.length)
            });
            let path = staging.join(component.kind.file_name());
            if on_disk(|| slots::has_content(&path, &component.blob))? {
                // Staged before a restart: it was received for this job.
                self.progress.expect(bytes);
                self.progress.add(bytes);
            } else if let Some(found) = on_disk(|| self.fetcher.dirs.find(&component.blob))? {
                debug!(from = %found.display(), kind = ?component.kind, "not fetched: it is on the device");
                on_disk(|| copy_exactly(&found, &path, &component.blob))?;
            } else {
                self.progress.expect(bytes);
                wanted.push(component);
            }
        }
        for component in wanted {
            self.component(component, &staging.join(component.kind.file_name()))
                .await?;
        }
        Ok(())
    }

    async fn envelope(&mut self, staging: &Path) -> Result<Vec<u8>, FetchError> {
        let blob = self.order.target.manifest_envelope;
        let path = staging.join(slots::MANIFEST_FILE);
        if on_disk(|| slots::has_content(&path, &blob))? {
            self.progress.expect(blob.length);
            self.progress.add(blob.length);
        } else if let Some(found) = on_disk(|| self.fetcher.dirs.find(&blob))? {
            on_disk(|| copy_exactly(&found, &path, &blob))?;
        } else {
            self.progress.expect(blob.length);
            let bytes = self.small_blob(&blob).await?;
            on_disk(|| slots::write_envelope(staging, &bytes))?;
        }
        Ok(slots::read_envelope(staging)?)
    }

    fn sources(&self, component: &Component) -> &[Source] {
        let all = &self.order.target.components;
        let found = all.iter().find(|sources| sources.component == component.blob.sha256);
        found.map_or(&[], |found| found.sources.as_slice())
    }

    /// Tries a component's sources in their order, until one gives the signed plaintext.
    async fn component(&mut self, component: &Component, path: &Path) -> Result<(), FetchError> {
        let sources = self.sources(component).to_vec();
        let mut last = FetchError::NoSource(component.blob.sha256);
        for source in &sources {
            match self.try_source(component, source, path).await {
                Ok(()) => return Ok(()),
                Err(why @ (FetchError::DiskFull(_) | FetchError::Ending)) => return Err(why),
                Err(why) => {
                    warn!(%why, encoding = ?source.encoding, kind = ?component.kind, "a source is given up");
                    // A source that may work later outweighs one that never will.
                    if !last.is_worth_retrying() {
                        last = why;
                    }
                }
            }
        }
        Err(last)
    }

    async fn try_source(&mut self, component: &Component, source: &Source, path: &Path) -> Result<(), FetchError> {
        let list = match &source.chunk_list {
            None => None,
            Some(list) => Some(ChunkList::decode(&self.small_blob(list).await?, &source.blob)?),
        };
        let part = self.blob(&source.blob, list).await?;
        let decoded = on_disk(|| decode(part.path(), source.encoding, &component.blob, path));
        drop(part);
        if let Err(FetchError::Undecodable { why, .. }) = &decoded {
            self.fetcher
                .trust
                .altered_content("component source", why, source.blob.sha256);
        }
        if matches!(decoded, Ok(()) | Err(FetchError::Undecodable { .. })) {
            self.forget(&source.blob)?;
            if let Some(list) = &source.chunk_list {
                self.forget(list)?;
            }
        }
        decoded
    }

    fn forget(&self, blob: &BlobRef) -> Result<(), FetchError> {
        Ok(on_disk(|| {
            part::remove(&self.fetcher.store, self.fetcher.dirs.parts(), blob)
        })?)
    }

    /// A blob that is read whole: a manifest's envelope, a chunk list.
    async fn small_blob(&mut self, blob: &BlobRef) -> Result<Vec<u8>, FetchError> {
        let part = self.blob(blob, None).await?;
        let bytes = on_disk(|| files::read_capped(part.path(), blob.length))?.unwrap_or_default();
        Ok(bytes)
    }

    /// Receives a blob whole and verified into its part file.
    async fn blob(&mut self, blob: &BlobRef, list: Option<ChunkList>) -> Result<Part, FetchError> {
        let checker = Checker::new(blob, list);
        let fetcher = self.fetcher;
        let store = Arc::clone(&fetcher.store);
        let mut part = on_disk(|| Part::open(store, fetcher.dirs.parts(), blob, &checker))?;
        self.progress.add(part.bytes());
        if !part.have().is_complete() {
            self.receive(blob, &checker, &mut part).await?;
        }
        if on_disk(|| part.is_intact())? {
            return Ok(part);
        }
        drop(part);
        self.forget(blob)?;
        Err(FetchError::Torn(blob.sha256))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn receive(&mut self, blob: &BlobRef, checker: &Checker, part: &mut Part) -> Result<(), FetchError> {
        let mut messages = self.fetcher.chunks.subscribe(blob.sha256);
        let mut connection = self.fetcher.link.connection();
        let mut window = Window::new(self.fetcher.window);
        let mut bad: BTreeMap<u32, u32> = BTreeMap::new();
        while !part.have().is_complete() {
            let connected = *connection.borrow_and_update();
            if connected {
                self.want(blob, part, &mut window);
            } else {
                window.reset();
            }
            let wake = window.next_timeout().unwrap_or(u64::MAX).min(self.pause());
            let wake = self.began + Duration::from_millis(wake.min(self.now().saturating_add(60_000)));
            tokio::select! {
                changed = connection.changed() => changed.map_err(|_closed| FetchError::Ending)?,
                message = messages.recv() => {
                    let Some(message) = message else { return Err(FetchError::Ending) };
                    self.take(&message, checker, part, &mut window, &mut bad)?;
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        Ok(())
    }

    /// When the pace lets more be asked for, if it is what holds us up.
    fn pause(&self) -> u64 {
        if self.pacer.allowance(self.now()) == 0 {
            self.pacer.next_allowed()
        } else {
            u64::MAX
        }
    }

    fn want(&mut self, blob: &BlobRef, part: &Part, window: &mut Window) {
        let now = self.now();
        let allowance = self.pacer.allowance(now);
        let Some(ask) = window.ask(part.have(), now, allowance, random::jitter(1000)) else {
            return;
        };
        let want = Want {
            schema: SCHEMA,
            blob: *blob,
            first: ask.first,
            present: ByteBuf::from(ask.present),
            credit: ask.credit,
        };
        match codec::to_vec(&want) {
            Ok(bytes) => {
                if self.fetcher.link.publish(Up::Want, bytes, true) {
                    self.pacer.spend(ask.credit, now);
                }
            }
            Err(why) => warn!(%why, "a want cannot be encoded"),
        }
    }

    fn take(
        &mut self,
        message: &ChunkMessage,
        checker: &Checker,
        part: &mut Part,
        window: &mut Window,
        bad: &mut BTreeMap<u32, u32>,
    ) -> Result<(), FetchError> {
        if message.missing {
            return Err(FetchError::Missing(message.blob));
        }
        let now = self.now();
        for (index, chunk) in (message.first..).zip(&message.chunks) {
            window.arrived(index, now);
            match checker.check(index, chunk) {
                Ok(()) => {
                    if on_disk(|| part.write(index, chunk))? {
                        self.progress.add(chunk.len() as u64);
                    }
                }
                Err(why) => {
                    let trust = &self.fetcher.trust;
                    trust.altered_content("chunk", &why.to_string(), message.blob);
                    let times = bad.entry(index).or_insert(0);
                    *times += 1;
                    if *times >= MAX_BAD_CHUNKS || bad.len() > 1000 {
                        return Err(FetchError::BadChunks {
                            blob: message.blob,
                            index,
                            why,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Decodes a received blob into `to`: exactly the signed length and digest, or nothing.
fn decode(from: &Path, encoding: Encoding, plain: &BlobRef, to: &Path) -> Result<(), FetchError> {
    let file = BufReader::new(File::open(from).map_err(at("open", from))?);
    match encoding {
        Encoding::Identity => write_exactly(file, from, plain, to),
        Encoding::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(file).map_err(at("decode", from))?;
            write_exactly(decoder, from, plain, to)
        }
    }
}

/// Copies a file that is known to have this content, checking as it goes.
fn copy_exactly(from: &Path, to: &Path, blob: &BlobRef) -> Result<(), FetchError> {
    write_exactly(File::open(from).map_err(at("open", from))?, from, blob, to)
}

fn write_exactly(reader: impl Read, from: &Path, plain: &BlobRef, to: &Path) -> Result<(), FetchError> {
    let beside = to.with_extension("staging");
    let undecodable = |why: String| FetchError::Undecodable {
        component: plain.sha256,
        blob: plain.sha256,
        why: format!("{}: {why}", from.display()),
    };
    let mut out = File::create(&beside).map_err(at("create", &beside))?;
    let mut hasher = Hasher::default();
    // One byte more than is signed is enough to know that it is too long.
    let mut limited = reader.take(plain.length.saturating_add(1));
    let mut buffer = vec![0u8; 64 * 1024];
    let outcome = loop {
        let read = match limited.read(&mut buffer) {
            Ok(read) => read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(why) => break Err(undecodable(why.to_string())),
        };
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break Ok(());
        };
        hasher.update(piece);
        if let Err(why) = out.write_all(piece) {
            break Err(at("write", &beside)(why).into());
        }
    };
    let found = BlobRef {
        length: hasher.length(),
        sha256: hasher.finish(),
    };
    let outcome = outcome.and_then(|()| {
        if found != *plain {
            return Err(undecodable(format!(
                "it holds {} bytes with digest {}, {} bytes with digest {} are signed",
                found.length, found.sha256, plain.length, plain.sha256
            )));
        }
        out.sync_all().map_err(at("sync", &beside))?;
        Ok(files::rename(&beside, to)?)
    });
    if outcome.is_err()
        && let Err(why) = fs::remove_file(&beside)
    {
        debug!(%why, "a torn file stays in staging");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_stops_at_the_signed_length_and_leaves_nothing_wrong_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("x.part"), dir.path().join("model.onnx"));
        let plain = vec![7u8; 300_000];
        fs::write(&from, zstd::bulk::compress(&plain, 3).unwrap()).unwrap();
        decode(&from, Encoding::Zstd, &BlobRef::of(&plain), &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), plain);
        fs::remove_file(&to).unwrap();

        for signed in [&plain[..1000], &vec![8u8; 300_000]] {
            let refused = decode(&from, Encoding::Zstd, &BlobRef::of(signed), &to).unwrap_err();
            assert!(matches!(refused, FetchError::Undecodable { .. }), "{refused}");
        }
        fs::write(&from, b"not zstd at all").unwrap();
        assert!(decode(&from, Encoding::Zstd, &BlobRef::of(&plain), &to).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the part is left");
    }
}
