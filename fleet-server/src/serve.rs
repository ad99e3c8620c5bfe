//! Wires the server's parts, runs them, and stops them in order: tasks, broker, database, threads. One deadline holds for all of
//! it.

mod lock;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use flotilla_protocol::ids::FleetId;
use flotilla_protocol::trust::{KeyPair, Root, TrustError};
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout_at};

use crate::api::{Around, PublicUrl};
use crate::app::{App, Changes, FleetInfo};
use crate::blobs::{BlobError, Blobs};
use crate::broker::{Broker, BrokerConfig, BrokerError};
use crate::ca::{Ca, CaError};
use crate::config::Config;
use crate::device_api::{self, DeviceApiError};
use crate::director::{Director, DirectorError};
use crate::domain::authz::PrincipalRef;
use crate::files::{self, FileError};
use crate::heavy::Heavy;
use crate::imports::Imports;
use crate::listener::{self, Bounded, Limits};
use crate::refusals::Refusals;
use crate::store::{Db, StoreError, audit, deployments, device_summaries, documents, runs, tokens};
use crate::tasks::{Shutdown, Tasks};
use crate::{api, events, jobs, reconcile, work};

use lock::{DataLock, LockError};

/// The API is on loopback, where a proxy may stand for everybody.
const API_LIMITS: Limits = Limits {
    connections: 1024,
    per_address: 1024,
    headers: Duration::from_mins(1),
};

/// Why the server does not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Lock(#[from] LockError),
    #[error("{0}")]
    File(#[from] FileError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Blobs(#[from] BlobError),
    #[error("keys/director.key: {0}")]
    Trust(#[from] TrustError),
    #[error("{0}")]
    Ca(#[from] CaError),
    #[error("cannot listen on {address} (listen.{key}): {source}")]
    Listen {
        key: &'static str,
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("broker: {0}")]
    Broker(#[from] BrokerError),
    #[error("device API: {0}")]
    DeviceApi(#[from] DeviceApiError),
    #[error("{0}")]
    Director(#[from] DirectorError),
    #[error("the console's first sign-in link: {0}")]
    SignInLink(String),
    #[error("metrics: {0}")]
    Metrics(String),
    #[error("cannot watch for signals: {0}")]
    Signals(std::io::Error),
    #[error("task '{0}' ended on its own")]
    TaskEnded(String),
}

/// Longer than anybody waits for a stop.
const LONGEST_STOP: Duration = Duration::from_hours(24);

/// Runs until SIGTERM, SIGINT or a fault, then stops within the configured time, however it ends. `sign_in`: says on standard
/// output how to sign in to the console.
pub fn run(runtime: Runtime, config: &Config, sign_in: bool) -> Result<(), ServeError> {
    finish(runtime, serve(config, sign_in))
}

/// How the server ended.
#[derive(Debug)]
struct Ended {
    outcome: Result<(), ServeError>,
    /// By then whatever still runs of it must be gone.
    deadline: Instant,
    /// The data folder is ours as long as anything runs.
    lock: Option<DataLock>,
}

/// Gives threads that are still at work what is left of the time. To drop the runtime would be to wait for them for ever; what
/// is left behind ends with the process.
fn finish(runtime: Runtime, server: impl Future<Output = Ended>) -> Result<(), ServeError> {
    let ended = runtime.block_on(server);
    runtime.shutdown_timeout(ended.deadline.saturating_duration_since(Instant::now()));
    drop(ended.lock);
    ended.outcome
}

async fn serve(config: &Config, sign_in: bool) -> Ended {
    let within = config.stop_deadline().min(LONGEST_STOP);
    let failed = |error: ServeError, lock: Option<DataLock>| Ended {
        outcome: Err(error),
        deadline: Instant::now() + within,
        lock,
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(why) => return failed(ServeError::Signals(why), None),
    };
    let lock = match DataLock::take(&config.data_dir) {
        Ok(lock) => lock,
        Err(held) => return failed(held.into(), None),
    };
    let mut tasks = Tasks::default();
    let (app, broker) = match start(config, sign_in, &mut tasks).await {
        Ok(started) => started,
        Err(error) => {
            let ended = failed(error, Some(lock));
            tasks.stop_by(ended.deadline - within / 4).await;
            return ended;
        }
    };
    let outcome = tokio::select! {
        name = signals.received() => {
            tracing::info!(signal = name, "stopping");
            Ok(())
        }
        ended = tasks.any_ended() => Err(ServeError::TaskEnded(match ended {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "all".to_owned(),
        })),
    };
    let deadline = Instant::now() + within;
    stop(&app, broker, tasks, deadline, within).await;
    Ended {
        outcome,
        deadline,
        lock: Some(lock),
    }
}

/// Stops everything before `deadline`, which is `within` away. A part that takes too long leaves the others a quarter, an eighth
/// and a sixteenth of the time.
async fn stop(app: &App, broker: Broker, tasks: Tasks, deadline: Instant, within: Duration) {
    app.changes.stop();
    let cut_off = tasks.stop_by(deadline - within / 4).await;
    if cut_off > 0 {
        tracing::warn!(cut_off, "tasks did not stop within the deadline");
    }
    if timeout_at(deadline - within / 8, broker.stop()).await.is_err() {
        tracing::warn!("the broker did not stop within the deadline");
    }
    // A connection that somebody still holds is rolled back when the process ends.
    if timeout_at(deadline - within / 16, app.db.close()).await.is_err() {
        tracing::warn!("the database was not closed within the deadline");
    }
}

/// What is kept beside older rows for finding them, where an earlier server had not done it.
async fn fill_in(db: &Db) -> Result<(), StoreError> {
    device_summaries::fill_missing(db).await?;
    audit::file_old_entries(db).await?;
    runs::fill_missing(db).await?;
    deployments::fill_causes(db).await
}

async fn start(config: &Config, sign_in: bool, tasks: &mut Tasks) -> Result<(App, Broker), ServeError> {
    let db = Db::open(&config.database()).await?;
    let blobs = Blobs::open_folder(&config.blobs())?;
    let ca_pem = files::read_to_string(&config.ca_certificate())?;
    let ca = Arc::new(Ca::load(&ca_pem, &files::read_to_string(&config.ca_key())?)?);
    let director_key = KeyPair::from_pkcs8_pem(&files::read_to_string(&config.director_key())?)?;
    let (_, root) = documents::latest(&db, documents::ROOT).await?;
    let fleet_id: FleetId = Root::verify_self(&root)?.header.fleet;

    let api = std_listener("api", config.listen.api)?;
    let device_api = std_listener("device_api", config.listen.device_api)?;
    let broker_listener = std_listener("broker", config.listen.broker)?;
    let url = |scheme: &str, address: std::io::Result<SocketAddr>, configured: SocketAddr| {
        format!("{scheme}://{}:{}", config.host, address.unwrap_or(configured).port())
    };
    let fleet = FleetInfo {
        id: fleet_id,
        name: documents::name(&db).await?,
        project: documents::default_project(&db).await?,
        ca_pem,
        broker_url: url("mqtts", broker_listener.local_addr(), config.listen.broker),
        device_api_url: url("https", device_api.local_addr(), config.listen.device_api),
    };
    let metrics = api::Metrics::install().map_err(ServeError::Metrics)?;
    let app = App {
        db,
        blobs,
        fleet: Arc::new(fleet),
        changes: Changes::default(),
        upload_dir: Arc::from(upload_dir(&config.data_dir)?),
        imports: Imports::default(),
        heavy: Heavy::new(config.training.max_dataset_bytes),
    };
    fill_in(&app.db).await?;
    let director = Arc::new(Director::new(
        director_key,
        fleet_id,
        config.telemetry.bundle_interval_ms,
    ));
    director.ensure_head(&app).await?;
    let server_certificate = ca.issue_server(&server_names(&config.host))?;
    let broker = Broker::start(
        BrokerConfig {
            listener: broker_listener,
            ca_pem: app.fleet.ca_pem.clone(),
            certificate: server_certificate.clone(),
            work_dir: config.data_dir.clone(),
        },
        app.clone(),
        director,
        tasks,
    )
    .await?;
    device_api::spawn(device_api, app.clone(), ca, &server_certificate, tasks).await?;
    events::start(&app, tasks).await?;
    spawn_loops(tasks, &app, &broker);
    let api_address = api.local_addr().unwrap_or(config.listen.api);
    let url = config
        .public_url
        .clone()
        .unwrap_or_else(|| format!("http://{api_address}"));
    let around = Around {
        broker: broker.handle(),
        metrics,
        refusals: Refusals::start(app.db.clone(), tasks),
        url: PublicUrl::new(&url),
        shutdown: tasks.shutdown(),
    };
    let link = if sign_in {
        sign_in_link(&app, &around.url).await?
    } else {
        None
    };
    let router = api::router(app.clone(), around);
    let shutdown = tasks.shutdown();
    let drain = config.stop_deadline().min(LONGEST_STOP) / 2;
    tasks.spawn("api", serve_api(api, router, drain, shutdown)?);
    announce(&app, api_address, &url, link.as_deref());
    Ok((app, broker))
}

/// A link by which whoever started the server signs in to the console; none where no token may do everything.
async fn sign_in_link(app: &App, url: &PublicUrl) -> Result<Option<String>, ServeError> {
    let Some(admin) = tokens::first_admin(&app.db).await? else {
        return Ok(None);
    };
    let link = api::make_link(app, url, PrincipalRef::ApiToken(admin), work::ACTOR)
        .await
        .map_err(|why| ServeError::SignInLink(why.to_string()))?;
    Ok(Some(link.url))
}

fn spawn_loops(tasks: &mut Tasks, app: &App, broker: &Broker) {
    let shutdown = tasks.shutdown();
    tasks.spawn("evictions", broker.handle().evict(app.clone(), shutdown));
    let shutdown = tasks.shutdown();
    tasks.spawn("jobs", jobs::run(app.clone(), shutdown));
    let shutdown = tasks.shutdown();
    tasks.spawn("rollouts", reconcile::rollouts::run(app.clone(), shutdown));
    let shutdown = tasks.shutdown();
    tasks.spawn("imports", reconcile::imports::run(app.clone(), shutdown));
    let shutdown = tasks.shutdown();
    tasks.spawn("guesses", reconcile::guesses::run(app.clone(), shutdown));
    let shutdown = tasks.shutdown();
    tasks.spawn("retention", reconcile::retention::run(app.clone(), shutdown));
}

/// The one line on standard output: where the server listens.
#[expect(clippy::print_stdout, reason = "whoever started the server reads where it listens")]
fn announce(app: &App, api: SocketAddr, console: &str, link: Option<&str>) {
    let line = serde_json::json!({
        "ready": true,
        "api": format!("http://{api}"),
        "device_api": app.fleet.device_api_url,
        "broker": app.fleet.broker_url,
        "console": console,
        // Good once, for ten minutes.
        "sign_in": link,
    });
    println!("{line}");
    tracing::info!(%api, device_api = %app.fleet.device_api_url, broker = %app.fleet.broker_url, "ready");
}

/// Where uploads are kept until they are parsed. What an earlier process left there is of no use.
fn upload_dir(data_dir: &Path) -> Result<std::path::PathBuf, ServeError> {
    let path = data_dir.join("uploads");
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(FileError::at(&path))?;
    }
    files::create_private_dir(&path)?;
    Ok(path)
}

fn server_names(host: &str) -> Vec<String> {
    let mut names = vec![
        host.to_owned(),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    names.dedup();
    names
}

fn std_listener(key: &'static str, address: SocketAddr) -> Result<std::net::TcpListener, ServeError> {
    let refused = |source| ServeError::Listen { key, address, source };
    let listener = std::net::TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}

/// Serves until told to stop, then lets requests under way finish.
fn serve_api(
    listener: std::net::TcpListener,
    router: Router,
    drain: Duration,
    shutdown: Shutdown,
) -> Result<impl Future<Output = ()> + Send + 'static, ServeError> {
    let handle = Handle::new();
    let address = listener.local_addr();
    let server = axum_server::from_tcp(listener)
        .map_err(|source| ServeError::Listen {
            key: "api",
            address: address.unwrap_or(SocketAddr::from(([0; 4], 0))),
            source,
        })?
        .acceptor(Bounded::new(API_LIMITS));
    let serving = listener::prepared(server, &API_LIMITS, &handle)
        .serve(router.into_make_service_with_connect_info::<SocketAddr>());
    Ok(listener::until_stopped("api", serving, handle, drain, shutdown))
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_somebody_holds_does_not_hold_up_the_end_after_a_fault_either() {
        let runtime = Runtime::new().unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (told, ended) = std::sync::mpsc::channel();
        let ending = std::thread::spawn(move || {
            let server = async move {
                // Its handle is dropped: nobody joins it, like the thread of a training.
                drop(tokio::task::spawn_blocking(move || held.recv()));
                Ended {
                    outcome: Err(ServeError::TaskEnded("jobs".to_owned())),
                    deadline: Instant::now() + Duration::from_millis(200),
                    lock: None,
                }
            };
            told.send(finish(runtime, server)).unwrap();
        });
        let outcome = ended
            .recv_timeout(Duration::from_secs(10))
            .expect("the deadline is not held");
        assert!(matches!(outcome, Err(ServeError::TaskEnded(_))), "{outcome:?}");
        drop(release);
        ending.join().unwrap();
    }
}
