//! The web console's files, open to everybody: they say nothing of the fleet, and whoever loads them signs in through the
//! API like everybody else. Every address that is no file and not the API's answers with the console's page, which knows
//! its own screens.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use flotilla_console::Asset;
use flotilla_protocol::ids::Digest;

/// Nothing from elsewhere, nothing inline, and no page may frame this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
    connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What belongs to the API and to operations. Everything else is the console's.
const RESERVED: [&str; 6] = ["/api", "/docs", "/openapi.json", "/metrics", "/livez", "/readyz"];

/// Answers what is the console's; passes on all else.
pub(super) async fn serve(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match wanted(request.uri().path()) {
        Some(asset) if reads => answer(asset, request.headers(), request.method() == Method::HEAD),
        _ => next.run(request).await,
    }
}

fn wanted(path: &str) -> Option<&'static Asset> {
    let reserved = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if RESERVED.into_iter().any(reserved) {
        return None;
    }
    flotilla_console::find(path).or_else(|| {
        // A file that is not there is missing; an address without an extension is a screen's.
        let last = path.rsplit('/').next().unwrap_or_default();
        let is_file = path.starts_with("/assets/") || has_extension(last);
        if is_file { None } else { flotilla_console::index() }
    })
}

/// Ids of devices may have dots in them; extensions of files are short and lower case.
fn has_extension(name: &str) -> bool {
    const EXTENSIONS: [&str; 10] = ["css", "html", "ico", "js", "json", "map", "png", "svg", "txt", "woff2"];
    name.rsplit_once('.')
        .is_some_and(|(_, extension)| EXTENSIONS.contains(&extension))
}

fn answer(asset: &'static Asset, headers: &HeaderMap, head_only: bool) -> Response {
    let tag = format!("\"{}\"", Digest::of(asset.bytes).short());
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag));
    let (bytes, encoding) = encoded(asset, headers);
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else if head_only {
        Response::new(Body::empty())
    } else {
        Response::new(Body::from(bytes))
    };
    let out = response.headers_mut();
    if !unchanged {
        out.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
        out.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        if let Some(encoding) = encoding {
            out.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
    }
    let cache = if asset.immutable {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let fixed: [(HeaderName, &'static str); 7] = [
        (CACHE_CONTROL, cache),
        (VARY, "accept-encoding"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        out.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(ETAG, tag);
    }
    response
}

/// The smallest form that the browser takes.
fn encoded(asset: &'static Asset, headers: &HeaderMap) -> (&'static [u8], Option<&'static str>) {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let accepts = |name: &str| {
        accepted.unwrap_or_default().split(',').any(|one| {
            let mut parts = one.split(';').map(str::trim);
            parts.next() == Some(name) && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
    };
    match asset {
        Asset {
            brotli: Some(bytes), ..
        } if accepts("br") => (bytes, Some("br")),
        Asset { gzip: Some(bytes), .. } if accepts("gzip") => (bytes, Some("gzip")),
        _ => (asset.bytes, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screens_get_the_page_and_the_api_keeps_its_own() {
        let index = flotilla_console::index().unwrap().path;
        for path in [
            "/",
            "/devices",
            "/devices/press-07.oslo",
            "/runs/compare",
            "/docsy",
            "/index.html",
        ] {
            assert_eq!(wanted(path).map(|asset| asset.path), Some(index), "{path}");
        }
        for path in [
            "/api",
            "/api/v1/devices",
            "/api/v2/x",
            "/docs",
            "/openapi.json",
            "/metrics",
            "/livez",
            "/readyz",
            "/assets/gone.js",
            "/favicon.ico",
            "/robots.txt",
        ] {
            let found = wanted(path).filter(|asset| asset.path == index);
            assert!(found.is_none(), "{path}");
        }
    }

    #[test]
    fn answers_are_conditional_and_carry_the_policy() {
        let index = flotilla_console::index().unwrap();
        let first = answer(index, &HeaderMap::new(), false);
        assert_eq!(
            (first.status(), &first.headers()[CACHE_CONTROL]),
            (StatusCode::OK, &HeaderValue::from_static("no-cache"))
        );
        assert!(
            first.headers()[CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .starts_with("default-src 'none'")
        );
        let mut again = HeaderMap::new();
        again.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
        let second = answer(index, &again, false);
        assert_eq!(second.status(), StatusCode::NOT_MODIFIED);
        assert!(second.headers().get(CONTENT_LENGTH).is_none());
    }

    #[test]
    fn what_a_browser_does_not_take_is_not_sent() {
        static ASSET: Asset = Asset {
            path: "/a.js",
            bytes: b"plain",
            brotli: Some(b"br"),
            gzip: Some(b"gz"),
            content_type: "text/javascript",
            immutable: true,
        };
        let with = |accepted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, accepted.parse().unwrap());
            encoded(&ASSET, &headers).1
        };
        assert_eq!(with("gzip, deflate, br"), Some("br"));
        assert_eq!(with("gzip;q=0.5"), Some("gzip"));
        assert_eq!(with("br;q=0, gzip"), Some("gzip"));
        assert_eq!(with("identity"), None);
    }
}
