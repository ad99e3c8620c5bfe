//! A server without listeners for tests of what lies behind the API: a database and blobs in a folder of their own, a root
//! of trust, and requests through the real routes.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::{Extension, Router};
use flotilla_protocol::ids::FleetId;
use flotilla_protocol::trust::{Document as _, Header, KeyPair, Role, RoleKeys, Root, sign};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use serde_json::Value;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::api::extract::Caller;
use crate::app::{App, Changes, FleetInfo};
use crate::blobs::Blobs;
use crate::clock;
use crate::domain::authz::{Principal, Role as ApiRole};
use crate::store::{Db, documents};
use crate::tasks::Tasks;

pub(crate) struct TestServer {
    pub(crate) app: App,
    /// Both must sign a release.
    pub(crate) release: [KeyPair; 2],
    routes: Router<App>,
    _dir: tempfile::TempDir,
}

impl TestServer {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("flotilla.db")).await.unwrap();
        let fleet = FleetId::new(Uuid::now_v7());
        let release = [KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32])];
        let project = Uuid::now_v7().to_string();
        let mut tx = db.begin().await.unwrap();
        documents::create_project(&mut tx, &project, "default", clock::now_ms())
            .await
            .unwrap();
        documents::insert(&mut tx, documents::ROOT, 1, &root(fleet, &release), clock::now_ms())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let uploads = dir.path().join("uploads");
        std::fs::create_dir(&uploads).unwrap();
        let app = App {
            db,
            blobs: Blobs::open_folder(&dir.path().join("blobs")).unwrap(),
            fleet: Arc::new(FleetInfo {
                id: fleet,
                name: "test".into(),
                project,
                ca_pem: String::new(),
                broker_url: String::new(),
                device_api_url: String::new(),
            }),
            changes: Changes::default(),
            upload_dir: uploads.into(),
            imports: crate::imports::Imports::default(),
            heavy: crate::heavy::Heavy::default(),
        };
        Self {
            app,
            release,
            routes: crate::api::documented().0,
            _dir: dir,
        }
    }

    pub(crate) async fn send(
        &self,
        role: ApiRole,
        method: Method,
        path: &str,
        media_type: &str,
        body: impl Into<Body>,
    ) -> (StatusCode, Value) {
        let caller = Caller(Principal {
            actor: "token:test".into(),
            roles: vec![role],
        });
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("content-type", media_type)
            .body(body.into())
            .unwrap();
        let router = self
            .routes
            .clone()
            .layer(Extension(caller))
            .with_state(self.app.clone());
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 64 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.send(ApiRole::Viewer, Method::GET, path, "", Body::empty()).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        serde_json::from_value(body).unwrap()
    }

    pub(crate) async fn try_post(&self, path: &str, body: &impl Serialize) -> (StatusCode, Value) {
        let body = serde_json::to_vec(body).unwrap();
        self.send(ApiRole::Admin, Method::POST, path, "application/json", body)
            .await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        let (status, body) = self.try_post(path, body).await;
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_value(body).unwrap()
    }

    pub(crate) async fn import(&self, path: &str, csv: impl Into<Body>) -> (StatusCode, Value) {
        self.send(ApiRole::Operator, Method::POST, path, "text/csv", csv).await
    }

    /// The job runner, until the returned tasks are stopped.
    pub(crate) fn run_jobs(&self) -> Tasks {
        let mut tasks = Tasks::default();
        let shutdown = tasks.shutdown();
        tasks.spawn("jobs", crate::jobs::run(self.app.clone(), shutdown));
        tasks
    }

    /// Waits for a job to end, by long polls; gives it.
    pub(crate) async fn job_end(&self, id: impl std::fmt::Display) -> flotilla_api_types::Job {
        let ended = async {
            loop {
                let job: flotilla_api_types::Job = self.get(&format!("/jobs/{id}?wait_ms=5000")).await;
                if job.state.is_final() {
                    return job;
                }
            }
        };
        tokio::time::timeout(Duration::from_mins(2), ended)
            .await
            .expect("the job does not end")
    }

    pub(crate) async fn audit_events(&self) -> Vec<String> {
        let events = crate::store::audit::list(&self.app.db, None, &crate::store::audit::AuditFilter::default(), 1000)
            .await
            .unwrap();
        assert!(crate::store::audit::verify(&self.app.db).await.unwrap().ok);
        events.into_iter().rev().map(|event| event.event).collect()
    }
}

fn root(fleet: FleetId, release: &[KeyPair; 2]) -> Vec<u8> {
    let key = KeyPair::from_seed(&[9; 32]);
    let role = |keys: &[&KeyPair], threshold| RoleKeys {
        keys: keys.iter().map(|key| key.id()).collect(),
        threshold,
    };
    let root = Root {
        header: Header {
            schema: Root::SCHEMA.to_owned(),
            role: Role::Root,
            fleet,
            version: 1,
            issued: clock::now_ms(),
            expires: clock::now_ms() + 1_000_000,
        },
        keys: [&key, &release[0], &release[1]].map(KeyPair::public).to_vec(),
        roles: [
            ("root", role(&[&key], 1)),
            ("director", role(&[&key], 1)),
            ("release/*", role(&[&release[0], &release[1]], 2)),
        ]
        .map(|(name, role)| (name.to_owned(), role))
        .into(),
        tls_anchors: vec![ByteBuf::from(vec![1])],
    };
    sign(&root, &key).unwrap()
}

/// A dataset of rows with columns x and y, every fifth row held out.
pub(crate) fn rows(name: &str) -> Value {
    serde_json::json!({
        "name": name,
        "labels": ["low", "high"],
        "shape": {"kind": "row"},
        "drop_columns": ["truth"],
        "split": {"kind": "modulo", "modulus": 5, "train": [0, 1, 2, 3], "holdout": [4]},
    })
}

/// `count` rows of x, y and the truth, which is whether x is above 0.
pub(crate) fn rows_csv(count: u16) -> String {
    let row = |i: u16| {
        let i = f32::from(i);
        let x = (i * 0.7).sin() + 0.01 * i;
        let truth = if x > 0.0 { "high" } else { "low" };
        format!("{x},{},{truth}", i * 0.5)
    };
    let rows: Vec<String> = (0..count).map(row).collect();
    format!("x,y,truth\n{}\n", rows.join("\n"))
}
