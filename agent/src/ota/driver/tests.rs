//! The driver with real stores, files, signatures, chunks and models, against a server on the other end of a channel.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use flotilla_protocol::audit::AuditRecord;
use flotilla_protocol::chunks::{BlobRef, CHUNK_BYTES, ChunkList};
use flotilla_protocol::codec;
use flotilla_protocol::desired_state::{
    Action, ComponentSources, Encoding, HarvestPolicy, Source, Target, TelemetryPolicy, UpdatePolicy,
};
use flotilla_protocol::golden::GoldenSet;
use flotilla_protocol::head::Head;
use flotilla_protocol::ids::{Digest, FleetId};
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::messages::{ChunkMessage, Want};
use flotilla_protocol::report::DeploymentState;
use flotilla_protocol::topics::Up;
use flotilla_protocol::trust::{Document as _, Header, KeyPair, Role, RoleKeys, Root, TrustStore, sign};
use serde_bytes::ByteBuf;
use tempfile::TempDir;

use super::*;
use crate::inference::{InferenceHandle, InferenceLimits, fixture};
use crate::link;
use crate::ota::fetch::{ChunkRouter, Fetcher};
use crate::ota::slots::SlotDirs;
use crate::store::{AUDIT, keys};
use crate::trust_state::TrustState;

const FLEET: &str = "0191e5a0-0000-7000-8000-000000000001";
const LINE: &str = "press-line";

fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

fn header(schema: &str, role: Role, version: u64) -> Header {
    Header {
        schema: schema.to_owned(),
        role,
        fleet: FLEET.parse::<FleetId>().unwrap(),
        version,
        issued: 1_000,
        expires: 1_000_000_000,
    }
}

fn factory_root() -> Vec<u8> {
    let roles = [("root", 1u8), ("director", 2), ("release/*", 3)];
    let root = Root {
        header: header(Root::SCHEMA, Role::Root, 1),
        keys: roles.iter().map(|(_, seed)| key(*seed).public()).collect(),
        roles: roles
            .iter()
            .map(|(name, seed)| {
                let keys = [key(*seed).id()].into();
                ((*name).to_owned(), RoleKeys { keys, threshold: 1 })
            })
            .collect(),
        tls_anchors: vec![ByteBuf::from(vec![0])],
    };
    sign(&root, &key(1)).unwrap()
}

fn head() -> Vec<u8> {
    let head = Head {
        header: header(Head::SCHEMA, Role::Director, 1),
        root_version: 1,
        revoked_keys: vec![],
        revoked_manifests: vec![],
        release_floors: BTreeMap::new(),
        endpoints: vec![],
    };
    sign(&head, &key(2)).unwrap()
}

/// What the server has, how it misbehaves, and what it sent.
#[derive(Default)]
struct Server {
    blobs: BTreeMap<Digest, Vec<u8>>,
    /// Chunks that are altered once.
    forge: BTreeSet<(Digest, u32)>,
    sent: Vec<(Digest, u32)>,
    /// Answers no more after so many chunks.
    stop_after: Option<usize>,
}

impl Server {
    fn put(&mut self, bytes: &[u8]) -> BlobRef {
        let blob = BlobRef::of(bytes);
        self.blobs.insert(blob.sha256, bytes.to_vec());
        blob
    }

    fn source(&mut self, plain: &[u8], encoding: Encoding) -> Source {
        let bytes = match encoding {
            Encoding::Identity => plain.to_vec(),
            Encoding::Zstd => zstd::bulk::compress(plain, 3).unwrap(),
        };
        let blob = self.put(&bytes);
        let list = (bytes.len() > CHUNK_BYTES as usize).then(|| ChunkList::of(&bytes).unwrap().encode().unwrap());
        Source {
            encoding,
            blob,
            chunk_list: list.map(|list| self.put(&list)),
        }
    }

    fn answer(&mut self, want: &Want) -> Vec<ChunkMessage> {
        let message = |first, chunks, missing| ChunkMessage {
            schema: 1,
            blob: want.blob.sha256,
            first,
            chunks,
            missing,
        };
        let Some(bytes) = self.blobs.get(&want.blob.sha256).cloned() else {
            return vec![message(0, vec![], true)];
        };
        let present = |index: u32| {
            let offset = (index - want.first) as usize;
            want.present
                .get(offset / 8)
                .is_some_and(|byte| byte & (1 << (offset % 8)) != 0)
        };
        let count = want.blob.chunk_count().unwrap();
        let wanted: Vec<u32> = (want.first..count)
            .filter(|i| !present(*i))
            .take(want.credit as usize)
            .collect();
        let mut messages = Vec::new();
        for index in wanted {
            if self.stop_after.is_some_and(|most| self.sent.len() >= most) {
                break;
            }
            let start = index as usize * CHUNK_BYTES as usize;
            let mut chunk = bytes[start..bytes.len().min(start + CHUNK_BYTES as usize)].to_vec();
            if self.forge.remove(&(want.blob.sha256, index)) {
                chunk[0] ^= 1;
            }
            self.sent.push((want.blob.sha256, index));
            messages.push(message(index, vec![ByteBuf::from(chunk)], false));
        }
        messages
    }
}

/// A device's disk and its server; the agent on it can be started and killed.
struct Bench {
    dir: TempDir,
    server: Arc<Mutex<Server>>,
    version: u64,
}

struct Running {
    store: Arc<Store>,
    trust: Arc<TrustState>,
    inference: InferenceHandle,
    states: watch::Receiver<States>,
    orders: watch::Sender<Option<DesiredState>>,
    tasks: crate::tasks::Tasks,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 0).unwrap();
        let mut trust = TrustStore::from_factory_root(&factory_root(), 0).unwrap();
        trust.accept_head(&head(), 5_000).unwrap();
        store.put(keys::TRUST, trust.snapshot()).unwrap();
        Self {
            dir,
            server: Arc::default(),
            version: 0,
        }
    }

    fn device() -> DeviceId {
        DeviceId::new("press-07").unwrap()
    }

    /// The device's keys are not needed here: its thumbprint is that of key 9.
    async fn start(&self, pause_in: Option<PhaseName>) -> Running {
        self.start_on(pause_in, false).await
    }

    /// `full`: from before anything is brought up, nothing can be written.
    async fn start_on(&self, pause_in: Option<PhaseName>, full: bool) -> Running {
        let clock = Clock::manual(Arc::new(AtomicI64::new(5_000)));
        let store = Arc::new(Store::open(self.dir.path(), 0).unwrap());
        store.pretend_full(full);
        let trust = TrustState::open(Arc::clone(&store), clock.clone(), Self::device(), key(9).id()).unwrap();
        let trust = Arc::new(trust.unwrap());
        let (link, mut publishes, switch) = link::wire();
        let chunks = Arc::new(ChunkRouter::default());
        let inference = InferenceHandle::new(clock.clone(), InferenceLimits::default());
        let workshop = Workshop {
            fetcher: Fetcher {
                link,
                chunks: Arc::clone(&chunks),
                store: Arc::clone(&store),
                dirs: SlotDirs::open(self.dir.path()).unwrap(),
                trust: Arc::clone(&trust),
                window: 4,
            },
            inference: inference.clone(),
            hardware_class: "generic".to_owned(),
            data_dir: self.dir.path().to_owned(),
        };
        let options = DriverOptions {
            device: Self::device(),
            retry: RetryLimits {
                max_attempts: 2,
                first_pause_ms: 1,
            },
            clock,
            data_dir: self.dir.path().to_owned(),
            pause_in,
        };
        let (mut driver, states) = Driver::open(options, Arc::clone(&store), Arc::new(workshop)).unwrap();
        driver.boot().await;
        let (orders, ordered) = watch::channel(None);
        let mut tasks = crate::tasks::Tasks::new();
        tasks.spawn("driver", driver.run(ordered, tasks.stop_token()));
        let server = Arc::clone(&self.server);
        tasks.spawn("server", async move {
            while let Some(publish) = publishes.recv().await {
                assert_eq!(publish.topic, Up::Want);
                let want: Want = codec::from_slice(&publish.payload, 1 << 17).unwrap();
                let messages = server.lock().unwrap().answer(&want);
                for message in messages {
                    chunks.dispatch(message);
                }
            }
            drop(switch);
        });
        Running {
            store,
            trust,
            inference,
            states,
            orders,
            tasks,
        }
    }

    /// Publishes a package of the fixture's model under a version of its own, and an order for it.
    fn order(&mut self, package: &Package) -> Vec<u8> {
        self.order_with(package, |_| {})
    }

    /// The same, with an order that says something else.
    fn order_with(&mut self, package: &Package, change: impl FnOnce(&mut Target)) -> Vec<u8> {
        self.version += 1;
        let mut server = self.server.lock().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (mut manifest, _) = fixture::write(dir.path(), LINE, package.semver, &fixture::columns(&["a", "b"]));
        manifest.header = header(Manifest::SCHEMA, Role::Release(LINE.parse().unwrap()), 1);
        manifest.release_counter = package.counter;
        manifest.arch = package.arch.iter().map(|arch| (*arch).to_owned()).collect();
        (package.needs)(&mut manifest);
        let golden = codec::to_vec(&package.golden).unwrap();
        std::fs::write(dir.path().join(ComponentKind::Golden.file_name()), &golden).unwrap();
        for component in &mut manifest.components {
            if component.kind == ComponentKind::Golden {
                component.blob = BlobRef::of(&golden);
            }
        }
        let components = manifest
            .components
            .iter()
            .map(|component| {
                let plain = std::fs::read(dir.path().join(component.kind.file_name())).unwrap();
                let encoding = if component.kind == ComponentKind::Golden {
                    Encoding::Identity
                } else {
                    Encoding::Zstd
                };
                ComponentSources {
                    component: component.blob.sha256,
                    sources: vec![server.source(&plain, encoding)],
                }
            })
            .collect();
        let envelope = sign(&manifest, &key(package.signer)).unwrap();
        let payload = flotilla_protocol::trust::Envelope::decode(&envelope).unwrap();
        let mut target = Target {
            slot: slot(),
            action: Action::Install,
            line: LINE.parse().unwrap(),
            manifest: payload.digest(),
            manifest_envelope: server.put(&envelope),
            release_counter: package.counter,
            deployment: format!("{:032x}", self.version).parse().unwrap(),
            components,
            update: UpdatePolicy {
                soak_ms: package.soak_ms,
                max_error_permille: 100,
                start_spread_ms: 0,
                deadline: 0,
                max_bytes_per_s: 0,
            },
            harvest: HarvestPolicy {
                on_drift: false,
                below_permille: 0,
                max_samples: 0,
            },
        };
        change(&mut target);
        let desired = DesiredState {
            header: header(DesiredState::SCHEMA, Role::Director, self.version),
            device: Self::device(),
            thumbprint: key(9).id(),
            targets: vec![target],
            telemetry: TelemetryPolicy {
                bundle_interval_ms: 1000,
            },
            last_report_counter: 0,
        };
        sign(&desired, &key(2)).unwrap()
    }
}

struct Package {
    semver: &'static str,
    counter: u64,
    golden: GoldenSet,
    arch: &'static [&'static str],
    /// What it asks of a device.
    needs: fn(&mut Manifest),
    signer: u8,
    soak_ms: u64,
}

impl Package {
    fn new(semver: &'static str, counter: u64) -> Self {
        Self {
            semver,
            counter,
            golden: fixture::golden(),
            arch: &[],
            needs: |_| {},
            signer: 3,
            soak_ms: 1,
        }
    }

    /// With a golden set of several chunks.
    fn large(semver: &'static str, counter: u64) -> Self {
        let mut package = Self::new(semver, counter);
        let cases = package.golden.cases.clone();
        package.golden.cases = cases.iter().cycle().take(4_000).cloned().collect();
        package
    }
}

fn slot() -> SlotName {
    SlotName::new("main").unwrap()
}

impl Running {
    fn send(&self, desired: &[u8]) {
        let desired = self.trust.accept_desired_state(desired).unwrap();
        self.orders.send_replace(Some(desired));
    }

    async fn until(&mut self, what: impl Fn(&OtaState) -> bool) -> OtaState {
        let found = self.states.wait_for(|states| states.get(&slot()).is_some_and(&what));
        let states = tokio::time::timeout(Duration::from_mins(1), found).await;
        states.expect("it takes too long").unwrap()[&slot()].clone()
    }

    async fn ended(&mut self) -> (DeploymentState, Option<String>) {
        let final_state = |state: &OtaState| {
            let report = state.deployment_report(&slot())?;
            report.state.is_final().then_some((report.state, report.reason))
        };
        final_state(&self.until(|state| final_state(state).is_some()).await).unwrap()
    }

    fn version(&self) -> Option<String> {
        Some(self.inference.model("main")?.manifest.semver.clone())
    }

    fn audited(&self) -> Vec<AuditRecord> {
        let entries = self.store.read(|txn| {
            let table = txn.open_table(AUDIT)?;
            let entries: Vec<_> = table.iter()?.map(|item| item.unwrap().1.value().to_vec()).collect();
            Ok(entries)
        });
        entries
            .unwrap()
            .iter()
            .map(|entry| codec::from_slice(entry, 1 << 16).unwrap())
            .collect()
    }

    fn audited_events(&self) -> Vec<String> {
        self.audited().into_iter().map(|record| record.event).collect()
    }

    async fn stop(self) {
        self.inference.shutdown().await;
        self.tasks.shutdown(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_is_fetched_proved_committed_and_answers_after_a_restart_without_a_server() {
    let mut bench = Bench::new();
    let order = bench.order(&Package::large("1.0.0", 1));
    let mut agent = bench.start(None).await;
    agent.send(&order);
    assert_eq!(agent.ended().await, (DeploymentState::Success, None));
    assert_eq!(agent.version().as_deref(), Some("1.0.0"));
    assert_eq!(
        agent.audited_events(),
        ["update.started", "model.activated", "model.committed"]
    );
    let sent = bench.server.lock().unwrap().sent.clone();
    assert!(sent.len() > 6, "several chunks: {sent:?}");
    assert_eq!(
        sent.len(),
        sent.iter().collect::<BTreeSet<_>>().len(),
        "nothing was sent twice"
    );
    let report = agent.until(|_| true).await.deployment_report(&slot()).unwrap();
    assert_eq!(report.bytes_received, report.bytes_total);
    agent.stop().await;
    assert_eq!(std::fs::read_dir(bench.dir.path().join("parts")).unwrap().count(), 0);

    bench.server.lock().unwrap().blobs.clear();
    let agent = bench.start(None).await;
    let answer = agent
        .inference
        .infer("main", vec![fixture::input(&[[1.0, 0.0]])])
        .await
        .unwrap();
    assert_eq!(answer.model.manifest.semver, "1.0.0");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_cut_off_anywhere_resumes_without_fetching_a_chunk_twice() {
    let mut bench = Bench::new();
    let order = bench.order(&Package::large("1.0.0", 1));
    let most = 7;
    bench.server.lock().unwrap().stop_after = Some(most);
    let agent = bench.start(None).await;
    agent.send(&order);
    while bench.server.lock().unwrap().sent.len() < most {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What was sent is on its way through a channel: it counts as received once it is written.
    let parts = |dir: &Path| std::fs::read_dir(dir.join("parts")).unwrap().count();
    assert!(parts(bench.dir.path()) > 0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    agent.stop().await;

    bench.server.lock().unwrap().stop_after = None;
    let mut agent = bench.start(None).await;
    assert_eq!(agent.ended().await, (DeploymentState::Success, None));
    let sent = bench.server.lock().unwrap().sent.clone();
    assert_eq!(
        sent.len(),
        sent.iter().collect::<BTreeSet<_>>().len(),
        "nothing was sent twice"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_chunk_is_refused_audited_and_asked_for_again() {
    let mut bench = Bench::new();
    let order = bench.order(&Package::large("1.0.0", 1));
    {
        let mut server = bench.server.lock().unwrap();
        let largest = server
            .blobs
            .iter()
            .max_by_key(|(_, bytes)| bytes.len())
            .map(|(digest, _)| *digest);
        server.forge.insert((largest.unwrap(), 1));
    }
    let mut agent = bench.start(None).await;
    agent.send(&order);
    assert_eq!(agent.ended().await, (DeploymentState::Success, None));
    let refused = agent
        .audited()
        .into_iter()
        .find(|record| record.event == "attack.refused")
        .unwrap();
    assert_eq!(refused.detail["attack"], "altered-content");
    assert_eq!(agent.trust.last_attack().unwrap().unwrap().attack, "altered-content");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_trusted_or_does_not_prove_itself_never_touches_what_runs() {
    let mut bench = Bench::new();
    let good = bench.order(&Package::new("1.0.0", 1));
    let mut agent = bench.start(None).await;
    agent.send(&good);
    assert_eq!(agent.ended().await.0, DeploymentState::Success);

    let wrong_key = Package {
        signer: 2,
        ..Package::new("2.0.0", 2)
    };
    let wrong_arch = Package {
        arch: &["vax"],
        ..Package::new("2.0.0", 2)
    };
    let mut golden = fixture::golden();
    golden.cases[0].outputs = golden.cases[1].outputs.clone();
    let wrong_answers = Package {
        golden,
        ..Package::new("2.0.0", 2)
    };
    for (package, why) in [
        (wrong_key, "needs 1 valid signature"),
        (wrong_arch, "architecture"),
        (wrong_answers, "self-test"),
    ] {
        let order = bench.order(&package);
        let deployment = format!("{:032x}", bench.version).parse().unwrap();
        agent.send(&order);
        agent
            .until(|state| {
                state
                    .deployment_report(&slot())
                    .is_some_and(|report| report.deployment == deployment)
            })
            .await;
        let (state, reason) = agent.ended().await;
        assert_eq!(state, DeploymentState::Failure);
        assert!(reason.as_deref().unwrap_or_default().contains(why), "{why}: {reason:?}");
        assert_eq!(agent.version().as_deref(), Some("1.0.0"));
    }
    agent.stop().await;
    let agent = bench.start(None).await;
    assert_eq!(agent.version().as_deref(), Some("1.0.0"));
    agent.stop().await;
}

/// The outcome of the order made last.
async fn outcome(bench: &Bench, agent: &mut Running) -> (DeploymentState, String) {
    let deployment = format!("{:032x}", bench.version).parse().unwrap();
    agent
        .until(|state| {
            state
                .deployment_report(&slot())
                .is_some_and(|report| report.deployment == deployment)
        })
        .await;
    let (state, reason) = agent.ended().await;
    (state, reason.unwrap_or_default())
}

/// What a package asks of a device.
type Need = fn(&mut Manifest);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_has_too_little_of_fails_an_update_and_is_no_attack() {
    let mut bench = Bench::new();
    let good = bench.order(&Package::new("1.0.0", 1));
    let mut agent = bench.start(None).await;
    agent.send(&good);
    assert_eq!(agent.ended().await.0, DeploymentState::Success);
    let needs: [(Need, &str); 3] = [
        (|manifest| manifest.min_disk_bytes = 1 << 60, "bytes of free disk"),
        (|manifest| manifest.min_ram_bytes = 1 << 60, "bytes of RAM"),
        (
            |manifest| manifest.min_agent = "999.0.0".to_owned(),
            "is older than 999.0.0",
        ),
    ];
    for (needs, why) in needs {
        let order = bench.order(&Package {
            needs,
            ..Package::large("2.0.0", 2)
        });
        let sent = bench.server.lock().unwrap().sent.len();
        agent.send(&order);
        let (state, reason) = outcome(&bench, &mut agent).await;
        assert_eq!(state, DeploymentState::Failure);
        assert!(reason.contains("too little") && reason.contains(why), "{why}: {reason}");
        assert_eq!(agent.version().as_deref(), Some("1.0.0"));
        let fetched = bench.server.lock().unwrap().sent.len() - sent;
        assert_eq!(fetched, 1, "the manifest alone is fetched before it is known");
    }
    assert_eq!(agent.trust.last_attack().unwrap(), None);
    let events = agent.audited_events();
    assert!(!events.contains(&"attack.refused".to_owned()), "{events:?}");
    assert_eq!(events.iter().filter(|event| *event == "update.failed").count(), 3);
    agent.stop().await;
    let parts = std::fs::read_dir(bench.dir.path().join("parts")).unwrap().count();
    assert_eq!((parts, bench.dir.path().join("staging/main").exists()), (0, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_cannot_be_fail_an_update_and_nothing_else() {
    let mut bench = Bench::new();
    let mut agent = bench.start(None).await;
    let endless = BlobRef {
        sha256: Digest::of(b"endless"),
        length: u64::MAX,
    };
    let order = bench.order_with(&Package::new("1.0.0", 1), |target| {
        for source in target
            .components
            .iter_mut()
            .flat_map(|component| &mut component.sources)
        {
            source.blob = endless;
            source.chunk_list = Some(endless);
        }
    });
    agent.send(&order);
    let (state, reason) = outcome(&bench, &mut agent).await;
    assert_eq!(state, DeploymentState::Failure);
    assert!(
        reason.contains("is said to have 18446744073709551615 bytes"),
        "{reason}"
    );
    let order = bench.order(&Package::new("1.0.0", 1));
    agent.send(&order);
    assert_eq!(
        outcome(&bench, &mut agent).await,
        (DeploymentState::Success, String::new())
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_cannot_be_checked_on_arrival_is_not_fetched() {
    let mut bench = Bench::new();
    let mut agent = bench.start(None).await;
    let order = bench.order_with(&Package::large("1.0.0", 1), |target| {
        for source in target
            .components
            .iter_mut()
            .flat_map(|component| &mut component.sources)
        {
            source.chunk_list = None;
        }
    });
    agent.send(&order);
    let (state, reason) = outcome(&bench, &mut agent).await;
    assert_eq!(state, DeploymentState::Failure);
    assert!(reason.contains("no chunk list"), "{reason}");
    agent.stop().await;
}

#[tokio::test]
async fn a_step_that_panics_answers_that_it_failed() {
    let answered = answer(async { panic!("torn off") }).await;
    let OtaEvent::Failed { reason } = answered else {
        panic!("{answered:?}")
    };
    assert!(reason.contains("torn off"), "{reason}");
    assert_eq!(answer(async { OtaEvent::Verified }).await, OtaEvent::Verified);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_full_disk_what_is_installed_answers_after_a_start() {
    let mut bench = Bench::new();
    let mut agent = bench.start(None).await;
    for (semver, counter) in [("1.0.0", 1), ("2.0.0", 2)] {
        let order = bench.order(&Package::new(semver, counter));
        agent.send(&order);
        assert_eq!(outcome(&bench, &mut agent).await.0, DeploymentState::Success);
    }
    let bank = agent.until(|_| true).await.active.unwrap();
    agent.stop().await;
    let agent = bench.start_on(None, true).await;
    assert_eq!(agent.version().as_deref(), Some("2.0.0"));
    agent.stop().await;

    // And the other bank where the active one is damaged, which cannot be written down yet.
    let damaged = bench
        .dir
        .path()
        .join("slots/main")
        .join(bank.as_str())
        .join("model.onnx");
    let mut bytes = std::fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let agent = bench.start_on(None, true).await;
    assert_eq!(agent.version().as_deref(), Some("1.0.0"));
    assert!(damaged.exists(), "a bank is forgotten before its files are touched");
    let lost = || agent.audited_events().contains(&"model.lost".to_owned());
    assert!(!lost());
    agent.store.pretend_full(false);
    let noted = async {
        while !lost() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), noted).await.unwrap();
    agent.stop().await;
    assert_eq!(bench.start(None).await.version().as_deref(), Some("1.0.0"));
    assert!(!damaged.exists(), "swept by the next start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_package_whose_start_cannot_be_counted_stays_down_until_it_can() {
    let mut bench = Bench::new();
    let first = bench.order(&Package::new("1.0.0", 1));
    let mut agent = bench.start(None).await;
    agent.send(&first);
    assert_eq!(agent.ended().await.0, DeploymentState::Success);
    agent.stop().await;
    let mut agent = bench.start(Some(PhaseName::Soaking)).await;
    let second = bench.order(&Package::new("2.0.0", 2));
    agent.send(&second);
    agent.until(|state| matches!(state.phase, Phase::Soaking { .. })).await;
    agent.stop().await;

    let mut agent = bench.start_on(None, true).await;
    assert_eq!(
        agent.version().as_deref(),
        Some("1.0.0"),
        "it could take the agent down for ever"
    );
    agent.store.pretend_full(false);
    assert_eq!(agent.ended().await, (DeploymentState::Success, None));
    assert_eq!(agent.version().as_deref(), Some("2.0.0"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soak_with_errors_brings_the_previous_package_back() {
    let mut bench = Bench::new();
    let first = bench.order(&Package::new("1.0.0", 1));
    let mut agent = bench.start(None).await;
    agent.send(&first);
    assert_eq!(agent.ended().await.0, DeploymentState::Success);
    let second = bench.order(&Package {
        soak_ms: 60_000,
        ..Package::new("2.0.0", 2)
    });
    agent.send(&second);
    agent.until(|state| matches!(state.phase, Phase::Soaking { .. })).await;
    assert_eq!(agent.version().as_deref(), Some("2.0.0"));
    let wrong = flotilla_protocol::infer::Tensor::from_f32("nonsense", vec![1, 2], &[0.0, 0.0]).unwrap();
    for _ in 0..30 {
        assert!(agent.inference.infer("main", vec![wrong.clone()]).await.is_err());
    }
    let (state, reason) = agent.ended().await;
    assert_eq!(state, DeploymentState::RolledBack);
    assert!(reason.unwrap().contains("inferences failed"));
    assert_eq!(agent.version().as_deref(), Some("1.0.0"));
    assert!(agent.audited_events().contains(&"model.rolled-back".to_owned()));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_orders_that_come_faster_than_they_are_carried_out_the_newest_counts() {
    let mut bench = Bench::new();
    let orders: Vec<_> = ["1.0.0", "2.0.0", "3.0.0", "4.0.0", "5.0.0"]
        .into_iter()
        .zip(1..)
        .map(|(semver, counter)| bench.order(&Package::large(semver, counter)))
        .collect();
    let mut agent = bench.start(None).await;
    for order in &orders {
        agent.send(order);
    }
    let inference = agent.inference.clone();
    agent
        .until(|state| {
            let newest = inference
                .model("main")
                .is_some_and(|model| model.manifest.semver == "5.0.0");
            let report = state.deployment_report(&slot());
            newest && report.is_some_and(|report| report.state == DeploymentState::Success)
        })
        .await;
    let activated = agent
        .audited_events()
        .iter()
        .filter(|event| *event == "model.activated")
        .count();
    assert!(
        activated <= 2,
        "at most the first was under way: {:?}",
        agent.audited_events()
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_package_gives_way_to_the_previous_one_before_there_is_a_network() {
    let mut bench = Bench::new();
    let mut agent = bench.start(None).await;
    for (semver, counter) in [("1.0.0", 1), ("2.0.0", 2)] {
        let order = bench.order(&Package::new(semver, counter));
        agent.send(&order);
        let wanted = |state: &OtaState| {
            state
                .active_model()
                .is_some_and(|model| model.release_counter == counter)
        };
        agent.until(|state| wanted(state) && state.phase == Phase::Idle).await;
    }
    let bank = agent.until(|_| true).await.active.unwrap();
    agent.stop().await;
    let model = bench
        .dir
        .path()
        .join("slots/main")
        .join(bank.as_str())
        .join("model.onnx");
    let mut bytes = std::fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&model, bytes).unwrap();

    let agent = bench.start(None).await;
    assert_eq!(agent.version().as_deref(), Some("1.0.0"));
    assert!(agent.audited_events().contains(&"model.lost".to_owned()));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_every_state_a_restart_finds_its_way() {
    for pause in [
        PhaseName::Downloading,
        PhaseName::Verifying,
        PhaseName::Installing,
        PhaseName::SelfTesting,
        PhaseName::Activating,
        PhaseName::Soaking,
        PhaseName::Committing,
    ] {
        let mut bench = Bench::new();
        let first = bench.order(&Package::new("1.0.0", 1));
        let mut agent = bench.start(None).await;
        agent.send(&first);
        assert_eq!(agent.ended().await.0, DeploymentState::Success);
        agent.stop().await;

        let mut agent = bench.start(Some(pause)).await;
        let second = bench.order(&Package::new("2.0.0", 2));
        agent.send(&second);
        agent.until(|state| state.phase.name() == pause).await;
        assert!(agent.version().is_some(), "inference goes on in {pause:?}");
        agent.stop().await;

        let mut agent = bench.start(None).await;
        assert!(agent.version().is_some(), "something answers at once after {pause:?}");
        assert_eq!(agent.ended().await, (DeploymentState::Success, None), "{pause:?}");
        assert_eq!(agent.version().as_deref(), Some("2.0.0"));
        agent.stop().await;
    }
}
