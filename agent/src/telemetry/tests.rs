//! The sealer over a real store: what it is told of leaves soon, and in between it sleeps.

use std::sync::atomic::AtomicI64;

use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::trust::KeyPair;
use tempfile::TempDir;

use super::*;
use crate::inference::InferenceLimits;
use crate::link;
use crate::report::Facts;
use crate::spool::SpoolLimits;
use crate::spool::disk::Boot;
use crate::test_server::{NOW, trusting};

const HOUR: Duration = Duration::from_hours(1);

struct Bench {
    sealer: Arc<Sealer>,
    reporter: Arc<Reporter>,
    interval: watch::Sender<Duration>,
    stop: CancellationToken,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 0).unwrap());
        let hand = Arc::new(AtomicI64::new(NOW));
        let trust = Arc::new(trusting(&store, &hand));
        let clock = Clock::manual(hand);
        let boot = Boot { epoch: 1, nonce: 7 };
        let limits = SpoolLimits {
            max_records: 100,
            max_bytes: 1 << 20,
            max_audit_bytes: 1 << 20,
            max_in_flight: 8,
            resend_after_ms: 1000,
        };
        let signer = Arc::new(Signer {
            device: DeviceId::new("press-07").unwrap(),
            fleet: trust.fleet(),
            key: KeyPair::from_seed(&[9; 32]),
            boot,
        });
        let reporter = Arc::new(Reporter {
            signer: Arc::clone(&signer),
            store: Arc::clone(&store),
            trust: Arc::clone(&trust),
            clock: clock.clone(),
            states: watch::Sender::new(BTreeMap::new()).subscribe(),
            link: link::wire().0,
            facts: Facts {
                hardware_class: "generic".to_owned(),
                data_dir: dir.path().to_owned(),
            },
            wanted: trust.refused_notice(),
            error: Mutex::new(None),
        });
        let sealer = Arc::new(Sealer {
            signer,
            spool: Arc::new(DiskSpool::open(Arc::clone(&store), boot, limits).unwrap()),
            store,
            inference: InferenceHandle::new(clock.clone(), InferenceLimits::default()),
            clock,
            data_dir: dir.path().to_owned(),
            sealed: Arc::new(Notify::new()),
            unsealed: Mutex::new(Unsealed::since(NOW)),
            drift: watch::Sender::new(BTreeMap::new()),
        });
        Self {
            sealer,
            reporter,
            interval: watch::Sender::new(HOUR),
            stop: CancellationToken::new(),
            _dir: dir,
        }
    }

    fn append(&self, n: u32) {
        let entry = Entry::new("test.event", format!("n:{n}"));
        self.sealer.store.write(|txn| audit::append(txn, &entry, NOW)).unwrap();
    }

    async fn run(&self) {
        let (interval, stop) = (self.interval.subscribe(), self.stop.clone());
        Arc::clone(&self.sealer)
            .run(Arc::clone(&self.reporter), interval, stop)
            .await;
    }

    /// Looks until there are so many records.
    async fn until(&self, records: u64) {
        let look = async {
            while self.records() < records {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), look).await.unwrap();
    }

    fn records(&self) -> u64 {
        self.sealer.spool.depth().records
    }
}

#[tokio::test]
async fn audit_entries_leave_together_as_soon_as_they_are_written() {
    let bench = Bench::new();
    bench.append(1);
    let story = async {
        bench.until(1).await;
        bench.append(2);
        tokio::task::yield_now().await;
        bench.append(3);
        bench.until(2).await;
        bench.stop.cancel();
    };
    tokio::join!(bench.run(), story);
    // Stopping seals what is left: nothing is.
    assert_eq!(bench.records(), 2, "two entries, one bundle");
}

#[tokio::test]
async fn an_idle_device_sleeps() {
    let bench = Bench::new();
    let mut polls = 0u32;
    {
        let mut run = std::pin::pin!(bench.run());
        let counted = std::future::poll_fn(|context| {
            polls += 1;
            run.as_mut().poll(context)
        });
        // What this waits for is that nothing happens.
        let done = tokio::time::timeout(Duration::from_secs(3), counted).await;
        assert!(done.is_err(), "it ended by itself");
    }
    // Once at the start, and a little for timers.
    assert!(polls <= 4, "woken {polls} times in three idle seconds");
}
