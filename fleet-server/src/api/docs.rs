//! The OpenAPI document and a page to read it. The page is plain HTML made from the document: no script, no other origin.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::http::HeaderValue;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::Html;
use axum::routing::get;
use axum::{Extension, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_protocol::ids::Digest;
use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::app::App;

/// Declares the bearer token that every route needs.
pub(super) struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let cookie = ApiKeyValue::with_description(
            "flotilla_session_{fleet}",
            "the console's session, with the last eight digits of the fleet's id; needs X-CSRF-Token to change. It ends after \
             12 hours without a request; those that read and carry X-Flotilla-Background do not count",
        );
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    }
}

#[derive(Clone)]
struct Rendered {
    document: Arc<OpenApi>,
    page: Arc<str>,
    /// Lets the page's own style in, by its digest.
    policy: HeaderValue,
}

pub(super) fn routes(document: OpenApi) -> Router<App> {
    let style = STANDARD.encode(Digest::of(STYLE.as_bytes()).0);
    let policy = format!("default-src 'none'; style-src 'sha256-{style}'; frame-ancestors 'none'");
    let rendered = Rendered {
        // Base64 and fixed text: always a header.
        policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'")),
        page: page(&serde_json::to_value(&document).unwrap_or_default()).into(),
        document: Arc::new(document),
    };
    Router::new()
        .route(
            "/openapi.json",
            get(async |Extension(r): Extension<Rendered>| Json(r.document.as_ref().clone())),
        )
        .route(
            "/docs",
            get(async |Extension(r): Extension<Rendered>| {
                ([(CONTENT_SECURITY_POLICY, r.policy)], Html(r.page.to_string()))
            }),
        )
        .layer(Extension(rendered))
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
    color-scheme:light dark}code{font-family:ui-monospace,monospace}h2{margin-top:2rem;text-transform:capitalize}\
    details{border-top:1px solid #8884;padding:.4rem 0}summary{cursor:pointer}b.get{color:#0072b2}b.post{color:#009e73}\
    b.delete{color:#d55e00}b.patch{color:#cc79a7}pre{overflow:auto;background:#8881;padding:.6rem}";

/// Operations by tag, each with what it takes and answers.
fn page(document: &serde_json::Value) -> String {
    let mut sections: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    let empty = serde_json::Map::new();
    let paths = document.get("paths").and_then(|p| p.as_object()).unwrap_or(&empty);
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap_or(&empty) {
            let Some(operation) = operation.as_object() else {
                continue;
            };
            let tag = operation
                .get("tags")
                .and_then(|tags| tags.get(0))
                .and_then(|tag| tag.as_str())
                .unwrap_or("other")
                .to_owned();
            let text = |key: &str| escape(operation.get(key).and_then(|v| v.as_str()).unwrap_or_default());
            let section = sections.entry(tag).or_default();
            // Writing to a String cannot fail.
            let written = write!(
                section,
                "<details><summary><b class={method}>{}</b> <code>{}</code> {}</summary><p>{}</p>{}{}</details>",
                method.to_uppercase(),
                escape(path),
                text("summary"),
                text("description"),
                body(operation.get("requestBody")),
                responses(operation.get("responses")),
            );
            debug_assert!(written.is_ok());
        }
    }
    let body: Vec<String> = sections
        .iter()
        .map(|(tag, html)| format!("<h2>{}</h2>{html}", escape(tag)))
        .collect();
    let body = body.concat();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>Flotilla API</title><style>{STYLE}</style><h1>Flotilla API</h1><p>Every request carries \
         <code>Authorization: Bearer &lt;token&gt;</code>. Errors are RFC 9457 problem details. The machine-readable \
         document is <a href=/openapi.json>openapi.json</a>.</p>{body}"
    )
}

fn body(body: Option<&serde_json::Value>) -> String {
    let Some(content) = body
        .and_then(|body| body.get("content"))
        .and_then(|content| content.as_object())
    else {
        return String::new();
    };
    let kinds: Vec<String> = content
        .iter()
        .map(|(kind, media)| format!("{} <code>{}</code>", escape(kind), schema_name(media)))
        .collect();
    format!("<p>Body: {}</p>", kinds.join(", "))
}

fn responses(responses: Option<&serde_json::Value>) -> String {
    let Some(responses) = responses.and_then(|responses| responses.as_object()) else {
        return String::new();
    };
    let rows: Vec<String> = responses
        .iter()
        .map(|(status, response)| {
            let description = response.get("description").and_then(|d| d.as_str()).unwrap_or_default();
            let schema = response
                .get("content")
                .and_then(|content| content.as_object())
                .and_then(|content| content.values().next())
                .map(schema_name)
                .unwrap_or_default();
            format!(
                "<li><b>{}</b> {} <code>{schema}</code></li>",
                escape(status),
                escape(description)
            )
        })
        .collect();
    format!("<ul>{}</ul>", rows.concat())
}

fn schema_name(media: &serde_json::Value) -> String {
    let schema = media.get("schema");
    let name = schema
        .and_then(|schema| schema.get("$ref"))
        .and_then(|reference| reference.as_str())
        .and_then(|reference| reference.rsplit('/').next());
    escape(name.unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
