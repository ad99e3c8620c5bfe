//! The Flotilla device agent: enrols, follows the fleet's trust, fetches, verifies and installs model packages, answers
//! inference (without any network too), and reports.
//!
//! This file is the wiring: who is made from what, in which order, and how it all ends. What is installed answers before
//! there is a network, and while nothing can be written because the disk is full; shutdown stops intake, drains, seals, and
//! sends what it can until a deadline.

#![cfg_attr(
    test,
    expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "made-up test data"
    )
)]

pub mod audit;
pub mod clock;
pub mod config;
pub mod drift;
pub mod enroll;
pub mod files;
pub mod harvest;
pub mod http;
pub mod identity;
pub mod inference;
pub mod link;
pub mod ota;
pub mod random;
pub mod report;
pub mod resources;
pub mod router;
pub mod serve;
pub mod spool;
pub mod status;
pub mod store;
pub mod tasks;
pub mod telemetry;
#[cfg(test)]
mod test_server;
pub mod tls;
pub mod trust_state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flotilla_protocol::audit::AuditHead;
use flotilla_protocol::desired_state::DesiredState;
use flotilla_protocol::head::Endpoint;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::audit::Entry;
use crate::clock::Clock;
use crate::config::Config;
use crate::files::{Access, FileError};
use crate::identity::{DeviceKeys, Enrolled, IdentityError};
use crate::inference::{InferenceHandle, InferenceLimits};
use crate::link::backoff::Backoff;
use crate::link::{Broker, BrokerSource, Link, LinkEvent, LinkHandle};
use crate::ota::driver::{Driver, DriverError, DriverOptions, States};
use crate::ota::fetch::{ChunkRouter, Fetcher};
use crate::ota::policy::RetryLimits;
use crate::ota::slots::SlotDirs;
use crate::ota::work::Workshop;
use crate::report::{Facts, Reporter, Signer};
use crate::router::{Policies, Router};
use crate::serve::rest::{self, RestLimits};
use crate::serve::stream::{self, StreamStatus};
use crate::spool::disk::{Boot, DiskSpool};
use crate::status::StatusSource;
use crate::store::{Store, StoreError, keys, on_disk};
use crate::tasks::Tasks;
use crate::telemetry::{Sealer, Unsealed};
use crate::trust_state::{NotAccepted, TrustState};

/// Events of the link waiting for the router; when full, the link waits.
const LINK_EVENTS: usize = 128;
/// Requests in progress may take so long at the end.
const DRAIN: Duration = Duration::from_secs(3);
/// For receipts of what is sealed at the end.
const FLUSH: Duration = Duration::from_secs(3);
/// Pause before what a full disk did not take at the start is written again.
const WRITE_AGAIN: Duration = Duration::from_secs(2);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Enrol(#[from] enroll::EnrolError),
    #[error("the stored root of trust cannot be used: {0}")]
    Trust(#[from] NotAccepted),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Randomness(#[from] random::NoRandomness),
    #[error("this device is not enrolled: run 'fleet-agent enrol', or set 'bundle' under [enrolment]")]
    NotEnrolled,
    #[error("another agent runs on {}", .0.display())]
    Busy(PathBuf),
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("{0}")]
    Ended(String),
}

/// Makes ring the process's crypto provider. Once, before anything speaks TLS.
pub fn install_crypto() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        warn!("a crypto provider was installed before");
    }
}

/// Opens the data directory for this process alone, and for its user alone.
pub fn open_data(config: &Config) -> Result<(Arc<Store>, DataLock), AgentError> {
    files::create_private_dir(&config.data_dir)?;
    let lock = DataLock::take(&config.data_dir)?;
    let store = Store::open(&config.data_dir, config.spool.reserve_bytes)?;
    Ok((Arc::new(store), lock))
}

/// Held while an agent runs on a data directory. The kernel lets go of it with the process.
#[derive(Debug)]
pub struct DataLock(#[expect(dead_code, reason = "held, not read")] std::fs::File);

impl DataLock {
    fn take(dir: &Path) -> Result<Self, AgentError> {
        let path = dir.join("lock");
        let file = std::fs::File::create(&path).map_err(files::at("open", &path))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(_held) => Err(AgentError::Busy(dir.to_owned())),
        }
    }
}

/// The parts that more than one task holds.
struct Parts {
    config: Config,
    clock: Clock,
    store: Arc<Store>,
    trust: Arc<TrustState>,
    inference: InferenceHandle,
    spool: Arc<DiskSpool>,
    signer: Arc<Signer>,
    sealed: Arc<Notify>,
}

/// Runs the agent until `stop` or until something of it fails.
pub async fn run(config: Config, clock: Clock, stop: CancellationToken) -> Result<(), AgentError> {
    let (store, _lock) = open_data(&config)?;
    let enrolled = match (Enrolled::load(&store)?, config.enrolment.bundle.clone()) {
        (Some(enrolled), _) => enrolled,
        (None, Some(bundle)) => match enrol_patiently(&config, &store, &clock, &bundle, &stop).await? {
            Some(enrolled) => enrolled,
            None => return Ok(()),
        },
        (None, None) => return Err(AgentError::NotEnrolled),
    };
    let device_keys = DeviceKeys::load(&config.data_dir)?;
    let thumbprint = device_keys.signing.id();
    let trust = TrustState::open(Arc::clone(&store), clock.clone(), enrolled.device.clone(), thumbprint)?
        .ok_or(AgentError::NotEnrolled)?;
    let boot = next_boot(&store)?;
    let begun = begin_epoch(&store, &clock);
    if let Err(why) = &begun {
        error!(%why, "this start cannot be written: what is installed answers, and nothing else is done before it is");
    }
    info!(device = %enrolled.device, boot_epoch = boot.epoch, "starting");
    let broker = broker_source(&store, &trust, &enrolled, &device_keys, &clock)?;
    let signer = Signer {
        device: enrolled.device.clone(),
        fleet: enrolled.fleet,
        key: device_keys.signing,
        boot,
    };
    let parts = Parts {
        inference: InferenceHandle::new(clock.clone(), InferenceLimits::default()),
        spool: Arc::new(DiskSpool::open(Arc::clone(&store), boot, config.spool.limits())?),
        trust: Arc::new(trust),
        signer: Arc::new(signer),
        sealed: Arc::new(Notify::new()),
        clock,
        store,
        config,
    };
    parts.run(broker, begun, stop).await
}

/// Enrols, trying again while the server cannot be reached or has no time. `None` when told to stop.
async fn enrol_patiently(
    config: &Config,
    store: &Store,
    clock: &Clock,
    bundle: &Path,
    stop: &CancellationToken,
) -> Result<Option<Enrolled>, AgentError> {
    let mut backoff = Backoff::new(config.link.backoff_cap_ms);
    loop {
        match enroll::enrol(config, store, clock, bundle, None).await {
            Ok(enrolled) => return Ok(Some(enrolled)),
            Err(why) if why.is_worth_retrying() => {
                let pause = backoff.next(random::jitter(u64::MAX));
                warn!(%why, pause_ms = pause.as_millis(), "not enrolled yet");
                tokio::select! {
                    () = stop.cancelled() => return Ok(None),
                    () = tokio::time::sleep(pause) => {}
                }
            }
            Err(why) => return Err(why.into()),
        }
    }
}

/// What the records of this boot are named by. The epoch counts once [`begin_epoch`] has written it; nothing that carries it
/// leaves before.
fn next_boot(store: &Store) -> Result<Boot, AgentError> {
    let mut nonce = [0u8; 4];
    random::fill(&mut nonce)?;
    let head: Option<AuditHead> = store.get(keys::AUDIT_HEAD)?;
    Ok(Boot {
        epoch: head.map_or(0, |head| head.epoch).saturating_add(1),
        nonce: u32::from_le_bytes(nonce),
    })
}

/// Counts the boot and opens its audit chain, in one transaction, so that they cannot part.
fn begin_epoch(store: &Store, clock: &Clock) -> Result<(), StoreError> {
    let at = clock.now_ms();
    store.write(|txn| {
        let head = audit::open_epoch(txn, at)?;
        txn.put(keys::BOOT_EPOCH, &head.epoch)?;
        let entry = Entry::new("agent.started", "agent").with("version", env!("CARGO_PKG_VERSION"));
        audit::append(txn, &entry, at).map(drop)
    })
}

/// The broker's coordinates, anew at every attempt: anchors, certificate times and endpoints may have changed. The last
/// `Head`'s endpoint and the one given at enrolment take turns.
fn broker_source(
    store: &Arc<Store>,
    trust: &TrustState,
    enrolled: &Enrolled,
    device_keys: &DeviceKeys,
    clock: &Clock,
) -> Result<BrokerSource, AgentError> {
    // Unusable keys or anchors are told at start, not at the first connection.
    let identity = device_keys
        .client_identity(&enrolled.certificate_pem)
        .map_err(IdentityError::from)?;
    let anchors = der(trust.tls_anchors());
    tls::client_config(&anchors, Some(identity.clone_key()), clock).map_err(IdentityError::from)?;
    let (store, clock, known) = (Arc::clone(store), clock.clone(), enrolled.broker.clone());
    let attempts = AtomicUsize::new(0);
    Ok(Box::new(move || {
        let endpoint: Option<Endpoint> = store.get(keys::ENDPOINT).map_err(|why| why.to_string())?;
        let mut addresses = vec![known.clone()];
        if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.broker != known) {
            addresses.insert(0, endpoint.broker);
        }
        let attempt = attempts.fetch_add(1, Ordering::Relaxed);
        let address = addresses.get(attempt % addresses.len().max(1)).unwrap_or(&known);
        let (host, port) = link::broker_address(address).map_err(|why| why.to_string())?;
        let snapshot: Option<flotilla_protocol::trust::TrustSnapshot> =
            store.get(keys::TRUST).map_err(|why| why.to_string())?;
        let anchors = match snapshot {
            Some(snapshot) => flotilla_protocol::trust::TrustStore::restore(snapshot)
                .map(|trust| der(trust.root().tls_anchors.iter().map(|anchor| anchor.to_vec()).collect()))
                .map_err(|why| why.to_string())?,
            None => anchors.clone(),
        };
        let tls = tls::client_config(&anchors, Some(identity.clone_key()), &clock).map_err(|why| why.to_string())?;
        Ok(Broker {
            host,
            port,
            tls: Arc::new(tls),
        })
    }))
}

fn der(anchors: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    anchors.into_iter().map(CertificateDer::from).collect()
}

impl Parts {
    /// `begun`: is the boot's epoch durable, or why not?
    async fn run(
        self,
        broker: BrokerSource,
        begun: Result<(), StoreError>,
        stop: CancellationToken,
    ) -> Result<(), AgentError> {
        let config = &self.config;
        let deadline = Duration::from_millis(config.shutdown.deadline_ms);
        let (events, incoming) = mpsc::channel::<LinkEvent>(LINK_EVENTS);
        let keep_alive = Duration::from_secs(config.link.keep_alive_s);
        let backoff = Backoff::new(config.link.backoff_cap_ms);
        let (link, handle) = Link::new(self.signer.device.clone(), keep_alive, backoff, broker, events);
        let chunks = Arc::new(ChunkRouter::default());
        let (mut driver, states) = self.driver(&handle, &chunks)?;
        // What is installed answers before there is a network.
        driver.boot().await;

        let mut tasks = Tasks::new();
        // The link outlives the others by a little: what they seal at the end is still sent.
        let link_stop = CancellationToken::new();
        let token = tasks.stop_token();
        let reporter = self.reporter(&handle, states.clone());
        let streams = self.streams(&mut tasks);
        let (drift, drift_seen) = watch::channel(BTreeMap::new());
        let interval = Duration::from_millis(config.telemetry.bundle_interval_ms);
        let (interval, interval_seen) = watch::channel(interval);
        let status = StatusSource {
            reporter: Arc::clone(&reporter),
            states,
            link: handle.clone(),
            spool: Arc::clone(&self.spool),
            inference: self.inference.clone(),
            streams,
            drift: drift_seen,
        };
        self.listen(&mut tasks, status).await?;
        if let Err(why) = begun
            && !self.begin(why, &reporter, &stop).await
        {
            tasks.shutdown(deadline).await;
            self.inference.shutdown().await;
            return Ok(());
        }
        let (orders, ordered) = watch::channel(None);
        let router = self.router(&reporter, chunks, orders, interval);
        self.resume_orders(&router)?;
        let sealer = self.sealer(drift);
        tasks.spawn("updates", driver.run(ordered, token.clone()));
        tasks.spawn(
            "telemetry",
            Arc::clone(&sealer).run(Arc::clone(&reporter), interval_seen, token.clone()),
        );
        tasks.spawn("reports", Arc::clone(&reporter).run(token.clone()));
        let mut outer = Tasks::new();
        outer.spawn("router", router.run(incoming, link_stop.clone()));
        outer.spawn("link", link.run(link_stop.clone()));
        let sending = telemetry::send(
            Arc::clone(&self.spool),
            handle.clone(),
            Arc::clone(&self.sealed),
            link_stop.clone(),
        );
        outer.spawn("spool", sending);

        let ended = tokio::select! {
            () = stop.cancelled() => None,
            ended = tasks.ended() => ended,
            ended = outer.ended() => ended,
        };
        info!("ending");
        tasks.shutdown(deadline).await;
        self.inference.shutdown().await;
        // What the models answered while they were drained.
        sealer.seal_all();
        self.flush(&handle).await;
        link_stop.cancel();
        outer.shutdown(deadline).await;
        match ended {
            Some(what) => Err(AgentError::Ended(what)),
            None => Ok(()),
        }
    }

    /// Begins the boot's epoch once the disk has room for it. Until then the device answers, says on its status what ails it,
    /// and does nothing else. `false` when told to stop.
    async fn begin(&self, mut why: StoreError, reporter: &Reporter, stop: &CancellationToken) -> bool {
        loop {
            reporter.ail(Some(format!(
                "nothing goes out and no update goes on, because this start cannot be written: {why}"
            )));
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(WRITE_AGAIN) => {}
            }
            match begin_epoch(&self.store, &self.clock) {
                Ok(()) => break,
                Err(again) => {
                    error!(why = %again, "this start cannot be written");
                    why = again;
                }
            }
        }
        reporter.ail(None);
        true
    }

    fn router(
        &self,
        reporter: &Arc<Reporter>,
        chunks: Arc<ChunkRouter>,
        orders: watch::Sender<Option<DesiredState>>,
        interval: watch::Sender<Duration>,
    ) -> Router {
        Router {
            trust: Arc::clone(&self.trust),
            reporter: Arc::clone(reporter),
            spool: Arc::clone(&self.spool),
            freed: Arc::clone(&self.sealed),
            chunks,
            orders,
            policies: Policies {
                inference: self.inference.clone(),
                interval,
                config: self.config.telemetry.clone(),
            },
        }
    }

    fn driver(
        &self,
        link: &LinkHandle,
        chunks: &Arc<ChunkRouter>,
    ) -> Result<(Driver, watch::Receiver<States>), AgentError> {
        let config = &self.config;
        let workshop = Workshop {
            fetcher: Fetcher {
                link: link.clone(),
                chunks: Arc::clone(chunks),
                store: Arc::clone(&self.store),
                dirs: SlotDirs::open(&config.data_dir)?,
                trust: Arc::clone(&self.trust),
                window: config.update.window_chunks,
            },
            inference: self.inference.clone(),
            hardware_class: config.hardware_class.clone(),
            data_dir: config.data_dir.clone(),
        };
        let options = DriverOptions {
            device: self.signer.device.clone(),
            retry: RetryLimits {
                max_attempts: config.update.max_fetch_attempts,
                first_pause_ms: config.update.retry_ms,
            },
            clock: self.clock.clone(),
            data_dir: config.data_dir.clone(),
            pause_in: config.debug.pause_in_state,
        };
        Ok(Driver::open(options, Arc::clone(&self.store), Arc::new(workshop))?)
    }

    fn reporter(&self, link: &LinkHandle, states: watch::Receiver<States>) -> Arc<Reporter> {
        Arc::new(Reporter {
            signer: Arc::clone(&self.signer),
            store: Arc::clone(&self.store),
            trust: Arc::clone(&self.trust),
            clock: self.clock.clone(),
            states,
            link: link.clone(),
            facts: Facts {
                hardware_class: self.config.hardware_class.clone(),
                data_dir: self.config.data_dir.clone(),
            },
            wanted: self.trust.refused_notice(),
            error: Mutex::new(None),
        })
    }

    fn sealer(&self, drift: watch::Sender<BTreeMap<String, flotilla_protocol::sketch::DriftStatus>>) -> Arc<Sealer> {
        Arc::new(Sealer {
            signer: Arc::clone(&self.signer),
            store: Arc::clone(&self.store),
            spool: Arc::clone(&self.spool),
            inference: self.inference.clone(),
            clock: self.clock.clone(),
            data_dir: self.config.data_dir.clone(),
            sealed: Arc::clone(&self.sealed),
            unsealed: Mutex::new(Unsealed::since(self.clock.now_ms())),
            drift,
        })
    }

    fn streams(&self, tasks: &mut Tasks) -> BTreeMap<String, watch::Receiver<StreamStatus>> {
        let mut streams = BTreeMap::new();
        for config in &self.config.streams {
            let (status, seen) = watch::channel(StreamStatus::default());
            streams.insert(config.name.clone(), seen);
            let (inference, stop) = (self.inference.clone(), tasks.stop_token());
            let config = config.clone();
            tasks.spawn("stream", async move {
                stream::run(config, inference, status, stop.clone()).await;
                // A file that was read to its end is no reason to end the agent.
                stop.cancelled().await;
            });
        }
        streams
    }

    /// Local inference and status; the address stands in `rest.addr`.
    async fn listen(&self, tasks: &mut Tasks, status: StatusSource) -> Result<(), AgentError> {
        let address = self.config.listen;
        let failed = |source| AgentError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        info!(address = %bound, "inference and status");
        let limits = RestLimits::default();
        let app = rest::router(self.inference.clone(), limits).merge(status::router(Arc::new(status)));
        let stop = tasks.stop_token();
        tasks.spawn("rest", async move {
            let served = rest::serve(listener, app, limits, async move { stop.cancelled().await }, DRAIN).await;
            if let Err(why) = served {
                error!(%why, "the local listener ended");
            }
        });
        self.tell_address(tasks, bound);
        Ok(())
    }

    /// Writes where the listener is. Requests are answered without that too, so that a full disk only delays it.
    fn tell_address(&self, tasks: &mut Tasks, bound: SocketAddr) {
        let (store, path) = (Arc::clone(&self.store), self.config.data_dir.join("rest.addr"));
        if write_address(&store, &path, bound) {
            return;
        }
        let stop = tasks.stop_token();
        tasks.spawn("address", async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(WRITE_AGAIN) => {}
                }
                if write_address(&store, &path, bound) {
                    // It is done, which is no reason to end the agent.
                    return stop.cancelled().await;
                }
            }
        });
    }

    /// Goes on with the last desired state, so that an update does not wait for the server. One that has expired starts
    /// nothing; what it said about observing stays.
    fn resume_orders(&self, router: &Router) -> Result<(), AgentError> {
        let Some(desired) = self.trust.resumable_desired_state()? else {
            return Ok(());
        };
        router.policies.apply(&desired);
        if self.clock.now_ms() >= desired.header.expires {
            warn!(
                version = desired.header.version,
                "the last desired state has expired: no new install starts"
            );
            return Ok(());
        }
        router.orders.send_replace(Some(desired));
        Ok(())
    }

    /// Gives the server a moment to take what was sealed at the end. The rest waits in the spool.
    async fn flush(&self, link: &LinkHandle) {
        let (mut waiting, mut connection) = (self.spool.waiting(), link.connection());
        let done = async {
            tokio::select! {
                _empty = waiting.wait_for(|records| *records == 0) => {}
                _gone = connection.wait_for(|connected| !*connected) => {}
            }
        };
        if tokio::time::timeout(FLUSH, done).await.is_err() {
            info!(
                records = self.spool.depth().records,
                "left in the spool for the next start"
            );
        }
    }
}

/// `true` once it is written. On a full disk the reserve is given up for it.
fn write_address(store: &Store, path: &Path, bound: SocketAddr) -> bool {
    let text = bound.to_string();
    let write = || on_disk(|| files::write_atomic(path, text.as_bytes(), Access::Everybody));
    let mut written = write();
    if written.as_ref().is_err_and(FileError::is_disk_full) {
        match store.release_reserve() {
            Ok(()) => written = write(),
            Err(why) => error!(%why, "the reserve stays on the full disk"),
        }
    }
    if let Err(why) = &written {
        error!(%why, "where the listener is cannot be written: 'fleet-agent status' does not find it");
    }
    written.is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_the_agent_keeps_is_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config: Config = toml::from_str(&format!("data_dir = '{}'", data.display())).unwrap();
        let _open = open_data(&config).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(&data.join("agent.redb"))), (0o700, 0o600));
        assert!(matches!(open_data(&config), Err(AgentError::Busy(_))));
    }

    #[test]
    fn a_boot_has_the_epoch_that_its_audit_chain_opens() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 0).unwrap();
        let clock = Clock::system();
        for start in 1..4 {
            let boot = next_boot(&store).unwrap();
            assert_eq!(boot.epoch, start);
            store.pretend_full(true);
            assert!(begin_epoch(&store, &clock).unwrap_err().is_disk_full());
            assert_eq!(next_boot(&store).unwrap().epoch, start, "nothing was counted");
            store.pretend_full(false);
            begin_epoch(&store, &clock).unwrap();
            assert_eq!(store.get::<u64>(keys::BOOT_EPOCH).unwrap(), Some(start));
            let head: AuditHead = store.get(keys::AUDIT_HEAD).unwrap().unwrap();
            assert_eq!(head.epoch, start);
        }
    }
}
