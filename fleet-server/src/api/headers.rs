//! What browsers are told of every answer that is not a file of the console: it is nobody's to keep, to frame, to guess the
//! kind of, or to run anything from.

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

/// Pages with needs of their own ([`super::docs`]) say so themselves.
const DEFAULTS: [(HeaderName, &str); 5] = [
    (CACHE_CONTROL, "no-store"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
];

/// Adds what the answer does not say itself.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in DEFAULTS {
        response
            .headers_mut()
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use axum::{Router, middleware};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn answers_are_guarded_unless_they_say_otherwise() {
        let routes = Router::new()
            .route("/own", get(async || [(CACHE_CONTROL, "no-cache")]))
            .layer(middleware::from_fn(guard));
        for (path, cache) in [("/own", "no-cache"), ("/missing", "no-store")] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = routes.clone().oneshot(request).await.unwrap();
            let header = |name: HeaderName| response.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header(CACHE_CONTROL), cache, "{path}");
            assert_eq!(header(X_CONTENT_TYPE_OPTIONS), "nosniff");
            assert!(header(CONTENT_SECURITY_POLICY).starts_with("default-src 'none'"));
        }
    }
}
