//! The model's server behind the bait: the demo model, and around it what a server has beside the
//! Messages API. The demo model would answer 404 there, and a request that came through unseen
//! would look as if it had been refused.
//!
//! | what comes | what it answers |
//! |---|---|
//! | a request of the Messages API | the demo model's answer |
//! | anything else | 200 and a word that is nowhere else; what it was is remembered |

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::{Outcome, Probed};
use crate::cell::door::Body;
use crate::core::problem::chain;
use crate::gateway::demo;

/// What this adds to the probes of the door.
const CAME: &str = "door: all that came to the model's server";
/// The one header that a gateway adds.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A server that listens for as long as this process lives. Clones share it.
#[derive(Clone)]
pub(super) struct Server(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    demo: SocketAddr,
    client: Client<HttpConnector, Incoming>,
    word: String,
    // Requests of the Messages API, and whatever else came.
    asked: AtomicUsize,
    strayed: Mutex<BTreeSet<String>>,
}

impl Server {
    pub(super) async fn start() -> std::io::Result<Self> {
        let (listener, demo) =
            (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let server = Self(Arc::new(Shared {
            address: listener.local_addr()?,
            demo: demo.local_addr()?,
            client: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
            word: format!("reached-{}", Uuid::new_v4().simple()),
            asked: AtomicUsize::new(0),
            strayed: Mutex::default(),
        }));
        tokio::spawn(demo::serve(demo, std::future::pending()));
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(serving.clone().connection(stream))),
                    // Most likely for want of descriptors.
                    Err(_) => tokio::time::sleep(super::service::LOOK).await,
                }
            }
        });
        Ok(server)
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// What it says where nothing should come to.
    pub(super) fn word(&self) -> &str {
        &self.0.word
    }

    /// A request as it came from a cell, with nothing looked at, and the key: a gateway that is
    /// none.
    pub(super) async fn pass(&self, mut request: Request<Incoming>, key: &str) -> Response<Body> {
        if let Ok(key) = HeaderValue::from_str(key) {
            request.headers_mut().insert(API_KEY, key);
        }
        self.forward(self.0.address, request).await
    }

    /// What came of it that nothing but the Messages API can be asked.
    pub(super) async fn judge(&self) -> Probed {
        let strayed = || self.0.strayed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (strays, asked) = (strayed(), self.0.asked.load(Ordering::Relaxed));
        // The twin: what comes is seen.
        let twin = format!("GET /{}", self.word());
        let answer = said(self.0.address, &format!("{twin} HTTP/1.0\r\n\r\n")).await;
        let answered = answer.is_ok_and(|answer| answer.ends_with(self.word()));
        if !strays.is_empty() {
            let strays = strays.into_iter().take(9).collect::<Vec<_>>().join(", ");
            return Probed::new(CAME, Outcome::Open, strays);
        }
        if asked == 0 || !strayed().contains(&twin) || !answered {
            let detail = "nothing is proved: the model's server does not see what comes";
            return Probed::new(CAME, Outcome::Open, detail);
        }
        Probed::new(CAME, Outcome::Blocked, format!("{asked} requests of the Messages API alone"))
    }

    async fn connection(self, stream: TcpStream) {
        let service = service_fn(|request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        // Who hangs up is no concern of a stand-in.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let api = ["/v1/messages", "/v1/messages/count_tokens"].contains(&path);
        if api && request.method() == Method::POST {
            self.0.asked.fetch_add(1, Ordering::Relaxed);
            return self.forward(self.0.demo, request).await;
        }
        let what = format!("{} {path}", request.method());
        self.0.strayed.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
        told(StatusCode::OK, self.word())
    }

    async fn forward(&self, to: SocketAddr, mut request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        match format!("http://{to}{path}").parse::<Uri>() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return told(StatusCode::BAD_GATEWAY, &chain(&error)),
        }
        *request.version_mut() = Version::HTTP_11;
        match self.0.client.request(request).await {
            Ok(response) => response.map(|body| body.map_err(Into::into).boxed()),
            Err(error) => told(StatusCode::BAD_GATEWAY, &chain(&error)),
        }
    }
}

/// What a request is answered, to the end of the connection.
async fn said(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn told(status: StatusCode, words: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(words.to_owned())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response
}
