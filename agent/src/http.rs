//! One HTTP/1.1 request and its whole, capped answer: enrolment over TLS, `fleet-agent status` on loopback. One connection
//! for each request; follows no redirect, knows no proxy and no cookie. Built on the hyper that serves inference already.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// From the first packet to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("'{url}' is not an address of the form {expected}")]
    Address { url: String, expected: &'static str },
    #[error("{authority} cannot be connected to: {source}")]
    Connect {
        authority: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no TLS connection with {authority}: {source}")]
    Tls {
        authority: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the connection with {authority} failed: {why}")]
    Exchange { authority: String, why: String },
    #[error("{authority} has not answered within {} s", TIMEOUT.as_secs())]
    Late { authority: String },
    #[error("the answer of {authority} is longer than {limit} bytes")]
    TooLong { authority: String, limit: usize },
}

/// What came back. Every status is an answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Sends `json` to an `https://` address that `tls` trusts; the answer's body has at most `limit` bytes.
pub async fn post_json(url: &str, json: Vec<u8>, tls: ClientConfig, limit: usize) -> Result<Answer, HttpError> {
    let target = Target::parse(url, "https", "https://host:port/path")?;
    let mut request = target.request(Method::POST, Full::new(Bytes::from(json)));
    request.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    within_time(&target, async {
        let name = ServerName::try_from(target.host.clone()).map_err(|why| HttpError::Tls {
            authority: target.authority.clone(),
            source: std::io::Error::other(why),
        })?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, target.connect().await?)
            .await
            .map_err(|source| HttpError::Tls {
                authority: target.authority.clone(),
                source,
            })?;
        exchange(&target, stream, request, limit).await
    })
    .await
}

/// Reads an `http://` address; for loopback.
pub async fn get(url: &str, limit: usize) -> Result<Answer, HttpError> {
    let target = Target::parse(url, "http", "http://host:port/path")?;
    let request = target.request(Method::GET, Full::new(Bytes::new()));
    within_time(&target, async {
        exchange(&target, target.connect().await?, request, limit).await
    })
    .await
}

#[derive(Debug)]
struct Target {
    host: String,
    port: u16,
    /// As the `Host` header says it.
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str, scheme: &'static str, expected: &'static str) -> Result<Self, HttpError> {
        let wrong = || HttpError::Address {
            url: url.to_owned(),
            expected,
        };
        let uri: Uri = url.parse().map_err(|_why: hyper::http::uri::InvalidUri| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str() != Some(scheme) || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 }),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    fn request(&self, method: Method, body: Full<Bytes>) -> Request<Full<Bytes>> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        // Both were parts of a parsed address, so that they parse again.
        if let Ok(path) = self.path.parse() {
            *request.uri_mut() = path;
        }
        if let Ok(host) = self.authority.parse() {
            request.headers_mut().insert(HOST, host);
        }
        request
    }

    async fn connect(&self) -> Result<TcpStream, HttpError> {
        TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|source| HttpError::Connect {
                authority: self.authority.clone(),
                source,
            })
    }
}

async fn within_time(
    target: &Target,
    work: impl Future<Output = Result<Answer, HttpError>>,
) -> Result<Answer, HttpError> {
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(|_elapsed| {
        Err(HttpError::Late {
            authority: target.authority.clone(),
        })
    })
}

async fn exchange(
    target: &Target,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Answer, HttpError> {
    let failed = |why: hyper::Error| HttpError::Exchange {
        authority: target.authority.clone(),
        why: with_causes(&why),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let answer = async {
        let mut response = sender.send_request(request).await.map_err(failed)?;
        let mut body = BytesMut::new();
        while let Some(frame) = response.frame().await {
            let Ok(piece) = frame.map_err(failed)?.into_data() else {
                continue;
            };
            if body.len().saturating_add(piece.len()) > limit {
                return Err(HttpError::TooLong {
                    authority: target.authority.clone(),
                    limit,
                });
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: response.status(),
            body: body.freeze(),
        })
    };
    // The connection makes progress while the answer is awaited, and ends with it.
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            // What went wrong with it, the request learns.
            _ended = &mut connection, if open => open = false,
        }
    }
}

/// hyper's own text leaves out the reason that a person needs.
fn with_causes(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one connection with `answer`, whatever was asked.
    async fn served(answer: &'static [u8]) -> (String, crate::tasks::Child<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/status?x=1", listener.local_addr().unwrap());
        let served = crate::tasks::spawn_child(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0u8; 1024];
            let read = stream.read(&mut head).await.unwrap();
            stream.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        });
        (url, served)
    }

    #[tokio::test]
    async fn an_answer_in_chunks_is_read_whole() {
        let (url, mut served) =
            served(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
        let answer = get(&url, 5).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"abcde"[..]));
        assert!(
            served
                .join()
                .await
                .unwrap()
                .starts_with("GET /status?x=1 HTTP/1.1\r\nhost: 127.0.0.1:")
        );
    }

    #[tokio::test]
    async fn a_longer_answer_than_allowed_is_refused() {
        let (url, _served) = served(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde").await;
        let error = get(&url, 4).await.unwrap_err();
        assert!(error.to_string().contains("is longer than 4 bytes"), "{error}");
    }

    #[tokio::test]
    async fn a_torn_answer_is_an_error() {
        let (url, _served) = served(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nabcde").await;
        let error = get(&url, 400).await.unwrap_err();
        assert!(matches!(error, HttpError::Exchange { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_address_is_named() {
        for url in ["", "fleet.example", "ftp://x/", "https://x/", "http://user@x/"] {
            let error = get(url, 1).await.unwrap_err();
            assert!(matches!(error, HttpError::Address { .. }), "{url}: {error}");
        }
    }
}
