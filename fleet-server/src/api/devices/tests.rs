//! Lists, counts and bulk orders through the real routes.

use axum::http::Method;
use flotilla_api_types::JobState;
use flotilla_api_types::devices::CreateClaimToken;
use flotilla_protocol::ids::Digest;
use flotilla_protocol::trust::{DeviceFacts, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::api::datasets::testing::TestServer;
use crate::domain::authz::Role;
use crate::store::tokens;

async fn enrol(server: &TestServer, name: &str, seed: u8, site: &str) {
    let tags = BTreeMap::from([("site".to_owned(), site.to_owned())]);
    let request = CreateClaimToken {
        uses: 1,
        lifetime_s: 60,
        tags: tags.clone(),
    };
    let mut tx = server.app.db.begin().await.unwrap();
    let token = tokens::create_claim_token(&mut tx, name, &request, 1).await.unwrap();
    let device = store::devices::NewDevice {
        id: &name.parse().unwrap(),
        signing_key: KeyPair::from_seed(&[seed; 32]).public(),
        wrapping_key: &[0; 32],
        certificate_digest: Digest::of(b"certificate"),
        claim_token: token.id,
        tags: &tags,
        facts: &DeviceFacts {
            hardware_class: "pi-5".into(),
            arch: "aarch64".into(),
            agent_version: "0.1.0".into(),
            ram_bytes: 1,
            disk_free_bytes: 1,
        },
    };
    store::devices::insert(&mut tx, &device, 1).await.unwrap();
    tx.commit().await.unwrap();
}

async fn fleet() -> TestServer {
    let server = TestServer::new().await;
    for (seed, name) in (1..).zip(["a", "b", "c"]) {
        enrol(&server, name, seed, if name == "c" { "oslo" } else { "bergen" }).await;
    }
    server
}

#[tokio::test]
async fn lists_tell_how_many_there_are_in_all() {
    let server = fleet().await;
    let page: DevicePage = server.get("/devices?filter=site:bergen&limit=1&sort=-id").await;
    assert_eq!((page.items[0].id.as_str(), page.total), ("b", 2));
    let next = page.next_cursor.unwrap();
    let page: DevicePage = server
        .get(&format!("/devices?filter=site:bergen&limit=1&sort=-id&cursor={next}"))
        .await;
    assert_eq!(page.items[0].id.as_str(), "a");
    let page: DevicePage = server.get("/devices?offset=2&limit=10").await;
    assert_eq!((page.items.len(), page.total), (1, 3));
    let counts: DeviceCounts = server.get("/device-counts?filter=-site:oslo").await;
    assert_eq!((counts.total, counts.offline, counts.online), (2, 2, 0));
}

#[tokio::test]
async fn what_is_no_filter_or_order_is_refused_with_its_place() {
    let server = fleet().await;
    let ask = async |path: &str| {
        server
            .send(Role::Viewer, Method::GET, path, "", axum::body::Body::empty())
            .await
    };
    let (status, problem) = ask("/devices?filter=a%20status:sick").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["place"], "filter, column 10");
    assert_eq!(ask("/devices?sort=colour").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(ask("/devices?cursor=xx").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(
        ask("/device-counts?filter=%22").await.0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

#[tokio::test]
async fn bulk_orders_change_what_they_mean_and_nothing_else() {
    let server = fleet().await;
    let order = |total: u64| {
        json!({"filter": "site:bergen", "expected_total": total,
            "action": {"tag": {"set": {"wave": "1"}, "remove": ["site"]}}})
    };
    let (status, problem) = server.try_post("/device-actions", &order(3)).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    let tasks = server.run_jobs();
    let job: Job = server.post("/device-actions", &order(2)).await;
    let ended = server.job_end(job.id).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:?}");
    let page: DevicePage = server.get("/devices?filter=wave:1").await;
    assert_eq!(page.total, 2);
    assert_eq!(
        page.items[0].tags,
        BTreeMap::from([("wave".to_owned(), "1".to_owned())])
    );
    let all: Job = server
        .post(
            "/device-actions",
            &json!({"ids": ["a", "c"], "expected_total": 2, "action": "decommission"}),
        )
        .await;
    let ended = server.job_end(all.id).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:?}");
    let counts: DeviceCounts = server.get("/device-counts?filter=status:decommissioned").await;
    assert_eq!(counts.total, 2);
    let events = server.audit_events().await;
    let count = |name: &str| events.iter().filter(|event| *event == name).count();
    assert_eq!((count("device.tagged"), count("device.decommissioned")), (2, 2));
    assert_eq!(tasks.stop(std::time::Duration::from_secs(5)).await, 0);
}

/// Order after order, a device's tags would grow without end.
#[tokio::test]
async fn bulk_orders_leave_devices_alone_that_would_have_too_many_tags() {
    let server = fleet().await;
    let many: BTreeMap<String, String> = (0..64).map(|i| (format!("t{i}"), "x".to_owned())).collect();
    let body = serde_json::to_vec(&json!({"tags": many})).unwrap();
    let (status, problem) = server
        .send(Role::Admin, Method::PATCH, "/devices/a", "application/json", body)
        .await;
    assert_eq!(status, StatusCode::OK, "{problem}");
    let order = |set: Value| json!({"ids": ["a", "b"], "expected_total": 2, "action": {"tag": set}});
    let tasks = server.run_jobs();
    for (change, message) in [
        (
            json!({"set": {"wave": "1"}}),
            "1 devices changed, 2 looked at, 1 left as they are: they would have more than 64 tags",
        ),
        // In the place of another.
        (
            json!({"set": {"wave": "1"}, "remove": ["t0"]}),
            "1 devices changed, 2 looked at",
        ),
    ] {
        let job: Job = server.post("/device-actions", &order(change)).await;
        let ended = server.job_end(job.id).await;
        assert_eq!((ended.state, ended.message.as_str()), (JobState::Succeeded, message));
    }
    let detail: DeviceDetail = server.get("/devices/a").await;
    assert_eq!(detail.device.tags.len(), 64);
    assert!(detail.device.tags.contains_key("wave") && !detail.device.tags.contains_key("t0"));
    assert_eq!(tasks.stop(std::time::Duration::from_secs(5)).await, 0);
}

/// Between the order and the job others may come to match: devices that nobody confirmed.
#[tokio::test]
async fn bulk_orders_mean_the_devices_that_were_counted() {
    let server = fleet().await;
    let order = json!({"filter": "site:bergen", "expected_total": 2, "action": "decommission"});
    let job: Job = server.post("/device-actions", &order).await;
    let body = serde_json::to_vec(&json!({"tags": {"site": "bergen"}})).unwrap();
    let (status, problem) = server
        .send(Role::Admin, Method::PATCH, "/devices/c", "application/json", body)
        .await;
    assert_eq!(status, StatusCode::OK, "{problem}");
    let tasks = server.run_jobs();
    let ended = server.job_end(job.id).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:?}");
    let page: DevicePage = server.get("/devices?filter=-status:decommissioned").await;
    let left: Vec<_> = page.items.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(left, ["c"]);
    assert_eq!(tasks.stop(std::time::Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn bulk_orders_that_make_no_sense_are_refused() {
    let server = fleet().await;
    for order in [
        json!({"expected_total": 3, "action": "decommission"}),
        json!({"filter": "", "ids": ["a"], "expected_total": 3, "action": "decommission"}),
        json!({"filter": "status:sick", "expected_total": 3, "action": "decommission"}),
        json!({"filter": "", "expected_total": 3, "action": {"tag": {}}}),
    ] {
        let (status, problem) = server.try_post("/device-actions", &order).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{order}: {problem}");
    }
    let order = json!({"filter": "", "expected_total": 3, "action": "decommission"});
    let body = serde_json::to_vec(&order).unwrap();
    let (status, _) = server
        .send(Role::Viewer, Method::POST, "/device-actions", "application/json", body)
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_alert_of_an_attack_is_acknowledged_by_who_may_and_on_record() {
    let server = fleet().await;
    let attack = json!({"attack": "rollback", "detail": "d", "at": 1_795_399_200_000_i64}).to_string();
    let mut tx = server.app.db.begin().await.unwrap();
    sqlx::query("UPDATE devices SET attack = $1, attacked_at = 7 WHERE id = 'a'")
        .bind(attack)
        .execute(&mut *tx)
        .await
        .unwrap();
    device_summaries::refresh(&mut tx, "a").await.unwrap();
    tx.commit().await.unwrap();
    let alerts = async || {
        // Totals may be a second old.
        let page: DevicePage = server.get("/devices?filter=status:alert").await;
        page.items.len()
    };
    assert_eq!(alerts().await, 1);
    let path = "/devices/a/alerts/acknowledge";
    let body = serde_json::to_vec(&json!({})).unwrap();
    let (status, _) = server
        .send(Role::Viewer, Method::POST, path, "application/json", body)
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    for (ask, status) in [
        (json!({"attack_at": "2026-11-23T01:00:00Z"}), StatusCode::CONFLICT),
        (json!({"attack_at": "yesterday"}), StatusCode::BAD_REQUEST),
        (json!({"drift": true}), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(server.try_post(path, &ask).await.0, status, "{ask}");
    }
    let (status, _) = server.try_post("/devices/x/alerts/acknowledge", &json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let detail: DeviceDetail = server.post(path, &json!({"attack_at": "2026-11-23T02:00:00Z"})).await;
    assert!(detail.last_attack.unwrap().acknowledged && detail.device.alerts.is_empty());
    assert_eq!(alerts().await, 0);
    server.post::<DeviceDetail>(path, &json!({})).await;
    let events = server.audit_events().await;
    let acknowledged = events.iter().filter(|event| *event == "device.alerts-acknowledged");
    assert_eq!(acknowledged.count(), 1, "once: {events:?}");
}

#[tokio::test]
async fn no_device_is_hidden_by_a_route() {
    let server = TestServer::new().await;
    for (seed, name) in (1..).zip(["counts", "bulk"]) {
        enrol(&server, name, seed, "oslo").await;
        let detail: DeviceDetail = server.get(&format!("/devices/{name}")).await;
        assert_eq!(detail.device.id.as_str(), name);
    }
}

async fn patch(server: &TestServer, body: &serde_json::Value) -> (StatusCode, serde_json::Value) {
    let body = serde_json::to_vec(body).unwrap();
    server
        .send(Role::Operator, Method::PATCH, "/devices/a", "application/json", body)
        .await
}

#[tokio::test]
async fn two_who_tag_the_same_device_lose_nothing_of_each_other() {
    let server = fleet().await;
    let seen = json!({"site": "bergen"});
    let (status, device) = patch(&server, &json!({"change": {"set": {"hall": "A"}}, "seen": seen})).await;
    assert_eq!(
        (status, &device["tags"]),
        (StatusCode::OK, &json!({"site": "bergen", "hall": "A"}))
    );
    // About another tag: both stand.
    let (status, device) = patch(&server, &json!({"change": {"set": {"site": "oslo"}}, "seen": seen})).await;
    assert_eq!(
        (status, &device["tags"]),
        (StatusCode::OK, &json!({"site": "oslo", "hall": "A"}))
    );
    // About the same one: whoever saw the old value is told.
    for change in [json!({"set": {"site": "rome"}}), json!({"remove": ["site"]})] {
        let (status, problem) = patch(&server, &json!({"change": change, "seen": seen})).await;
        assert_eq!(status, StatusCode::CONFLICT, "{problem}");
        assert_eq!(problem["detail"], "tag 'site' is 'oslo' by now: look again");
    }
    let (status, problem) = patch(&server, &json!({"change": {"set": {"x": "2"}}, "seen": {"x": "1"}})).await;
    assert_eq!(
        (status, &problem["detail"]),
        (StatusCode::CONFLICT, &json!("tag 'x' is gone by now: look again"))
    );
    // Both want the same.
    let (status, _) = patch(&server, &json!({"change": {"set": {"site": "oslo"}}, "seen": seen})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, device) = patch(&server, &json!({"change": {"remove": ["site"]}})).await;
    assert_eq!((status, &device["tags"]), (StatusCode::OK, &json!({"hall": "A"})));
    let (status, device) = patch(&server, &json!({"tags": {"all": "new"}})).await;
    assert_eq!((status, &device["tags"]), (StatusCode::OK, &json!({"all": "new"})));
    let tagged = server
        .audit_events()
        .await
        .iter()
        .filter(|event| *event == "device.tagged")
        .count();
    assert_eq!(tagged, 5, "what was refused changed nothing");
    let many: BTreeMap<String, String> = (0..64).map(|n| (format!("t{n}"), String::new())).collect();
    for nonsense in [
        json!({}),
        json!({"seen": {}}),
        json!({"tags": {}, "change": {}}),
        json!({"tags": {}, "seen": {}}),
        json!({"change": {"set": {"": "x"}}}),
        json!({"change": {"set": many}}),
    ] {
        assert_eq!(
            patch(&server, &nonsense).await.0,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{nonsense}"
        );
    }
}
