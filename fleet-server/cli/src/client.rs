//! The REST client: one request at a time, problems turned into errors, answers as JSON or as their type.
//!
//! What is safe to repeat (reads, and creations that carry an `Idempotency-Key`) is repeated when the connection breaks.

use std::path::Path;
use std::time::Duration;

use flotilla_api_types::{Page, Problem};
use futures_util::TryStreamExt as _;
use indicatif::ProgressBar;
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use crate::config::Connection;
use crate::error::CliError;

/// How long the server may keep a question open; its long polls are shorter.
const READ_TIMEOUT: Duration = Duration::from_mins(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts in all, where repeating is safe.
const ATTEMPTS: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Items asked for at a time where all are wanted.
const PAGE: usize = 200;
/// A whole list is never longer than this here: what needs more reads pages itself.
const MOST_PAGES: usize = 10_000;

#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: Url,
    token: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.server.as_str())
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(connection: &Connection) -> Result<Self, CliError> {
        let server = Url::parse(&connection.server)
            .map_err(|why| CliError::Usage(format!("--server '{}': {why}", connection.server)))?;
        if !matches!(server.scheme(), "http" | "https") || server.cannot_be_a_base() {
            let given = &connection.server;
            return Err(CliError::Usage(format!(
                "--server '{given}': http:// or https:// is needed"
            )));
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("fleetctl/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &connection.ca_pem {
            let certificates = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|why| CliError::Usage(format!("--ca: {}", chain(&why))))?;
            builder = builder.tls_certs_only(certificates);
        }
        Ok(Self {
            http: builder.build().map_err(|why| CliError::Failed(chain(&why)))?,
            server,
            token: connection.token.clone(),
        })
    }

    pub(crate) fn server(&self) -> &str {
        self.server.as_str().trim_end_matches('/')
    }

    /// `path`: segments below `/api/v1`, encoded here.
    pub(crate) fn get(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &[&str]) -> Call<'_> {
        let mut call = self.call(Method::POST, path);
        call.idempotency_key = Some(Uuid::now_v7());
        call.is_repeatable = true;
        call
    }

    /// A question that needs a body: nothing is made, so that no answer is to be kept, and asking again is safe.
    pub(crate) fn ask(&self, path: &[&str]) -> Call<'_> {
        let mut call = self.call(Method::POST, path);
        call.is_repeatable = true;
        call
    }

    pub(crate) fn patch(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &[&str]) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    fn call(&self, method: Method, path: &[&str]) -> Call<'_> {
        let is_repeatable = method == Method::GET;
        let mut url = self.server.clone();
        // The scheme was checked: such an URL has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        Call {
            client: self,
            method,
            url,
            body: None,
            idempotency_key: None,
            is_repeatable,
        }
    }

    /// Streams a file as the body of a creation. Not repeated: the server takes all of it or nothing.
    pub(crate) async fn upload(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        file: &Path,
        media_type: &str,
        bar: ProgressBar,
    ) -> Result<Value, CliError> {
        let mut call = self.post(path);
        for (name, value) in query {
            call = call.query(name, value);
        }
        let unreadable = |why: std::io::Error| CliError::file(file, why);
        let source = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let length = source.metadata().await.map_err(unreadable)?.len();
        let stream = ReaderStream::new(source).inspect_ok(move |piece| bar.inc(piece.len() as u64));
        let request = call
            .request()
            .header("content-type", media_type)
            .header("content-length", length)
            .body(reqwest::Body::wrap_stream(stream));
        self.answer(request, call.url.path()).await.map_err(Broken::into_error)
    }

    async fn answer(&self, request: reqwest::RequestBuilder, path: &str) -> Result<Value, Broken> {
        let broken = |why: reqwest::Error| Broken {
            before_sending: why.is_connect(),
            error: CliError::Unreachable {
                server: self.server().to_owned(),
                why: chain(&why),
            },
        };
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        let body = response.bytes().await.map_err(broken)?;
        if !status.is_success() {
            return Err(Broken::answered(CliError::Refused(Box::new(problem(
                status, &body, path,
            )))));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|why| {
            Broken::answered(CliError::Answer {
                path: path.to_owned(),
                why: why.to_string(),
            })
        })
    }
}

/// One request in the making.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    client: &'a Client,
    method: Method,
    url: Url,
    body: Option<Value>,
    idempotency_key: Option<Uuid>,
    /// Doing it twice is doing it once.
    is_repeatable: bool,
}

impl Call<'_> {
    pub(crate) fn query(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.url.query_pairs_mut().append_pair(name, &value.to_string());
        self
    }

    pub(crate) fn maybe(self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    pub(crate) fn json<T: Serialize>(mut self, body: &T) -> Result<Self, CliError> {
        let body = serde_json::to_value(body).map_err(|why| CliError::Failed(why.to_string()))?;
        self.body = Some(body);
        Ok(self)
    }

    /// Sends it and reads the answer as `T` ([`Value`] takes it as it is).
    pub(crate) async fn send<T: DeserializeOwned>(self) -> Result<T, CliError> {
        let path = self.url.path().to_owned();
        let answer = self.send_value().await?;
        serde_json::from_value(answer).map_err(|why| CliError::Answer {
            path,
            why: why.to_string(),
        })
    }

    async fn send_value(self) -> Result<Value, CliError> {
        let mut attempt = 1;
        loop {
            match self.client.answer(self.body_request(), self.url.path()).await {
                Ok(answer) => return Ok(answer),
                Err(broken) if self.is_repeatable && attempt < ATTEMPTS && broken.worth_repeating() => {
                    attempt += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(broken) => return Err(broken.into_error()),
            }
        }
    }

    /// All items of a list, page by page.
    pub(crate) async fn all<T: DeserializeOwned>(self) -> Result<Vec<T>, CliError> {
        let path = self.url.path().to_owned();
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let page = Call {
                client: self.client,
                method: Method::GET,
                url: self.url.clone(),
                body: None,
                idempotency_key: None,
                is_repeatable: true,
            };
            let page: Page<T> = page
                .query("limit", PAGE)
                .maybe("cursor", cursor.as_ref())
                .send()
                .await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
        Err(CliError::Answer {
            path,
            why: format!("the list does not end after {MOST_PAGES} pages"),
        })
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let mut request = self.client.http.request(self.method.clone(), self.url.clone());
        if let Some(token) = &self.client.token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = self.idempotency_key {
            request = request.header("idempotency-key", key.to_string());
        }
        request
    }

    fn body_request(&self) -> reqwest::RequestBuilder {
        let request = self.request();
        match &self.body {
            Some(body) => request.json(body),
            None => request,
        }
    }
}

/// A request without a good answer.
struct Broken {
    error: CliError,
    /// Nothing listens there: asking again at once helps nobody.
    before_sending: bool,
}

impl Broken {
    const fn answered(error: CliError) -> Self {
        Self {
            error,
            before_sending: false,
        }
    }

    const fn worth_repeating(&self) -> bool {
        matches!(self.error, CliError::Unreachable { .. }) && !self.before_sending
    }

    fn into_error(self) -> CliError {
        self.error
    }
}

/// What the server says is wrong; where it is no problem document (a proxy's page), as much of it as helps.
fn problem(status: StatusCode, body: &[u8], path: &str) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_not_a_problem| Problem {
        kind: "about:blank".to_owned(),
        code: String::new(),
        title: status.canonical_reason().unwrap_or("error").to_owned(),
        status: status.as_u16(),
        detail: String::from_utf8_lossy(body).chars().take(400).collect(),
        instance: Some(path.to_owned()),
        errors: Vec::new(),
    })
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(server: &str) -> Result<Client, CliError> {
        drop(rustls::crypto::ring::default_provider().install_default());
        Client::new(&Connection {
            server: server.to_owned(),
            token: None,
            ca_pem: None,
        })
    }

    #[test]
    fn paths_and_queries_are_encoded() {
        let client = client("http://127.0.0.1:8080/").unwrap();
        let call = client
            .get(&["datasets", "a/b c", "samples"])
            .query("slice", "x&y")
            .maybe("split", None::<&str>);
        let expected = "http://127.0.0.1:8080/api/v1/datasets/a%2Fb%20c/samples?slice=x%26y";
        assert_eq!(call.url.as_str(), expected);
        assert_eq!(client.server(), "http://127.0.0.1:8080");
    }

    #[test]
    fn a_server_that_is_no_address_is_a_usage_error() {
        for bad in ["", "127.0.0.1:8080", "ftp://x", "mailto:x"] {
            assert_eq!(client(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[tokio::test]
    async fn nothing_listening_is_exit_code_3() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = client(&format!("http://{address}")).unwrap();
        let error = client.get(&["me"]).send::<Value>().await.unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
    }

    #[test]
    fn what_is_no_problem_document_is_still_told() {
        let problem = problem(StatusCode::BAD_GATEWAY, b"<h1>nginx</h1>", "/api/v1/me");
        assert_eq!((problem.status, problem.detail.as_str()), (502, "<h1>nginx</h1>"));
    }
}
