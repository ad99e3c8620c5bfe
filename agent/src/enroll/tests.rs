//! Enrolment against a device API of a few lines, over real TLS.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use flotilla_protocol::trust::{Authority as Speaker, verify};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::tasks::spawn_child;
use crate::test_server::{Authority, FLEET, NOW, TlsListener};

/// Reads one request and answers as `answer` says, from its JSON body.
async fn serve_once(listener: &TlsListener, answer: impl Fn(EnrolRequest) -> (u16, String)) {
    let mut stream = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    let body = loop {
        let mut piece = [0u8; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        assert!(head.starts_with("POST /v1/enrol "), "{head}");
        if let Ok(request) = serde_json::from_str(body) {
            break request;
        }
    };
    let (status, body) = answer(body);
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_and_the_next_attempt_uses_the_same_keys() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Arc::new(Authority::new());
    let listener = fleet.listen(false).await;
    let bundle = FactoryBundle {
        fleet: FLEET.parse().unwrap(),
        device_api: format!("https://localhost:{}", listener.port()),
        ca_pem: fleet.pem.clone(),
        root: BASE64.encode(fleet.factory_root()),
        claim_token: "claim".to_owned(),
    };
    let bundle_path = dir.path().join("factory.json");
    std::fs::write(&bundle_path, serde_json::to_vec(&bundle).unwrap()).unwrap();
    let config_path = dir.path().join("agent.toml");
    std::fs::write(&config_path, format!("data_dir = '{}'", dir.path().display())).unwrap();
    let config = Config::load(&config_path).unwrap();
    let store = Store::open(dir.path(), 0).unwrap();
    let clock = Clock::manual(Arc::new(AtomicI64::new(0)));

    let issuer = Arc::clone(&fleet);
    let mut server = spawn_child(async move {
        let problem = r#"{"title":"claim token used up","detail":"5 of 5 devices have joined","status":403}"#;
        serve_once(&listener, |_| (403, problem.to_owned())).await;
        serve_once(&listener, |request| {
            assert_eq!(request.claim_token, "claim");
            let envelope = BASE64.decode(&request.enrolment).unwrap();
            let keys = DeviceKeys::load_or_make(dir.path()).unwrap();
            let speaker = Speaker::single(Role::Device, keys.signing.public());
            let enrolment = verify::<Enrolment>(&envelope, &speaker, FLEET.parse().unwrap()).unwrap();
            assert_eq!(enrolment.csr_digest, Digest::of(request.csr_pem.as_bytes()));
            assert!(
                enrolment.header.issued >= NOW - 1_000,
                "the factory root's time is the floor"
            );
            let answer = EnrolResponse {
                device: enrolment.device.clone(),
                certificate_pem: issuer.certify(&request.csr_pem),
                broker: "mqtts://localhost:8883".to_owned(),
            };
            (200, serde_json::to_string(&answer).unwrap())
        })
        .await;
        dir
    });
    let name = DeviceId::new("press-07").unwrap();
    let refused = enrol(&config, &store, &clock, &bundle_path, Some(name.clone()))
        .await
        .unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("claim token used up") && text.contains("5 of 5 devices"),
        "{text}"
    );
    assert!(Enrolled::load(&store).unwrap().is_none());

    let enrolled = enrol(&config, &store, &clock, &bundle_path, Some(name.clone()))
        .await
        .unwrap();
    assert_eq!(enrolled.device, name);
    let dir = server.join().await.unwrap();
    // Nobody is asked any more.
    assert_eq!(
        enrol(&config, &store, &clock, &bundle_path, None).await.unwrap(),
        enrolled
    );
    assert!(
        store
            .get::<flotilla_protocol::trust::TrustSnapshot>(super::keys::TRUST)
            .unwrap()
            .is_some()
    );
    drop(dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_ca_learns_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (fleet, stranger) = (Authority::new(), Authority::new());
    let listener = stranger.listen(false).await;
    let bundle = FactoryBundle {
        fleet: FLEET.parse().unwrap(),
        device_api: format!("https://localhost:{}", listener.port()),
        ca_pem: fleet.pem.clone(),
        root: BASE64.encode(fleet.factory_root()),
        claim_token: "claim".to_owned(),
    };
    let bundle_path = dir.path().join("factory.json");
    std::fs::write(&bundle_path, serde_json::to_vec(&bundle).unwrap()).unwrap();
    let config_path = dir.path().join("agent.toml");
    std::fs::write(&config_path, format!("data_dir = '{}'", dir.path().display())).unwrap();
    let config = Config::load(&config_path).unwrap();
    let store = Store::open(dir.path(), 0).unwrap();
    let clock = Clock::manual(Arc::new(AtomicI64::new(NOW)));
    let mut server = spawn_child(async move { listener.accept().await.is_err() });
    let refused = enrol(&config, &store, &clock, &bundle_path, None).await.unwrap_err();
    assert!(matches!(refused, EnrolError::Unreachable { .. }), "{refused}");
    assert_eq!(server.join().await, Some(true), "the handshake failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_time_is_asked_again_and_a_refusal_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Authority::new();
    let listener = fleet.listen(false).await;
    let bundle = FactoryBundle {
        fleet: FLEET.parse().unwrap(),
        device_api: format!("https://localhost:{}", listener.port()),
        ca_pem: fleet.pem.clone(),
        root: BASE64.encode(fleet.factory_root()),
        claim_token: "claim".to_owned(),
    };
    let bundle_path = dir.path().join("factory.json");
    std::fs::write(&bundle_path, serde_json::to_vec(&bundle).unwrap()).unwrap();
    let config_path = dir.path().join("agent.toml");
    std::fs::write(&config_path, format!("data_dir = '{}'", dir.path().display())).unwrap();
    let config = Config::load(&config_path).unwrap();
    let store = Store::open(dir.path(), 0).unwrap();
    let clock = Clock::manual(Arc::new(AtomicI64::new(NOW)));
    let mut server = spawn_child(async move {
        for status in [503, 429, 403] {
            serve_once(&listener, |_| (status, "{}".to_owned())).await;
        }
    });
    let stop = tokio_util::sync::CancellationToken::new();
    let ended = crate::enrol_patiently(&config, &store, &clock, &bundle_path, &stop).await;
    assert!(
        matches!(
            ended,
            Err(crate::AgentError::Enrol(EnrolError::Refused { status: 403, .. }))
        ),
        "{ended:?}"
    );
    assert_eq!(server.join().await, Some(()), "all three were asked");
}
