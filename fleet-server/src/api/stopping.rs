//! What becomes of requests when the server stops: most are finished within a moment; what takes longer is cut short and told
//! to come back. A handler that is cut short leaves no half a change: its transaction is rolled back.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::api::error::{ApiError, STOPPING};
use crate::app::App;

/// For what is nearly done. Long polls answer by themselves.
const GRACE: Duration = Duration::from_secs(1);

pub(super) async fn cut_short(State(app): State<App>, request: Request, next: Next) -> Response {
    let answering = next.run(request);
    tokio::pin!(answering);
    tokio::select! {
        biased;
        response = &mut answering => return response,
        () = app.changes.stopped() => {}
    }
    match tokio::time::timeout(GRACE, answering).await {
        Ok(response) => response,
        Err(_elapsed) => ApiError::Unavailable(STOPPING.to_owned()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{Method, StatusCode, header};
    use axum::middleware;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;
    use crate::api::datasets::testing::TestServer;
    use crate::domain::authz::Role;

    #[tokio::test]
    async fn what_takes_long_is_cut_short_and_told_to_come_back() {
        let server = TestServer::new().await;
        let app = server.app.clone();
        let routes: Router = Router::new()
            .route("/", get(std::future::pending::<()>))
            .layer(middleware::from_fn_with_state(app.clone(), cut_short));
        app.changes.stop();
        let response = routes.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }

    #[tokio::test]
    async fn long_polls_answer_what_they_know() {
        let server = TestServer::new().await;
        let asked = server.send(
            Role::Viewer,
            Method::GET,
            "/drift?wait_ms=30000",
            "application/json",
            Body::empty(),
        );
        let stopped = async {
            tokio::task::yield_now().await;
            server.app.changes.stop();
        };
        let both = async { tokio::join!(asked, stopped) };
        let ((status, body), ()) = tokio::time::timeout(Duration::from_secs(10), both)
            .await
            .expect("the poll answers at once");
        assert_eq!(status, StatusCode::OK, "{body}");
    }
}
