//! The command line's way to the service: HTTP on its Unix socket.

use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::Failure;
use crate::channels::webhook::CLI_AGENT;
use crate::core::problem::{ExitStatus, Problem};
use crate::host::paths;
use crate::http::reply::Document;

/// Where the service is.
#[derive(Debug, Clone, clap::Args)]
pub struct Client {
    /// The service's socket
    #[arg(long, value_name = "PATH", env = "NOCLAW_SOCKET", default_value_os_t = paths::socket())]
    socket: PathBuf,
}

/// An answer that is not a problem document.
pub struct Answer {
    body: Bytes,
}

impl Answer {
    /// Its JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::of(ExitStatus::Failed, &error).hint("service and client differ in version?")
        })
    }
}

impl Client {
    /// Asks for something.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    /// Sends something.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let json = serde_json::to_vec(body).map_err(|e| Failure::of(ExitStatus::Data, &e))?;
        self.request(Method::POST, path, json.into()).await
    }

    /// Replaces something.
    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let json = serde_json::to_vec(body).map_err(|e| Failure::of(ExitStatus::Data, &e))?;
        self.request(Method::PUT, path, json.into()).await
    }

    /// Changes something.
    pub async fn patch(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let json = serde_json::to_vec(body).map_err(|e| Failure::of(ExitStatus::Data, &e))?;
        self.request(Method::PATCH, path, json.into()).await
    }

    /// Removes something.
    pub async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.request(Method::DELETE, path, Bytes::new()).await
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let message = format!("no service at {}: {error}", self.socket.display());
            Failure::new(ExitStatus::Unavailable, message)
                .hint("start it: `noclaw serve`, or `systemctl --user start noclaw.socket`")
        })?;
        let lost = |error: &dyn std::error::Error| {
            Failure::of(ExitStatus::Unavailable, error).hint(
                "the service ended meanwhile? `noclaw run list` shows what became of messages",
            )
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "noclaw")
            .header(USER_AGENT, CLI_AGENT)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::of(ExitStatus::Data, &error))?;
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| lost(&error))?.to_bytes();
        let kind = head.headers.get(CONTENT_TYPE).map(hyper::header::HeaderValue::as_bytes);
        if kind == Some(b"application/problem+json") {
            let document: Document = serde_json::from_slice(&body)
                .map_err(|error| Failure::of(ExitStatus::Failed, &error))?;
            return Err(Failure::from(Problem::from(document)));
        }
        Ok(Answer { body })
    }
}
