//! Gets a package's bytes: what is on the device already, then chunks over the link, each checked on arrival, the whole
//! before use, decoded into the staging folder under the signed length.
//!
//! The manifest is verified before a single component is asked for. Every piece that is complete survives a restart; none is
//! fetched twice. Whether to try again after a failure is the machine's to decide.

mod decode;
pub mod part;
mod transfer;
pub mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_protocol::chunks::{BlobRef, ChunkError};
use flotilla_protocol::desired_state::Target;
use flotilla_protocol::ids::{Digest, SlotName};
use flotilla_protocol::manifest::{Manifest, Shortage};
use flotilla_protocol::messages::ChunkMessage;
use flotilla_protocol::trust::DeviceFacts;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use crate::files::{self, FileError};
use crate::link::LinkHandle;
use crate::ota::fetch::part::{Part, PartError};
use crate::ota::fetch::transfer::Transfer;
use crate::ota::fetch::window::Pacer;
use crate::ota::machine::OtaEvent;
use crate::ota::slots::{self, SlotDirs, SlotError};
use crate::ota::state::Order;
use crate::store::{Store, on_disk};
use crate::trust_state::{NotAccepted, TrustState};

/// Chunk messages waiting for a transfer. When full, the message is dropped: its chunks are asked for again.
const CHUNK_MESSAGES: usize = 64;
/// A chunk that comes wrong so often is the server's fault, not the network's.
const MAX_BAD_CHUNKS: u32 = 3;
/// With a link the server's head comes at once; where none has come after so long, the attempt is over.
const HEAD_WAIT: Duration = Duration::from_secs(30);
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
    /// Its chunks were right when they came.
    #[error("blob {0} changed on this device's disk after it had come; it is fetched anew")]
    Torn(Digest),
    /// Its chunks were what they were said to be, and it is not.
    #[error("blob {0} came altered: the whole is not what was signed; it is fetched anew")]
    Altered(Digest),
    #[error("blob {blob} is said to have {length} bytes, at most {cap} are taken of it")]
    TooLong { blob: Digest, length: u64, cap: u64 },
    #[error("source {blob} has {length} bytes and no chunk list: only what is a single chunk can be checked without")]
    NoChunkList { blob: Digest, length: u64 },
    #[error("this device has too little for the package: {0}")]
    Short(Shortage),
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
            Self::Missing(_)
                | Self::Torn(_)
                | Self::Altered(_)
                | Self::File(_)
                | Self::Part(_)
                | Self::Slot(_)
                | Self::Ending
                | Self::NotAccepted(NotAccepted::Store(_) | NotAccepted::Stale { .. })
        )
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
    tell: mpsc::Sender<OtaEvent>,
    received: u64,
    total: u64,
    told: Instant,
}

impl Progress {
    /// A full queue skips one.
    pub fn new(tell: mpsc::Sender<OtaEvent>) -> Self {
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
        let progress = OtaEvent::Progress {
            received: self.received,
            total: self.total,
        };
        if self.tell.try_send(progress).is_err() {
            debug!("progress not told");
        }
    }
}

/// Looks at this device as it is now.
pub type Facts<'a> = &'a (dyn Fn() -> DeviceFacts + Send + Sync);

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

impl Fetcher {
    /// Has the order's package complete and verified in the slot's staging folder when it returns. The disk is asked for before
    /// the components are: what the order itself holds on it already counts as free.
    pub async fn fetch(&self, order: &Order, facts: Facts<'_>, progress: Progress) -> Result<(), FetchError> {
        let mut transfer = Transfer {
            fetcher: self,
            order,
            pacer: Pacer::new(order.target.update.max_bytes_per_s),
            progress,
            began: Instant::now(),
        };
        let staging = self.dirs.staging(&order.target.slot);
        on_disk(|| files::create_dir(&staging))?;
        let fetched = transfer.package(&staging, facts).await;
        transfer.progress.tell();
        fetched
    }

    /// Waits while our own root or `Head` has lapsed. Without a link no news can come, and an update that was under way when
    /// the device was switched off must not use up its attempts before there is one.
    async fn news(&self) -> Result<(), FetchError> {
        let mut connection = self.link.connection();
        let mut heads = self.trust.heads();
        while let Err(why) = self.trust.check_fresh() {
            let connected = *connection.borrow_and_update();
            debug!(%why, connected, "waiting for the server's news");
            tokio::select! {
                changed = connection.changed() => changed.map_err(|_closed| FetchError::Ending)?,
                changed = heads.changed() => changed.map_err(|_closed| FetchError::Ending)?,
                () = tokio::time::sleep(HEAD_WAIT), if connected => return Ok(()),
            }
        }
        Ok(())
    }

    /// Forgets what was received for a target.
    pub fn discard(&self, target: &Target) -> Result<(), FetchError> {
        self.dirs.clear_staging(&target.slot)?;
        for blob in blobs_of(target) {
            part::remove(&self.store, self.dirs.parts(), &blob)?;
        }
        Ok(())
    }

    /// Bytes on disk that the target's fetching has taken so far.
    fn held(&self, target: &Target) -> Result<u64, FileError> {
        let staged = files::bytes_in(&self.dirs.staging(&target.slot))?;
        let blobs: BTreeSet<BlobRef> = blobs_of(target).into_iter().collect();
        blobs.iter().try_fold(staged, |sum, blob| {
            let part = files::length(&Part::path_of(self.dirs.parts(), blob))?;
            Ok(sum.saturating_add(part))
        })
    }

    /// What this device lacks for the package, before the rest of it is fetched.
    fn shortage(
        &self,
        manifest: &Manifest,
        target: &Target,
        mut facts: DeviceFacts,
    ) -> Result<Option<Shortage>, FileError> {
        facts.disk_free_bytes = facts.disk_free_bytes.saturating_add(self.held(target)?);
        Ok(manifest.shortage(&facts))
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicI64;

    use flotilla_protocol::desired_state::{Action, ComponentSources, Encoding, HarvestPolicy, Source, UpdatePolicy};
    use flotilla_protocol::manifest::Misfit;
    use flotilla_protocol::trust::TrustError;

    use super::*;
    use crate::inference::fixture;
    use crate::link;
    use crate::report;
    use crate::test_server::{NOW, head, trusting};

    fn target(blob: BlobRef) -> Target {
        Target {
            slot: "main".parse().unwrap(),
            action: Action::Install,
            line: "line".parse().unwrap(),
            manifest: Digest::of(b"manifest"),
            manifest_envelope: BlobRef::of(b"envelope"),
            release_counter: 1,
            deployment: "0191e5a0-0000-7000-8000-000000000009".parse().unwrap(),
            components: vec![ComponentSources {
                component: blob.sha256,
                sources: vec![Source {
                    encoding: Encoding::Identity,
                    blob,
                    chunk_list: None,
                }],
            }],
            update: UpdatePolicy::default(),
            harvest: HarvestPolicy::default(),
        }
    }

    fn fetcher(dir: &Path) -> Fetcher {
        let store = Arc::new(Store::open(dir, 0).unwrap());
        let trust = trusting(&store, &Arc::new(AtomicI64::new(NOW)));
        Fetcher {
            link: link::wire().0,
            chunks: Arc::default(),
            store,
            dirs: SlotDirs::open(dir).unwrap(),
            trust: Arc::new(trust),
            window: 4,
        }
    }

    #[test]
    fn what_an_order_holds_on_disk_already_is_not_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let fetcher = fetcher(dir.path());
        let blob = BlobRef::of(&[7u8; 3000]);
        let target = target(blob);
        let (mut manifest, _) = fixture::write(dir.path(), "line", "1.0.0", &fixture::columns(&["a", "b"]));
        manifest.min_disk_bytes = 10_000;
        let with_free = |bytes| {
            let mut facts = report::facts("generic", dir.path());
            facts.disk_free_bytes = bytes;
            fetcher.shortage(&manifest, &target, facts).unwrap()
        };
        assert_eq!(with_free(10_000), None);
        let missing = with_free(9_999).unwrap();
        assert_eq!(missing.misfit(), Misfit::Disk);
        // A restart in the middle: one component is staged, another is a part.
        let staging = fetcher.dirs.staging(&target.slot);
        files::create_dir(&staging).unwrap();
        std::fs::write(staging.join("features.cbor"), [1u8; 500]).unwrap();
        std::fs::write(Part::path_of(fetcher.dirs.parts(), &blob), [7u8; 3000]).unwrap();
        assert_eq!(fetcher.held(&target).unwrap(), 3500);
        assert_eq!(with_free(6_500), None);
        assert!(with_free(6_499).is_some());
        assert!(!FetchError::Short(missing).is_worth_retrying());
    }

    #[tokio::test]
    async fn without_a_link_a_lapsed_head_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 0).unwrap());
        let trust = Arc::new(trusting(&store, &Arc::new(AtomicI64::new(NOW + 5_000))));
        let (link, _publishes, switch) = link::wire();
        switch.send_replace(false);
        let fetcher = Fetcher {
            link,
            chunks: Arc::default(),
            store,
            dirs: SlotDirs::open(dir.path()).unwrap(),
            trust: Arc::clone(&trust),
            window: 4,
        };
        let early = tokio::time::timeout(Duration::from_millis(50), fetcher.news()).await;
        assert!(early.is_err(), "it goes on without news");
        let told = tokio::time::timeout(Duration::from_secs(10), fetcher.news());
        let (told, ()) = tokio::join!(told, async {
            switch.send_replace(true);
            trust.accept_head(&[], &head(1, NOW + 9_000, vec![])).unwrap();
        });
        told.unwrap().unwrap();
    }

    #[test]
    fn what_is_stale_is_tried_again_and_what_is_refused_is_not() {
        let expired = || TrustError::Expired {
            what: "head",
            expires: 1,
            now: 2,
        };
        assert!(FetchError::from(NotAccepted::Stale { why: expired() }).is_worth_retrying());
        assert!(!FetchError::from(NotAccepted::Refused { why: expired() }).is_worth_retrying());
    }
}
