//! What comes whole and is wrong: who altered it, and what is never asked for.

use std::sync::atomic::AtomicI64;

use flotilla_protocol::audit::AuditRecord;
use flotilla_protocol::desired_state::{Action, Encoding, HarvestPolicy, Target, UpdatePolicy};
use flotilla_protocol::ids::Digest;
use flotilla_protocol::manifest::ComponentKind;
use redb::ReadableTable as _;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::link::{self, Publish};
use crate::ota::slots::SlotDirs;
use crate::store::{AUDIT, Store};
use crate::test_server::{NOW, trusting};

const CHUNK: usize = CHUNK_BYTES as usize;

struct Bench {
    dir: TempDir,
    fetcher: Fetcher,
    order: Order,
    wants: mpsc::Receiver<Publish>,
    _switch: tokio::sync::watch::Sender<bool>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 0).unwrap());
        let trust = trusting(&store, &Arc::new(AtomicI64::new(NOW)));
        let (link, wants, switch) = link::wire();
        let fetcher = Fetcher {
            link,
            chunks: Arc::default(),
            store,
            dirs: SlotDirs::open(dir.path()).unwrap(),
            trust: Arc::new(trust),
            window: 8,
        };
        let order = Order {
            target: Target {
                slot: "main".parse().unwrap(),
                action: Action::Install,
                line: "line".parse().unwrap(),
                manifest: Digest::of(b"manifest"),
                manifest_envelope: BlobRef::of(b"envelope"),
                release_counter: 1,
                deployment: "0191e5a0-0000-7000-8000-000000000009".parse().unwrap(),
                components: vec![],
                update: UpdatePolicy::default(),
                harvest: HarvestPolicy::default(),
            },
        };
        Self {
            dir,
            fetcher,
            order,
            wants,
            _switch: switch,
        }
    }

    fn transfer(&self) -> Transfer<'_> {
        Transfer {
            fetcher: &self.fetcher,
            order: &self.order,
            pacer: Pacer::new(0),
            progress: Progress::new(mpsc::channel(8).0),
            began: Instant::now(),
        }
    }

    fn events(&self) -> Vec<String> {
        let entries = self.fetcher.store.read(|txn| {
            let table = txn.open_table(AUDIT)?;
            let entries: Vec<Vec<u8>> = table.iter()?.map(|item| item.unwrap().1.value().to_vec()).collect();
            Ok(entries)
        });
        let event = |entry: &Vec<u8>| codec::from_slice::<AuditRecord>(entry, 1 << 16).unwrap().event;
        entries.unwrap().iter().map(event).collect()
    }

    fn attack(&self) -> Option<String> {
        Some(self.fetcher.trust.last_attack().unwrap()?.attack)
    }
}

/// Sends all chunks of `bytes` for every want.
async fn serve(
    wants: &mut mpsc::Receiver<Publish>,
    chunks: &crate::ota::fetch::ChunkRouter,
    blob: BlobRef,
    bytes: &[u8],
) {
    while wants.recv().await.is_some() {
        for (first, chunk) in (0..).zip(bytes.chunks(CHUNK)) {
            chunks.dispatch(ChunkMessage {
                schema: SCHEMA,
                blob: blob.sha256,
                first,
                chunks: vec![ByteBuf::from(chunk.to_vec())],
                missing: false,
            });
        }
    }
}

#[tokio::test]
async fn a_long_blob_that_comes_altered_is_an_attack_on_record() {
    let mut bench = Bench::new();
    let signed = vec![7u8; CHUNK + 1000];
    let blob = BlobRef::of(&signed);
    let mut forged = signed.clone();
    forged[CHUNK + 1] ^= 1;
    let mut wants = std::mem::replace(&mut bench.wants, mpsc::channel(1).1);
    let chunks = Arc::clone(&bench.fetcher.chunks);
    let mut transfer = bench.transfer();
    let refused = tokio::select! {
        outcome = transfer.small_blob(&blob, slots::MAX_ENVELOPE_BYTES) => outcome.unwrap_err(),
        () = serve(&mut wants, &chunks, blob, &forged) => panic!("nobody asks"),
    };
    assert!(matches!(refused, FetchError::Altered(_)), "{refused}");
    assert!(refused.is_worth_retrying());
    assert_eq!(bench.attack().as_deref(), Some("altered-content"));
    assert_eq!(bench.events(), ["attack.refused"]);

    // The same once more, as it was signed.
    let mut transfer = bench.transfer();
    let taken = tokio::select! {
        outcome = transfer.small_blob(&blob, slots::MAX_ENVELOPE_BYTES) => outcome.unwrap(),
        () = serve(&mut wants, &chunks, blob, &signed) => panic!("nobody asks"),
    };
    assert_eq!(taken, signed);
}

#[tokio::test]
async fn what_changed_on_the_disk_after_it_came_is_no_attack() {
    let bench = Bench::new();
    let bytes = vec![5u8; 2 * CHUNK];
    let blob = BlobRef::of(&bytes);
    let list = ChunkList::of(&bytes).unwrap();
    let checker = Checker::new(&blob, Some(list.clone()));
    let parts = bench.fetcher.dirs.parts();
    let mut part = Part::open(Arc::clone(&bench.fetcher.store), parts, &blob, &checker).unwrap();
    for (index, chunk) in (0..).zip(bytes.chunks(CHUNK)) {
        part.write(index, chunk).unwrap();
    }
    drop(part);
    let path = Part::path_of(parts, &blob);
    let mut rotten = std::fs::read(&path).unwrap();
    rotten[CHUNK + 9] ^= 4;
    std::fs::write(&path, rotten).unwrap();

    let torn = bench.transfer().blob(&blob, Some(list)).await.unwrap_err();
    assert!(matches!(torn, FetchError::Torn(_)), "{torn}");
    assert!(torn.is_worth_retrying() && !path.exists());
    assert_eq!(bench.attack(), None);
    assert_eq!(bench.events(), ["content.damaged"]);
}

#[tokio::test]
async fn what_cannot_be_checked_on_arrival_is_not_asked_for() {
    let mut bench = Bench::new();
    let long = BlobRef::of(&vec![3u8; CHUNK + 1]);
    let component = Component {
        kind: ComponentKind::Model,
        media_type: ComponentKind::Model.media_type().to_owned(),
        blob: long,
    };
    let source = |chunk_list| Source {
        encoding: Encoding::Identity,
        blob: long,
        chunk_list,
    };
    let to = bench.dir.path().join("model.onnx");
    let without = bench.transfer().try_source(&component, &source(None), &to).await;
    assert!(matches!(without, Err(FetchError::NoChunkList { .. })), "{without:?}");
    let endless = BlobRef {
        sha256: Digest::of(b"list"),
        length: 1 << 40,
    };
    let endless = bench
        .transfer()
        .try_source(&component, &source(Some(endless)), &to)
        .await;
    let Err(FetchError::TooLong { cap, .. }) = endless else {
        panic!("{endless:?}")
    };
    assert_eq!(cap, 2 * 32 + 256);
    let mut longer = source(None);
    longer.blob.length = 2 * long.length;
    let longer = bench.transfer().try_source(&component, &longer, &to).await;
    assert!(matches!(longer, Err(FetchError::TooLong { .. })), "{longer:?}");
    assert!(bench.wants.try_recv().is_err(), "nothing was asked for");
    assert_eq!(bench.attack(), None);
}
