//! The event stream through its real route: what it tells, in which order, and when it ends.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use flotilla_api_types::datasets::{Dataset, Import, ImportState};
use flotilla_protocol::ids::{ApiTokenId, RunId};
use futures_util::StreamExt as _;
use tower::ServiceExt as _;
use uuid::Uuid;

use super::*;
use crate::api::datasets::testing::{TestServer, rows, rows_csv};
use crate::app::Change;
use crate::clock;
use crate::domain::authz::{PrincipalRef, Role};
use crate::store::sessions::{self, NewSession};
use crate::store::tokens;
use crate::tasks::Tasks;

struct Stream {
    body: BodyDataStream,
    text: String,
}

impl Stream {
    /// Up to the next empty line; `None` at the end. Comments are left out.
    async fn next(&mut self) -> Option<Vec<(String, String)>> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let fields: Vec<(String, String)> = event
                    .lines()
                    .filter_map(|line| line.split_once(": "))
                    .filter(|(name, _)| !name.is_empty())
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect();
                self.text = rest.to_owned();
                if fields.is_empty() {
                    continue;
                }
                return Some(fields);
            }
            let more = tokio::time::timeout(Duration::from_secs(20), self.body.next());
            let bytes = more.await.expect("the stream says nothing")?.unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    async fn named(&mut self, name: &str) -> String {
        loop {
            let fields = self.next().await.expect("the stream ended");
            let field = |wanted: &str| fields.iter().find(|(n, _)| n == wanted).map(|(_, v)| v.clone());
            if field("event").as_deref() == Some(name) {
                return format!("{} {}", field("id").unwrap(), field("data").unwrap());
            }
        }
    }
}

struct Fixture {
    server: TestServer,
    tasks: Tasks,
    routes: axum::Router,
    token: ApiTokenId,
}

async fn fixture(role: Role) -> Fixture {
    let server = TestServer::new().await;
    let mut tx = server.app.db.begin().await.unwrap();
    let token = tokens::create_api_token(&mut tx, "t", &tokens::hash_token("t"), &[role], clock::now_ms())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut tasks = Tasks::default();
    crate::events::start(&server.app, &mut tasks).await.unwrap();
    let routes = crate::api::documented().0.layer(Extension(tasks.shutdown()));
    let routes = auth::protect(routes, server.app.clone()).with_state(server.app.clone());
    Fixture {
        server,
        tasks,
        routes,
        token,
    }
}

impl Fixture {
    async fn follow(&self, last: Option<&str>) -> Stream {
        self.follow_as(("authorization", "Bearer t"), last).await
    }

    async fn follow_as(&self, (name, value): (&str, &str), last: Option<&str>) -> Stream {
        let mut request = Request::builder().uri("/api/v1/events").header(name, value);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.routes.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream {
            body: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    fn tell_run(&self) -> String {
        let id = RunId::new(Uuid::now_v7());
        self.server.app.changes.tell(Change::Run(id));
        id.to_string()
    }
}

/// The id of a line that [`Stream::named`] gave.
fn id(line: &str) -> &str {
    line.split_once(' ').unwrap().0
}

#[tokio::test]
async fn changes_are_told_and_what_was_missed_comes_again() {
    let fixture = fixture(Role::Viewer).await;
    let mut stream = fixture.follow(None).await;
    let hello = stream.named("hello").await;
    assert!(hello.contains("server_version"), "{hello}");
    let run = fixture.tell_run();
    let told = stream.named("change").await;
    assert!(told.contains(&run) && told.contains("\"resource\":\"run\""), "{told}");
    drop(stream);
    let missed = fixture.tell_run();
    let mut again = fixture.follow(Some(id(&told))).await;
    assert_eq!(id(&again.named("hello").await), id(&told));
    assert!(again.named("change").await.contains(&missed));
    assert_eq!(fixture.tasks.stop(Duration::from_secs(5)).await, 0);
    assert!(again.next().await.is_none(), "the stream ends with the server");
}

#[tokio::test]
async fn ids_of_another_server_and_lost_events_are_told_as_a_reset() {
    let fixture = fixture(Role::Viewer).await;
    let mut stream = fixture.follow(Some("12-7")).await;
    stream.named("hello").await;
    assert!(stream.named("reset").await.contains("epoch"));
    let hub = fixture.server.app.changes.events();
    let mut stream = fixture.follow(Some(&hub.id(hub.latest() + 5))).await;
    assert!(stream.named("reset").await.contains("gap"));
}

#[tokio::test]
async fn people_are_told_of_what_they_may_see_and_while_they_may() {
    let fixture = fixture(Role::Viewer).await;
    let app = &fixture.server.app;
    let now = clock::now_ms();
    let mut tx = app.db.begin().await.unwrap();
    let new = NewSession {
        hash: &tokens::hash_token("secret"),
        subject: PrincipalRef::ApiToken(fixture.token),
        csrf: "c",
        user_agent: "",
    };
    let session = sessions::open(&mut tx, &new, now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let cookie = format!("{}=secret", auth::cookie_name(app.fleet.id));
    let mut stream = fixture.follow_as(("cookie", cookie.as_str()), None).await;
    stream.named("hello").await;
    app.changes.tell(Change::Session("another".into()));
    let run = fixture.tell_run();
    let told = stream.named("change").await;
    assert!(told.contains(&run), "sessions are not a viewer's business: {told}");
    let mut tx = app.db.begin().await.unwrap();
    assert!(sessions::close(&mut tx, &session.id).await.unwrap());
    tx.commit().await.unwrap();
    app.changes.tell(Change::Session(session.id));
    while stream.next().await.is_some() {}
}

#[tokio::test]
async fn what_stands_in_the_audit_log_is_told() {
    let fixture = fixture(Role::Admin).await;
    let mut stream = fixture.follow(None).await;
    stream.named("hello").await;
    let request = Request::builder()
        .method("POST")
        .uri("/api/v1/claim-tokens")
        .header("authorization", "Bearer t")
        .header("content-type", "application/json")
        .body(Body::from(r#"{"uses":1,"lifetime_s":60}"#))
        .unwrap();
    let response = fixture.routes.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 201);
    let mut told = stream.named("change").await;
    while !told.contains("\"resource\":\"token\"") {
        told = stream.named("change").await;
    }
}

/// What the follower hears next of the audit log and of tokens: which of the two, and its id.
async fn next_two(stream: &mut Stream) -> Vec<(Resource, String)> {
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let line = stream.named("change").await;
        let event: ChangeEvent = serde_json::from_str(line.split_once(' ').unwrap().1).unwrap();
        heard.push((event.resource, event.id));
    }
    heard.sort();
    heard
}

async fn enter(app: &App, token: &str) -> u64 {
    let mut tx = app.db.begin().await.unwrap();
    let record = crate::audit::record("somebody", "claim-token.created", format!("claim-token:{token}"), []);
    let head = crate::store::audit::append(&mut tx, &record).await.unwrap();
    tx.commit().await.unwrap();
    head.count - 1
}

/// Longer than it takes until something that happened is told.
const SOME_WINDOWS: Duration = Duration::from_secs(1);

#[tokio::test]
async fn the_log_is_read_when_it_grew_and_somebody_follows() {
    let fixture = fixture(Role::Admin).await;
    let app = &fixture.server.app;
    let hub = app.changes.events();
    let before = hub.latest();
    let first = enter(app, "a").await;
    tokio::time::sleep(SOME_WINDOWS).await;
    assert_eq!(hub.latest(), before, "read for nobody");
    // Whoever comes back hears of it.
    let mut stream = fixture.follow(Some(&hub.id(before))).await;
    stream.named("hello").await;
    let heard = next_two(&mut stream).await;
    let expected = |index: u64, token: &str| {
        let mut both = vec![
            (Resource::Audit, index.to_string()),
            (Resource::Token, token.to_owned()),
        ];
        both.sort();
        both
    };
    assert_eq!(heard, expected(first, "a"));

    // An entry that nobody announced, as no server makes one: who reads by the clock finds it.
    let mut tx = app.db.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO audit_log (idx, at, event, actor, subject, entry, hash)
         SELECT idx + 1, at, event, actor, subject, entry, hash FROM audit_log ORDER BY idx DESC LIMIT 1",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    tokio::time::sleep(SOME_WINDOWS).await;
    let run = fixture.tell_run();
    let told = stream.named("change").await;
    assert!(told.contains(&run), "nothing had been announced: {told}");
}

#[tokio::test]
async fn entries_that_are_taken_back_are_not_told_and_those_after_them_are() {
    let fixture = fixture(Role::Admin).await;
    let app = &fixture.server.app;
    let mut stream = fixture.follow(None).await;
    stream.named("hello").await;
    let mut tx = app.db.begin().await.unwrap();
    let record = crate::audit::record("somebody", "claim-token.created", "claim-token:never", []);
    crate::store::audit::append(&mut tx, &record).await.unwrap();
    // Long enough for a reader who would not wait for the end of the transaction.
    tokio::time::sleep(SOME_WINDOWS).await;
    tx.rollback().await.unwrap();
    let index = enter(app, "b").await;
    let mut heard = vec![(Resource::Audit, index.to_string()), (Resource::Token, "b".to_owned())];
    heard.sort();
    assert_eq!(next_two(&mut stream).await, heard);
}

#[tokio::test]
async fn an_import_is_followed_from_outside_as_it_moves() {
    let fixture = fixture(Role::Viewer).await;
    fixture.server.post::<Dataset>("/datasets", &rows("rows")).await;
    let mut stream = fixture.follow(None).await;
    stream.named("hello").await;
    let id = Uuid::now_v7();
    let path = format!("/datasets/rows/imports?import={id}");
    let import = fixture.server.import(&path, rows_csv(600));
    let watch = async {
        let mut seen = Vec::new();
        loop {
            let line = stream.named("change").await;
            let (_, data) = line.split_once(' ').unwrap();
            let event: ChangeEvent = serde_json::from_str(data).unwrap();
            if (event.resource, event.id.as_str()) != (Resource::Import, id.to_string().as_str()) {
                continue;
            }
            // The row comes along, so that nobody has to ask.
            let row: Import = serde_json::from_value(event.patch.unwrap()).unwrap();
            let ended = row.state.is_final();
            seen.push(row);
            if ended {
                return seen;
            }
        }
    };
    let ((status, report), seen) = tokio::join!(import, watch);
    assert_eq!(status, 201, "{report}");
    let last = seen.last().unwrap();
    assert_eq!((last.state, last.samples), (ImportState::Finished, 600));
    assert!(
        seen.is_sorted_by(|before, after| before.progress <= after.progress),
        "{seen:?}"
    );
}
