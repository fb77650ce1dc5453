//! The one socket of a cell: the agent's model requests, each passed through the door as `/model`
//! and its own path, so that no other route can be named from here.
//!
//! | what comes | what follows |
//! |---|---|
//! | HTTP/0.9, a broken head, a folded line, lengths that differ | 400, by hyper |
//! | HTTP/1.0 | 505 |
//! | CONNECT; a target that is no path: `http://…`, `*` | 405; 400 |
//! | a body in chunks: its length is not told | 411 |
//! | more than 64 headers, or a head of more than 12 KiB | 431 |
//! | a head that takes more than 30 seconds, a silent connection | closed |
//! | too many requests at a time; too many connections | 429; the next ones wait |
//! | headers about the connection, also those that `Connection` names | left out |
//!
//! A body goes on under the length that hyper has read it by, on a stream of its own: nothing that
//! stands behind it can become a part of another request. What a request may ask for is the
//! service's to decide: this process is in the cell.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::door::{Body, Door, full};

/// What HTTP/1.1 says about one connection, which is not this request's next one.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HOST,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Headers of a request. The agent sends 20.
const HEADERS: usize = 64;
/// A head as HTTP/2 counts it, 32 bytes more a header: the door takes 16 KiB, and would break at
/// much more.
const HEAD_BYTES: usize = 12 * 1024;
/// From the end of one request, or the beginning of a connection, to the next request's whole head.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// What a connection may hold of what it was sent and has not passed on.
const BUFFER_BYTES: usize = 64 * 1024;
/// Requests at a time: half of the door's streams, so that the launcher's own words get through.
const REQUESTS: usize = 8;
/// Connections at a time. The process may have 4096 descriptors, and needs some for itself.
const CONNECTIONS: usize = 512;

/// Listens at `path` for as long as the process lives.
pub fn listen(path: &str, door: Door) -> std::io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let passage = Passage { door, requests: Arc::new(Semaphore::new(REQUESTS)) };
    tokio::spawn(async move {
        // Never closed.
        while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream, passage.clone(), permit))),
                // Too many open files: the limit is the cell's own, and passes.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    Ok(())
}

/// The way through the door, for so many requests at a time.
#[derive(Clone)]
struct Passage {
    door: Door,
    requests: Arc<Semaphore>,
}

/// A refusal.
type No = (StatusCode, &'static str);

async fn serve(stream: UnixStream, passage: Passage, _permit: OwnedSemaphorePermit) {
    let service = service_fn(move |request| {
        let passage = passage.clone();
        async move { Ok::<_, Infallible>(pass(&passage, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // The agent closes its connections as it likes; there is nobody to tell.
    connection.await.ok();
}

async fn pass(passage: &Passage, request: Request<Incoming>) -> Response<Body> {
    if let Err((status, message)) = check(&request) {
        return error(status, message);
    }
    let Ok(permit) = Arc::clone(&passage.requests).try_acquire_owned() else {
        return error(StatusCode::TOO_MANY_REQUESTS, "too many requests at a time");
    };
    match forward(&passage.door, request, permit).await {
        Ok(response) => response,
        Err(lost) => error(StatusCode::BAD_GATEWAY, &crate::describe(&*lost)),
    }
}

/// Whether this is a request of which the door's can be made. What else is wrong with it is the
/// service's to say.
fn check(request: &Request<Incoming>) -> Result<(), No> {
    let (uri, headers) = (request.uri(), request.headers());
    if request.method() == Method::CONNECT {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served"));
    }
    if request.version() != Version::HTTP_11 {
        return Err((StatusCode::HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is served"));
    }
    if uri.scheme().is_some() || uri.authority().is_some() || !uri.path().starts_with('/') {
        return Err((StatusCode::BAD_REQUEST, "the target must be a path"));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err((StatusCode::LENGTH_REQUIRED, "a body must tell its length, content-length"));
    }
    let head = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    if head.sum::<usize>() + uri.path().len() > HEAD_BYTES {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err((status, "the head is too large"));
    }
    Ok(())
}

/// An error in the Messages API's form. Only one that passes by itself is worth another attempt.
fn error(status: StatusCode, message: &str) -> Response<Body> {
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    };
    let error = serde_json::json!({"type": kind, "message": message});
    let json = serde_json::json!({"type": "error", "error": error});
    let mut response = Response::new(full(json.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (name, value) = match status {
        StatusCode::TOO_MANY_REQUESTS => (RETRY_AFTER, "1"),
        StatusCode::BAD_GATEWAY => return response,
        _ => (HeaderName::from_static("x-should-retry"), "false"),
    };
    headers.insert(name, HeaderValue::from_static(value));
    response
}

async fn forward(
    door: &Door,
    request: Request<Incoming>,
    permit: OwnedSemaphorePermit,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = format!("http://door/model{path}").parse()?;
    parts.version = Version::HTTP_2;
    parts.extensions.clear();
    strip(&mut parts.headers);
    let response = door.send(Request::from_parts(parts, boxed(body))).await?;
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    strip(&mut parts.headers);
    // Given back when the answer has been read, or given up.
    let body = body.map_frame(move |frame| {
        let _held = &permit;
        frame
    });
    Ok(Response::from_parts(parts, body.map_err(Into::into).boxed()))
}

fn boxed(body: Incoming) -> Body {
    body.map_err(Into::into).boxed()
}

/// Removes what belongs to one connection, also what `Connection:` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value: &HeaderValue| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}
