//! The embedded broker as devices meet it: mutual TLS, their own topics alone, answers, chunks, and being cut off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_api_types::devices::DeviceStatus;
use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::codec::{self, MAX_MESSAGE_BYTES};
use flotilla_protocol::desired_state::DesiredState;
use flotilla_protocol::head::Head;
use flotilla_protocol::ids::{Digest, ModelVersionId};
use flotilla_protocol::messages::{ChunkMessage, HeadMessage, Hello, Receipt, SCHEMA, Want};
use flotilla_protocol::report::DetectedAttack;
use flotilla_protocol::topics::{Down, Filter, Topic, Up};
use flotilla_protocol::trust::{Authority, KeyPair, Role, sign, verify};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS, SubscribeReasonCode,
    TlsConfiguration, Transport,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_bytes::ByteBuf;
use uuid::Uuid;

use super::{Broker, BrokerConfig};
use crate::app::{App, Change, Changes, FleetInfo};
use crate::blobs::Blobs;
use crate::ca::Ca;
use crate::director::Director;
use crate::store::audit::AuditFilter;
use crate::store::{audit, devices, documents};
use crate::tasks::Tasks;
use crate::testing::{self, NOW, bundle, fleet, id};

const PATIENCE: Duration = Duration::from_secs(20);

fn director_key() -> KeyPair {
    KeyPair::from_seed(&[42; 32])
}

struct Bench {
    _dir: tempfile::TempDir,
    app: App,
    ca: Ca,
    ca_pem: String,
    broker: Broker,
    tasks: Tasks,
}

impl Bench {
    async fn start() -> Self {
        let (dir, db) = testing::db().await;
        let (ca, ca_pem, _) = Ca::create("test", crate::clock::now_ms()).unwrap();
        let mut tx = db.begin().await.unwrap();
        documents::insert(&mut tx, documents::ROOT, 1, b"root 1", NOW)
            .await
            .unwrap();
        documents::insert(&mut tx, documents::ROOT, 2, b"root 2", NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let info = FleetInfo {
            id: fleet(),
            name: "test".into(),
            project: "p".into(),
            ca_pem: ca_pem.clone(),
            broker_url: format!("mqtts://localhost:{}", listener.local_addr().unwrap().port()),
            device_api_url: "https://localhost:1".into(),
        };
        let app = App {
            db,
            blobs: Blobs::open_folder(&dir.path().join("blobs")).unwrap(),
            fleet: Arc::new(info),
            changes: Changes::default(),
            upload_dir: Arc::from(dir.path()),
            imports: crate::imports::Imports::default(),
            heavy: crate::heavy::Heavy::default(),
        };
        let director = Arc::new(Director::new(director_key(), fleet(), 1000));
        assert!(director.ensure_head(&app).await.unwrap());
        assert!(!director.ensure_head(&app).await.unwrap(), "it is fresh");
        let mut tasks = Tasks::default();
        let config = BrokerConfig {
            listener,
            ca_pem: ca_pem.clone(),
            certificate: ca
                .issue_server(&["localhost".to_owned(), "127.0.0.1".to_owned()])
                .unwrap(),
            work_dir: dir.path().to_owned(),
        };
        let broker = Broker::start(config, app.clone(), director, &mut tasks).await.unwrap();
        assert!(!dir.path().join("broker-tls").exists(), "the key does not lie about");
        Self {
            _dir: dir,
            app,
            ca,
            ca_pem,
            broker,
            tasks,
        }
    }

    /// Enrols while the broker runs, as devices do.
    async fn enrol(&self, name: &str, seed: u8) {
        testing::enrol(&self.app.db, name, seed, BTreeMap::new()).await.unwrap();
    }

    /// A client that speaks as `client_id` under the certificate of `certified`.
    fn client(&self, client_id: &str, certified: Option<&str>) -> Client {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap())
            .unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let tls = match certified {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
                let csr = rcgen::CertificateParams::default()
                    .serialize_request(&key)
                    .unwrap()
                    .pem()
                    .unwrap();
                let made = self.ca.sign_csr(&csr, &id(name), crate::clock::now_ms()).unwrap();
                let chain = vec![CertificateDer::from_pem_slice(made.pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let mut options = MqttOptions::new(client_id, "localhost", self.broker.handle().local_addr().port());
        options
            .set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))))
            .set_keep_alive(Duration::from_secs(10))
            .set_max_packet_size(256 * 1024, 256 * 1024);
        let (client, events) = AsyncClient::new(options, 64);
        Client { client, events }
    }

    async fn connected(&self, name: &str) -> Client {
        let mut client = self.client(name, Some(name));
        client
            .wait("CONNACK", |packet| matches!(packet, Packet::ConnAck(_)).then_some(()))
            .await;
        let down = Filter::DeviceDown(id(name)).to_string();
        assert!(client.subscribe(&down).await, "its own tree");
        client
    }

    /// Waits for an event in the audit log.
    async fn audited(&self, event: &str) -> flotilla_api_types::audit::AuditEvent {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = audit::list(&self.app.db, None, &AuditFilter::of_event(event), 1)
                .await
                .unwrap()
                .pop()
            {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "no {event} in the audit log");
            tokio::task::yield_now().await;
        }
    }

    async fn status_becomes(&self, name: &str, wanted: DeviceStatus) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while devices::get(&self.app.db, &id(name)).await.unwrap().device.status != wanted {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{name} does not become {wanted:?}"
            );
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) {
        assert_eq!(
            self.tasks.stop(Duration::from_secs(10)).await,
            0,
            "no task had to be cut off"
        );
        self.broker.stop().await;
    }
}

struct Client {
    client: AsyncClient,
    events: EventLoop,
}

impl Client {
    /// Polls until `found` finds what it looks for.
    async fn wait<T>(&mut self, what: &str, found: impl Fn(&Packet) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let Ok(event) = tokio::time::timeout_at(deadline, self.events.poll()).await else {
                panic!("no {what}");
            };
            match event {
                Ok(Event::Incoming(packet)) => {
                    if let Some(found) = found(&packet) {
                        return found;
                    }
                }
                Ok(Event::Outgoing(_)) => {}
                Err(error) => panic!("waiting for {what}: {error}"),
            }
        }
    }

    async fn failure(&mut self) -> ConnectionError {
        let polled = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Err(error) = self.events.poll().await {
                    return error;
                }
            }
        });
        polled.await.expect("the connection holds")
    }

    async fn subscribe(&mut self, filter: &str) -> bool {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        self.wait("SUBACK", |packet| match packet {
            Packet::SubAck(ack) => Some(ack.return_codes != [SubscribeReasonCode::Failure]),
            _ => None,
        })
        .await
    }

    async fn say(&mut self, name: &str, up: Up, payload: Vec<u8>) {
        let topic = Topic::Up(id(name), up).to_string();
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    }

    async fn hear(&mut self, name: &str, down: Down) -> Bytes {
        let topic = Topic::Down(id(name), down).to_string();
        self.wait(&topic, |packet| match packet {
            Packet::Publish(publish) if publish.topic == topic => Some(publish.payload.clone()),
            _ => None,
        })
        .await
    }

    async fn hello(&mut self, name: &str) {
        let hello = Hello {
            schema: SCHEMA,
            device: id(name),
            boot_epoch: 1,
            root_version: 1,
            report: ByteBuf::new(),
        };
        self.say(name, Up::Hello, codec::to_vec(&hello).unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_is_answered_and_bundles_are_receipted_and_counted_once() {
    let bench = Bench::start().await;
    bench.enrol("a", 1).await;
    let mut a = bench.connected("a").await;
    bench.status_becomes("a", DeviceStatus::Online).await;
    a.hello("a").await;
    let message: HeadMessage = codec::from_slice(&a.hear("a", Down::Head).await, MAX_MESSAGE_BYTES).unwrap();
    assert_eq!(message.roots, [ByteBuf::from(b"root 2".to_vec())]);
    let director = Authority::single(Role::Director, director_key().public());
    assert_eq!(
        verify::<Head>(&message.head, &director, fleet()).unwrap().root_version,
        2
    );
    let desired = verify::<DesiredState>(&a.hear("a", Down::Desired).await, &director, fleet()).unwrap();
    assert_eq!((desired.device.clone(), desired.header.version), (id("a"), 1));

    let told = bundle("a", 1);
    for _ in 0..2 {
        a.say("a", Up::Bundle, codec::to_vec_zstd(&told).unwrap()).await;
        let receipt: Receipt = codec::from_slice(&a.hear("a", Down::Receipt).await, MAX_MESSAGE_BYTES).unwrap();
        assert!(receipt.records.iter().all(|record| *record == told.key), "{receipt:?}");
    }
    assert_eq!(
        devices::get(&bench.app.db, &id("a")).await.unwrap().device.inferences,
        10
    );
    drop(a);
    bench.status_becomes("a", DeviceStatus::Offline).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_reaches_its_own_topics_alone() {
    let bench = Bench::start().await;
    bench.enrol("a", 1).await;
    bench.enrol("b", 2).await;
    let mut a = bench.connected("a").await;
    let blob = Filter::Blob(Digest::of(b"x")).to_string();
    for allowed in [Filter::Head.to_string(), blob] {
        assert!(a.subscribe(&allowed).await, "{allowed}");
    }
    let others = Filter::DeviceDown(id("b")).to_string();
    let shared = format!("$share/g/{others}");
    for refused in [
        "#",
        "flotilla/#",
        "flotilla/v1/d/+/down/#",
        "$SYS/#",
        others.as_str(),
        shared.as_str(),
    ] {
        assert!(!a.subscribe(refused).await, "{refused} must be refused");
    }
    // Foreign topic, retained, and the server's own direction: none of them arrives.
    let hello = Hello {
        schema: SCHEMA,
        device: id("b"),
        boot_epoch: 1,
        root_version: 1,
        report: ByteBuf::new(),
    };
    let mut b = bench.connected("b").await;
    let payload = codec::to_vec(&hello).unwrap();
    a.client
        .publish(
            Topic::Up(id("b"), Up::Hello).to_string(),
            QoS::AtLeastOnce,
            false,
            payload.clone(),
        )
        .await
        .unwrap();
    a.client
        .publish(
            Topic::Down(id("b"), Down::Head).to_string(),
            QoS::AtLeastOnce,
            false,
            "x",
        )
        .await
        .unwrap();
    a.client
        .publish(Topic::Up(id("a"), Up::Hello).to_string(), QoS::AtLeastOnce, true, "x")
        .await
        .unwrap();
    // It goes on hearing what is its own, after all of that.
    a.say("a", Up::Bundle, codec::to_vec_zstd(&bundle("a", 1)).unwrap())
        .await;
    a.hear("a", Down::Receipt).await;
    let refused = bench.audited("acl.refused").await;
    assert_eq!(refused.actor, "device:a");
    assert!(is_local(&refused.detail["peer"]), "{refused:?}");
    // Speaking for another on its own topic.
    a.say("a", Up::Hello, payload).await;
    a.say("a", Up::Bundle, codec::to_vec_zstd(&bundle("a", 2)).unwrap())
        .await;
    a.hear("a", Down::Receipt).await;
    assert_eq!(bench.audited("message.refused").await.actor, "device:a");
    // Neither the hello in its name nor the message in the server's reached b: it hears what it asked for, and no head.
    b.say("b", Up::Bundle, codec::to_vec_zstd(&bundle("b", 1)).unwrap())
        .await;
    let [receipt, head] = [Down::Receipt, Down::Head].map(|down| Topic::Down(id("b"), down).to_string());
    let first = b
        .wait("a receipt or a head", |packet| match packet {
            Packet::Publish(publish) if [&receipt, &head].contains(&&publish.topic) => Some(publish.topic.clone()),
            _ => None,
        })
        .await;
    assert_eq!(first, receipt);
    bench.stop().await;
}

/// Is it where a client of these tests comes from?
fn is_local(peer: &str) -> bool {
    peer.parse()
        .is_ok_and(|peer: std::net::SocketAddr| peer.ip().is_loopback() && peer.port() != 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_connects_as_another() {
    let bench = Bench::start().await;
    bench.enrol("a", 1).await;
    bench.enrol("b", 2).await;
    for (client_id, certified) in [("b", "a"), ("server:0", "a"), ("", "a"), ("unknown", "unknown")] {
        let error = bench.client(client_id, Some(certified)).failure().await;
        let refused = ConnectReturnCode::NotAuthorized;
        assert!(
            matches!(error, ConnectionError::ConnectionRefused(code) if code == refused),
            "'{client_id}' with the certificate of '{certified}': {error}"
        );
    }
    let error = bench.client("a", None).failure().await;
    assert!(
        !matches!(error, ConnectionError::ConnectionRefused(_)),
        "without a certificate TLS fails: {error}"
    );
    let mut will = bench.client("a", Some("a"));
    will.events.mqtt_options.set_last_will(rumqttc::LastWill::new(
        Topic::Up(id("b"), Up::Hello).to_string(),
        "x",
        QoS::AtLeastOnce,
        false,
    ));
    assert!(
        matches!(will.failure().await, ConnectionError::ConnectionRefused(_)),
        "a will on another's topic"
    );
    let refused = bench.audited("connect.refused").await;
    assert!(is_local(&refused.detail["peer"]), "{refused:?}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decommissioned_device_is_cut_off_and_stays_out() {
    let bench = Bench::start().await;
    bench.enrol("a", 1).await;
    let mut a = bench.connected("a").await;
    let handle = bench.broker.handle();
    handle.kick(&id("a")).await;
    a.failure().await;
    let mut a = bench.connected("a").await;
    let mut tx = bench.app.db.begin().await.unwrap();
    devices::decommission(&mut tx, &id("a"), NOW).await.unwrap();
    tx.commit().await.unwrap();
    handle.cut_off(&id("a")).await;
    a.failure().await;
    let again = bench.client("a", Some("a")).failure().await;
    assert!(matches!(again, ConnectionError::ConnectionRefused(_)), "{again}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_was_altered_on_the_servers_own_disk_is_told_from_an_attack() {
    let bench = Bench::start().await;
    bench.enrol("a", 1).await;
    let whole = target(&bench, "a", b"a model that nobody touches").await;
    let mut a = bench.connected("a").await;
    bench.app.changes.tell(Change::Targets);
    let director = Authority::single(Role::Director, director_key().public());
    loop {
        // The first may be the one before: nothing is wanted yet. With the target its manifest is a blob as well.
        let desired = a.hear("a", Down::Desired).await;
        if !verify::<DesiredState>(&desired, &director, fleet())
            .unwrap()
            .targets
            .is_empty()
        {
            break;
        }
    }
    let hex = whole.sha256.hex();
    let (folder, rest) = hex.split_at(2);
    let path = bench.app.upload_dir.join("blobs").join(folder).join(rest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut report = testing::report("a", 1);
    report.attack = Some(DetectedAttack {
        attack: "altered-content".into(),
        detail: "chunk 0".into(),
        at: NOW,
    });
    let report = sign(&report, &KeyPair::from_seed(&[1; 32])).unwrap();
    a.say("a", Up::Report, report).await;
    a.wait("the report's acknowledgement", |packet| {
        matches!(packet, Packet::PubAck(_)).then_some(())
    })
    .await;
    let found = bench.audited("blob.damaged").await;
    assert_eq!(
        (
            found.actor.as_str(),
            found.subject,
            found.detail["reported_by"].as_str()
        ),
        ("server", format!("blob:{}", whole.sha256), "a")
    );
    assert!(found.detail["why"].contains("is damaged"), "{:?}", found.detail);
    assert_eq!(bench.audited("attack.reported").await.actor, "device:a");
    bench.stop().await;
}

/// A signed model version with one blob, targeted at a device.
async fn target(bench: &Bench, name: &str, bytes: &[u8]) -> BlobRef {
    let (blob, sources) = bench
        .app
        .blobs
        .put_with_sources(Bytes::from(bytes.to_vec()), || false)
        .await
        .unwrap();
    let (version, rollout, deployment) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let components = serde_json::json!([{"kind": "model", "digest": blob.sha256, "sources": sources}]);
    let spec = serde_json::json!({"model_version": ModelVersionId::new(version), "soak_s": 2.5});
    let mut tx = bench.app.db.begin().await.unwrap();
    let sql = [
        format!(
            "INSERT INTO model_versions (id, line, semver, release_counter, manifest, payload, envelope, signature, \
             components, package_bytes, golden_max_diff, golden_cases, created_at) VALUES ('{version}', 'anomaly', '1.0.0', \
             1, '{}', x'00', x'0102', 'signed', '{components}', 1, 0, 1, 0)",
            Digest::of(b"manifest")
        ),
        format!(
            "INSERT INTO rollouts (id, project_id, model_version, spec, state, phase, decision, created_at, updated_at) \
             VALUES ('{rollout}', 'p', '{version}', '{spec}', 'running', 0, '', 0, 0)"
        ),
        format!(
            "INSERT INTO deployments (id, rollout, device, phase, state, bytes_received, bytes_total, created_at, updated_at) \
             VALUES ('{deployment}', '{rollout}', '{name}', 0, 'pending', 0, 0, 0, 0)"
        ),
        format!("INSERT INTO targets VALUES ('{name}', 'main', '{deployment}', '{version}')"),
        format!("UPDATE devices SET desired_stale = 1 WHERE id = '{name}'"),
    ];
    for statement in sql {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    blob
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_are_told_at_once_and_their_chunks_served_to_their_device_alone() {
    let bench = Bench::start().await;
    bench.enrol("a", 1).await;
    bench.enrol("b", 2).await;
    let (mut a, mut b) = (bench.connected("a").await, bench.connected("b").await);
    bench.status_becomes("a", DeviceStatus::Online).await;
    // Not compressible: 150,000 bytes are three chunks.
    let bytes: Vec<u8> = (0u64..18_750)
        .flat_map(|i| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let blob = target(&bench, "a", &bytes).await;
    bench.app.changes.tell(Change::Targets);
    let director = Authority::single(Role::Director, director_key().public());
    let desired = loop {
        // The first may be the one before: nothing is wanted yet.
        let desired = verify::<DesiredState>(&a.hear("a", Down::Desired).await, &director, fleet()).unwrap();
        if !desired.targets.is_empty() {
            break desired;
        }
    };
    assert_eq!(desired.targets[0].update.soak_ms, 2500);
    let source = desired.targets[0].components[0]
        .sources
        .iter()
        .find(|source| source.blob == blob)
        .unwrap();

    let want = |blob, present: &[u8]| Want {
        schema: SCHEMA,
        blob,
        first: 0,
        present: ByteBuf::from(present.to_vec()),
        credit: 8,
    };
    a.say("a", Up::Want, codec::to_vec(&want(source.blob, &[0b010])).unwrap())
        .await;
    for index in [0, 2] {
        let chunk: ChunkMessage = codec::from_slice(&a.hear("a", Down::Chunk).await, MAX_MESSAGE_BYTES).unwrap();
        assert_eq!((chunk.blob, chunk.first, chunk.missing), (blob.sha256, index, false));
        let start = index as usize * 65_536;
        assert_eq!(
            chunk.chunks[0].as_slice(),
            &bytes[start..(start + 65_536).min(bytes.len())]
        );
    }
    // The manifest's envelope is a blob as well.
    a.say(
        "a",
        Up::Want,
        codec::to_vec(&want(desired.targets[0].manifest_envelope, &[])).unwrap(),
    )
    .await;
    let chunk: ChunkMessage = codec::from_slice(&a.hear("a", Down::Chunk).await, MAX_MESSAGE_BYTES).unwrap();
    assert_eq!(chunk.chunks[0].as_slice(), &[1, 2]);
    b.say("b", Up::Want, codec::to_vec(&want(source.blob, &[])).unwrap())
        .await;
    let chunk: ChunkMessage = codec::from_slice(&b.hear("b", Down::Chunk).await, MAX_MESSAGE_BYTES).unwrap();
    assert!(chunk.missing && chunk.chunks.is_empty(), "not b's");
    // Nothing changed: the same document again.
    a.hello("a").await;
    let again = verify::<DesiredState>(&a.hear("a", Down::Desired).await, &director, fleet()).unwrap();
    assert_eq!(again.digest(), desired.digest());
    bench.stop().await;
}
