//! The cell's end of the door: an HTTP/2 client over standard input and output.

use std::error::Error;
use std::os::fd::AsFd;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::unix::pipe;

/// A body that streams, or not.
pub type Body = BoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Data in flight on one stream, and on the whole door, before the other side must have read.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The largest answer to `/hello`: instructions and arguments.
const ANSWER_BYTES: usize = 1024 * 1024;

/// What can go wrong at the door.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Standard input or output is no pipe.
    #[error("standard input and output are not the pipes of a cell")]
    Pipes(#[source] std::io::Error),
    /// The connection broke.
    #[error("the door broke")]
    Broke(#[source] hyper::Error),
    /// The service closed the connection.
    #[error("the service closed the door")]
    Closed,
    /// A request could not be made.
    #[error("no request for {0}")]
    Request(&'static str, #[source] hyper::http::Error),
    /// A request was not answered.
    #[error("no answer to {0}")]
    Unanswered(&'static str, #[source] Box<dyn Error + Send + Sync>),
    /// A request was refused.
    #[error("{route} was refused with {status}: {reason}")]
    Refused {
        /// Which.
        route: &'static str,
        /// The answer's status.
        status: u16,
        /// What the service said.
        reason: String,
    },
    /// An answer has not the form that this build knows.
    #[error("the answer to {0} is not of its form")]
    Form(&'static str, #[source] serde_json::Error),
}

/// A handle to the open door. Clones share the connection.
#[derive(Clone)]
pub struct Door {
    sender: SendRequest<Body>,
}

impl Door {
    /// Takes standard input and output as the connection. The second value becomes ready when the
    /// door has ended.
    pub async fn open() -> Result<(Self, impl Future<Output = DoorError>), DoorError> {
        // Duplicates share the file description, so O_NONBLOCK lands on 0 and 1 as well: nothing
        // else in this process may use them.
        let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(DoorError::Pipes)?;
        let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(DoorError::Pipes)?;
        let input = pipe::Receiver::from_owned_fd(input).map_err(DoorError::Pipes)?;
        let output = pipe::Sender::from_owned_fd(output).map_err(DoorError::Pipes)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake::<_, Body>(TokioIo::new(tokio::io::join(input, output)))
            .await
            .map_err(DoorError::Broke)?;
        let driver = tokio::spawn(connection);
        let lost = async move {
            match driver.await {
                Ok(Err(error)) => DoorError::Broke(error),
                _ => DoorError::Closed,
            }
        };
        Ok((Self { sender }, lost))
    }

    /// Sends any request.
    pub async fn send(&self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        sender.send_request(request).await
    }

    /// Posts `value` and reads the answer's JSON.
    pub async fn ask<A: DeserializeOwned>(
        &self,
        route: &'static str,
        value: &impl Serialize,
    ) -> Result<A, DoorError> {
        let answer = self.post(route, value).await?;
        serde_json::from_slice(&answer).map_err(|e| DoorError::Form(route, e))
    }

    /// Posts `value` and expects no answer but success.
    pub async fn tell(&self, route: &'static str, value: &impl Serialize) -> Result<(), DoorError> {
        self.post(route, value).await.map(drop)
    }

    /// Opens the request whose bodies stream both ways.
    pub async fn stream(&self, route: &'static str, body: Body) -> Result<Incoming, DoorError> {
        let request = request(route, body)?;
        let response =
            self.send(request).await.map_err(|e| DoorError::Unanswered(route, e.into()))?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let status = response.status().as_u16();
        Err(DoorError::Refused { route, status, reason: String::new() })
    }

    async fn post(&self, route: &'static str, value: &impl Serialize) -> Result<Bytes, DoorError> {
        let json = serde_json::to_vec(value).map_err(|e| DoorError::Form(route, e))?;
        let request = request(route, full(json))?;
        let unanswered = |e: Box<dyn Error + Send + Sync>| DoorError::Unanswered(route, e);
        let response = self.send(request).await.map_err(|e| unanswered(e.into()))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES);
        let body = body.collect().await.map_err(unanswered)?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let reason = String::from_utf8_lossy(&body).into_owned();
        Err(DoorError::Refused { route, status: status.as_u16(), reason })
    }
}

fn request(route: &'static str, body: Body) -> Result<Request<Body>, DoorError> {
    Request::post(format!("http://door{route}"))
        .header("content-type", "application/json")
        .body(body)
        .map_err(|e| DoorError::Request(route, e))
}

/// A body that is there at once.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}
