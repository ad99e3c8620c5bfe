//! Signing in through the real routes, with authentication around them.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::api::auth;
use crate::api::datasets::testing::TestServer;
use crate::domain::authz::Role;

struct Console {
    server: TestServer,
    routes: Router,
}

impl Console {
    async fn new() -> Self {
        let server = TestServer::new().await;
        let mut tx = server.app.db.begin().await.unwrap();
        for (name, role) in [("admin", Role::Admin), ("viewer", Role::Viewer)] {
            tokens::create_api_token(&mut tx, name, &tokens::hash_token(name), &[role], clock::now_ms())
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        let routes = crate::api::documented()
            .0
            .layer(Extension(PublicUrl::new("https://fleet.example/")));
        Self {
            routes: auth::protect(routes, server.app.clone()).with_state(server.app.clone()),
            server,
        }
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Value) -> (Response, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("content-type", "application/json")
            .header("user-agent", "test browser");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .routes
            .clone()
            .oneshot(request.body(Body::from(body.to_string())).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let told = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (Response::from_parts(parts, Body::empty()), told)
    }

    async fn link(&self) -> String {
        let admin = [("authorization", "Bearer admin")];
        let (response, link) = self.ask(Method::POST, "/sign-in-links", &admin, json!({})).await;
        assert_eq!(response.status(), StatusCode::CREATED, "{link}");
        let code = link["code"].as_str().unwrap();
        assert_eq!(
            link["url"].as_str().unwrap(),
            format!("https://fleet.example/#/sign-in/{code}")
        );
        code.to_owned()
    }

    /// Cookie header and CSRF token.
    async fn sign_in(&self) -> (String, String) {
        let code = self.link().await;
        let (response, session) = self.ask(Method::POST, "/session", &[], json!({ "code": code })).await;
        assert_eq!(response.status(), StatusCode::OK, "{session}");
        let set = response.headers()["set-cookie"].to_str().unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Secure"] {
            assert!(set.contains(part), "{set}");
        }
        let cookie = set.split(';').next().unwrap().to_owned();
        (
            format!("other=1; {cookie}"),
            session["csrf"].as_str().unwrap().to_owned(),
        )
    }
}

fn code(problem: &Value) -> &str {
    problem["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_link_becomes_a_session_once() {
    let console = Console::new().await;
    let link = console.link().await;
    let body = json!({ "code": link });
    let (response, session) = console.ask(Method::POST, "/session", &[], body.clone()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        (session["actor"].as_str(), session["name"].as_str()),
        (Some("token:admin"), Some("admin"))
    );
    assert_eq!(session["capabilities"].as_array().unwrap().len(), Action::ALL.len());
    let (response, problem) = console.ask(Method::POST, "/session", &[], body).await;
    assert_eq!(
        (response.status(), code(&problem)),
        (StatusCode::UNAUTHORIZED, "link-refused")
    );
    let events = console.server.audit_events().await;
    for event in ["sign-in-link.created", "session.opened", "session.refused"] {
        assert!(events.iter().any(|told| told == event), "{event} in {events:?}");
    }
}

#[tokio::test]
async fn what_changes_something_needs_the_header_that_other_sites_cannot_send() {
    let console = Console::new().await;
    let (cookie, csrf) = console.sign_in().await;
    let headers = [("cookie", cookie.as_str())];
    let (response, session) = console.ask(Method::GET, "/session", &headers, json!({})).await;
    assert_eq!(
        (response.status(), session["csrf"].as_str()),
        (StatusCode::OK, Some(csrf.as_str()))
    );
    let token = json!({"uses": 1, "lifetime_s": 60});
    let (response, problem) = console
        .ask(Method::POST, "/claim-tokens", &headers, token.clone())
        .await;
    assert_eq!((response.status(), code(&problem)), (StatusCode::FORBIDDEN, "csrf"));
    let wrong = [("cookie", cookie.as_str()), ("x-csrf-token", "flt_other")];
    let (response, _) = console.ask(Method::POST, "/claim-tokens", &wrong, token.clone()).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let right = [("cookie", cookie.as_str()), ("x-csrf-token", csrf.as_str())];
    let (response, told) = console.ask(Method::POST, "/claim-tokens", &right, token).await;
    assert_eq!(response.status(), StatusCode::CREATED, "{told}");
    let (response, problem) = console.ask(Method::POST, "/sign-in-links", &right, json!({})).await;
    assert_eq!(
        response.status(),
        StatusCode::FORBIDDEN,
        "a session makes no links: {problem}"
    );
}

#[tokio::test]
async fn sessions_end_by_signing_out_and_by_being_revoked() {
    let console = Console::new().await;
    let (cookie, csrf) = console.sign_in().await;
    let (other, _) = console.sign_in().await;
    let mine = [("cookie", cookie.as_str()), ("x-csrf-token", csrf.as_str())];
    let (_, listed) = console.ask(Method::GET, "/sessions", &mine, json!({})).await;
    let rows = listed["items"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    let others = rows.iter().find(|row| row["current"] == false).unwrap();
    assert_eq!(others["user_agent"], "test browser");
    let path = format!("/sessions/{}", others["id"].as_str().unwrap());
    let (response, _) = console.ask(Method::DELETE, &path, &mine, json!({})).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let (response, problem) = console
        .ask(Method::GET, "/me", &[("cookie", other.as_str())], json!({}))
        .await;
    assert_eq!(
        (response.status(), code(&problem)),
        (StatusCode::UNAUTHORIZED, "session-expired")
    );
    let (response, _) = console.ask(Method::DELETE, "/session", &mine, json!({})).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert!(response.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    let (response, _) = console.ask(Method::GET, "/session", &mine, json!({})).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let (response, problem) = console.ask(Method::GET, "/me", &[], json!({})).await;
    assert_eq!(
        (response.status(), code(&problem)),
        (StatusCode::UNAUTHORIZED, "unauthenticated")
    );
}

#[tokio::test]
async fn what_an_unattended_tab_asks_does_not_keep_its_session_alive() {
    let console = Console::new().await;
    let (cookie, csrf) = console.sign_in().await;
    let earlier = clock::now_ms() - store::IDLE_MS / 2;
    let idle = async || {
        let mut tx = console.server.app.db.begin().await.unwrap();
        sqlx::query("UPDATE sessions SET last_seen = $1")
            .bind(earlier)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    };
    let is_idle = async || -> bool {
        let seen: i64 = sqlx::query_scalar("SELECT last_seen FROM sessions")
            .fetch_one(console.server.app.db.read())
            .await
            .unwrap();
        seen == earlier
    };
    idle().await;
    let alone = [("cookie", cookie.as_str()), ("x-flotilla-background", "1")];
    let (response, _) = console.ask(Method::GET, "/me", &alone, json!({})).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(is_idle().await);

    let mine = [("cookie", cookie.as_str())];
    let (response, _) = console.ask(Method::GET, "/me", &mine, json!({})).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!is_idle().await, "a person's request counts");

    // Nothing changes by itself: what does is a person's, whatever it says.
    idle().await;
    let change = [alone[0], alone[1], ("x-csrf-token", csrf.as_str())];
    let token = json!({"uses": 1, "lifetime_s": 60});
    let (response, told) = console.ask(Method::POST, "/claim-tokens", &change, token).await;
    assert_eq!(response.status(), StatusCode::CREATED, "{told}");
    assert!(!is_idle().await);
}

#[tokio::test]
async fn viewers_make_no_links_and_see_no_sessions() {
    let console = Console::new().await;
    let viewer = [("authorization", "Bearer viewer")];
    for (method, path) in [(Method::POST, "/sign-in-links"), (Method::GET, "/sessions")] {
        let (response, _) = console.ask(method, path, &viewer, json!({})).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn guessing_is_slow() {
    let console = Console::new().await;
    for _ in 0..MOST_FAILURES {
        let (response, _) = console
            .ask(Method::POST, "/session", &[], json!({ "code": "guess" }))
            .await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    let good = console.link().await;
    let (response, problem) = console
        .ask(Method::POST, "/session", &[], json!({ "code": "guess" }))
        .await;
    assert_eq!(
        (response.status(), code(&problem)),
        (StatusCode::TOO_MANY_REQUESTS, "too-many-attempts")
    );
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // Whoever has a link gets in all the same.
    let (response, _) = console
        .ask(Method::POST, "/session", &[], json!({ "code": good }))
        .await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[test]
fn addresses_are_forgotten_after_a_minute_and_never_too_many() {
    let attempts = Attempts::default();
    let a: IpAddr = "2001:db8::1".parse().unwrap();
    let same_network: IpAddr = "2001:db8::2".parse().unwrap();
    for _ in 0..MOST_FAILURES {
        attempts.check(a, 0).unwrap();
        attempts.failed(a, 0);
    }
    assert!(attempts.check(same_network, 1).is_err());
    assert!(attempts.check("192.0.2.1".parse().unwrap(), 1).is_ok());
    assert!(attempts.check(a, MINUTE_MS).is_ok());
    for n in 0..u32::try_from(MOST_ADDRESSES).unwrap() {
        attempts.failed(IpAddr::V4(n.into()), MINUTE_MS);
    }
    assert!(attempts.check("203.0.113.1".parse().unwrap(), MINUTE_MS).is_err());
    assert!(attempts.check("203.0.113.1".parse().unwrap(), 2 * MINUTE_MS).is_ok());
}

/// As `sign_in` gives it, without the others.
fn own(cookie: &str) -> (&str, &str) {
    cookie.rsplit_once("; ").unwrap().1.split_once('=').unwrap()
}

#[tokio::test]
async fn servers_on_one_host_do_not_sign_each_other_out() {
    let (here, beside) = (Console::new().await, Console::new().await);
    let ((first, csrf), (second, _)) = (here.sign_in().await, beside.sign_in().await);
    assert_ne!(own(&first).0, own(&second).0);
    // Browsers send both to both.
    let cookies = format!("{first}; {second}");
    for console in [&here, &beside] {
        let (response, told) = console
            .ask(Method::GET, "/session", &[("cookie", cookies.as_str())], json!({}))
            .await;
        assert_eq!(response.status(), StatusCode::OK, "{told}");
    }
    let mine = [("cookie", cookies.as_str()), ("x-csrf-token", csrf.as_str())];
    let (response, _) = here.ask(Method::DELETE, "/session", &mine, json!({})).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let cleared = response.headers()["set-cookie"].to_str().unwrap();
    assert!(cleared.starts_with(&format!("{}=;", own(&first).0)), "{cleared}");
    let (response, told) = beside
        .ask(Method::GET, "/session", &[("cookie", cookies.as_str())], json!({}))
        .await;
    assert_eq!(response.status(), StatusCode::OK, "{told}");
}
