//! The link against a broker of a few lines, over real mutual TLS.

use std::sync::atomic::AtomicI64;

use bytes::BytesMut;
use rumqttc::mqttbytes::Error;
use rumqttc::tokio_rustls::server::TlsStream;
use rumqttc::{ConnAck, ConnectReturnCode, PubAck, SubAck, SubscribeReasonCode};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::clock::Clock;
use crate::identity::DeviceKeys;
use crate::test_server::{Authority, NOW, TlsListener};
use crate::tls;

#[test]
fn broker_addresses() {
    assert_eq!(
        broker_address("mqtts://fleet.example:18883"),
        Ok(("fleet.example".to_owned(), 18883))
    );
    assert_eq!(broker_address("mqtts://10.0.0.7"), Ok(("10.0.0.7".to_owned(), 8883)));
    for bad in [
        "mqtt://x:1",
        "mqtts://",
        "mqtts://a b:1",
        "mqtts://x:99999",
        "x:1",
        "mqtts://u@x:1",
    ] {
        assert!(broker_address(bad).is_err(), "{bad}");
    }
}

/// One connection at the broker.
struct Session {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
}

impl Session {
    async fn accept(listener: &TlsListener) -> Self {
        Self {
            stream: listener.accept().await.unwrap(),
            buffer: BytesMut::new(),
        }
    }

    async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, MAX_PACKET_BYTES) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(why) => panic!("{why}"),
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn write(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, MAX_PACKET_BYTES).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// CONNECT and SUBSCRIBE, answered; returns the filters.
    async fn welcome(&mut self) -> Vec<String> {
        let Some(Packet::Connect(connect)) = self.read().await else {
            panic!("no CONNECT")
        };
        assert_eq!(connect.client_id, "press-07");
        self.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false)))
            .await;
        let Some(Packet::Subscribe(subscribe)) = self.read().await else {
            panic!("no SUBSCRIBE")
        };
        let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
        self.write(Packet::SubAck(SubAck::new(subscribe.pkid, granted))).await;
        subscribe.filters.into_iter().map(|filter| filter.path).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_subscribes_speaks_both_ways_and_comes_back_after_silence() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Authority::new();
    let listener = fleet.listen(true).await;
    let device = DeviceId::new("press-07").unwrap();
    let keys = DeviceKeys::load_or_make(dir.path()).unwrap();
    let certificate = fleet.certify(&keys.certificate_request(&device).unwrap());
    let identity = keys.client_identity(&certificate).unwrap();
    let (port, anchor) = (listener.port(), CertificateDer::from(fleet.der.clone()));
    // The machine's clock stands at 1970; the floor makes TLS possible.
    let clock = Clock::manual(std::sync::Arc::new(AtomicI64::new(0)));
    clock.set_floor(NOW);
    let source: BrokerSource = Box::new(move || {
        let anchors = [anchor.clone()];
        let tls = tls::client_config(&anchors, Some(identity.clone_key()), &clock).map_err(|why| why.to_string())?;
        Ok(Broker {
            host: "localhost".to_owned(),
            port,
            tls: Arc::new(tls),
        })
    });
    let (events, mut heard) = mpsc::channel(16);
    let (link, handle) = Link::new(device, Duration::from_secs(1), Backoff::new(50), source, events);
    assert!(
        !handle.publish(Up::Report, "nobody is there", true),
        "dropped while disconnected"
    );
    let stop = CancellationToken::new();
    let mut running = spawn_child(link.run(stop.clone()));

    let mut broker = Session::accept(&listener).await;
    let filters = broker.welcome().await;
    assert_eq!(filters, ["flotilla/v1/d/press-07/down/#", "flotilla/v1/head"]);
    assert_eq!(heard.recv().await, Some(LinkEvent::Connected));
    assert!(handle.publish(Up::Hello, "hello", true));
    let Some(Packet::Publish(publish)) = broker.read().await else {
        panic!("no PUBLISH")
    };
    assert_eq!(
        (publish.topic.as_str(), &publish.payload[..]),
        ("flotilla/v1/d/press-07/up/hello", &b"hello"[..])
    );
    broker.write(Packet::PubAck(PubAck::new(publish.pkid))).await;
    let chunk = vec![7u8; 200 * 1024];
    for topic in [
        "flotilla/v1/d/other/down/desired",
        "nonsense",
        "flotilla/v1/d/press-07/down/chunk",
    ] {
        broker
            .write(Packet::Publish(rumqttc::Publish::new(
                topic,
                QoS::AtMostOnce,
                chunk.clone(),
            )))
            .await;
    }
    assert_eq!(
        heard.recv().await,
        Some(LinkEvent::Down(Down::Chunk, Bytes::from(chunk)))
    );

    // The broker falls silent without closing: pings go unanswered.
    assert_eq!(heard.recv().await, Some(LinkEvent::Disconnected));
    let mut again = Session::accept(&listener).await;
    assert_eq!(again.welcome().await.len(), 2, "subscribed anew");
    assert_eq!(heard.recv().await, Some(LinkEvent::Connected));
    assert!(handle.publish(Up::Bundle, "last words", true));
    stop.cancel();
    let mut said = Vec::new();
    while let Some(packet) = again.read().await {
        said.push(packet);
    }
    let last_words = |packet: &Packet| matches!(packet, Packet::Publish(publish) if publish.payload == "last words");
    assert!(said.iter().any(last_words), "{said:?}");
    running.join().await.unwrap();
}
