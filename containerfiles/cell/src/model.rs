//! The one socket of a cell: the agent's model requests, each passed through the door as `/model`
//! and its own path, so that no other route can be named from here.

use std::convert::Infallible;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};

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

/// Listens at `path` for as long as the process lives.
pub fn listen(path: &str, door: Door) -> std::io::Result<()> {
    let listener = UnixListener::bind(path)?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream, door.clone()))),
                // Too many open files: the limit is the cell's own, and passes.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    });
    Ok(())
}

async fn serve(stream: UnixStream, door: Door) {
    let service = service_fn(move |request| {
        let door = door.clone();
        async move { Ok::<_, Infallible>(pass(&door, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    // The agent closes its connections as it likes; there is nobody to tell.
    connection.await.ok();
}

async fn pass(door: &Door, request: Request<Incoming>) -> Response<Body> {
    // It has no path: nothing of it could be passed on as a request.
    if request.method() == Method::CONNECT {
        return error(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served");
    }
    match forward(door, request).await {
        Ok(response) => response,
        Err(lost) => error(StatusCode::BAD_GATEWAY, &crate::describe(&*lost)),
    }
}

/// An error in the Messages API's form.
fn error(status: StatusCode, message: &str) -> Response<Body> {
    let error = serde_json::json!({"type": "api_error", "message": message});
    let json = serde_json::json!({"type": "error", "error": error});
    let mut response = Response::new(full(json.to_string()));
    *response.status_mut() = status;
    response
}

async fn forward(
    door: &Door,
    request: Request<Incoming>,
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
    Ok(Response::from_parts(parts, boxed(body)))
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
