//! The Open Inference Protocol v2 over HTTP, with its binary tensor extension, and Prometheus metrics under Triton's
//! names. On the loopback interface only: there is no authentication here.
//!
//! Models are listed, not managed: they come and go by signed desired state alone. Shared memory, sequences and
//! compression of requests are deliberately absent.
//!
//! A program of the device cannot take its memory: connections, requests at a time and what their bodies may grow to are
//! bounded together. One connection too many waits to be accepted; one request too many is refused as busy.

mod body;
mod metrics;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use flotilla_engine::Blame;
use flotilla_protocol::infer::{InferError, ServerMetadata, TensorError};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::inference::{InferenceError, InferenceHandle, ModelInfo};

/// What a byte of JSON may grow to while its request is answered: the byte itself, a number of two characters as an element
/// of 24 bytes, and that once more in a tensor.
const JSON_WEIGHT: usize = 16;
/// The same for a byte of a tensor in binary: itself, and its copy in the tensor.
const BINARY_WEIGHT: usize = 2;
/// Longest head of a request, and piece of a body, that a connection keeps.
const CONNECTION_BUFFER_BYTES: usize = 64 * 1024;
/// Pause after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Bounds of one request and of all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestLimits {
    pub body_bytes: usize,
    /// From the first byte of the body to the answer.
    pub timeout: Duration,
    /// Inference requests at a time; one more is refused as busy.
    pub requests: usize,
    /// What the bodies of requests in progress may grow to together; what would take more is refused as busy.
    pub memory_bytes: usize,
    /// Connections at a time; one more waits to be accepted.
    pub connections: usize,
    /// For a request's head to arrive; an idle connection is closed after as long.
    pub header_timeout: Duration,
}

impl Default for RestLimits {
    fn default() -> Self {
        Self {
            body_bytes: 16 * 1024 * 1024,
            timeout: Duration::from_secs(30),
            requests: 32,
            // One of the longest bodies, or many of the usual ones.
            memory_bytes: 16 * 1024 * 1024 * JSON_WEIGHT,
            connections: 128,
            header_timeout: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone)]
struct Rest {
    inference: InferenceHandle,
    limits: RestLimits,
    running: Arc<Semaphore>,
    /// A permit is a byte.
    memory: Arc<Semaphore>,
}

/// Why a request is refused: the table from errors to statuses.
#[derive(Debug, thiserror::Error)]
enum RestError {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Tensor(#[from] TensorError),
    #[error("{0}")]
    NotFound(String),
    #[error("requests of web pages are not answered: this interface has no authentication")]
    WebPage,
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("content encoding '{0}' is not taken; send the body as it is")]
    Encoding(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0} requests are in progress; try again")]
    Busy(usize),
    #[error("the requests in progress leave too little of the {0} bytes of memory that there are for them; try again")]
    Crowded(usize),
    #[error("{0}")]
    Inference(#[from] InferenceError),
}

impl RestError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Tensor(_) => StatusCode::BAD_REQUEST,
            Self::WebPage => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::Inference(InferenceError::NoModel(_)) => StatusCode::NOT_FOUND,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Inference(error) => match error.blame() {
                Some(Blame::Data | Blame::Interface) => StatusCode::BAD_REQUEST,
                Some(Blame::Model) => StatusCode::INTERNAL_SERVER_ERROR,
                None => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::Busy(_) | Self::Crowded(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for RestError {
    fn into_response(self) -> Response {
        refusal(self.status(), self.to_string())
    }
}

fn refusal(status: StatusCode, error: String) -> Response {
    (status, Json(InferError { error })).into_response()
}

/// Ready once a model answers: who balances requests over devices sends none to one that has nothing installed yet.
async fn ready(State(rest): State<Rest>) -> Response {
    let ready = !rest.inference.list().is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({"ready": ready}))).into_response()
}

/// The endpoints over a device's models.
pub fn router(inference: InferenceHandle, limits: RestLimits) -> Router {
    let rest = Rest {
        inference,
        limits,
        running: Arc::new(Semaphore::new(limits.requests)),
        memory: Arc::new(Semaphore::new(limits.memory_bytes.min(Semaphore::MAX_PERMITS))),
    };
    Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/", get(server_metadata))
        .route("/v2/health/live", get(|| async { Json(json!({"live": true})) }))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model}", get(model_metadata))
        .route("/v2/models/{model}/versions/{version}", get(model_metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .route("/v2/repository/index", post(repository_index))
        .route("/v2/repository/models/{model}/load", post(not_managed_here))
        .route("/v2/repository/models/{model}/unload", post(not_managed_here))
        .route("/metrics", get(metrics))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "there is no such endpoint".to_owned()) })
        .method_not_allowed_fallback(|| async {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "the endpoint does not take this method".to_owned(),
            )
        })
        .with_state(rest)
}

/// A browser on the device sends requests here for any page that it shows. They carry the page's `Origin`, or, where a name
/// was pointed at this address (DNS rebinding), that name as `Host`; programs of the device do neither.
async fn refuse_web_pages(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let foreign = host
        .and_then(|host| host.parse::<Authority>().ok())
        .is_some_and(|host| !is_loopback(host.host()));
    if headers.contains_key(header::ORIGIN) || foreign {
        return RestError::WebPage.into_response();
    }
    next.run(request).await
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Serves until `shutdown`, then finishes what is in progress, for `drain` at the longest. Refuses to listen anywhere but
/// on loopback, and to answer web pages, whatever was merged into the router.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: RestLimits,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("inference is served on loopback only, not on {address}: it has no authentication"),
        ));
    }
    // A layer covers only what was added before it.
    let router = router.layer(middleware::from_fn(refuse_web_pages));
    let room = Arc::new(Semaphore::new(limits.connections));
    let ending = CancellationToken::new();
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, place) = accept(&listener, &room) => {
                let conversation = converse(stream, router.clone(), limits, ending.clone());
                connections.spawn(async move {
                    conversation.await;
                    drop(place);
                });
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
    drop(listener);
    ending.cancel();
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, drained).await.is_err() {
        warn!(%address, ?drain, "requests still in progress at the end of the drain are dropped");
        connections.shutdown().await;
    }
    Ok(())
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let Ok(place) = Arc::clone(room).acquire_owned().await else {
            // Nobody closes the semaphore.
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, _peer)) => return (stream, place),
            Err(why) => {
                warn!(%why, "a local connection cannot be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Answers the requests of one connection. At the end, the one in progress is its last.
async fn converse(stream: TcpStream, router: Router, limits: RestLimits, ending: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(CONNECTION_BUFFER_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(why) = ended {
        debug!(%why, "a local connection ended early");
    }
}

async fn server_metadata() -> Json<ServerMetadata> {
    Json(ServerMetadata {
        name: "flotilla".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: vec!["binary_tensor_data".to_owned()],
    })
}

/// What `/versions/{version}` adds to `/models/{model}`.
#[derive(Debug, serde::Deserialize)]
struct Named {
    model: String,
    version: Option<String>,
}

impl Rest {
    /// The active model of that line or slot, if it has that version.
    fn model(&self, named: &Named) -> Result<Arc<ModelInfo>, RestError> {
        let model = self
            .inference
            .model(&named.model)
            .ok_or_else(|| InferenceError::NoModel(named.model.clone()))?;
        match &named.version {
            Some(version) if *version != model.manifest.semver => Err(RestError::NotFound(format!(
                "model '{}' is active in version {}, not {version}",
                named.model, model.manifest.semver
            ))),
            _ => Ok(model),
        }
    }
}

async fn model_metadata(State(rest): State<Rest>, Path(named): Path<Named>) -> Result<Response, RestError> {
    Ok(Json(rest.model(&named)?.metadata()).into_response())
}

async fn model_ready(State(rest): State<Rest>, Path(named): Path<Named>) -> Result<Response, RestError> {
    let model = rest.model(&named)?;
    Ok(Json(json!({"name": model.name(), "ready": true})).into_response())
}

async fn repository_index(State(rest): State<Rest>) -> Response {
    let one = |model: Arc<ModelInfo>| json!({"name": model.name(), "version": model.manifest.semver, "state": "READY", "reason": ""});
    let models: Vec<serde_json::Value> = rest.inference.list().into_iter().map(one).collect();
    Json(models).into_response()
}

async fn not_managed_here() -> Response {
    refusal(
        StatusCode::FORBIDDEN,
        "models are loaded and unloaded by the fleet's signed desired state only".to_owned(),
    )
}

async fn metrics(State(rest): State<Rest>) -> Response {
    let text = metrics::exposition(&rest.inference.totals());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn infer(
    State(rest): State<Rest>,
    Path(named): Path<Named>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RestError> {
    let timeout = rest.limits.timeout;
    tokio::time::timeout(timeout, answer(&rest, &named, &headers, body))
        .await
        .unwrap_or(Err(RestError::Timeout(timeout)))
}

async fn answer(rest: &Rest, named: &Named, headers: &HeaderMap, body: Body) -> Result<Response, RestError> {
    let _running = rest
        .running
        .try_acquire()
        .map_err(|_full| RestError::Busy(rest.limits.requests))?;
    rest.model(named)?;
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .map(axum::http::HeaderValue::as_bytes);
    if let Some(encoding) = encoding
        && encoding != b"identity"
    {
        return Err(RestError::Encoding(String::from_utf8_lossy(encoding).into_owned()));
    }
    let json = body::json_length(headers)?;
    let mut room = Room {
        memory: &rest.memory,
        limits: rest.limits,
        json,
        held: None,
        bytes: 0,
    };
    // Refused before it is read, if its length is told.
    room.hold(announced(headers).min(rest.limits.body_bytes))?;
    let bytes = read(body, &mut room).await?;
    let request = body::decode(&bytes, json)?;
    let inferred = rest.inference.infer(&named.model, request.inputs).await?;
    body::encode(&inferred.model, inferred.outcome.outputs, &request.wanted)
}

/// Bytes of the body, if the client says so.
fn announced(headers: &HeaderMap) -> usize {
    let length = headers.get(header::CONTENT_LENGTH);
    length
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}

/// The memory that one request has been given, until it is answered.
struct Room<'a> {
    memory: &'a Semaphore,
    limits: RestLimits,
    /// Bytes of the body before its tensors; `None`: all of it is JSON.
    json: Option<usize>,
    held: Option<SemaphorePermit<'a>>,
    bytes: usize,
}

impl Room<'_> {
    /// Takes what a body of this length may grow to, or refuses it.
    fn hold(&mut self, body_bytes: usize) -> Result<(), RestError> {
        let text = self.json.unwrap_or(body_bytes).min(body_bytes);
        let binary = body_bytes.saturating_sub(text);
        let needed = text
            .saturating_mul(JSON_WEIGHT)
            .saturating_add(binary.saturating_mul(BINARY_WEIGHT));
        let more = needed.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let crowded = RestError::Crowded(self.limits.memory_bytes);
        let Ok(permits) = u32::try_from(more) else {
            return Err(crowded);
        };
        let Ok(permit) = self.memory.try_acquire_many(permits) else {
            return Err(crowded);
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        self.bytes = needed;
        Ok(())
    }
}

async fn read(body: Body, room: &mut Room<'_>) -> Result<Bytes, RestError> {
    use futures_util::StreamExt as _;
    let cap = room.limits.body_bytes;
    let mut read = Vec::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| RestError::Malformed(format!("the body ended early: {e}")))?;
        let length = read.len().saturating_add(piece.len());
        if length > cap {
            return Err(RestError::TooLarge(cap));
        }
        room.hold(length)?;
        read.extend_from_slice(&piece);
    }
    Ok(Bytes::from(read))
}

#[cfg(test)]
mod tests;
