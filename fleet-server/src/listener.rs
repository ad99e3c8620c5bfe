//! HTTP listeners with bounds: so many connections at a time, so many of one address, and so long for a request to arrive.
//! What is beyond the bounds is closed at once: whoever is served keeps being served.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum_server::accept::Accept;
use axum_server::{Handle, Server};
use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::api::error::ApiError;
use crate::tasks::Shutdown;

/// How much of the server strangers may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections: usize,
    /// Of one address; of one /64 network for IPv6.
    pub per_address: usize,
    /// From the connection, or the answer before, to the end of a request's headers.
    pub headers: Duration,
}

/// Lets connections in as long as there is room.
#[derive(Debug, Clone)]
pub struct Bounded(Arc<Slots>);

#[derive(Debug)]
struct Slots {
    limits: Limits,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Never longer than there are connections.
    by_address: BTreeMap<IpAddr, usize>,
}

impl Slots {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's room; free again when it is dropped.
#[derive(Debug)]
struct Slot {
    slots: Arc<Slots>,
    address: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.open();
        open.all = open.all.saturating_sub(1);
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

impl Bounded {
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Slots {
            limits,
            open: Mutex::default(),
        }))
    }

    fn enter(&self, address: IpAddr) -> Option<Slot> {
        let address = network(address);
        let mut open = self.0.open();
        let of_address = open.by_address.get(&address).copied().unwrap_or(0);
        if open.all >= self.0.limits.connections || of_address >= self.0.limits.per_address {
            return None;
        }
        open.all += 1;
        open.by_address.insert(address, of_address + 1);
        Some(Slot {
            slots: Arc::clone(&self.0),
            address,
        })
    }
}

/// An IPv6 host has a whole network to come from: it counts as one.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

impl<S> Accept<TcpStream, S> for Bounded {
    type Stream = Held;
    type Service = S;
    type Future = Ready<io::Result<(Held, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(stream.peer_addr().and_then(|peer| {
            let Some(slot) = self.enter(peer.ip()) else {
                counter!("flotilla_connections_refused_total").increment(1);
                tracing::debug!(%peer, "too many connections");
                return Err(io::Error::new(ErrorKind::ConnectionRefused, "too many connections"));
            };
            Ok((Held { stream, _slot: slot }, service))
        }))
    }
}

/// A connection with its room.
#[derive(Debug)]
pub struct Held {
    stream: TcpStream,
    _slot: Slot,
}

impl AsyncRead for Held {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Answers what takes longer than `limit`, its body's arrival included.
pub fn within<S: Clone + Send + Sync + 'static>(routes: Router<S>, limit: Duration) -> Router<S> {
    routes.layer(middleware::from_fn_with_state(limit, in_time))
}

async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => ApiError::Unavailable(format!("the request took longer than {limit:?}")).into_response(),
    }
}

/// HTTP/1 alone: its headers are waited for with a limit, and a connection has one request at a time.
pub fn prepared<A>(
    server: Server<SocketAddr, A>,
    limits: &Limits,
    handle: &Handle<SocketAddr>,
) -> Server<SocketAddr, A> {
    let mut server = server
        .handle(handle.clone())
        .http1_only()
        .first_request_timeout(limits.headers);
    server.http_builder().http1().header_read_timeout(limits.headers);
    server
}

/// Serves until told to stop, then gives requests under way `drain`.
pub async fn until_stopped(
    name: &'static str,
    serving: impl Future<Output = io::Result<()>>,
    handle: Handle<SocketAddr>,
    drain: Duration,
    mut shutdown: Shutdown,
) {
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = shutdown.wait() => {
            handle.graceful_shutdown(Some(drain));
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::error!(%error, listener = name, "a listener failed");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::tasks::Tasks;

    const LIMITS: Limits = Limits {
        connections: 3,
        per_address: 2,
        headers: Duration::from_millis(300),
    };

    /// Serves on a free port with these limits; requests may take half a second.
    fn start(tasks: &mut Tasks) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/", get(async || "here"))
            .route("/body", post(async |body: String| body));
        let routes = within(routes, Duration::from_millis(500));
        let handle = Handle::new();
        let server = axum_server::from_tcp(listener).unwrap().acceptor(Bounded::new(LIMITS));
        let serving = prepared(server, &LIMITS, &handle).serve(routes.into_make_service());
        let shutdown = tasks.shutdown();
        tasks.spawn("test", until_stopped("test", serving, handle, Duration::ZERO, shutdown));
        address
    }

    /// All that comes until the server closes the connection, which it must do by itself.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut read = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut read)).await;
        drop(closed.expect("the server holds on to the connection"));
        String::from_utf8_lossy(&read).into_owned()
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        rest(&mut stream).await
    }

    #[tokio::test]
    async fn who_says_nothing_or_too_slowly_is_let_go() {
        let mut tasks = Tasks::default();
        let address = start(&mut tasks);
        for said in ["", "GET / HTTP/1.1\r\nhost:", "PRI * HTTP/2.0\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let answer = rest(&mut stream).await;
            assert!(!answer.contains("200"), "{said}: {answer}");
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf")
            .await
            .unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(ask(address).await.ends_with("here"));
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn one_address_cannot_take_all_the_room() {
        let bounded = Bounded::new(LIMITS);
        let [one, other]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let held = [bounded.enter(one).unwrap(), bounded.enter(one).unwrap()];
        assert!(bounded.enter(one).is_none());
        assert!(
            bounded.enter("::ffff:192.0.2.1".parse().unwrap()).is_none(),
            "the same host"
        );
        let third = bounded.enter(other).unwrap();
        assert!(
            bounded.enter("192.0.2.2".parse().unwrap()).is_none(),
            "the server is full"
        );
        drop((held, third));
        let open = bounded.0.open();
        assert_eq!((open.all, open.by_address.len()), (0, 0));
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_are_closed_and_room_comes_back() {
        let mut tasks = Tasks::default();
        let address = start(&mut tasks);
        let idle = [
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        ];
        assert_eq!(ask(address).await, "");
        for mut stream in idle {
            rest(&mut stream).await;
        }
        assert!(ask(address).await.ends_with("here"));
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
    }
}
