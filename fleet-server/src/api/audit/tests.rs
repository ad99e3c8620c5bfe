//! The log through its routes: filters, cursors, verification.

use axum::http::{Method, StatusCode};
use flotilla_api_types::Page;
use flotilla_api_types::audit::{AuditEvent, AuditVerification, DeviceChainVerification};
use flotilla_protocol::audit::{AuditHead, AuditRecord, encode_entry};
use flotilla_protocol::ids::DeviceId;

use crate::api::datasets::testing::TestServer;
use crate::audit;
use crate::domain::authz::Role;
use crate::store::audit::{DeviceEntry, append, append_device};

/// 2026-11-23T02:00:00Z
const NOW: i64 = 1_795_399_200_000;

fn record(minute: i64, actor: &str, event: &str, subject: &str) -> AuditRecord {
    AuditRecord {
        at: NOW + minute * 60_000,
        ..audit::record(actor, event, subject, [])
    }
}

async fn server() -> TestServer {
    let server = TestServer::new().await;
    let mut tx = server.app.db.begin().await.unwrap();
    for minute in 0..20 {
        let (actor, event) = match minute % 2 {
            0 => ("token:ann", "rollout.started"),
            _ => ("token:bob", "device.tagged"),
        };
        append(&mut tx, &record(minute, actor, event, "device:press-07"))
            .await
            .unwrap();
    }
    let mut head = AuditHead::start(0);
    let mut entries = Vec::new();
    for minute in 0..10 {
        let event = if minute % 2 == 0 {
            "model.activated"
        } else {
            "attack.refused"
        };
        let record = record(minute, "agent", event, "model:m");
        let bytes = encode_entry(&record).unwrap();
        let index = head.count;
        head = head.append(&bytes);
        entries.push(DeviceEntry {
            epoch: 0,
            index,
            record,
            bytes,
        });
    }
    let device = DeviceId::new("press-07").unwrap();
    append_device(&mut tx, &device, &entries, &head, b"signed")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    server
}

async fn ask(server: &TestServer, role: Role, path: &str) -> (StatusCode, serde_json::Value) {
    server.send(role, Method::GET, path, "", "").await
}

/// Every page's indices.
async fn found(server: &TestServer, query: &str) -> Vec<u64> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/audit?limit=3&{query}{cursor}");
        let (status, body) = ask(server, Role::Auditor, &path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        let page: Page<AuditEvent> = serde_json::from_value(body).unwrap();
        found.extend(page.items.iter().map(|event| event.index));
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn filters_narrow_both_logs_and_pages_go_on_under_them() {
    let server = server().await;
    for (query, expected) in [
        ("event=rollout.started", vec![18, 16, 14, 12, 10, 8, 6, 4, 2, 0]),
        ("event=rollout.*&to=2026-11-23T02:05:00Z", vec![4, 2, 0]),
        ("actor=token:bob&from=2026-11-23T02:15:00Z", vec![19, 17, 15]),
        (
            "actor=token:*&event=device.*&from=2026-11-23T02:02:00Z&to=2026-11-23T02:06:00Z",
            vec![5, 3],
        ),
        ("subject=device:press-07&from=2026-11-23T02:18:00Z", vec![19, 18]),
        ("subject=device:press-0", vec![]),
        (
            "subject=device:press-0*&event=rollout.started&from=2026-11-23T02:16:00Z",
            vec![18, 16],
        ),
        ("device=press-07&event=attack.*", vec![9, 7, 5, 3, 1]),
        (
            "device=press-07&from=2026-11-23T02:04:00Z&to=2026-11-23T02:07:00Z",
            vec![6, 5, 4],
        ),
        ("device=press-07&actor=token:ann", vec![]),
    ] {
        assert_eq!(found(&server, query).await, expected, "{query}");
    }
    assert_eq!(found(&server, "").await.len(), 20);
    for bad in [
        "from=yesterday",
        "to=2026-13-01T00:00:00Z",
        "cursor=x",
        "device=press-07&cursor=7",
    ] {
        let (status, body) = ask(&server, Role::Auditor, &format!("/audit?{bad}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}: {body}");
    }
    assert_eq!(
        ask(&server, Role::Viewer, "/audit?actor=token:ann").await.0,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn verification_counts_what_holds_and_names_what_does_not() {
    let server = server().await;
    let (_, body) = ask(&server, Role::Auditor, "/audit/verify").await;
    let whole: AuditVerification = serde_json::from_value(body).unwrap();
    assert!(whole.ok && whole.broken.is_empty());
    assert_eq!((whole.server.entries, whole.devices, whole.device_entries), (20, 1, 10));
    let (_, body) = ask(&server, Role::Auditor, "/audit/verify/press-07").await;
    let one: DeviceChainVerification = serde_json::from_value(body).unwrap();
    assert!(one.chain.ok && one.chain.entries == 10);
    let (status, _) = ask(&server, Role::Auditor, "/audit/verify/stranger").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let mut tx = server.app.db.begin().await.unwrap();
    sqlx::query("DELETE FROM device_audit WHERE idx = 4")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let (_, body) = ask(&server, Role::Auditor, "/audit/verify").await;
    let broken: AuditVerification = serde_json::from_value(body).unwrap();
    assert!(!broken.ok && broken.server.ok && broken.broken_devices == 1);
    assert!(
        broken.broken[0]
            .chain
            .problem
            .as_ref()
            .unwrap()
            .contains("there is a gap"),
        "{broken:?}"
    );
    for path in ["/audit/verify", "/audit/verify/press-07"] {
        assert_eq!(ask(&server, Role::Viewer, path).await.0, StatusCode::FORBIDDEN);
    }
}
