//! The embedded broker (`rmqtt`) on a runtime of its own: its listeners, its limits, its end.
//!
//! It has no stop: its task is aborted and its runtime dropped, off the async context. Certificates cannot be reloaded: a new
//! one needs a restart.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use flotilla_protocol::ids::DeviceId;
use rmqtt::context::ServerContext;
use rmqtt::hook::Type;
use rmqtt::net::{Builder, Listener};
use rmqtt::server::MqttServer;
use rmqtt::types::{ClientId, Id};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::broker::auth::{DEVICES, Gate, LOOPBACK};
use crate::broker::{BrokerConfig, BrokerError, MAX_PACKET_BYTES};
use crate::files::{self, Access, FileError};
use crate::tasks::Shutdown;

/// Messages waiting for one device: an answer to a want, and some control. Queues count messages, not bytes.
const DEVICE_QUEUE: usize = 128;
/// Messages of all devices waiting for the server. When full the oldest is dropped; devices send again what is not receipted.
const SERVER_QUEUE: usize = 10_000;
/// Unacknowledged messages at the server: several batches.
pub(super) const SERVER_INFLIGHT: u16 = 1024;
/// A session outlives its connection only as long as a reconnect takes.
const SESSION_EXPIRY: Duration = Duration::from_mins(1);
/// Its threads are waited for no longer than this; whoever stops it may have less time, and stops waiting.
const STOP: Duration = Duration::from_secs(3);
const KICK_ATTEMPTS: u32 = 20;

/// The running broker. Dropped without [`Server::stop`], it ends without waiting.
pub(super) struct Server {
    runtime: Option<Runtime>,
    context: ServerContext,
    running: Option<JoinHandle<()>>,
    local_addr: SocketAddr,
    loopback: SocketAddr,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.local_addr)
    }
}

struct Started {
    context: ServerContext,
    server: MqttServer,
    local_addr: SocketAddr,
    loopback: SocketAddr,
}

impl Server {
    pub(super) async fn start(config: BrokerConfig, gate: Gate) -> Result<Self, BrokerError> {
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("mqtt")
            .enable_all()
            .build()
            .map_err(BrokerError::Runtime)?;
        let started = runtime
            .spawn(listen(config, gate))
            .await
            .unwrap_or_else(|why| Err(BrokerError::Runtime(std::io::Error::other(why))));
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let server = started.server;
        let running = runtime.spawn(async move {
            if let Err(error) = server.run().await {
                tracing::error!(%error, "the broker failed");
            }
        });
        Ok(Self {
            runtime: Some(runtime),
            context: started.context,
            running: Some(running),
            local_addr: started.local_addr,
            loopback: started.loopback,
        })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(super) fn loopback(&self) -> SocketAddr {
        self.loopback
    }

    pub(super) fn kicker(&self) -> Kicker {
        Kicker(self.context.clone())
    }

    /// Lasts as long as the broker listens, or until the server stops.
    pub(super) fn watch(&mut self, mut shutdown: Shutdown) -> impl Future<Output = ()> + Send + 'static {
        let running = self.running.take();
        async move {
            let Some(mut running) = running else { return };
            tokio::select! {
                ended = &mut running => if let Err(error) = ended {
                    tracing::error!(%error, "the broker ended");
                },
                () = shutdown.wait() => running.abort(),
            }
        }
    }

    /// Waits on a thread of its own, so that the caller can give up.
    pub(super) async fn stop(mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let down = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(STOP)).await;
        if let Err(error) = down {
            tracing::error!(%error, "the broker's runtime did not end cleanly");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn listen(config: BrokerConfig, gate: Gate) -> Result<Started, BrokerError> {
    let context = ServerContext::new().busy_check_enable(false).build().await;
    let hooks = context.extends.hook_mgr().register();
    for hook in [
        Type::ClientAuthenticate,
        Type::MessagePublishCheckAcl,
        Type::ClientSubscribeCheckAcl,
        Type::ClientConnected,
        Type::ClientDisconnected,
    ] {
        hooks.add(hook, Box::new(gate.clone())).await;
    }
    hooks.start().await;
    let devices = device_listener(config)?;
    let loopback = loopback_listener()?;
    let address = |listener: &Listener, configured| {
        listener.local_addr().map_err(|why| BrokerError::Listen {
            address: configured,
            why: why.to_string(),
        })
    };
    let (local_addr, loopback_addr) = (
        address(&devices, devices.cfg.laddr)?,
        address(&loopback, loopback.cfg.laddr)?,
    );
    let server = MqttServer::new(context.clone())
        .listener_by_id(devices, DEVICES)
        .listener_by_id(loopback, LOOPBACK)
        .build();
    Ok(Started {
        context,
        server,
        local_addr,
        loopback: loopback_addr,
    })
}

/// What both listeners have in common. Nobody is anonymous.
fn listener(name: &str, address: SocketAddr) -> Builder {
    Builder::new()
        .name(name)
        .laddr(address)
        .reuseaddr(Some(true))
        .nodelay(true)
        .allow_anonymous(false)
        .allow_zero_keepalive(false)
        .max_packet_size(MAX_PACKET_BYTES)
        .max_clientid_len(64)
        .max_topic_levels(8)
        .max_topic_aliases(0)
        .handshake_timeout(Duration::from_secs(15))
        .session_expiry_interval(SESSION_EXPIRY)
        .max_session_expiry_interval(SESSION_EXPIRY)
}

/// Mutual TLS. The broker binds by itself, so the address is taken over from the listener that was bound before.
fn device_listener(config: BrokerConfig) -> Result<Listener, BrokerError> {
    let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let address = config.listener.local_addr().map_err(|why| BrokerError::Listen {
        address: unknown,
        why: why.to_string(),
    })?;
    drop(config.listener);
    let folder = config.work_dir.join("broker-tls");
    remove(&folder)?;
    files::create_private_dir(&folder)?;
    let (certificate, key, ca) = (
        folder.join("server.pem"),
        folder.join("server.key"),
        folder.join("ca.pem"),
    );
    files::create(&certificate, config.certificate.chain_pem.as_bytes(), Access::Public)?;
    files::create(&key, config.certificate.key_pem.as_bytes(), Access::Private)?;
    files::create(&ca, config.ca_pem.as_bytes(), Access::Public)?;
    let path = |path: &Path| Some(path.display().to_string());
    let bound = listener("devices", address)
        .max_mqueue_len(DEVICE_QUEUE)
        .max_subscriptions(64)
        .tls_cross_certificate(true)
        .cert_cn_as_username(true)
        .collect_cert_info(true)
        .tls_cert(path(&certificate))
        .tls_key(path(&key))
        .tls_client_ca_certs(path(&ca))
        .bind()
        .map_err(|why| BrokerError::Listen {
            address,
            why: why.to_string(),
        })?;
    let listener = bound.tls().map_err(|why| BrokerError::Tls(format!("{why:#}")));
    // Read once: the key does not lie about.
    remove(&folder)?;
    listener
}

fn loopback_listener() -> Result<Listener, BrokerError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let refused = |why: String| BrokerError::Listen { address, why };
    let inflight = NonZeroU16::new(SERVER_INFLIGHT).ok_or_else(|| refused("no messages in flight".to_owned()))?;
    listener("server", address)
        .max_mqueue_len(SERVER_QUEUE)
        .max_inflight(inflight)
        .bind()
        .and_then(Listener::tcp)
        .map_err(|why| refused(why.to_string()))
}

fn remove(folder: &Path) -> Result<(), FileError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(FileError::at(folder)(source)),
        _ => Ok(()),
    }
}

/// Disconnects clients. Cheap to clone.
#[derive(Clone)]
pub(super) struct Kicker(ServerContext);

impl fmt::Debug for Kicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kicker")
    }
}

impl Kicker {
    /// A connection that is just being made holds the lock: asked again until it is through.
    pub(super) async fn kick(&self, device: &DeviceId) {
        for _ in 0..KICK_ATTEMPTS {
            match self.try_kick(device).await {
                Ok(()) => return,
                Err(why) => tracing::debug!(%device, %why, "a device cannot be disconnected yet"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tracing::error!(%device, "a device was not disconnected");
    }

    async fn try_kick(&self, device: &DeviceId) -> rmqtt::Result<()> {
        let id = Id::from(self.0.node.id(), ClientId::from(device.as_str()));
        let entry = self.0.extends.shared().await.entry(id);
        entry.try_lock().await?.kick(true, true, true).await?;
        Ok(())
    }
}
