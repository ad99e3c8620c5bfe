//! The server's own client on the broker: publishes, and takes what devices say.
//!
//! The connection is polled in a task of its own, which never waits for anything else: what finds its queue full is dropped
//! unacknowledged, and its device sends it again.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use flotilla_protocol::topics::{Filter, Topic, Up};
use metrics::counter;
use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Packet, Publish, QoS};
use tokio::sync::{mpsc, oneshot};

use crate::broker::active::ActiveDevices;
use crate::broker::auth::SERVER_CLIENT;
use crate::broker::chunks::Chunks;
use crate::broker::server::SERVER_INFLIGHT;
use crate::broker::{BrokerError, MAX_PACKET_BYTES};
use crate::tasks::{Shutdown, Tasks};

/// Publishes and acknowledgements waiting for the connection; whoever publishes waits while it is full.
const REQUESTS: usize = 4096;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const RECONNECT: Duration = Duration::from_millis(200);
const READY: Duration = Duration::from_secs(15);
/// Larger packets make every broker end the connection: refused before.
const MAX_PAYLOAD: usize = MAX_PACKET_BYTES as usize - 1024;

/// Says things to devices. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Publisher(AsyncClient);

impl Publisher {
    /// Hands a message over to the broker, waiting for room. At most once, or at least once; either way only the device's own
    /// answer proves delivery.
    pub(super) async fn publish(&self, topic: &Topic, at_least_once: bool, payload: Vec<u8>) {
        if payload.len() > MAX_PAYLOAD {
            tracing::error!(%topic, bytes = payload.len(), "a message is too long to be sent");
            return;
        }
        let qos = if at_least_once {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        if let Err(error) = self
            .0
            .publish_bytes(topic.to_string(), qos, false, Bytes::from(payload))
            .await
        {
            tracing::warn!(%topic, %error, "a message was not sent");
        }
    }

    /// Tells the broker that a message is taken.
    pub(super) async fn acknowledge(&self, publish: &Publish) {
        if let Err(error) = self.0.ack(publish).await {
            tracing::warn!(%error, "a message was not acknowledged");
        }
    }
}

/// The client before it is polled.
pub(super) struct Connection {
    client: AsyncClient,
    events: EventLoop,
}

pub(super) fn connect(address: SocketAddr, secret: &str) -> (Publisher, Connection) {
    let mut options = MqttOptions::new(SERVER_CLIENT, address.ip().to_string(), address.port());
    let max_packet = MAX_PACKET_BYTES as usize;
    options
        .set_credentials(SERVER_CLIENT, secret)
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_manual_acks(true)
        .set_inflight(SERVER_INFLIGHT)
        .set_max_packet_size(max_packet, max_packet);
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    let mut network = events.network_options();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    (Publisher(client.clone()), Connection { client, events })
}

/// Where messages go.
struct Route {
    client: AsyncClient,
    messages: mpsc::Sender<Publish>,
    chunks: Chunks,
    active: ActiveDevices,
}

impl Connection {
    /// Polls in a task; the receiver resolves when the subscription stands.
    pub(super) fn spawn(
        self,
        messages: mpsc::Sender<Publish>,
        chunks: Chunks,
        active: ActiveDevices,
        tasks: &mut Tasks,
    ) -> oneshot::Receiver<()> {
        let (ready, receiver) = oneshot::channel();
        let route = Route {
            client: self.client,
            messages,
            chunks,
            active,
        };
        let shutdown = tasks.shutdown();
        tasks.spawn("broker-client", poll(self.events, route, ready, shutdown));
        receiver
    }
}

pub(super) async fn wait_until_ready(ready: oneshot::Receiver<()>) -> Result<(), BrokerError> {
    match tokio::time::timeout(READY, ready).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_closed)) => Err(BrokerError::Client("it ended".to_owned())),
        Err(_elapsed) => Err(BrokerError::Client(format!("nothing after {} s", READY.as_secs()))),
    }
}

async fn poll(mut events: EventLoop, route: Route, ready: oneshot::Sender<()>, mut shutdown: Shutdown) {
    let mut ready = Some(ready);
    let mut subscribed = false;
    loop {
        // Cancelled only when the server stops.
        let event = tokio::select! {
            () = shutdown.wait() => return,
            event = events.poll() => event,
        };
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => subscribed = false,
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                if let Some(ready) = ready.take()
                    && ready.send(()).is_err()
                {
                    tracing::debug!("the start was given up");
                }
                continue;
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => route.take(publish),
            Ok(_) => {}
            Err(error) => {
                subscribed = true;
                report(&error);
                tokio::time::sleep(RECONNECT).await;
            }
        }
        if !subscribed {
            subscribed = route
                .client
                .try_subscribe(Filter::AllUp.to_string(), QoS::AtLeastOnce)
                .is_ok();
        }
    }
}

fn report(error: &ConnectionError) {
    counter!("flotilla_broker_client_lost_total").increment(1);
    tracing::warn!(%error, "the server's own connection to the broker was lost; connecting again");
}

impl Route {
    fn take(&self, publish: Publish) {
        let Ok(Topic::Up(device, Up::Want)) = publish.topic.parse() else {
            if self.messages.try_send(publish).is_err() {
                counter!("flotilla_inbound_dropped_total").increment(1);
            }
            return;
        };
        if self.active.contains(&device) {
            self.chunks.ask(device, publish.payload.clone());
        }
        // Asked again if it is lost: nothing to keep.
        if let Err(error) = self.client.try_ack(&publish) {
            tracing::debug!(%error, "a want was not acknowledged");
        }
    }
}
