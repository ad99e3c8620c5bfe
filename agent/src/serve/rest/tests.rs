//! Over a real socket: what a client sends and sees, byte for byte.

use std::sync::atomic::AtomicI64;

use flotilla_protocol::infer::{BINARY_HEADER, ModelInferResponse, Tensor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::clock::Clock;
use crate::inference::InferenceLimits;
use crate::inference::fixture::{columns, package};

/// A served device with the model `press` 1.0.0 in slot `main`. The server ends with the value.
struct Device {
    address: std::net::SocketAddr,
    _server: tokio::task::JoinSet<std::io::Result<()>>,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        let line = |line: &&str| {
            line.to_ascii_lowercase()
                .starts_with(&format!("{}:", name.to_ascii_lowercase()))
        };
        let line = self.head.lines().find(line)?;
        Some(line.split_once(':')?.1.trim().to_owned())
    }
}

impl Device {
    async fn start(limits: RestLimits) -> Self {
        let clock = Clock::manual(Arc::new(AtomicI64::new(0)));
        let inference = InferenceHandle::new(clock, InferenceLimits::default());
        let package = package("press", "1.0.0", &columns(&["a", "b"]));
        inference.activate("main".parse().unwrap(), package).await.unwrap();
        Self::over(inference, limits).await
    }

    async fn over(inference: InferenceHandle, limits: RestLimits) -> Self {
        Self::serving(router(inference, limits), limits).await
    }

    async fn serving(routes: Router, limits: RestLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = tokio::task::JoinSet::new();
        server.spawn(serve(listener, routes, limits, std::future::pending(), Duration::ZERO));
        Self {
            address,
            _server: server,
        }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:80\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat()).await
    }

    async fn raw(&self, request: &[u8]) -> Answer {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request).await.unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head,
            body: all[end + 4..].to_vec(),
        }
    }

    /// As a page on another site would have a browser ask, and as one whose name was pointed here.
    async fn refuses_web_pages(&self) {
        let page = self
            .ask(
                "POST",
                "/v2/models/press/infer",
                "Origin: https://evil.example\r\n",
                b"{}",
            )
            .await;
        assert_eq!(page.status, 403, "{}", page.head);
        let rebound = self
            .raw(b"GET /v2 HTTP/1.1\r\nHost: evil.example:8740\r\nConnection: close\r\n\r\n")
            .await;
        assert_eq!(rebound.status, 403, "{}", rebound.head);
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"").await
    }

    async fn infer(&self, body: &serde_json::Value) -> Answer {
        self.ask("POST", "/v2/models/press/infer", "", body.to_string().as_bytes())
            .await
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
fn request(data: serde_json::Value) -> serde_json::Value {
    json!({"id": "7", "inputs": [{"name": "reading", "datatype": "FP32", "shape": [2, 2], "data": data}]})
}

#[test]
fn hosts_of_this_device_are_known() {
    for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]"] {
        assert!(is_loopback(host), "{host}");
    }
    for host in ["evil.example", "192.0.2.1", "localhost.evil.example", ""] {
        assert!(!is_loopback(host), "{host}");
    }
}

#[tokio::test]
async fn a_device_without_a_model_lives_and_is_not_ready() {
    let clock = Clock::manual(Arc::new(AtomicI64::new(0)));
    let empty = InferenceHandle::new(clock, InferenceLimits::default());
    let device = Device::over(empty, RestLimits::default()).await;
    assert_eq!(device.get("/v2/health/live").await.status, 200);
    let ready = device.get("/v2/health/ready").await;
    assert_eq!((ready.status, ready.json()), (503, json!({"ready": false})));
    device.refuses_web_pages().await;
}

#[tokio::test]
async fn web_pages_are_refused_on_routes_that_were_merged() {
    let clock = Clock::manual(Arc::new(AtomicI64::new(0)));
    let inference = InferenceHandle::new(clock, InferenceLimits::default());
    let more = Router::new().route("/more", get(|| async { "more" }));
    let limits = RestLimits::default();
    let device = Device::serving(router(inference, limits).merge(more), limits).await;
    assert_eq!(device.get("/more").await.status, 200);
    let page = device
        .ask("GET", "/more", "Origin: https://evil.example\r\n", b"")
        .await;
    assert_eq!(page.status, 403, "{}", page.head);
    device.refuses_web_pages().await;
}

#[tokio::test]
async fn the_device_describes_itself() {
    let device = Device::start(RestLimits::default()).await;
    assert_eq!(
        device.get("/v2").await.json()["extensions"],
        json!(["binary_tensor_data"])
    );
    assert_eq!(device.get("/v2/health/live").await.json(), json!({"live": true}));
    assert_eq!(device.get("/v2/health/ready").await.json(), json!({"ready": true}));
    let metadata = json!({
        "name": "press", "versions": ["1.0.0"], "platform": "onnx_onnxv1",
        "inputs": [{"name": "reading", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]}
        ]
    });
    assert_eq!(device.get("/v2/models/press").await.json(), metadata);
    assert_eq!(device.get("/v2/models/press/versions/1.0.0").await.json(), metadata);
    assert_eq!(device.get("/v2/models/main/ready").await.status, 200);
    assert_eq!(device.get("/v2/models/press/versions/9/ready").await.status, 404);
    assert_eq!(
        device.get("/v2/models/other").await.error(),
        "no model 'other' is active on this device"
    );
    assert_eq!(
        device.ask("POST", "/v2/repository/index", "", b"{}").await.json(),
        json!([{"name": "press", "version": "1.0.0", "state": "READY", "reason": ""}])
    );
    assert_eq!(
        device
            .ask("POST", "/v2/repository/models/press/unload", "", b"")
            .await
            .status,
        403
    );
    assert_eq!(device.get("/v3").await.status, 404);
    assert_eq!(device.get("/v2/models/press/infer").await.status, 405);
}

#[tokio::test]
async fn json_requests_nested_and_flat_are_answered() {
    let device = Device::start(RestLimits::default()).await;
    for data in [json!([[0, 1], [1.5, 0.5]]), json!([0, 1, 1.5, 0.5])] {
        let answer = device.infer(&request(data)).await;
        assert_eq!(answer.status, 200, "{:?}", String::from_utf8_lossy(&answer.body));
        let response: ModelInferResponse = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (response.id.as_deref(), response.model_name.as_str()),
            (Some("7"), "press")
        );
        assert_eq!(response.outputs[0].shape, [2, 2]);
        assert_eq!(answer.json()["outputs"][1]["data"], json!(["high", "low"]));
    }
    let mut only_label = request(json!([0, 1, 1.5, 0.5]));
    only_label["outputs"] = json!([{"name": "label"}]);
    assert_eq!(
        device.infer(&only_label).await.json()["outputs"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    only_label["outputs"] = json!([{"name": "mood"}]);
    assert_eq!(
        device.infer(&only_label).await.error(),
        "the model has no output 'mood'; it has probabilities, label"
    );
}

#[tokio::test]
async fn binary_tensors_go_both_ways() {
    let device = Device::start(RestLimits::default()).await;
    let json = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [{"name": "reading", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}],
        "outputs": [{"name": "label", "parameters": {"binary_data": true}},
                    {"name": "probabilities", "parameters": {"binary_data": false}}]
    })
    .to_string();
    let mut body = json.clone().into_bytes();
    body.extend_from_slice(&0f32.to_le_bytes());
    body.extend_from_slice(&1f32.to_le_bytes());
    let header = format!("{BINARY_HEADER}: {}\r\n", json.len());
    let answer = device
        .ask("POST", "/v2/models/press/versions/1.0.0/infer", &header, &body)
        .await;
    assert_eq!(answer.status, 200, "{:?}", String::from_utf8_lossy(&answer.body));
    let length: usize = answer.header(BINARY_HEADER).unwrap().parse().unwrap();
    let response: ModelInferResponse = serde_json::from_slice(&answer.body[..length]).unwrap();
    let label = &response.outputs[0];
    assert_eq!(label.parameters["binary_data_size"], json!(8));
    let tensor = Tensor::from_raw(
        "label",
        label.datatype,
        label.shape.clone(),
        answer.body[length..].to_vec(),
    )
    .unwrap();
    assert_eq!(tensor.to_strings().unwrap(), ["high"]);
    assert!(response.outputs[1].data.is_some(), "JSON was asked for");

    let short = device
        .ask("POST", "/v2/models/press/infer", &header, &body[..body.len() - 1])
        .await;
    assert_eq!((short.status, short.error().contains("7 bytes are left")), (400, true));
    let header = format!("{BINARY_HEADER}: 99999\r\n");
    assert_eq!(
        device
            .ask("POST", "/v2/models/press/infer", &header, &body)
            .await
            .status,
        400
    );
    body.push(0);
    let header = format!("{BINARY_HEADER}: {}\r\n", json.len());
    let long = device.ask("POST", "/v2/models/press/infer", &header, &body).await;
    assert_eq!(long.error(), "1 bytes follow the last tensor");
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let limits = RestLimits {
        body_bytes: 1000,
        ..RestLimits::default()
    };
    let device = Device::start(limits).await;
    let refused = |answer: Answer| (answer.status, answer.error());
    let (status, error) = refused(device.ask("POST", "/v2/models/press/infer", "", b"{").await);
    assert!(status == 400 && error.contains("not understood"), "{error}");
    let (status, error) = refused(device.infer(&request(json!([1, 2, 3]))).await);
    assert_eq!(
        (status, error.as_str()),
        (400, "tensor 'reading': shape [2, 2] needs 4 elements, 3 are given")
    );
    let (status, error) = refused(device.infer(&request(json!([1, 2, 3, null]))).await);
    assert_eq!(
        (status, error.as_str()),
        (400, "input 'reading', row 1: value 1 (b) is not a finite number")
    );
    let (status, error) = refused(device.infer(&json!({"inputs": []})).await);
    assert_eq!((status, error.as_str()), (400, "input 'reading': must be given once"));
    let large = device.ask("POST", "/v2/models/press/infer", "", &[b' '; 1001]).await;
    assert_eq!(
        (large.status, large.error().as_str()),
        (413, "the body is larger than 1000 bytes")
    );
    let packed = device
        .ask("POST", "/v2/models/press/infer", "Content-Encoding: gzip\r\n", b"x")
        .await;
    assert_eq!(packed.status, 415);
    let nobody = device.ask("POST", "/v2/models/nobody/infer", "", b"{}").await;
    assert_eq!(nobody.status, 404);
}

#[tokio::test]
async fn metrics_count_under_tritons_names() {
    let device = Device::start(RestLimits::default()).await;
    assert_eq!(device.infer(&request(json!([0, 1, 1, 0]))).await.status, 200);
    assert_eq!(device.infer(&request(json!([0, 1, 1, null]))).await.status, 400);
    let text = String::from_utf8(device.get("/metrics").await.body).unwrap();
    for line in [
        "nv_inference_request_success{model=\"press\",version=\"1.0.0\"} 1",
        "nv_inference_request_failure{model=\"press\",version=\"1.0.0\"} 1",
        "nv_inference_count{model=\"press\",version=\"1.0.0\"} 2",
        "# TYPE nv_inference_queue_duration_us counter",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn it_listens_on_loopback_only_and_ends_when_told() {
    let clock = Clock::manual(Arc::new(AtomicI64::new(0)));
    let routes = || {
        router(
            InferenceHandle::new(clock.clone(), InferenceLimits::default()),
            RestLimits::default(),
        )
    };
    let open = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let limits = RestLimits::default();
    let error = serve(open, routes(), limits, std::future::pending(), Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("loopback only"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(serve(
        listener,
        routes(),
        limits,
        async { drop(stopped.await) },
        Duration::from_millis(50),
    ));
    // A client that begins a request and never finishes it must not hold up the end.
    let mut stuck = TcpStream::connect(address).await.unwrap();
    let head = b"POST /v2/models/press/infer HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 10\r\n\r\n";
    stuck.write_all(head).await.unwrap();
    drop(stop);
    assert!(server.join_next().await.unwrap().unwrap().is_ok());
}

/// Until `found` says that it is so; a minute at the longest.
async fn eventually(mut found: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !found().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), looking).await.unwrap();
}

/// A connection that has sent this and no more.
async fn begun(device: &Device, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(device.address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    socket
}

#[tokio::test]
async fn bodies_share_a_bounded_memory() {
    let memory_bytes = 1000 * JSON_WEIGHT;
    let limits = RestLimits {
        memory_bytes,
        ..RestLimits::default()
    };
    let device = Device::start(limits).await;
    let mut body = request(json!([0, 1, 1.5, 0.5])).to_string();
    body.push_str(&" ".repeat(500 - body.len()));
    let ask = async || device.ask("POST", "/v2/models/press/infer", "", body.as_bytes()).await;
    assert_eq!(ask().await.status, 200);

    // Two that announce what they never send; a third finds no room.
    let head = b"POST /v2/models/press/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\n";
    let slow = [begun(&device, head).await, begun(&device, head).await];
    eventually(async || ask().await.status == 503).await;
    let refused = ask().await;
    assert_eq!(
        (refused.status, refused.header("content-type").as_deref()),
        (503, Some("application/json"))
    );
    assert!(
        refused.error().contains(&format!("{memory_bytes} bytes of memory")),
        "{}",
        refused.error()
    );
    // The same length in binary tensors takes far less.
    let header = format!("{BINARY_HEADER}: 10\r\n");
    let binary = device
        .ask("POST", "/v2/models/press/infer", &header, body.as_bytes())
        .await;
    assert_eq!(binary.status, 400, "it is read, and is no request: {}", binary.error());

    drop(slow);
    eventually(async || ask().await.status == 200).await;
}

#[tokio::test]
async fn a_body_of_unknown_length_takes_its_memory_as_it_comes() {
    let limits = RestLimits {
        memory_bytes: 100 * JSON_WEIGHT,
        ..RestLimits::default()
    };
    let device = Device::start(limits).await;
    let chunked = |bytes: usize| {
        format!(
            "POST /v2/models/press/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\n{bytes:x}\r\n{}\r\n0\r\n\r\n",
            " ".repeat(bytes)
        )
    };
    assert_eq!(
        device.raw(chunked(100).as_bytes()).await.status,
        400,
        "read, and no request"
    );
    assert_eq!(device.raw(chunked(101).as_bytes()).await.status, 503);
    assert_eq!(
        device.raw(chunked(100).as_bytes()).await.status,
        400,
        "it was given back"
    );
}

#[tokio::test]
async fn idle_connections_take_no_places_for_ever() {
    let limits = RestLimits {
        connections: 2,
        header_timeout: Duration::from_millis(300),
        ..RestLimits::default()
    };
    let device = Device::start(limits).await;
    let began = tokio::time::Instant::now();
    let mut silent = begun(&device, b"").await;
    let mut half = begun(&device, b"GET /v2 HTTP/1.1\r\nHost: loc").await;
    assert_eq!(device.get("/v2").await.status, 200, "once a place is free");
    assert!(began.elapsed() >= limits.header_timeout, "both places were taken");
    for socket in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        // Closed, or reset: either way it is over.
        let read = tokio::time::timeout(Duration::from_mins(1), socket.read_to_end(&mut rest)).await;
        drop(read.expect("the connection is closed"));
    }
}
