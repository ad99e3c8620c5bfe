//! Tests of enrolment: who gets in, who does not, and what is written down.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use flotilla_api_types::Problem;
use flotilla_api_types::devices::CreateClaimToken;
use flotilla_protocol::trust::{Document as _, Header, KeyPair, sign};
use tower::ServiceExt as _;
use uuid::Uuid;

use super::*;
use crate::app::{Changes, FleetInfo};
use crate::blobs::Blobs;
use crate::store::Db;

const TOKEN: &str = "flt_token";

struct Bench {
    _dir: tempfile::TempDir,
    api: Api,
    tasks: Tasks,
}

async fn bench(uses: u32) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("test.db")).await.unwrap();
    let (ca, ca_pem, _) = Ca::create("test", clock::now_ms()).unwrap();
    let request = CreateClaimToken {
        uses,
        lifetime_s: 60,
        tags: [("site".to_owned(), "oslo".to_owned())].into(),
    };
    let mut tx = db.begin().await.unwrap();
    tokens::create_claim_token(&mut tx, &tokens::hash_token(TOKEN), &request, clock::now_ms())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let fleet = FleetInfo {
        id: FleetId::new(Uuid::nil()),
        name: "test".into(),
        project: "p".into(),
        ca_pem,
        broker_url: "mqtts://localhost:8883".into(),
        device_api_url: "https://localhost:8443".into(),
    };
    let app = App {
        blobs: Blobs::open_folder(&dir.path().join("blobs")).unwrap(),
        fleet: Arc::new(fleet),
        changes: Changes::default(),
        upload_dir: Arc::from(dir.path()),
        imports: crate::imports::Imports::default(),
        heavy: crate::heavy::Heavy::default(),
        db,
    };
    let mut tasks = Tasks::default();
    let refusals = Refusals::start(app.db.clone(), &mut tasks);
    let api = Api {
        app,
        ca: Arc::new(ca),
        refusals,
    };
    Bench { _dir: dir, api, tasks }
}

fn csr() -> String {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap()
}

fn enrolment(device: &str, seed: u8, csr_pem: &str) -> Enrolment {
    Enrolment {
        header: Header {
            schema: Enrolment::SCHEMA.into(),
            role: Role::Device,
            fleet: FleetId::new(Uuid::nil()),
            version: 1,
            issued: 0,
            expires: 1,
        },
        device: DeviceId::new(device).unwrap(),
        signing_key: KeyPair::from_seed(&[seed; 32]).public(),
        wrapping_key: vec![0; 32],
        csr_digest: Digest::of(csr_pem.as_bytes()),
        facts: DeviceFacts {
            hardware_class: "pi-5".into(),
            arch: "aarch64".into(),
            agent_version: "0.1.0".into(),
            ram_bytes: 1,
            disk_free_bytes: 1,
        },
    }
}

fn request(device: &str, seed: u8) -> EnrolRequest {
    let csr_pem = csr();
    let enrolment = enrolment(device, seed, &csr_pem);
    EnrolRequest {
        claim_token: TOKEN.into(),
        enrolment: BASE64.encode(sign(&enrolment, &KeyPair::from_seed(&[seed; 32])).unwrap()),
        csr_pem,
    }
}

impl Bench {
    async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolResponse, EnrolError> {
        self.api.enrol(request, clock::now_ms()).await
    }

    async fn tokens_used(&self) -> u32 {
        tokens::list_claim_tokens(&self.api.app.db, None, 1).await.unwrap()[0].used
    }

    async fn post(&self, body: String) -> (StatusCode, Problem) {
        let request = Request::post(ENROL_PATH)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .unwrap();
        let response = router(self.api.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }
}

#[tokio::test]
async fn a_token_enrols_once_and_the_same_device_may_come_again() {
    let bench = bench(1).await;
    let first = bench.enrol(&request("a", 1)).await.unwrap();
    let again = bench.enrol(&request("a", 1)).await.unwrap();
    assert_ne!(first.certificate_pem, again.certificate_pem);
    assert_eq!(
        (first.broker.as_str(), bench.tokens_used().await),
        ("mqtts://localhost:8883", 1)
    );
    let refused = bench.enrol(&request("b", 2)).await.unwrap_err();
    assert!(
        matches!(refused, EnrolError::Token(ClaimError::UsedUp { uses: 1 })),
        "{refused}"
    );
    let detail = devices::get(&bench.api.app.db, &first.device).await.unwrap();
    assert_eq!(detail.device.tags["site"], "oslo");
    let events = store::audit::list(&bench.api.app.db, None, &store::audit::AuditFilter::default(), 10)
        .await
        .unwrap();
    let events: Vec<_> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(events, ["device.certificate-renewed", "device.enrolled"]);
}

#[tokio::test]
async fn names_and_keys_belong_to_who_came_first() {
    let bench = bench(9).await;
    bench.enrol(&request("a", 1)).await.unwrap();
    assert!(matches!(bench.enrol(&request("a", 2)).await, Err(EnrolError::Taken(_))));
    assert!(matches!(bench.enrol(&request("b", 1)).await, Err(EnrolError::KeyTaken)));
    let mut tx = bench.api.app.db.begin().await.unwrap();
    devices::decommission(&mut tx, &DeviceId::new("a").unwrap(), 0)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert!(matches!(
        bench.enrol(&request("a", 1)).await,
        Err(EnrolError::Decommissioned(_))
    ));
    assert_eq!(bench.tokens_used().await, 1, "refusals use nothing up");
}

#[tokio::test]
async fn without_a_good_token_nobody_learns_which_names_there_are() {
    let bench = bench(1).await;
    bench.enrol(&request("a", 1)).await.unwrap();
    let with_token = |device: &str, seed: u8, token: &str| {
        let mut asked = request(device, seed);
        asked.claim_token = token.into();
        // Nothing but the token is looked at where it is not known.
        if token != TOKEN {
            asked.enrolment = "%".into();
        }
        asked
    };
    for device in ["a", "b"] {
        let unknown = bench.enrol(&with_token(device, 2, "flt_guessed")).await.unwrap_err();
        assert!(matches!(unknown, EnrolError::Token(ClaimError::Unknown)), "{unknown}");
        let used = bench.enrol(&with_token(device, 2, TOKEN)).await.unwrap_err();
        assert!(matches!(used, EnrolError::Token(ClaimError::UsedUp { .. })), "{used}");
    }
    // The device itself still gets in with it.
    bench.enrol(&request("a", 1)).await.unwrap();
}

#[tokio::test]
async fn a_refusal_names_the_device_asked_for_and_the_peer() {
    let bench = bench(1).await;
    let peer: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    let mut unknown = request("wanted", 1);
    unknown.claim_token = "flt_other".into();
    let request = Request::post(ENROL_PATH)
        .header(header::CONTENT_TYPE, "application/json")
        .extension(ConnectInfo(peer))
        .body(Body::from(serde_json::to_string(&unknown).unwrap()))
        .unwrap();
    let response = router(bench.api.clone()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(bench.tasks.stop(Duration::from_secs(10)).await, 0);
    let events = store::audit::list(&bench.api.app.db, None, &store::audit::AuditFilter::default(), 10)
        .await
        .unwrap();
    let refused = events.iter().find(|event| event.event == "enrolment.refused").unwrap();
    assert_eq!(
        (refused.actor.as_str(), refused.subject.as_str()),
        ("address:192.0.2.7", "device:wanted")
    );
    assert_eq!(refused.detail["peer"], "192.0.2.7:4711");
}

#[tokio::test]
async fn possession_and_binding_are_proved() {
    let bench = bench(9).await;
    let good = request("a", 1);
    let mut other_request = good.clone();
    other_request.csr_pem = csr();
    assert!(matches!(
        bench.enrol(&other_request).await,
        Err(EnrolError::OtherRequest)
    ));
    let mut other_signer = good.clone();
    let claimed = enrolment("a", 1, &good.csr_pem);
    other_signer.enrolment = BASE64.encode(sign(&claimed, &KeyPair::from_seed(&[2; 32])).unwrap());
    assert!(matches!(
        bench.enrol(&other_signer).await,
        Err(EnrolError::Signature(_))
    ));
    let mut other_fleet = good.clone();
    let mut claimed = enrolment("a", 1, &good.csr_pem);
    claimed.header.fleet = FleetId::new(Uuid::max());
    other_fleet.enrolment = BASE64.encode(sign(&claimed, &KeyPair::from_seed(&[1; 32])).unwrap());
    assert!(matches!(bench.enrol(&other_fleet).await, Err(EnrolError::Signature(_))));
    let mut no_base64 = good;
    no_base64.enrolment = "%".into();
    assert!(matches!(bench.enrol(&no_base64).await, Err(EnrolError::Malformed(_))));
    assert_eq!(bench.tokens_used().await, 0);
}

#[tokio::test]
async fn refusals_are_problems() {
    let bench = bench(9).await;
    let mut unknown = request("a", 1);
    unknown.claim_token = "flt_other".into();
    let (status, problem) = bench.post(serde_json::to_string(&unknown).unwrap()).await;
    assert_eq!((status, problem.status), (StatusCode::FORBIDDEN, 403));
    assert!(
        problem.detail.contains("the claim token is not known"),
        "{}",
        problem.detail
    );
    assert_eq!(bench.post("{".into()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(
        bench.post("x".repeat(MAX_BODY_BYTES + 1)).await.0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
}
