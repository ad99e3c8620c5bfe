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
    let mut stream = fixture.follow_as(("cookie", "flotilla_session=secret"), None).await;
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
