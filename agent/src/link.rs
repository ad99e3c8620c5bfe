//! The connection to the broker: MQTT 3.1.1 over mutual TLS, as typed messages both ways.
//!
//! Nothing here is reliable, and nothing relies on it: what matters waits in the spool for the server's receipt, chunks are
//! asked for again, reports are sent on every connect. So a publish while disconnected, or into a full queue, is dropped.
//! Every connection gets a client of its own (no state of a lost one can poison the next), polled in a task of its own.
//! Subscribed anew after every CONNACK; a connection that is silent for two keep-alives is given up; pauses between
//! attempts have full jitter.

pub mod backoff;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::topics::{Down, Filter, Topic, Up};
use futures_util::FutureExt as _;
use futures_util::future::{Fuse, FusedFuture as _};
use rumqttc::{
    AsyncClient, ClientError, Event, EventLoop, MqttOptions, Packet, QoS, SubscribeFilter, TlsConfiguration, Transport,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::link::backoff::Backoff;
use crate::random;
use crate::tasks::{Child, spawn_child};

/// Chunks of 64 KiB come several to a message.
const MAX_PACKET_BYTES: usize = 256 * 1024;
/// Commands waiting to be published. When full, the publish is dropped: its sender repeats it.
const COMMANDS: usize = 256;
/// Packets between the polling task and this one; when full, polling waits.
const PACKETS: usize = 64;
/// Publishes inside the client, and unacknowledged ones at the broker.
const REQUESTS: usize = 64;
/// A connection that held so long makes the next pause short again.
const STEADY: Duration = Duration::from_secs(10);
/// For the broker to take the last publishes and the DISCONNECT.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the agent may say: on its own topics, of course.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub topic: Up,
    pub payload: Bytes,
    /// At least once, or at most once.
    pub acknowledged: bool,
}

/// What the link tells the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    Connected,
    Disconnected,
    Down(Down, Bytes),
    /// The fleet's shared `Head`.
    Head(Bytes),
}

/// Where to connect and how to prove oneself, asked for anew at every attempt.
#[derive(Clone)]
pub struct Broker {
    pub host: String,
    pub port: u16,
    pub tls: Arc<rustls::ClientConfig>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({}:{})", self.host, self.port)
    }
}

/// The text is no broker address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a broker address: mqtts://host:port is expected")]
pub struct BrokerAddressError(String);

/// Takes `mqtts://host:port` apart; the port may be left out (8883).
pub fn broker_address(text: &str) -> Result<(String, u16), BrokerAddressError> {
    let refused = || BrokerAddressError(text.chars().take(200).collect());
    let rest = text.strip_prefix("mqtts://").ok_or_else(refused)?.trim_end_matches('/');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_not_a_port| refused())?),
        None => (rest, 8883),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    if host.is_empty() || !host.chars().all(plain) {
        return Err(refused());
    }
    Ok((host.to_owned(), port))
}

/// Publishes, and knows whether there is a connection. Clones share it.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    commands: mpsc::Sender<Publish>,
    connected: watch::Receiver<bool>,
}

impl LinkHandle {
    /// Hands a message over. `false`: dropped (see the module's documentation).
    pub fn publish(&self, topic: Up, payload: impl Into<Bytes>, acknowledged: bool) -> bool {
        if !self.is_connected() {
            return false;
        }
        let publish = Publish {
            topic,
            payload: payload.into(),
            acknowledged,
        };
        match self.commands.try_send(publish) {
            Ok(()) => true,
            Err(why) => {
                debug!(%why, topic = topic.as_str(), "publish dropped");
                false
            }
        }
    }

    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Follows the state of the connection.
    pub fn connection(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

/// Makes the broker's coordinates of the moment.
pub type BrokerSource = Box<dyn Fn() -> Result<Broker, String> + Send + Sync>;

/// See the module's documentation.
pub struct Link {
    device: DeviceId,
    keep_alive: Duration,
    backoff: Backoff,
    broker: BrokerSource,
    commands: mpsc::Receiver<Publish>,
    connected: watch::Sender<bool>,
    events: mpsc::Sender<LinkEvent>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// Why a connection ended.
enum End {
    Stopped,
    Lost(String),
}

impl Link {
    pub fn new(
        device: DeviceId,
        keep_alive: Duration,
        backoff: Backoff,
        broker: BrokerSource,
        events: mpsc::Sender<LinkEvent>,
    ) -> (Self, LinkHandle) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (connected, watching) = watch::channel(false);
        let link = Self {
            device,
            keep_alive,
            backoff,
            broker,
            commands,
            connected,
            events,
        };
        let handle = LinkHandle {
            commands: sender,
            connected: watching,
        };
        (link, handle)
    }

    /// Connects, serves, connects again, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let began = Instant::now();
            let end = match (self.broker)() {
                Ok(broker) => self.session(broker, &stop).await,
                Err(why) => End::Lost(why),
            };
            let was_connected = self.connected.send_replace(false);
            if was_connected && self.events.send(LinkEvent::Disconnected).await.is_err() {
                return;
            }
            // What is left was meant for the connection that is gone.
            while self.commands.try_recv().is_ok() {}
            let why = match end {
                End::Stopped => return,
                End::Lost(why) => why,
            };
            if was_connected && began.elapsed() >= STEADY {
                self.backoff.reset();
            }
            let pause = self.backoff.next(random::jitter(u64::MAX));
            warn!(%why, pause_ms = pause.as_millis(), "no connection to the broker");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn session(&mut self, broker: Broker, stop: &CancellationToken) -> End {
        let mut options = MqttOptions::new(self.device.as_str(), broker.host, broker.port);
        options
            .set_transport(Transport::Tls(TlsConfiguration::Rustls(broker.tls)))
            .set_keep_alive(self.keep_alive)
            .set_clean_session(true)
            .set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
        let (client, mut eventloop) = AsyncClient::new(options, REQUESTS);
        let mut network = eventloop.network_options();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(self.keep_alive.as_secs().clamp(5, 60));
        eventloop.set_network_options(network);
        let (packets, incoming) = mpsc::channel(PACKETS);
        let poller = spawn_child(poll(eventloop, packets));
        self.serve(&client, incoming, poller, stop).await
    }

    async fn serve(
        &mut self,
        client: &AsyncClient,
        mut incoming: mpsc::Receiver<Result<Packet, String>>,
        mut poller: Child<()>,
        stop: &CancellationToken,
    ) -> End {
        let silence = self.keep_alive.saturating_mul(2);
        let mut heard = Instant::now();
        // The publish that waits until the client has room: its queue is emptied by the poller, a task of its own.
        let mut sending = std::pin::pin!(Fuse::terminated());
        loop {
            let connected = *self.connected.borrow();
            tokio::select! {
                () = stop.cancelled() => {
                    self.farewell(client, sending.as_mut(), &mut poller, incoming).await;
                    return End::Stopped;
                }
                packet = incoming.recv() => {
                    heard = Instant::now();
                    match packet {
                        Some(Ok(packet)) => if let Err(why) = self.incoming(client, packet).await {
                            return End::Lost(why);
                        },
                        Some(Err(why)) => return End::Lost(why),
                        None => return End::Lost("the MQTT client ended".to_owned()),
                    }
                }
                sent = &mut sending => if let Err(why) = sent {
                    let why: ClientError = why;
                    return End::Lost(why.to_string());
                },
                publish = self.commands.recv(), if sending.is_terminated() => {
                    let Some(publish) = publish else { return End::Stopped };
                    if connected {
                        sending.set(self.publish(client, publish).fuse());
                    }
                }
                () = tokio::time::sleep_until(heard + silence) => {
                    return End::Lost(format!("nothing was heard for {} s", silence.as_secs()));
                }
            }
        }
    }

    /// Resolves when the client has taken it.
    fn publish(&self, client: &AsyncClient, publish: Publish) -> impl Future<Output = Result<(), ClientError>> + use<> {
        let topic = Topic::Up(self.device.clone(), publish.topic).to_string();
        let qos = if publish.acknowledged {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        let client = client.clone();
        async move { client.publish(topic, qos, false, publish.payload).await }
    }

    async fn incoming(&mut self, client: &AsyncClient, packet: Packet) -> Result<(), String> {
        let gone = |_closed| "the agent is ending".to_owned();
        match packet {
            Packet::ConnAck(_) => {
                let filters = [Filter::DeviceDown(self.device.clone()), Filter::Head]
                    .map(|filter| SubscribeFilter::new(filter.to_string(), QoS::AtLeastOnce));
                client.try_subscribe_many(filters).map_err(|why| why.to_string())
            }
            // What is answered to hello must find the subscription in place.
            Packet::SubAck(_) => {
                info!("connected to the broker");
                self.connected.send_replace(true);
                self.events.send(LinkEvent::Connected).await.map_err(gone)
            }
            Packet::Publish(publish) => match publish.topic.parse::<Topic>() {
                Ok(Topic::Down(device, down)) if device == self.device => self
                    .events
                    .send(LinkEvent::Down(down, publish.payload))
                    .await
                    .map_err(gone),
                Ok(Topic::Head) => self.events.send(LinkEvent::Head(publish.payload)).await.map_err(gone),
                _ => {
                    debug!(topic = %publish.topic, "a message on a topic that is not ours is ignored");
                    Ok(())
                }
            },
            Packet::Disconnect => Err("the broker ended the connection".to_owned()),
            _ => Ok(()),
        }
    }

    /// Publishes what is being sent and what is waiting, says goodbye, waits shortly for the broker to take it.
    async fn farewell(
        &mut self,
        client: &AsyncClient,
        sending: Pin<&mut Fuse<impl Future<Output = Result<(), ClientError>>>>,
        poller: &mut Child<()>,
        mut incoming: mpsc::Receiver<Result<Packet, String>>,
    ) {
        let said = tokio::time::timeout(FAREWELL, async {
            if !sending.is_terminated() {
                sending.await?;
            }
            while let Ok(publish) = self.commands.try_recv() {
                self.publish(client, publish).await?;
            }
            client.disconnect().await?;
            while incoming.recv().await.is_some() {}
            Ok::<(), ClientError>(())
        });
        if !matches!(said.await, Ok(Ok(()))) {
            debug!("the broker did not take the farewell in time");
        }
        poller.abort().await;
    }
}

/// The client's own task: polling must never be cancelled half-way, or an acknowledgement is lost.
async fn poll(mut eventloop: EventLoop, packets: mpsc::Sender<Result<Packet, String>>) {
    loop {
        let packet = match eventloop.poll().await {
            Ok(Event::Incoming(packet)) => Ok(packet),
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
            Ok(Event::Outgoing(_)) => continue,
            Err(why) => Err(why.to_string()),
        };
        let ended = packet.is_err();
        if packets.send(packet).await.is_err() || ended {
            return;
        }
    }
}

/// A link's ends without a link: what a test's server listens on, and its switch.
#[cfg(test)]
pub(crate) fn wire() -> (LinkHandle, mpsc::Receiver<Publish>, watch::Sender<bool>) {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (switch, connected) = watch::channel(true);
    (LinkHandle { commands, connected }, receiver, switch)
}

#[cfg(test)]
mod tests;
