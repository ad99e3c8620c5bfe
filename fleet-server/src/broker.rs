//! MQTT between the server and its devices: the embedded broker, who may say what on it, and what the server does with what
//! devices say.
//!
//! The server is a client of the broker like any other, so that the broker can be replaced. Nothing relies on what the
//! broker remembers: desired states are made from the database, and devices keep their records until they are receipted.

mod active;
mod auth;
mod chunks;
mod client;
mod handlers;
mod inbound;
mod outbound;
mod presence;
mod server;
mod suspects;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use flotilla_protocol::ids::DeviceId;

use crate::app::{App, Change, News};
use crate::ca::ServerCertificate;
use crate::director::Director;
use crate::files::FileError;
use crate::refusals::Refusals;
use crate::store::{StoreError, devices};
use crate::tasks::{Shutdown, Tasks};

use active::ActiveDevices;
use auth::Gate;
use chunks::Chunks;
use inbound::Inbound;
use outbound::Outbound;
use presence::PresenceMap;
use server::{Kicker, Server};
use suspects::Suspects;

/// Largest MQTT packet either way: one chunk message, with room.
const MAX_PACKET_BYTES: u32 = 256 * 1024;

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("its TLS files: {0}")]
    File(#[from] FileError),
    #[error("cannot make its runtime: {0}")]
    Runtime(std::io::Error),
    #[error("cannot listen on {address} (listen.broker): {why}")]
    Listen { address: SocketAddr, why: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("the server's own client does not get through: {0}")]
    Client(String),
}

/// Where and as whom the broker listens.
#[derive(Debug)]
pub struct BrokerConfig {
    /// Bound already, so that its port is known; the broker takes its address over.
    pub listener: std::net::TcpListener,
    /// Signs devices' certificates.
    pub ca_pem: String,
    pub certificate: ServerCertificate,
    /// The embedded broker reads keys from files: they stand here, private, while it starts.
    pub work_dir: PathBuf,
}

/// The running broker.
#[derive(Debug)]
pub struct Broker {
    handle: BrokerHandle,
    server: Server,
}

/// Reaches the running broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BrokerHandle {
    active: ActiveDevices,
    kicker: Kicker,
    local_addr: SocketAddr,
}

impl Broker {
    /// Starts the broker and everything that talks over it. Returns when the server's own client is subscribed.
    pub async fn start(
        config: BrokerConfig,
        app: App,
        director: Arc<Director>,
        tasks: &mut Tasks,
    ) -> Result<Self, BrokerError> {
        devices::reset_presence(&app.db).await?;
        let active = ActiveDevices::load(&app.db).await?;
        let presence = PresenceMap::default();
        let refusals = Refusals::start(app.db.clone(), tasks);
        let gate = Gate::new(active.clone(), app.db.clone(), presence.clone(), refusals.clone());
        let secret = gate.secret();
        let mut server = Server::start(config, gate).await?;
        let (publisher, connection) = client::connect(server.loopback(), &secret);
        let (chunks, wants) = Chunks::new(app.clone(), publisher.clone());
        let inbound = Inbound {
            app: app.clone(),
            active: active.clone(),
            director: Arc::clone(&director),
            publisher: publisher.clone(),
            presence: presence.clone(),
            refusals: refusals.clone(),
            suspects: Suspects::start(app.clone(), tasks),
        };
        let (messages, queue) = inbound::queue();
        let ready = connection.spawn(messages, chunks, active.clone(), tasks);
        let shutdown = tasks.shutdown();
        tasks.spawn("broker-inbound", inbound.run(queue, shutdown));
        wants.spawn(tasks);
        let shutdown = tasks.shutdown();
        tasks.spawn("broker-presence", presence::run(presence, app.clone(), shutdown));
        let outbound = Outbound {
            app: app.clone(),
            director: Arc::clone(&director),
            publisher,
        };
        let shutdown = tasks.shutdown();
        tasks.spawn("broker-outbound", outbound.run(shutdown));
        let shutdown = tasks.shutdown();
        tasks.spawn("director", async move { director.keep_head(app, shutdown).await });
        let shutdown = tasks.shutdown();
        tasks.spawn("broker", server.watch(shutdown));
        client::wait_until_ready(ready).await?;
        let handle = BrokerHandle {
            active,
            kicker: server.kicker(),
            local_addr: server.local_addr(),
        };
        Ok(Self { handle, server })
    }

    pub fn handle(&self) -> BrokerHandle {
        self.handle.clone()
    }

    /// Ends all connections. To be called after the tasks were stopped.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

impl BrokerHandle {
    /// Where devices connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Cuts off a decommissioned device: it is disconnected at once and does not get in again.
    pub async fn cut_off(&self, device: &DeviceId) {
        self.active.expel(device);
        self.kick(device).await;
    }

    /// Cuts off devices that others take out of the fleet, until the server stops.
    pub async fn evict(self, app: App, mut shutdown: Shutdown) {
        let mut news = app.changes.listen();
        loop {
            let told = tokio::select! {
                () = shutdown.wait() => return,
                told = news.next() => told,
            };
            match told {
                News::Change(Change::Decommissioned(device)) => self.cut_off(&device).await,
                News::Change(_) => {}
                News::Lost => {
                    // Whoever is known here and may not connect any more was missed.
                    if let Err(error) = self.cut_off_missed(&app).await {
                        tracing::error!(%error, "decommissioned devices may still be connected");
                    }
                }
                News::Closed => return,
            }
        }
    }

    async fn cut_off_missed(&self, app: &App) -> Result<(), StoreError> {
        let active: BTreeSet<DeviceId> = devices::active(&app.db).await?.into_iter().map(|(id, _)| id).collect();
        for device in self.active.known() {
            if !active.contains(&device) {
                self.cut_off(&device).await;
            }
        }
        Ok(())
    }

    /// Disconnects a device; it may connect again.
    pub async fn kick(&self, device: &DeviceId) {
        self.kicker.kick(device).await;
    }
}
